import sys

import gymnasium
import numpy as np
import pytest
import toy_environments
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toy_environments import COUNTING_IDS, CountingEnvironment, SpacesEnvironment

from distdqn.environments import vector as environments_module
from distdqn.environments.registry import inspect_environment, resolve_environment
from distdqn.environments.vector import VectorEnvironment
from distdqn.errors import ConfigError, EnvironmentFault

MODES = list(AutoresetMode)
IDS = [mode.name for mode in MODES]


def play_batch(batch, actions):
    """All that really happened, by environment, and the episodes that ended, by environment."""
    width = actions.shape[1]
    happened, episodes = [[] for _ in range(width)], [[] for _ in range(width)]
    for row in actions:
        before = batch.observation.copy()
        result = batch.step(row)
        for e in np.flatnonzero(result.is_transition):
            happened[e].append(
                (
                    before[e].tolist(),
                    int(row[e]),
                    float(result.reward[e]),
                    bool(result.terminated[e]),
                    bool(result.truncated[e]),
                    result.next_observation[e].tolist(),
                )
            )
        ended = zip(result.ended, result.episode_returns, result.episode_lengths, strict=True)
        for e, episode_return, length in ended:
            episodes[e].append((episode_return, length))
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
def test_batch_agrees_with_single_environments_stepped_by_hand(mode, seed):
    actions = np.random.default_rng(seed).integers(3, size=(60, 4))

    happened, episodes = play_batch(VectorEnvironment(COUNTING_IDS[mode], 4, seed), actions)

    for e in range(4):
        alone = CountingEnvironment()
        expected = play_alone(alone, actions[:, e], seed + e, mode is AutoresetMode.NEXT_STEP)
        assert (happened[e], episodes[e]) == expected
        assert len(episodes[e]) > 10


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_final_observation_is_the_last_one_of_its_own_episode(mode):
    happened, _ = play_batch(VectorEnvironment(COUNTING_IDS[mode], 3, 0), np.zeros((40, 3), np.int64))

    for of_one in happened:
        for before, _, _, _, _, after in of_one:
            seed, episode, step = before
            assert after == [seed, episode, step + 1]


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_next_action_sees_the_first_observation_of_the_new_episode(mode):
    batch = VectorEnvironment(COUNTING_IDS[mode], 1, 1)  # LENGTHS[1] = 1: over after one step

    result = batch.step(np.array([2]))
    if mode is AutoresetMode.NEXT_STEP:
        batch.step(np.array([2]))

    assert result.ended.tolist() == [0]
    assert result.next_observation.tolist() == [[1, 0, 1]]
    assert batch.observation.tolist() == [[1, 1, 0]]


def test_step_that_only_resets_counts_for_nothing_and_pays_nothing():
    batch = VectorEnvironment(COUNTING_IDS[AutoresetMode.NEXT_STEP], 2, 0)  # lengths 3 and 1 first

    flags = [batch.step(np.array([1, 1])) for _ in range(4)]

    assert [result.is_transition.tolist() for result in flags] == [
        [True, True],
        [True, False],  # the second environment resets
        [True, True],
        [False, True],  # the first one does
    ]
    assert flags[1].reward.tolist() == [10 * 1 + 1, 0]
    assert flags[1].ended.size == 0


