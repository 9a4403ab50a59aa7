import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from toy_actors import make_actor, make_weights
from toy_environments import COUNTING_IDS, LENGTHS, CountingEnvironment

from distdqn.acting.exploration import epsilon_ladder
from distdqn.seeding import make_integer_seed
from distdqn.types import RolloutRequest, Transitions

MODES = list(AutoresetMode)
IDS = [mode.name for mode in MODES]
PLENTY = RolloutRequest(env_steps=0, limit=10**9)


def joined(chunks):
    """All rows of `chunks`, in order."""
    columns = [chunk.columns() for chunk in chunks]
    return Transitions(**{name: np.concatenate([c[name] for c in columns]) for name in columns[0]})


def rollouts(actor, count, weights=None):
    """Chunks of `count` rollouts as one, and the sum of their env steps."""
    pairs = [actor.rollout(PLENTY, weights) for _ in range(count)]
    return joined([chunk for _, chunk in pairs]), sum(r.env_steps for r, _ in pairs)


def assert_counting_window(transitions, i, action):
    """Row `i` is a window that `CountingEnvironment` can really bring with always the same action."""
    seed, episode, step = transitions.observation[i]
    covered = int(transitions.next_observation[i, 2] - step)
    assert transitions.next_observation[i, :2].tolist() == [seed, episode]
    assert covered >= 1
    rewards = [100 * episode + 10 * (step + k) + action for k in range(covered)]
    assert transitions.reward[i] == sum(0.5**k * reward for k, reward in enumerate(rewards))
    ended = step + covered == LENGTHS[int(seed + episode) % len(LENGTHS)]
    terminated = ended and (episode % 3 != 2 or episode % 2 == 1)
    assert transitions.discount[i] == (0.0 if terminated else 0.5**covered)


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_rollouts_return_every_real_step_and_no_other(mode):
    actor = make_actor(COUNTING_IDS[mode])

    transitions, env_steps = rollouts(actor, 5, make_weights([0, 1, 0]))

    assert env_steps == len(transitions)
    assert (env_steps < 5 * 10 * 4) == (mode is AutoresetMode.NEXT_STEP)  # resets are no env steps
    for seed in set(transitions.observation[:, 0]):
        own = transitions.observation[:, 0] == seed
        seen = [tuple(row) for row in transitions.observation[own, 1:].tolist()]
        expected, alone = [], CountingEnvironment()
        observation, _ = alone.reset(seed=int(seed))
        for _ in seen:
            expected.append(tuple(observation[1:].tolist()))
            observation, _, terminated, truncated, _ = alone.step(1)
            if terminated or truncated:
                observation, _ = alone.reset()
        assert seen == expected
    for i in range(len(transitions)):
        assert_counting_window(transitions, i, action=1)


def test_rollout_counts_real_steps_and_not_resets():
    actor = make_actor(partial(CountingEnvironment, lengths=(3,)))

    report, transitions = actor.rollout(PLENTY)

    # Ten vector steps: 3 real, 1 reset, 3 real, 1 reset, 2 real, in each of 4 environments.
    assert report.env_steps == (3 + 3 + 2) * 4
    assert report.transitions == len(transitions) == report.env_steps


def test_windows_contain_no_later_action_that_was_not_greedy():
    options = {"watkins": True, "epsilon_start": 0.5, "epsilon_schedule": "constant", "n_step": 3}
    actor = make_actor(partial(CountingEnvironment, lengths=(10**6,)), **options)

    transitions, _ = rollouts(actor, 5, make_weights([0, 1, 0]))

    starts = [tuple(row) for row in transitions.observation.tolist()]
    action = dict(zip(starts, transitions.action.tolist(), strict=True))
    lengths = (transitions.next_observation[:, 2] - transitions.observation[:, 2]).astype(int).tolist()
    for (seed, episode, step), length in zip(starts, lengths, strict=True):
        assert all(action.get((seed, episode, step + k), 1) == 1 for k in range(1, length))
        assert length == 3 or action.get((seed, episode, step + length), 0) != 1
    assert set(lengths) == {1, 2, 3}


def test_windows_before_the_first_weights_have_one_step_if_later_actions_are_random():
    options = {"watkins": True, "n_step": 3}
    actor = make_actor(partial(CountingEnvironment, lengths=(10**6,)), **options)

    _, transitions = actor.rollout(PLENTY)

    assert set((transitions.next_observation[:, 2] - transitions.observation[:, 2]).tolist()) == {1.0}


