import sys

import gymnasium
import numpy as np
import pytest
import toy_environments
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toy_actors import make_vector, step_once
from toy_environments import COUNTING_IDS, CountingEnvironment, SpacesEnvironment

from distdqn.environments import vector as environments_module
from distdqn.environments.registry import inspect_environment, resolve_environment
from distdqn.errors import ConfigError, EnvironmentFault

MODES = list(AutoresetMode)
IDS = [mode.name for mode in MODES]


def play_vector(vector, actions):
    """All that really happened, by environment, and the episodes that ended, by environment."""
    width = actions.shape[1]
    happened, episodes = [[] for _ in range(width)], [[] for _ in range(width)]
    for row in actions:
        before = vector.observation.copy()
        steps, ends = step_once(vector, row)
        np.testing.assert_array_equal(steps.observation[0], before)
        for e in np.flatnonzero(steps.is_transition[0]):
            happened[e].append(
                (
                    before[e].tolist(),
                    int(steps.action[0, e]),
                    float(steps.reward[0, e]),
                    bool(steps.terminated[0, e]),
                    bool(steps.truncated[0, e]),
                    steps.next_observation[0, e].tolist(),
                )
            )
        for end in ends:
            episodes[end.environment].append((end.episode_return, end.length))
    return happened, episodes


def play_alone(environment, actions, seed, skips_a_row):
    """The same by hand for one environment; after an end, `skips_a_row` passes one action over."""
    happened, episodes = [], []
    observation, _ = environment.reset(seed=seed)
    rewards, rows = [], iter(actions)
    for action in rows:
        following, reward, terminated, truncated, _ = environment.step(action)
        happened.append(
            (
                observation.tolist(),
                int(action - environment.action_space.start),
                float(reward),
                terminated,
                truncated,
                following.tolist(),
            )
        )
        rewards.append(reward)
        observation = following
        if terminated or truncated:
            episodes.append((sum(rewards), len(rewards)))
            rewards = []
            observation, _ = environment.reset()
            if skips_a_row:
                next(rows, None)
    return happened, episodes


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_vector_agrees_with_single_environments_stepped_by_hand(mode, seed):
    actions = np.random.default_rng(seed).integers(3, size=(60, 4))

    happened, episodes = play_vector(make_vector(COUNTING_IDS[mode], 4, seed), actions)

    for e in range(4):
        alone = CountingEnvironment()
        expected = play_alone(alone, actions[:, e], seed + e, mode is AutoresetMode.NEXT_STEP)
        assert (happened[e], episodes[e]) == expected
        assert len(episodes[e]) > 10


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_final_observation_is_the_last_one_of_its_own_episode(mode):
    happened, _ = play_vector(make_vector(COUNTING_IDS[mode], 3, 0), np.zeros((40, 3), np.int64))

    for of_one in happened:
        for before, _, _, _, _, after in of_one:
            seed, episode, step = before
            assert after == [seed, episode, step + 1]


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_next_action_sees_the_first_observation_of_the_new_episode(mode):
    vector = make_vector(COUNTING_IDS[mode], 1, 1)  # LENGTHS[1] = 1: over after one step

    steps, ends = step_once(vector, [2])
    if mode is AutoresetMode.NEXT_STEP:
        step_once(vector, [2])

    assert [end.environment for end in ends] == [0]
    assert steps.next_observation[0].tolist() == [[1, 0, 1]]
    assert vector.observation.tolist() == [[1, 1, 0]]


def test_step_that_only_resets_counts_for_nothing_and_pays_nothing():
    vector = make_vector(COUNTING_IDS[AutoresetMode.NEXT_STEP], 2, 0)  # lengths 3 and 1 first

    results = [step_once(vector, [1, 1]) for _ in range(4)]

    assert [steps.is_transition[0].tolist() for steps, _ in results] == [
        [True, True],
        [True, False],  # the second environment resets
        [True, True],
        [False, True],  # the first one does
    ]
    steps, ends = results[1]
    assert steps.reward[0].tolist() == [10 * 1 + 1, 0]
    assert ends == []


def test_open_episodes_keep_their_own_returns_while_others_end():
    vector = make_vector(COUNTING_IDS[AutoresetMode.SAME_STEP], 2, 0)  # lengths 3 and 1 first

    first, second, third = (step_once(vector, [1, 2])[1] for _ in range(3))

    assert [(end.environment, end.episode_return) for end in first] == [(1, 2.0)]
    assert second == []
    assert [(end.environment, end.episode_return) for end in third] == [(0, 1 + (10 + 1) + (20 + 1))]
    assert third[0].length == 3


