import numpy as np
import pytest

from distdqn.acting.exploration import (
    epsilon_by_environment,
    epsilon_greedy_actions,
    epsilon_ladder,
    greedy_actions,
)
from distdqn.config.config import ActingOptions
from distdqn.types import RolloutRequest


def test_ladder_goes_from_its_base_down_to_the_last_power():
    ladder = epsilon_ladder(3, 0.4, 7.0)

    assert ladder.tolist() == pytest.approx([0.4, 0.4 ** (1 + 7 * 0.5), 0.4**8], rel=1e-6)


def test_ladder_of_one_environment_is_its_middle():
    assert epsilon_ladder(1, 0.4, 7.0).tolist() == pytest.approx([0.4 ** (1 + 7 * 0.5)], rel=1e-6)


@pytest.mark.parametrize("actors", [1, 2, 8])
def test_actors_together_hold_every_rung_of_the_ladder_once(actors):
    options = ActingOptions(
        envs_per_actor=4, epsilon_ladder=True, epsilon_ladder_base=0.4, epsilon_ladder_exponent=7.0
    )
    requests = [RolloutRequest(0, 1, position, actors) for position in range(actors)]
    held = np.concatenate([epsilon_by_environment(options, request) for request in requests])

    assert sorted(held, reverse=True) == epsilon_ladder(4 * actors, 0.4, 7.0).tolist()


def test_greedy_action_is_the_one_with_the_largest_q_value():
    q_values = np.array([[1, 3, 2], [9, -1, 0], [-3, -2, -1]], np.float32)

    assert greedy_actions(q_values, np.random.default_rng(0)).tolist() == [1, 0, 2]


def test_greedy_action_keeps_its_axis_with_one_environment_and_one_action():
    chosen = greedy_actions(np.array([[0.5]], np.float32), np.random.default_rng(0))

    assert chosen.shape == (1,)
    assert chosen.tolist() == [0]


@pytest.mark.parametrize("seed", range(3))
def test_ties_are_broken_evenly_over_all_the_best_actions_and_only_them(seed):
    q_values = np.tile(np.array([1, 5, 5, 0, 5], np.float32), (3_000, 1))

    counts = np.bincount(greedy_actions(q_values, np.random.default_rng(seed)), minlength=5)

    assert counts[0] == counts[3] == 0
    # 3,000 / 3 each; a standard deviation is sqrt(3,000 * 1/3 * 2/3) = 26.
    assert np.abs(counts[[1, 2, 4]] - 1_000).max() < 4 * 26


def test_ties_in_one_row_change_nothing_in_the_other_rows():
    q_values = np.array([[1, 1, 0], [0, 2, 1], [0, 1, 2]], np.float32)

    for seed in range(20):
        chosen = greedy_actions(q_values, np.random.default_rng(seed))
        assert chosen[0] in (0, 1)
        assert chosen[1:].tolist() == [1, 2]


def test_negative_q_values_tie_among_the_best_only():
    q_values = np.full((200, 3), [-7, -5, -5], np.float32)

    assert set(greedy_actions(q_values, np.random.default_rng(0)).tolist()) == {1, 2}


def test_actions_are_all_greedy_when_epsilon_is_zero():
    q_values = np.random.default_rng(1).normal(size=(500, 4)).astype(np.float32)

    chosen = epsilon_greedy_actions(q_values, np.zeros(500), np.random.default_rng(2))

    np.testing.assert_array_equal(chosen, q_values.argmax(axis=1))


def test_actions_are_uniformly_random_when_epsilon_is_one():
    q_values = np.tile(np.array([0, 0, 9, 0], np.float32), (8_000, 1))

    counts = np.bincount(epsilon_greedy_actions(q_values, np.ones(8_000), np.random.default_rng(3)))

    # 8,000 / 4 each; a standard deviation is sqrt(8,000 * 1/4 * 3/4) = 39.
    assert np.abs(counts - 2_000).max() < 4 * 39


@pytest.mark.parametrize("seed", range(3))
def test_epsilon_is_the_probability_of_a_random_action_the_greedy_one_included(seed):
    q_values = np.tile(np.array([0, 9, 0, 0], np.float32), (10_000, 1))

    chosen = epsilon_greedy_actions(q_values, np.full(10_000, 0.4), np.random.default_rng(seed))

    # The greedy action comes with 1 - 0.4 + 0.4 / 4 = 0.7; a deviation is sqrt(0.7 * 0.3 / 10,000).
    assert abs((chosen == 1).mean() - 0.7) < 4 * 0.0046


def test_epsilon_belongs_to_each_environment_on_its_own():
    q_values = np.tile(np.array([9, 0, 0, 0], np.float32), (1_000, 1))
    epsilon = np.where(np.arange(1_000) < 500, 0.0, 1.0)

    chosen = epsilon_greedy_actions(q_values, epsilon, np.random.default_rng(4))

    assert set(chosen[:500].tolist()) == {0}
    assert set(chosen[500:].tolist()) == {0, 1, 2, 3}


def test_the_same_generator_seed_gives_the_same_actions():
    q_values = np.zeros((100, 3), np.float32)
    first, again, other = (
        epsilon_greedy_actions(q_values, np.full(100, 0.5), np.random.default_rng(seed)).tolist()
        for seed in (5, 5, 6)
    )

    assert first == again
    assert first != other


def test_random_draws_are_as_many_whatever_epsilon_is_when_nothing_ties():
    q_values = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    after = []
    for epsilon in (0.0, 0.5, 1.0):
        generator = np.random.default_rng(7)
        epsilon_greedy_actions(q_values, np.full(10, epsilon), generator)
        after.append(generator.random())

    assert after[0] == after[1] == after[2]
