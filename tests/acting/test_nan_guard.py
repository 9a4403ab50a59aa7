"""Steps with NaN or infinity are masked and counted, and end the run if there are no others."""

from functools import partial

import numpy as np
import pytest
import toy_actors
from toy_environments import LENGTHS
from toy_faults import AlteredEnvironment, nan_at, put

from distdqn.acting.actor import NaNGuard
from distdqn.errors import Diverged
from distdqn.types import RolloutRequest, Steps

PLENTY = RolloutRequest(env_steps=0, limit=10**9)


def make_actor(alter_step, lengths=(4,), **options):
    source = partial(AlteredEnvironment, alter_step=alter_step, lengths=lengths)
    return toy_actors.make_actor(
        source, **({"envs_per_actor": 1, "rollout_length": 20, "n_step": 3} | options)
    )


def make_steps(rewards, ends=(), observed=None):
    """Steps `[T, E]` with these rewards; `ends` and `observed` (to NaN) hold positions `(t, e)`."""
    rewards = np.array(rewards, np.float32)
    steps = Steps.empty(*rewards.shape, (2,), np.dtype(np.float32))
    steps.reward[:] = rewards
    steps.is_transition[:] = True
    for at in ends:
        steps.terminated[at] = True
    for at in observed or ():
        steps.next_observation[(*at, 1)] = np.nan
    return steps


def kept_by_hand(steps):
    """`[T, E]`, a slow twin: a bad step and all until its episode's end are masked."""
    kept = steps.is_transition.copy()
    for e in range(kept.shape[1]):
        is_broken = False
        for t in range(len(kept)):
            numbers = [steps.reward[t, e], *steps.observation[t, e], *steps.next_observation[t, e]]
            is_broken |= bool(kept[t, e]) and not np.isfinite(numbers).all()
            kept[t, e] &= not is_broken
            is_broken &= not (steps.terminated[t, e] or steps.truncated[t, e])
    return kept


@pytest.mark.parametrize("seed", range(10))
def test_guard_agrees_with_its_slow_twin_over_many_calls(seed):
    generator = np.random.default_rng(seed)
    size = (60, 3)
    steps = make_steps(generator.normal(size=size))
    steps.reward[generator.random(size) < 0.04] = np.inf
    steps.observation[generator.random((*size, 2)) < 0.02] = np.nan
    steps.next_observation[generator.random((*size, 2)) < 0.02] = -np.inf
    steps.terminated[:] = generator.random(size) < 0.15
    steps.truncated[:] = generator.random(size) < 0.15
    steps.is_transition[:] = generator.random(size) < 0.9
    expected = kept_by_hand(steps)

    guard, begin = NaNGuard("toy", 3), 0
    for length in generator.choice([0, 1, 2, 9], size=12):
        guard.mask(steps[begin : begin + length])
        begin += length

    np.testing.assert_array_equal(steps.is_transition[:begin], expected[:begin])
    assert not expected.all()


def test_only_steps_with_bad_numbers_are_counted():
    # Of the first episode, the second step is bad and the third is masked with it.
    steps = make_steps([[1.0], [np.nan], [3.0], [4.0]], ends=[(2, 0)])

    assert NaNGuard("toy", 1).mask(steps) == 1
    assert steps.is_transition[:, 0].tolist() == [True, False, False, True]


def test_bad_numbers_where_nothing_happened_do_not_count():
    steps = make_steps([[1.0], [np.nan], [3.0]])
    steps.is_transition[1] = False

    assert NaNGuard("toy", 1).mask(steps) == 0
    assert steps.is_transition[:, 0].tolist() == [True, False, True]


def test_fault_21_ten_consecutive_bad_steps_end_the_run_and_the_first_is_named():
    guard = NaNGuard("toy", 2)
    rewards = np.ones((5, 2))
    rewards[0, 1], rewards[1:] = np.inf, np.nan
    guard.mask(make_steps(rewards))  # nine: one and four times two

    with pytest.raises(Diverged, match=r"`toy`.*in 10 consecutive steps, first a reward of inf") as caught:
        guard.mask(make_steps([[np.nan, np.nan]]))
    assert caught.value.exit_code == 6


def test_bad_observation_is_named_with_its_position():
    guard = NaNGuard("toy", 1)

    with pytest.raises(Diverged, match=r"an observation with nan at position \(1,\)"):
        guard.mask(make_steps(np.zeros((10, 1)), observed=[(t, 0) for t in range(10)]))


def test_good_step_of_any_environment_resets_the_count():
    guard = NaNGuard("toy", 2)
    for _ in range(5):
        # The first environment never recovers, the second is well.
        assert guard.mask(make_steps([[np.nan, 1.0]] * 9)) == 9


def test_masked_step_with_good_numbers_does_not_reset_the_count():
    guard = NaNGuard("toy", 1)
    guard.mask(make_steps([[np.nan]] * 9 + [[1.0]]))

    with pytest.raises(Diverged):
        guard.mask(make_steps([[np.nan]]))


