"""`load`: a trained policy in one call, for observations and actions of any space."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from toy_environments import SpacesEnvironment
from toy_runs import write_run

import distdqn
from distdqn.errors import CheckpointError, ConfigError
from distdqn.evaluate import evaluate
from distdqn.loading import LoadedPolicy

ONE = np.array([0.01, -0.2, 0.03, 0.4], np.float32)
BATCH = np.stack([ONE, -ONE, 2 * ONE])


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of CartPole with two checkpoints."""
    folder = tmp_path_factory.mktemp("load") / "run"
    config = distdqn.Config(
        mode="serial",
        actors=1,
        max_env_steps=300,
        min_replay_size=100,
        hidden_sizes=(16,),
        checkpoint_period=200,
        eval_period=200,
        eval_episodes=2,
        run_dir=str(folder),
    )
    distdqn.train(config, quiet=True)
    return folder


@pytest.fixture(scope="module")
def policy(run_dir: Path) -> LoadedPolicy:
    return distdqn.load(run_dir)


def make_policy(folder: Path, observations: object, actions: object) -> LoadedPolicy:
    """The policy of an untrained network between two spaces."""
    env = functools.partial(SpacesEnvironment, observations, actions)
    return distdqn.load(write_run(folder, env, hidden_sizes=(8,)) / "policy.npz", env=env)


def test_loaded_policy_acts_by_its_largest_q_value(policy: LoadedPolicy) -> None:
    action, values = policy.act(ONE), policy.q_values(ONE)

    assert type(action) is int
    assert (values.shape, values.dtype) == ((2,), np.float32)
    assert action == values.argmax()


def test_loaded_policy_evaluates_a_batch_like_its_single_observations(policy: LoadedPolicy) -> None:
    actions, values = policy.act(BATCH), policy.q_values(BATCH)

    assert (actions.shape, values.shape) == ((3,), (3, 2))
    assert actions.tolist() == [policy.act(each) for each in BATCH]
    np.testing.assert_allclose(values, [policy.q_values(each) for each in BATCH], rtol=1e-5)


def test_loaded_policy_takes_lists_of_numbers(policy: LoadedPolicy) -> None:
    assert policy.act(ONE.tolist()) == policy.act(ONE)
    assert policy.act(BATCH.tolist()).tolist() == policy.act(BATCH).tolist()


def test_loaded_policy_tells_what_it_is_in_one_line(policy: LoadedPolicy) -> None:
    text = repr(policy)

    assert text.startswith("LoadedPolicy(CartPole-v1, 2 actions, layers: dense 4x16")
    assert text.endswith(f"{policy.weights.learner_steps:,} learner steps)")
    assert "\n" not in text


@pytest.mark.parametrize("observation", [ONE[:3], np.zeros((2, 2, 4)), 0.5, "word", {"x": ONE}, None])
def test_observation_of_another_space_is_refused_in_one_line(
    policy: LoadedPolicy, observation: object
) -> None:
    with pytest.raises(ConfigError, match=r"^`observation` must be one of Box") as caught:
        policy.act(observation)
    assert "\n" not in str(caught.value)


def test_action_that_the_mask_forbids_is_never_taken(policy: LoadedPolicy) -> None:
    assert [policy.act(ONE, mask) for mask in ([1, 0], [0, 1])] == [0, 1]
    assert policy.act(BATCH, [[0, 1], [1, 0], [0, 1]]).tolist() == [1, 0, 1]
    assert policy.q_values(ONE, [1, 0])[1] == -np.inf


@pytest.mark.parametrize("mask", [[0, 0], [1, 1, 1], [[1, 1], [1, 1]], "word", 1])
def test_mask_that_does_not_fit_is_refused_in_one_line(policy: LoadedPolicy, mask: object) -> None:
    with pytest.raises(ConfigError, match=r"^`action_mask` must be 2 numbers"):
        policy.act(ONE, mask)


def test_network_in_every_place_of_a_run_can_be_loaded(run_dir: Path) -> None:
    best, final = distdqn.load(run_dir), distdqn.load(run_dir, final=True)
    newest = distdqn.load(run_dir / "checkpoints", checkpoint="newest")
    places = [
        (best, distdqn.load(run_dir / "policy.npz")),
        (final, distdqn.load(run_dir / "final.npz")),
        (final, newest),
    ]

    assert newest.weights.learner_steps > 0
    for expected, found in places:
        np.testing.assert_array_equal(found.q_values(BATCH), expected.q_values(BATCH))