class CarelessVector(SyncVectorEnv):
    """Hands out the same arrays at every step, and pays for resetting itself."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, copy=False, **settings)
        self._handed_out = None

    def step(self, actions):
        resets = self._autoreset_envs & (self.autoreset_mode is AutoresetMode.NEXT_STEP)
        observation, reward, *flags, info = super().step(actions)
        new = (observation, reward + 1_000 * resets, *flags)
        self._handed_out = self._handed_out or tuple(array.copy() for array in new)
        for own, array in zip(self._handed_out, new, strict=True):
            own[...] = array
        return (*self._handed_out, info)


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_results_are_right_though_the_vector_environment_is_careless(mode, monkeypatch):
    def make(_source, environments):
        return CarelessVector([CountingEnvironment] * environments, autoreset_mode=mode)

    actions = np.ones((30, 3), np.int64)
    copying = make_vector(COUNTING_IDS[mode], 3, 0)
    monkeypatch.setattr(environments_module, "make_vector_environment", make)
    careless = make_vector("unused", 3, 0)
    kept, expected = careless.empty_steps(len(actions)), copying.empty_steps(len(actions))

    for t, row in enumerate(actions):
        assert careless.step(row, kept, t) == copying.step(row, expected, t)

    for name, column in vars(expected).items():
        np.testing.assert_array_equal(getattr(kept, name), column)


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_fault_26_actions_count_from_zero_though_the_space_starts_elsewhere(mode, monkeypatch):
    def make(_source, environments):
        maker = [lambda: CountingEnvironment(first_action=5)] * environments
        return SyncVectorEnv(maker, autoreset_mode=mode)

    monkeypatch.setattr(environments_module, "make_vector_environment", make)
    actions = np.random.default_rng(0).integers(3, size=(30, 2))

    happened, episodes = play_vector(make_vector("unused", 2, 0), actions)

    for e in range(2):
        alone = CountingEnvironment(first_action=5)
        skips_a_row = mode is AutoresetMode.NEXT_STEP
        assert (happened[e], episodes[e]) == play_alone(alone, actions[:, e] + 5, e, skips_a_row)


@pytest.mark.parametrize("dtype", [np.float64, np.uint8, np.float32])
def test_observations_of_any_dtype_become_float32(dtype):
    vector = make_vector(lambda: CountingEnvironment(dtype=dtype), 2, 7)

    steps, _ = step_once(vector, [0, 1])

    assert vector.observation.dtype == steps.next_observation.dtype == np.float32
    assert steps.next_observation[0].tolist() == [[7, 0, 1], [8, 0, 1]]
    assert steps.reward.dtype == np.float32


def test_same_seed_gives_the_same_first_observations_and_another_gives_others():
    first, again, other = (make_vector("CartPole-v1", 3, seed).observation for seed in (5, 5, 6))

    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any()


def play_cart_poles_alone(actions, seed):
    """CartPole's vector class by hand: one generator for all, a step of its own for each reset."""
    steps, width = actions.shape
    generator = np.random.default_rng(seed)
    poles = [gymnasium.make("CartPole-v1").unwrapped for _ in range(width)]
    for pole, state in zip(poles, generator.uniform(-0.05, 0.05, size=(4, width)).T, strict=True):
        pole.reset()
        pole.state = state
    happened, episodes = [[] for _ in range(width)], [[] for _ in range(width)]
    lengths, resets = np.zeros(width, int), np.zeros(width, bool)
    for t in range(steps):
        fresh = iter(generator.uniform(-0.05, 0.05, size=(4, resets.sum())).T)
        for e, pole in enumerate(poles):
            if resets[e]:
                pole.reset()
                pole.state, resets[e], lengths[e] = next(fresh), False, 0
                continue
            before = np.array(pole.state, np.float32)
            after, reward, terminated, _, _ = pole.step(int(actions[t, e]))
            lengths[e] += 1
            truncated = bool(lengths[e] >= 500)
            happened[e].append((before, actions[t, e], reward, terminated, truncated, after))
            if terminated or truncated:
                episodes[e].append((float(lengths[e]), lengths[e]))  # one point each step
                resets[e] = True
    return happened, episodes


def balance(observation):
    """Actions of a controller that keeps the pole up for 500 steps."""
    return (observation @ np.array([0.1, 0.5, 3.0, 1.0]) > 0).astype(np.int64)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("good", [False, True], ids=["falling", "balancing"])