def test_n_step_windows_of_a_rollout_by_hand():
    actor = make_actor(partial(CountingEnvironment, lengths=(3,)), envs_per_actor=1, n_step=3)

    transitions, _ = rollouts(actor, 2, make_weights([9, 0, 0]))

    assert transitions.reward[:9].tolist() == [
        *(0 + 0.5 * 10 + 0.25 * 20, 10 + 0.5 * 20, 20),
        *(100 + 0.5 * 110 + 0.25 * 120, 110 + 0.5 * 120, 120),
        *(200 + 0.5 * 210 + 0.25 * 220, 210 + 0.5 * 220, 220),
    ]
    assert transitions.discount[:6].tolist() == [0.0] * 6  # episodes 0 and 1 terminate
    assert transitions.discount[6:9].tolist() == [0.125, 0.25, 0.5]  # episode 2 is truncated


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_transitions_stay_inside_episodes_when_the_limit_masks_steps(mode, n_step):
    actor = make_actor(COUNTING_IDS[mode], n_step=n_step)
    chunks = []
    for limit in [3, 7, 1, 40, 2, 40, 9]:
        report, chunk = actor.rollout(RolloutRequest(0, limit), make_weights([0, 0, 1]))
        assert report.env_steps <= limit
        chunks.append(chunk)

    transitions = joined(chunks)
    for i in range(len(transitions)):
        assert_counting_window(transitions, i, action=2)
    starts = {tuple(row) for row in transitions.observation.tolist()}
    assert len(starts) == len(transitions) > 60


@pytest.mark.parametrize("budget", [1, 2, 5, 39, 40, 41, 123])
@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_rollouts_meet_the_budget_exactly(mode, budget):
    actor, taken, stored = make_actor(COUNTING_IDS[mode]), 0, 0
    rounds = 0
    while taken < budget:
        report, transitions = actor.rollout(RolloutRequest(taken, budget - taken))
        taken += report.env_steps
        stored += len(transitions)
        rounds += 1

    assert taken == stored == budget
    assert rounds <= -(-budget // 20)  # each takes at least half of its 10 * 4 vector steps


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 11])
def test_one_rollout_meets_a_limit_below_its_length_exactly(limit):
    report, transitions = make_actor("CartPole-v1").rollout(RolloutRequest(0, limit))

    assert report.env_steps == len(transitions) == limit


@pytest.mark.parametrize("n_step", [1, 3])
def test_rollout_without_any_steps_to_take_returns_nothing(n_step):
    report, transitions = make_actor(CountingEnvironment, n_step=n_step).rollout(RolloutRequest(0, 0))

    assert (report.env_steps, report.transitions, len(transitions)) == (0, 0, 0)
    assert report.episode_returns == []


def test_limit_counts_no_environment_that_only_resets():
    # The first environment ends after one step and resets while the second continues.
    index = next(i for i in range(99) if make_integer_seed(0, "environment", i, 0) % 2 == 0)
    actor = make_actor(partial(CountingEnvironment, lengths=(1, 3)), envs_per_actor=2, index=index)

    report, transitions = actor.rollout(RolloutRequest(0, 3))

    first = transitions.observation[0, 0]
    assert report.env_steps == 3
    assert transitions.observation.tolist() == [[first, 0, 0], [first + 1, 0, 0], [first + 1, 0, 1]]


def test_open_windows_are_carried_on_when_the_limit_cuts_a_rollout_short():
    actor = make_actor(partial(CountingEnvironment, lengths=(40,)), envs_per_actor=1, n_step=3)

    _, first = actor.rollout(RolloutRequest(0, 2), make_weights([1, 0, 0]))
    _, second = actor.rollout(RolloutRequest(2, 2))

    assert len(first) == 0
    assert second.reward.tolist() == [0 + 0.5 * 10 + 0.25 * 20, 10 + 0.5 * 20 + 0.25 * 30]


def test_episode_that_ends_in_a_masked_step_is_not_reported():
    actor = make_actor(partial(CountingEnvironment, lengths=(1,)), envs_per_actor=2)

    report, _ = actor.rollout(RolloutRequest(0, 1), make_weights([0, 0, 1]))

    assert report.episode_lengths == [1]
    assert report.episode_returns == [2.0]


def test_rollout_reports_returns_and_lengths_of_the_episodes_that_ended():
    actor = make_actor(partial(CountingEnvironment, lengths=(3, 1)), envs_per_actor=1, rollout_length=8)
    even = int(actor._environments.observation[0, 0]) % 2 == 0

    report, _ = actor.rollout(PLENTY, make_weights([1, 0, 0]))

    # Steps and resets: 3 + 1 + 1 + 1 and 2 of the third, or 1 + 1 + 3 + 1 + 1 and a reset.
    assert report.episode_lengths == ([3, 1] if even else [1, 3, 1])
    assert report.episode_returns == ([0.0 + 10 + 20, 100.0] if even else [0.0, 100.0 + 110 + 120, 200.0])