def test_file_alone_is_loaded_when_its_environment_is_named(run_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    file.write_bytes((run_dir / "policy.npz").read_bytes())

    found = distdqn.load(file, env="CartPole-v1", max_episode_steps=7)

    assert found.act(ONE) == distdqn.load(run_dir).act(ONE)
    assert found.environment.max_episode_steps == 7
    assert evaluate(file, episodes=2, env="CartPole-v1", max_episode_steps=7)["maximum"] <= 7
    with pytest.raises(ConfigError, match=r"config.json does not name an environment \(give `--env`\)"):
        distdqn.load(file)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"run_dir": "nowhere"}, ConfigError, "nowhere holds no `policy.npz`"),
        ({"run_dir": "nowhere.npz"}, ConfigError, "holds no `nowhere.npz`"),
        ({"run_dir": "policy.npz", "final": True}, ConfigError, "is one network"),
        ({"run_dir": "policy.npz", "checkpoint": 7}, ConfigError, "is one network"),
        ({"env": "Acrobot-v1"}, ConfigError, "does not fit `Acrobot-v1`"),
        ({"checkpoint": 7}, CheckpointError, "holds no checkpoint 7"),
        ({"checkpoint": "oldest"}, ConfigError, "`checkpoint` must be"),
        ({"checkpoint": "best", "final": True}, ConfigError, "`final` and `checkpoint` exclude each other"),
        ({"evn": "CartPole-v1"}, ConfigError, "did you mean `env`"),
    ],
)
def test_policy_that_cannot_be_loaded_is_refused_in_one_line(run_dir, arguments, kind, words) -> None:
    with pytest.raises(kind, match=words) as caught:
        distdqn.load(**({"run_dir": run_dir} | arguments))
    assert "\n" not in str(caught.value)


def test_loading_and_acting_import_neither_tensorflow_nor_ray(run_dir: Path) -> None:
    program = (
        "import sys, distdqn\n"
        f"print(distdqn.load({str(run_dir)!r}).act({ONE.tolist()}))\n"
        "print({'keras', 'ray', 'tensorflow'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(distdqn.__file__).resolve().parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )

    action, modules = result.stdout.split()[0], result.stdout.split("\n", 1)[1].strip()
    assert (result.stderr, action in "01", modules) == ("", True, "set()")


def test_actions_are_those_of_the_environment_when_they_start_above_zero(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, Discrete(3, start=5), Discrete(2, start=10))

    assert policy.act(6) == 10 + policy.q_values(6).argmax()
    assert policy.act([5, 6, 7]).tolist() == [policy.act(each) for each in (5, 6, 7)]
    with pytest.raises(ValueError, match="outside its space"):
        policy.act(4)


@pytest.mark.parametrize("space", [MultiDiscrete([2, 3], start=[0, 4]), MultiBinary((2, 1))], ids=str)
def test_actions_of_several_choices_are_arrays_of_their_space(tmp_path: Path, space) -> None:
    policy = make_policy(tmp_path, Box(-1, 1, (2,)), space)
    one, both = policy.act(np.zeros(2)), policy.act(np.array([[0.0, 0.0], [0.5, 1.0]]))

    assert space.contains(one)
    assert all(space.contains(each) for each in both)
    np.testing.assert_array_equal(one, both[0])


def test_mask_of_each_choice_is_a_tuple(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, Box(-1, 1, (2,)), MultiDiscrete([2, 3]))

    mask = (np.array([0, 1]), np.array([0, 1, 0]))
    assert policy.act(np.zeros(2), mask).tolist() == [1, 1]
    assert policy.act(np.zeros((1, 2)), tuple(part[None] for part in mask)).tolist() == [[1, 1]]


PARTS = {
    "dictionary": (Dict({"x": Box(-1, 1, (2,)), "n": Discrete(3)}), {"x": [0.5, 1.0], "n": 2}),
    "tuple": (Tuple([MultiBinary(2), Box(0, 255, (4, 4), np.uint8)]), ([0, 1], np.full((4, 4), 9, np.uint8))),
}


@pytest.mark.parametrize(("space", "observation"), PARTS.values(), ids=PARTS)
def test_observation_with_parts_is_one_or_a_batch(tmp_path: Path, space, observation) -> None:
    policy = make_policy(tmp_path, space, Discrete(4))
    if isinstance(observation, dict):
        batch = {name: np.stack([value, value]) for name, value in observation.items()}
        wrong = {**batch, "n": 2}
    else:
        batch = tuple(np.stack([value, value]) for value in observation)
        wrong = (batch[0], observation[1])

    np.testing.assert_allclose(policy.q_values(batch), [policy.q_values(observation)] * 2, rtol=1e-5)
    assert policy.act(batch).tolist() == [policy.act(observation)] * 2
    with pytest.raises(ConfigError, match="`observation` must be one of"):
        policy.act(wrong)


def test_network_with_masks_lowers_what_is_not_allowed(tmp_path: Path) -> None:
    policy = distdqn.load(write_run(tmp_path, "toy_spaces:BothTogether", hidden_sizes=(8,)))
    observation = {"image": np.zeros((5, 6), np.uint8), "sign": np.ones(1, np.float32)}

    assert policy.spec.mask is not None
    assert [policy.act(observation, np.eye(3)[i]) for i in range(3)] == [0, 1, 2]
    assert policy.act(observation) == policy.q_values(observation).argmax()


def test_network_of_own_layers_is_loaded_with_keras(tmp_path: Path) -> None:
    write_run(tmp_path, "CartPole-v1", network="toy_user_networks:subclassed", head="value")
    policy = distdqn.load(tmp_path)

    assert "evaluated with Keras" in repr(policy)
    assert policy.act(ONE) == policy.q_values(ONE).argmax()
