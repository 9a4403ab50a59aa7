import dataclasses

import numpy as np
import pytest

from distdqn.acting.n_step import NStepWindows, n_step_returns
from distdqn.types import Steps

JUNK = 1e6  # stands wherever no window may look


def make_steps(rewards, ends=(), truncates=(), holes=(), first=0):
    """Steps of one environment that observes the time, `first` at the beginning."""
    length = len(rewards)
    time = np.arange(first, first + length, dtype=np.float32)[:, None, None]
    steps = Steps.empty(length, 1, (1,), np.dtype(np.float32))
    steps.observation[:] = time
    steps.next_observation[:] = time + 1
    steps.action[:, 0] = np.arange(length) % 3
    steps.reward[:, 0] = rewards
    steps.terminated[list(ends)] = True
    steps.truncated[list(truncates)] = True
    steps.is_transition[:] = True
    steps.is_transition[list(holes)] = False
    return steps


NO_STEPS = make_steps([])


def make_random_steps(length, environments, generator):
    """Random episodes; a transition observes `[t, e]` and leads to `[t + 0.5, e]`."""
    steps = Steps.empty(length, environments, (2,), np.dtype(np.float32))
    t, e = np.meshgrid(np.arange(length), np.arange(environments), indexing="ij")
    steps.observation[:] = np.stack([t, e], axis=-1)
    steps.next_observation[:] = np.stack([t + 0.5, e], axis=-1)
    size = (length, environments)
    steps.action[:] = generator.integers(5, size=size)
    steps.reward[:] = generator.integers(-9, 10, size=size)
    steps.terminated[:] = generator.random(size) < 0.1
    steps.truncated[:] = generator.random(size) < 0.1
    steps.is_transition[:] = generator.random(size) < 0.95  # the others are masked
    steps.is_exploratory[:] = generator.random(size) < generator.choice([0.0, 0.3])
    ended = (steps.terminated | steps.truncated) & steps.is_transition
    resets = generator.random(environments) < 0.5  # environments that reset in a step of their own
    for t in range(1, length):
        steps.is_transition[t] &= ~(ended[t - 1] & resets)
        ended[t] &= steps.is_transition[t]
    steps.reward[~steps.is_transition] = JUNK
    steps.observation[~steps.is_transition] = JUNK
    steps.next_observation[~steps.is_transition] = JUNK
    return steps


def slow_n_step(steps, n_step, discount):
    """The definition, one environment and one step after the other; windows by `(t, e)`."""
    found = {}
    for e in range(steps.action.shape[1]):
        pieces, piece = [], []  # stretches of real steps of one episode, and whether they are closed
        for t in range(len(steps)):
            if not steps.is_transition[t, e]:
                pieces.append((piece, True))
                piece = []
                continue
            piece.append(t)
            if steps.terminated[t, e] or steps.truncated[t, e]:
                pieces.append((piece, True))
                piece = []
        pieces.append((piece, False))
        for times, closed in pieces:
            for start in range(len(times)):
                window = times[start : start + n_step]
                later = [t for t in window[1:] if steps.is_exploratory[t, e]]
                if later:
                    window = window[: window.index(later[0])]
                elif len(window) < n_step and not closed:
                    continue
                reward, product = 0.0, 1.0
                for t in window:
                    reward += product * float(steps.reward[t, e])
                    product *= discount
                if steps.terminated[window[-1], e]:
                    product = 0.0
                action = int(steps.action[window[0], e])
                found[(window[0], e)] = (action, reward, product, window[-1] + 0.5)
    return found


def windows_by_start(transitions):
    """Windows by `(t, e)`; fails if a step starts two of them."""
    found = {}
    for i in range(len(transitions)):
        t, e = (int(x) for x in transitions.observation[i])
        assert (t, e) not in found
        assert transitions.next_observation[i, 1] == e
        found[(t, e)] = (
            int(transitions.action[i]),
            float(transitions.reward[i]),
            float(transitions.discount[i]),
            float(transitions.next_observation[i, 0]),
        )
    return found