def test_same_seed_gives_the_same_chunks():
    first, again = (rollouts(make_actor("CartPole-v1", seed=3, index=1), 3)[0].columns() for _ in range(2))

    for name, column in first.items():
        np.testing.assert_array_equal(column, again[name])


@pytest.mark.parametrize("change", [{"index": 2}, {"restarts": 1}, {"seed": 4}], ids=str)
def test_other_actor_restart_or_seed_gives_other_chunks(change):
    same = {"seed": 3, "index": 1, "restarts": 0}
    first, _ = rollouts(make_actor("CartPole-v1", **same), 1)
    other, _ = rollouts(make_actor("CartPole-v1", **(same | change)), 1)

    assert not np.isin(other.observation[:, 0], first.observation[:, 0]).any()  # other environments
    count = min(len(first), len(other))
    assert first.action[:count].tolist() != other.action[:count].tolist()  # other exploration


def test_actions_are_uniformly_random_before_the_first_weights():
    actor = make_actor(CountingEnvironment, envs_per_actor=30, rollout_length=100)

    report, transitions = actor.rollout(PLENTY)

    shares = np.bincount(transitions.action, minlength=3) / len(transitions)
    assert len(transitions) > 1_800
    assert np.abs(shares - 1 / 3).max() < 0.05  # 4 deviations of sqrt(1/3 * 2/3 / 1,800) = 0.011
    assert report.epsilon == 1.0
    assert report.weights_version is None
    assert report.weights_learner_steps == 0


def test_actions_follow_the_newest_weights_and_those_stay():
    actor = make_actor(CountingEnvironment)

    seen = []
    for weights in (make_weights([1, 0, 0]), None, make_weights([0, 0, 1], version=(1, 0)), None):
        report, transitions = actor.rollout(PLENTY, weights)
        seen.append((set(transitions.action.tolist()), report.weights_version))

    assert seen == [({0}, (0, 1)), ({0}, (0, 1)), ({2}, (1, 0)), ({2}, (1, 0))]
    assert report.weights_learner_steps == 7


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_action_answers_the_observation_it_is_stored_with(mode):
    # Q of action 0 is 1.5, of action 1 it is the step: action 1 from step 2 on.
    weights = make_weights([1.5, 0, -1], kernel=[[0, 0, 0], [0, 0, 0], [0, 1, 0]])

    transitions, _ = rollouts(make_actor(COUNTING_IDS[mode]), 3, weights)

    expected = (transitions.observation[:, 2] >= 2).astype(int)
    assert 0 < expected.sum() < len(expected)
    np.testing.assert_array_equal(transitions.action, expected)


@pytest.mark.parametrize(("env_steps", "expected"), [(0, 0.9), (25, 0.7), (100, 0.1), (10**6, 0.1)])
def test_epsilon_comes_from_the_env_steps_of_the_request(env_steps, expected):
    schedule = {"epsilon_start": 0.9, "epsilon_end": 0.1, "epsilon_decay_steps": 100}
    actor = make_actor(CountingEnvironment, envs_per_actor=30, rollout_length=100, **schedule)

    report, transitions = actor.rollout(RolloutRequest(env_steps, 10**9), make_weights([0, 1, 0]))

    assert report.epsilon == pytest.approx(expected)  # 0.9 - 0.8 * env_steps / 100, at least 0.1
    # Actions that are not greedy: 2 of 3 random ones; a deviation is below sqrt(0.25 / 1,800) = 0.012.
    assert (transitions.action != 1).mean() == pytest.approx(expected * 2 / 3, abs=0.05)


def test_chunk_does_not_change_when_the_actor_continues():
    actor = make_actor(CountingEnvironment, n_step=3)
    _, chunk = actor.rollout(PLENTY)
    before = {name: column.copy() for name, column in chunk.columns().items()}

    rollouts(actor, 2)

    for name, column in chunk.columns().items():
        np.testing.assert_array_equal(column, before[name])


def test_columns_keep_their_axes_with_one_environment_and_one_step():
    actor = make_actor(CountingEnvironment, envs_per_actor=1, rollout_length=1)

    _, transitions = actor.rollout(PLENTY, make_weights([1, 0, 0]))

    assert transitions.observation.shape == transitions.next_observation.shape == (1, 3)
    assert transitions.action.shape == transitions.reward.shape == transitions.discount.shape == (1,)
    dtypes = {name: column.dtype for name, column in transitions.columns().items()}
    assert dtypes.pop("action") == np.int32
    assert set(dtypes.values()) == {np.dtype(np.float32)}