def test_vector_agrees_with_single_cart_poles_stepped_by_hand(good, seed):
    vector, width = make_vector("CartPole-v1", 3, seed), 3
    generator = np.random.default_rng(seed)
    actions = generator.integers(2, size=(520 if good else 150, width))
    if good:
        planned = make_vector("CartPole-v1", width, seed)
        for t in range(len(actions)):
            actions[t] = balance(planned.observation)
            step_once(planned, actions[t])
    assert not isinstance(vector._vector.unwrapped, SyncVectorEnv)

    happened, episodes = play_vector(vector, actions)
    expected_happened, expected_episodes = play_cart_poles_alone(actions, seed)

    assert episodes == expected_episodes
    assert episodes[0][0][1] == 500 if good else len(episodes[0]) > 2
    for found, expected in zip(happened, expected_happened, strict=True):
        assert len(found) == len(expected)
        for (*middle, after), (*expected_middle, expected_after) in zip(found, expected, strict=True):
            np.testing.assert_allclose(middle[0], expected_middle[0], atol=1e-5)
            np.testing.assert_allclose(after, expected_after, atol=1e-5)
            assert middle[1:] == expected_middle[1:]


def test_inspection_tells_what_cart_pole_looks_like():
    spec = inspect_environment("CartPole-v1")

    assert (spec.name, spec.observation_shape, spec.actions) == ("CartPole-v1", (4,), 2)
    assert spec.reward_threshold == 475.0


def test_reward_threshold_is_found_in_an_environment_without_a_vector_class():
    assert inspect_environment("Acrobot-v1").reward_threshold == -100.0


def test_reward_threshold_is_found_when_a_function_makes_a_registered_environment():
    assert inspect_environment(lambda: gymnasium.make("Acrobot-v1")).reward_threshold == -100.0


def test_reward_threshold_is_none_when_a_function_makes_the_environment():
    spec = inspect_environment(CountingEnvironment)

    assert spec.reward_threshold is None
    assert (spec.name, spec.observation_shape, spec.actions) == ("CountingEnvironment", (3,), 3)


BOX = gymnasium.spaces.Box(0, 1, (2,), np.float32)
DISCRETE = gymnasium.spaces.Discrete(2)


@pytest.mark.parametrize(
    ("observations", "actions", "words"),
    [
        (BOX, BOX, "actions"),
        (BOX, gymnasium.spaces.MultiDiscrete([64, 65]), "4,160 combinations"),
        (gymnasium.spaces.Text(4), DISCRETE, "no number"),
    ],
    ids=["box-actions", "multi-discrete-actions", "text-observations"],
)
def test_spaces_that_dqn_cannot_use_are_refused(observations, actions, words):
    with pytest.raises(ConfigError, match=words) as caught:
        inspect_environment(lambda: SpacesEnvironment(observations, actions))
    assert len(caught.value.mistakes) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CartPole-v9", r"CartPole.*`v1`"),
        ("Cartpole-v1", "Did you mean: `CartPole`"),
        ("CartPole", "did you mean `CartPole-v1`"),
        ("NoSuchThing-v0", r"`NoSuchThing` doesn't exist \(.* give `package:NoSuchThing-v0`\)\.$"),
    ],
)
def test_unknown_id_is_refused_with_the_nearest_name(name, words):
    with pytest.raises(ConfigError, match=words) as caught:
        inspect_environment(name)
    assert "\n" not in str(caught.value)


def test_module_and_attribute_name_a_function_that_makes_the_environment():
    assert resolve_environment("toy_environments:CountingEnvironment") is CountingEnvironment
    assert inspect_environment("toy_environments:CountingEnvironment").actions == 3


def test_module_and_id_name_what_importing_the_module_registers(tmp_path, monkeypatch):
    (tmp_path / "toy_registering.py").write_text(
        "import gymnasium\n"
        "from toy_environments import CountingEnvironment\n"
        "gymnasium.register('ToyRegistered-v3', entry_point=CountingEnvironment, reward_threshold=12.0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "ToyRegistered-v3" not in gymnasium.registry
    try:
        spec = inspect_environment("toy_registering:ToyRegistered-v3")
        vector = make_vector("toy_registering:ToyRegistered-v3", 2, 0)
    finally:
        gymnasium.registry.pop("ToyRegistered-v3", None)
        sys.modules.pop("toy_registering", None)

    assert (spec.actions, spec.reward_threshold) == (3, 12.0)
    assert vector.observation.shape == (2, 3)


def test_module_that_does_not_exist_is_named_in_the_refusal():
    with pytest.raises(ConfigError, match=r"`no_such_module`.*Python path"):
        inspect_environment("no_such_module:Thing-v0")


def test_name_that_the_module_lacks_is_refused():
    with pytest.raises(ConfigError, match="Missing"):
        inspect_environment("toy_environments:Missing-v0")


@pytest.mark.parametrize("by_name", [False, True], ids=["function", "name"])
def test_constructor_that_raises_is_a_fault_with_the_original_text(by_name):
    source = "toy_environments:raise_missing_licence" if by_name else toy_environments.raise_missing_licence

    with pytest.raises(EnvironmentFault, match="RuntimeError: no licence for 4711 robots") as caught:
        inspect_environment(source)
    assert "raise_missing_licence" in str(caught.value)