def assert_same_windows(found, expected):
    assert found.keys() == expected.keys()
    for start, (action, reward, product, last) in expected.items():
        assert found[start][0] == action
        assert found[start][1] == pytest.approx(reward, rel=1e-5, abs=1e-4)
        assert found[start][2] == pytest.approx(product, rel=1e-5)
        assert found[start][3] == last


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("n_step", [1, 2, 3, 5])
def test_windows_agree_with_slow_twin_after_every_rollout(n_step, seed):
    generator = np.random.default_rng(seed)
    environments = int(generator.integers(1, 5))
    lengths = [int(length) for length in generator.choice([0, 1, 2, 3, 7, 20], size=10)]
    steps = make_random_steps(sum(lengths), environments, generator)
    windows = NStepWindows(n_step, 0.9, steps[:0])

    found, begin = {}, 0
    for length in lengths:
        chunk = windows_by_start(windows.add(steps[begin : begin + length]))
        begin += length
        assert list(chunk) == sorted(chunk)  # by time, then environment
        assert not chunk.keys() & found.keys()
        found |= chunk
        assert_same_windows(found, slow_n_step(steps[:begin], n_step, 0.9))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("n_step", [1, 2, 3, 5])
def test_every_real_step_starts_exactly_one_window(n_step, seed):
    steps = make_random_steps(60, 3, np.random.default_rng(seed))
    steps.truncated[-1] = True  # closes the last windows
    windows = NStepWindows(n_step, 0.9, steps[:0])

    starts = []
    for begin in range(0, 60, 4):
        starts += windows_by_start(windows.add(steps[begin : begin + 4]))

    assert sorted(starts) == [tuple(x) for x in np.argwhere(steps.is_transition).tolist()]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("n_step", [2, 3, 5])
def test_windows_never_straddle_episodes_nor_holes(n_step, seed):
    steps = make_random_steps(80, 3, np.random.default_rng(seed))

    for (start, e), (_, _, _, led_to) in windows_by_start(
        NStepWindows(n_step, 0.9, steps[:0]).add(steps)
    ).items():
        last = int(led_to)
        assert start <= last < start + n_step
        assert steps.is_transition[start : last + 1, e].all()
        assert not (steps.terminated | steps.truncated)[start:last, e].any()


@pytest.mark.parametrize("seed", range(5))
def test_windows_do_not_depend_on_how_the_steps_are_cut_into_rollouts(seed):
    steps = make_random_steps(50, 2, np.random.default_rng(seed))
    at_once = windows_by_start(NStepWindows(3, 0.9, steps[:0]).add(steps))
    windows = NStepWindows(3, 0.9, steps[:0])

    one_by_one = {}
    for t in range(50):
        one_by_one |= windows_by_start(windows.add(steps[t : t + 1]))

    assert one_by_one == at_once


def test_n_step_reward_is_the_discounted_sum_over_the_window():
    found = NStepWindows(3, 0.5, NO_STEPS).add(make_steps([1, 2, 4, 8]))

    assert found.observation[:, 0].tolist() == [0, 1]
    assert found.reward.tolist() == [1 + 0.5 * 2 + 0.25 * 4, 2 + 0.5 * 4 + 0.25 * 8]
    assert found.discount.tolist() == [0.125, 0.125]
    assert found.next_observation[:, 0].tolist() == [3, 4]


def test_n_step_of_one_stores_each_step_as_it_was():
    found = NStepWindows(1, 0.5, NO_STEPS).add(make_steps([1, 2, 4], ends=[1]))

    assert found.reward.tolist() == [1, 2, 4]
    assert found.discount.tolist() == [0.5, 0.0, 0.5]
    assert found.next_observation[:, 0].tolist() == [1, 2, 3]
    assert found.action.tolist() == [0, 1, 2]


def test_n_step_stops_bootstrapping_when_terminated():
    found = NStepWindows(3, 0.5, NO_STEPS).add(make_steps([1, 2, 4], ends=[2]))

    assert found.discount.tolist() == [0.0, 0.0, 0.0]


def test_n_step_keeps_bootstrapping_when_truncated():
    found = NStepWindows(3, 0.5, NO_STEPS).add(make_steps([1, 2, 4], truncates=[2]))

    assert found.discount.tolist() == [0.125, 0.25, 0.5]