PROGRAM = """
import sys
import numpy as np
from distdqn.acting.actor import Actor
from distdqn.config.config import ActingOptions
from distdqn.environments.registry import inspect_environment
from distdqn.types import PolicyWeights, RolloutRequest

layers = [
    {"name": "x", "kind": "input", "inputs": [], "arrays": []},
    {"name": "q", "kind": "dense", "inputs": ["x"], "arrays": [0], "activation": "linear"},
]
weights = PolicyWeights(layers, [np.ones((4, 2), np.float32)], (0, 1), 1)
options = ActingOptions(env="CartPole-v1", envs_per_actor=2, rollout_length=5, epsilon_decay_steps=100)
actor = Actor(options, inspect_environment("CartPole-v1"), index=0)
report, _ = actor.rollout(RolloutRequest(50, 1000), weights)
print(report.env_steps, sorted({"tensorflow", "keras", "ray"} & set(sys.modules)))
"""


def test_actor_acts_without_tensorflow_keras_and_ray():
    outcome = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)

    assert (outcome.stdout.split(maxsplit=1), outcome.returncode) == (["10", "[]\n"], 0), outcome.stderr


def test_first_priority_is_the_error_of_the_network_that_acted():
    # q(o) = [o0, 2 * o1, 0]; the errors are written out below from the definition.
    weights = make_weights([0.0, 0.0, 0.0], kernel=[[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    actor = make_actor(COUNTING_IDS[MODES[0]], n_step=2, sampler="prioritized")

    _, chunk = actor.rollout(PLENTY, weights)

    for i in range(len(chunk)):
        now, after = chunk.observation[i], chunk.next_observation[i]
        q_taken = [now[0], 2 * now[1], 0.0][chunk.action[i]]
        best = max(after[0], 2 * after[1], 0.0)
        expected = abs(chunk.reward[i] + chunk.discount[i] * best - q_taken)
        assert chunk.priority[i] == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_chunk_has_no_priorities_without_weights_or_when_replay_is_uniform():
    prioritized = make_actor(COUNTING_IDS[MODES[0]], sampler="prioritized")
    uniform = make_actor(COUNTING_IDS[MODES[0]])

    assert prioritized.rollout(PLENTY)[1].priority is None
    assert uniform.rollout(PLENTY, make_weights([0.0, 1.0, 0.0]))[1].priority is None


def test_rewards_are_scaled_and_then_clipped_but_returns_are_not():
    weights = make_weights([0.0, 1.0, 0.0])
    plain, _ = make_actor(COUNTING_IDS[MODES[0]]).rollout(PLENTY, weights)
    raw, scaled, clipped = (
        make_actor(COUNTING_IDS[MODES[0]], **changes).rollout(PLENTY, weights)
        for changes in ({}, {"reward_scale": 0.5}, {"reward_scale": 0.5, "reward_clip": 7.0})
    )

    np.testing.assert_allclose(scaled[1].reward, 0.5 * raw[1].reward)
    np.testing.assert_allclose(clipped[1].reward, np.minimum(0.5 * raw[1].reward, 7.0))
    assert raw[1].reward.max() > 14.0
    assert clipped[0].episode_returns == plain.episode_returns


def test_each_environment_explores_by_its_own_rung_of_the_ladder():
    ladder = {"epsilon_ladder": True, "epsilon_ladder_base": 0.999, "epsilon_ladder_exponent": 1e6}
    actor = make_actor(COUNTING_IDS[MODES[0]], rollout_length=200, **ladder)  # epsilon 0.999, 0, 0, 0

    report, chunk = actor.rollout(PLENTY, make_weights([0.0, 1.0, 0.0]))

    seeds = chunk.observation[:, 0]
    explored = {seed: set(chunk.action[seeds == seed].tolist()) for seed in np.unique(seeds)}
    assert list(explored.values()) == [{0, 1, 2}, {1}, {1}, {1}]
    assert report.epsilon == pytest.approx(0.999 / 4)


def test_rungs_of_an_actor_change_with_the_number_of_actors_in_its_requests():
    actor = make_actor(
        COUNTING_IDS[MODES[0]], epsilon_ladder=True, epsilon_ladder_base=0.4, epsilon_ladder_exponent=7.0
    )
    weights = make_weights([0.0, 1.0, 0.0])

    alone, first, second = (
        actor.rollout(RolloutRequest(0, 10**9, place, places), weights)[0].epsilon
        for place, places in ((0, 1), (0, 2), (1, 2))
    )

    four, eight = epsilon_ladder(4, 0.4, 7.0), epsilon_ladder(8, 0.4, 7.0)
    assert alone == pytest.approx(four.mean())
    assert (first, second) == (pytest.approx(eight[::2].mean()), pytest.approx(eight[1::2].mean()))