def test_rollout_without_bad_steps_resets_the_count():
    guard = NaNGuard("toy", 1)
    for _ in range(3):
        guard.mask(make_steps([[np.nan]] * 9, ends=[(8, 0)]))
        guard.mask(make_steps([[1.0]]))


def test_reset_clears_the_count_and_the_mask():
    guard = NaNGuard("toy", 1)
    guard.mask(make_steps([[np.nan]] * 9))
    guard.reset()
    steps = make_steps([[1.0], [np.nan]])

    assert guard.mask(steps) == 1
    assert steps.is_transition[:, 0].tolist() == [True, False]


def test_new_environments_after_a_fault_are_not_masked():
    # That vector step is no transition and truncates every episode.
    steps = make_steps([[np.nan], [0.0], [1.0]])
    steps.is_transition[1], steps.truncated[1] = False, True

    NaNGuard("toy", 1).mask(steps)

    assert steps.is_transition[:, 0].tolist() == [False, False, True]


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_fault_21_no_window_holds_a_bad_step_and_the_next_episode_is_whole(what):
    actor = make_actor(nan_at(1, 2, what))  # after the first episode, which is checked

    report, chunk = actor.rollout(PLENTY)

    # Vector steps: four episodes of 4 steps and a reset; three steps of the second are masked.
    # A bad observation is in two steps: one leads to it, and the next answers it.
    assert (report.env_steps, report.not_finite) == (4 * 4 - 3, 1 if what == "reward" else 2)
    assert report.episode_lengths == [4] * 3
    assert np.isfinite(report.episode_returns).all()
    assert chunk.observation[:, 1:].tolist() == [
        *([0, step] for step in range(4)),
        [1, 0],
        *([episode, step] for episode in (2, 3) for step in range(4)),
    ]
    for column in chunk.columns().values():
        assert np.isfinite(column).all()
    assert chunk.next_observation[4].tolist()[1:] == [1, 1]
    assert chunk.discount[4] == 0.5  # it bootstraps from the last good observation


def test_fault_ends_the_mask_with_its_episode():
    happens = iter(["nan", "fault"])

    def alter(result, episode, _):
        match episode > 0 and next(happens, ""):
            case "nan":
                return put(0, np.nan, "reward")(result)
            case "fault":
                raise ArithmeticError
        return result

    report, _ = make_actor(alter, rollout_length=15).rollout(PLENTY)

    # Vector steps: an episode of 4 and a reset, NaN, the fault, 4 and a reset, 3 more.
    assert (report.env_steps, report.not_finite, report.env_faults) == (4 + 4 + 3, 1, 1)


def test_bad_first_observation_of_an_episode_masks_the_episode():
    def alter(result, episode):
        return (result[0] + np.float32(np.nan), result[1]) if episode == 1 else result

    source = partial(AlteredEnvironment, alter_reset=alter, lengths=(4,))
    actor = toy_actors.make_actor(source, envs_per_actor=1, rollout_length=20, n_step=3)

    report, chunk = actor.rollout(PLENTY)

    assert (report.env_steps, report.not_finite) == (3 * 4, 1)
    assert set(chunk.observation[:, 1]) == {0, 2, 3}


@pytest.mark.parametrize("reward_clip", [None, 1.0])
def test_infinite_reward_is_masked_even_if_it_would_be_clipped_or_discounted(reward_clip):
    def alter(result, episode, step):
        return put(0, np.inf, "reward")(result) if (episode, step) == (1, 2) else result

    report, chunk = make_actor(alter, reward_clip=reward_clip, discount=0.0).rollout(PLENTY)

    assert (report.not_finite, report.env_steps) == (1, 4 * 4 - 3)
    assert len(chunk) == report.env_steps


def test_mask_lasts_over_rollouts_and_not_over_a_flush():
    kept, flushed = (make_actor(nan_at(1, 1), rollout_length=6, lengths=(4, 40)) for _ in range(2))
    for actor in (kept, flushed):
        actor.rollout(PLENTY)  # four steps, a reset, a bad step: or the other way round
    flushed.flush(0)

    # Whichever length came first, the second episode is broken from its first step on.
    lengths = [int(actor.rollout(PLENTY)[0].env_steps) for actor in (kept, flushed)]

    assert lengths[0] < lengths[1]


def test_fault_21_environment_that_gives_nothing_but_nan_ends_the_run():
    def alter(result, episode, _):
        return put(2, np.nan)(result) if episode > 0 else result

    actor = make_actor(alter, envs_per_actor=5, rollout_length=50, lengths=LENGTHS)

    with pytest.raises(Diverged, match=r"an observation with nan at position \(2,\)"):
        actor.rollout(PLENTY)


def test_pictures_are_not_searched_for_nan():
    steps = Steps.empty(3, 2, (4, 4), np.dtype(np.uint8))
    steps.is_transition[:] = True
    steps.reward[1, 0] = np.nan

    assert NaNGuard("toy", 2).mask(steps) == 1