def test_open_episodes_keep_their_own_returns_while_others_end():
    batch = VectorEnvironment(COUNTING_IDS[AutoresetMode.SAME_STEP], 2, 0)  # lengths 3 and 1 first

    results = [batch.step(np.array([1, 2])) for _ in range(3)]

    assert [result.ended.tolist() for result in results] == [[1], [], [0]]
    assert results[0].episode_returns == [2.0]
    assert results[2].episode_returns == [1 + (10 + 1) + (20 + 1)]
    assert results[2].episode_lengths == [3]


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
    copying = VectorEnvironment(COUNTING_IDS[mode], 3, 0)
    monkeypatch.setattr(environments_module, "make_vector_environment", make)
    careless = VectorEnvironment("unused", 3, 0)
    kept = [careless.step(row) for row in actions]

    for result, expected in zip(kept, [copying.step(row) for row in actions], strict=True):
        for name in ("next_observation", "reward", "terminated", "truncated", "is_transition"):
            np.testing.assert_array_equal(getattr(result, name), getattr(expected, name))
        assert result.episode_returns == expected.episode_returns


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_fault_26_actions_count_from_zero_though_the_space_starts_elsewhere(mode, monkeypatch):
    def make(_source, environments):
        maker = [lambda: CountingEnvironment(first_action=5)] * environments
        return SyncVectorEnv(maker, autoreset_mode=mode)

    monkeypatch.setattr(environments_module, "make_vector_environment", make)
    actions = np.random.default_rng(0).integers(3, size=(30, 2))

    happened, episodes = play_batch(VectorEnvironment("unused", 2, 0), actions)

    for e in range(2):
        alone = CountingEnvironment(first_action=5)
        skips_a_row = mode is AutoresetMode.NEXT_STEP
        assert (happened[e], episodes[e]) == play_alone(alone, actions[:, e] + 5, e, skips_a_row)


@pytest.mark.parametrize("dtype", [np.float64, np.uint8, np.float32])
def test_observations_of_any_dtype_become_float32(dtype):
    batch = VectorEnvironment(lambda: CountingEnvironment(dtype=dtype), 2, 7)

    result = batch.step(np.array([0, 1]))

    assert batch.observation.dtype == result.next_observation.dtype == np.float32
    assert result.next_observation.tolist() == [[7, 0, 1], [8, 0, 1]]
    assert result.reward.dtype == np.float32


def test_same_seed_gives_the_same_first_observations_and_another_gives_others():
    first, again, other = (VectorEnvironment("CartPole-v1", 3, seed).observation for seed in (5, 5, 6))

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
def test_batch_agrees_with_single_cart_poles_stepped_by_hand(good, seed):
    batch, width = VectorEnvironment("CartPole-v1", 3, seed), 3
    generator = np.random.default_rng(seed)
    actions = generator.integers(2, size=(520 if good else 150, width))
    if good:
        planned = VectorEnvironment("CartPole-v1", width, seed)
        for t in range(len(actions)):
            actions[t] = balance(planned.observation)
            planned.step(actions[t])
    assert not isinstance(batch._vector.unwrapped, SyncVectorEnv)

    happened, episodes = play_batch(batch, actions)
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
        (BOX, gymnasium.spaces.MultiDiscrete([2, 2]), "actions"),
        (gymnasium.spaces.Dict({"a": BOX}), DISCRETE, "FlattenObservation"),
        (gymnasium.spaces.Discrete(4), DISCRETE, "FlattenObservation"),
    ],
    ids=["box-actions", "multi-discrete-actions", "dict-observations", "discrete-observations"],
)
def test_spaces_that_dqn_cannot_use_are_refused(observations, actions, words):
    with pytest.raises(ConfigError, match=words) as caught:
        inspect_environment(lambda: SpacesEnvironment(observations, actions))
    assert len(caught.value.mistakes) == 1


def test_bad_observations_and_bad_actions_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        inspect_environment(lambda: SpacesEnvironment(gymnasium.spaces.Dict({"a": BOX}), BOX))
    assert len(caught.value.mistakes) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CartPole-v9", r"CartPole.*`v1`"),
        ("Cartpole-v1", "Did you mean: `CartPole`"),
        ("CartPole", "did you mean `CartPole-v1`"),
        ("NoSuchThing-v0", "`NoSuchThing` doesn't exist"),
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
        batch = VectorEnvironment("toy_registering:ToyRegistered-v3", 2, 0)
    finally:
        gymnasium.registry.pop("ToyRegistered-v3", None)
        sys.modules.pop("toy_registering", None)

    assert (spec.actions, spec.reward_threshold) == (3, 12.0)
    assert batch.observation.shape == (2, 3)


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