def test_n_step_stops_bootstrapping_when_terminated_and_truncated_at_once():
    found = NStepWindows(2, 0.5, NO_STEPS).add(make_steps([1, 2], ends=[1], truncates=[1]))

    assert found.discount.tolist() == [0.0, 0.0]


def test_last_steps_of_an_episode_are_stored_with_shorter_windows():
    found = NStepWindows(3, 0.5, NO_STEPS).add(make_steps([1, 2, 4, 8], truncates=[3]))

    assert found.observation[:, 0].tolist() == [0, 1, 2, 3]
    assert found.reward.tolist() == [1 + 1 + 1, 2 + 2 + 2, 4 + 4, 8]
    assert found.next_observation[:, 0].tolist() == [3, 4, 4, 4]


def test_window_closes_at_an_end_though_the_next_episode_follows_at_once():
    found = NStepWindows(3, 0.5, NO_STEPS).add(make_steps([1, 2, 4, 8, 16], ends=[1]))

    assert found.observation[:, 0].tolist() == [0, 1, 2]
    assert found.reward.tolist() == [1 + 0.5 * 2, 2, 4 + 0.5 * 8 + 0.25 * 16]
    assert found.discount.tolist() == [0.0, 0.0, 0.125]
    assert found.next_observation[:, 0].tolist() == [2, 2, 5]


def test_masked_step_ends_the_window_before_it_as_a_truncation_does():
    found = NStepWindows(3, 0.5, NO_STEPS).add(make_steps([1, 2, JUNK, 4, 8, 16], holes=[2]))

    assert found.observation[:, 0].tolist() == [0, 1, 3]
    assert found.reward.tolist() == [1 + 0.5 * 2, 2, 4 + 0.5 * 8 + 0.25 * 16]
    assert found.discount.tolist() == [0.25, 0.5, 0.125]
    assert found.next_observation[:, 0].tolist() == [2, 2, 6]


def test_no_window_is_complete_that_starts_at_a_masked_step():
    steps = make_steps([1, JUNK, JUNK, 2, 4], ends=[1], holes=[1, 2])

    *_, complete = n_step_returns(steps, 2, 0.5)

    assert complete[:, 0].tolist() == [True, False, False, True, False]


def test_masked_step_ends_the_window_of_an_earlier_rollout():
    windows = NStepWindows(3, 0.5, NO_STEPS)

    assert len(windows.add(make_steps([1, 2]))) == 0
    found = windows.add(make_steps([JUNK], ends=[0], holes=[0], first=2))

    assert found.reward.tolist() == [1 + 0.5 * 2, 2]
    assert found.discount.tolist() == [0.25, 0.5]  # the end of a masked step does not count
    assert found.next_observation[:, 0].tolist() == [2, 2]


def test_open_window_is_carried_over_several_short_rollouts():
    windows = NStepWindows(5, 0.5, NO_STEPS)
    sizes = [len(windows.add(make_steps([2**t], first=t))) for t in range(4)]

    found = windows.add(make_steps([16], first=4))

    assert sizes == [0, 0, 0, 0]
    assert found.reward.tolist() == [1 + 1 + 1 + 1 + 1]
    assert found.discount.tolist() == [0.5**5]
    assert found.next_observation.tolist() == [[5.0]]


@pytest.mark.parametrize("n_step", [1, 3])
def test_rollout_without_rows_yields_nothing_and_loses_nothing(n_step):
    windows = NStepWindows(n_step, 0.5, NO_STEPS)
    nothing = make_steps([])
    parts = [windows.add(steps) for steps in (nothing, make_steps([1, 2]), nothing)]

    parts.append(windows.add(make_steps([4], ends=[0], first=2)))

    assert len(parts[0]) == len(parts[2]) == 0
    assert sum(len(part) for part in parts) == 3
    assert parts[0].observation.shape == (0, 1)


def test_environments_end_their_windows_apart_from_each_other():
    steps = Steps.empty(3, 2, (), np.dtype(np.float32))
    steps.is_transition[:] = True
    steps.reward[:] = [[1, 10], [2, 20], [4, 40]]
    steps.terminated[1, 0] = True
    steps.next_observation[:] = [[1, 11], [2, 12], [3, 13]]

    found = NStepWindows(2, 0.5, steps[:0]).add(steps)

    assert found.reward.tolist() == [1 + 0.5 * 2, 10 + 0.5 * 20, 2, 20 + 0.5 * 40]
    assert found.discount.tolist() == [0.0, 0.25, 0.0, 0.25]
    assert found.next_observation.tolist() == [2, 12, 2, 13]


def test_transitions_keep_the_dtypes_that_replay_stores():
    steps = Steps.empty(2, 1, (2, 3), np.dtype(np.uint8))
    steps.is_transition[:] = True

    found = NStepWindows(2, 0.5, steps[:0]).add(steps)

    assert found.observation.dtype == found.next_observation.dtype == np.uint8
    assert found.observation.shape == (1, 2, 3)
    assert found.reward.dtype == found.discount.dtype == np.float32
    assert found.action.dtype == np.int32


def test_transitions_do_not_change_when_the_steps_buffer_is_used_again():
    steps = make_steps([1, 2, 4])
    windows = NStepWindows(2, 0.5, steps[:0])
    found = windows.add(steps)

    steps.reward[:] = JUNK
    steps.observation[:] = JUNK

    assert found.reward.tolist() == [1 + 0.5 * 2, 2 + 0.5 * 4]
    assert found.observation[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_step", [1, 2, 5])
def test_closed_windows_agree_with_slow_twin_that_sees_the_last_step_truncated(n_step, seed):
    generator = np.random.default_rng(seed)
    lengths = [int(length) for length in generator.choice([0, 1, 2, 3, 9], size=12)]
    steps = make_random_steps(sum(lengths), 3, generator)
    before = steps.truncated.copy()
    windows = NStepWindows(n_step, 0.9, steps[:0])

    found, begin, last_close = {}, 0, 0
    for number, length in enumerate(lengths):
        found |= windows_by_start(windows.add(steps[begin : begin + length]))
        begin += length
        if number % 4 == 3:
            closed = windows_by_start(windows.close())
            assert not closed.keys() & found.keys()
            found |= closed
            piece = steps[last_close:begin]
            np.testing.assert_array_equal(piece.truncated, before[last_close:begin])  # it keeps to a copy
            piece = dataclasses.replace(piece, truncated=piece.truncated.copy())
            piece.truncated[-1:] = True
            expected = slow_n_step(piece, n_step, 0.9)
            shifted = {(t + last_close, e): (*w[:3], w[3] + last_close) for (t, e), w in expected.items()}
            assert_same_windows({start: w for start, w in found.items() if start[0] >= last_close}, shifted)
            assert len(shifted) == piece.is_transition.sum()  # every real step starts one window
            last_close = begin


def test_closed_windows_by_hand():
    windows = NStepWindows(3, 0.5, NO_STEPS)
    emitted = windows.add(make_steps([1, 2, 3, 4]))

    closed = windows.close()

    assert emitted.reward.tolist() == [1 + 1 + 0.75, 2 + 1.5 + 1]
    assert closed.reward.tolist() == [3 + 0.5 * 4, 4]
    assert closed.discount.tolist() == [0.25, 0.5]
    assert closed.next_observation.tolist() == [[4], [4]]
    assert len(windows.close()) == 0


def test_closing_before_any_step_yields_nothing():
    assert NStepWindows(3, 0.5, NO_STEPS).close().observation.shape == (0, 1)


def test_window_ends_before_a_later_action_that_was_not_greedy():
    steps = make_steps([1.0, 2.0, 4.0, 8.0])
    steps.is_exploratory[[0, 2]] = True

    transitions = NStepWindows(3, 0.5, NO_STEPS).add(steps)

    assert transitions.observation[:, 0].tolist() == [0.0, 1.0]
    assert transitions.reward.tolist() == [1.0 + 0.5 * 2.0, 2.0]
    assert transitions.discount.tolist() == [0.25, 0.5]
    assert transitions.next_observation[:, 0].tolist() == [2.0, 2.0]
