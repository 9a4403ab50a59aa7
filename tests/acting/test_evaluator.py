from functools import partial

import gymnasium
import pytest
from gymnasium.vector import AutoresetMode
from toy_actors import make_actor, make_evaluator, make_weights
from toy_environments import (
    COUNTING_IDS,
    LENGTHS,
    CountingEnvironment,
    RandomRewardEnvironment,
    ShortAndLongEnvironment,
)

from distdqn.acting import evaluator as evaluator_module
from distdqn.config.config import Config
from distdqn.environments.registry import inspect_environment
from distdqn.types import Evaluation, RolloutRequest

TWO_ACTIONS = make_weights([0, 1], features=1, version=(2, 3), learner_steps=40)


def make_evaluation(*returns):
    return Evaluation(list(returns), (0, 0), 0, 0.0)


@pytest.mark.parametrize("episodes", [1, 2, 7, 199, 200, 201, 431])
def test_evaluation_plays_exactly_the_episodes_asked_for(episodes):
    found = make_evaluator(ShortAndLongEnvironment).evaluate(TWO_ACTIONS, episodes, 0)

    assert len(found.returns) == episodes


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("episodes", [2, 10, 200, 250, 600])
def test_evaluation_favours_no_short_episodes(episodes, seed):
    found = make_evaluator(ShortAndLongEnvironment, seed=seed).evaluate(TWO_ACTIONS, episodes, 0)

    # Every second environment is a short one and has its own share of the episodes.
    assert sorted(found.returns) == [1.0] * (episodes // 2) + [10.0] * (episodes // 2)


def test_evaluation_plays_rounds_of_first_episodes_each_from_its_own_seed(monkeypatch):
    monkeypatch.setattr(evaluator_module, "_MAX_ENVIRONMENTS", 4)
    monkeypatch.setattr(RandomRewardEnvironment, "seeds", [])

    found = make_evaluator(RandomRewardEnvironment).evaluate(TWO_ACTIONS, 10, 0)

    assert len(set(found.returns)) == 10
    assert len(set(RandomRewardEnvironment.seeds)) == len(RandomRewardEnvironment.seeds) == 3 * 4


def test_episode_that_never_ends_counts_as_it_stands_at_the_limit(monkeypatch):
    assert Config().max_eval_steps * 4 == 108_000
    monkeypatch.setattr(evaluator_module, "_MAX_ENVIRONMENTS", 4)
    evaluator = make_evaluator(partial(CountingEnvironment, lengths=(5, 10**9)), max_eval_steps=30)

    found = evaluator.evaluate(make_weights([1, 0, 0]), 6, 0)

    # Every other environment ends after five steps; step k pays 10 k.
    assert sorted(found.returns) == [10.0 * sum(range(5))] * 3 + [10.0 * sum(range(30))] * 3


@pytest.mark.parametrize(("seconds", "lengths"), [(0.0, []), (5.0, [5, 5]), (None, [5, 5, 40, 40])])
def test_fault_37_evaluation_whose_time_is_over_has_the_episodes_that_ended(monkeypatch, seconds, lengths):
    now = iter(range(1000))  # a second for each look at the clock: before each step, and once at the start
    monkeypatch.setattr(evaluator_module.time, "perf_counter", lambda: float(next(now)))
    evaluator = make_evaluator(partial(CountingEnvironment, lengths=(5, 10**9)), max_eval_steps=40)

    found = evaluator.evaluate(make_weights([1, 0, 0]), 4, 0, *(() if seconds is None else (seconds + 0.5,)))

    assert sorted(found.returns) == [10.0 * sum(range(length)) for length in lengths]
    assert found.is_cut == (seconds is not None)


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_evaluation_plays_the_greedy_action_in_every_autoreset_mode(mode):
    found = make_evaluator(COUNTING_IDS[mode]).evaluate(make_weights([0, 5, 1]), 3, 0)

    # The first episode pays 10 * step + action: over L steps 10 * L (L - 1) / 2 + L.
    assert {*found.returns} <= {10.0 * n * (n - 1) / 2 + n for n in LENGTHS}
    assert len(found.returns) == 3


def test_evaluation_of_the_same_number_gives_the_same_returns():
    evaluator = make_evaluator(RandomRewardEnvironment, seed=5)
    first, other, again = (evaluator.evaluate(TWO_ACTIONS, 6, number).returns for number in (1, 2, 1))
    elsewhere = make_evaluator(RandomRewardEnvironment, seed=5).evaluate(TWO_ACTIONS, 6, 1).returns

    assert first == again == elsewhere
    assert not set(first) & set(other)
    assert len(set(first)) == 6


def test_evaluation_of_another_run_seed_gives_other_returns():
    first, other = (
        make_evaluator(RandomRewardEnvironment, seed=seed).evaluate(TWO_ACTIONS, 6, 1).returns
        for seed in (5, 6)
    )

    assert not set(first) & set(other)


def test_evaluation_breaks_ties_the_same_way_for_the_same_number():
    def returns(number):
        source = partial(CountingEnvironment, lengths=(40,))
        return make_evaluator(source).evaluate(make_weights([1, 1, 1]), 5, number).returns

    assert returns(1) == returns(1)
    assert returns(1) != returns(2)


def test_evaluation_environments_get_seeds_that_training_never_uses(monkeypatch):
    spec = inspect_environment(RandomRewardEnvironment)
    monkeypatch.setattr(RandomRewardEnvironment, "seeds", [])
    for index in range(5):
        actor = make_actor(RandomRewardEnvironment, spec, index=index, seed=7, rollout_length=5)
        actor.rollout(RolloutRequest(0, 100))
    training = list(RandomRewardEnvironment.seeds)
    RandomRewardEnvironment.seeds.clear()

    for number in range(5):
        make_evaluator(RandomRewardEnvironment, seed=7).evaluate(TWO_ACTIONS, 4, number)

    evaluating = RandomRewardEnvironment.seeds
    assert len(training) == len(evaluating) == 5 * 4
    assert max(training) < 2**30 <= min(evaluating)


def test_evaluation_tells_which_weights_it_played():
    found = make_evaluator(ShortAndLongEnvironment).evaluate(TWO_ACTIONS, 2, 0)

    assert found.weights_version == (2, 3)
    assert found.learner_steps == 40


def test_evaluation_closes_the_environments_it_built():
    closed = []

    class Closing(ShortAndLongEnvironment):
        def close(self):
            closed.append(self)

    make_evaluator(Closing).evaluate(TWO_ACTIONS, 3, 0)

    assert len(closed) == 3


def test_evaluation_mean_is_neither_the_least_nor_the_greatest_nor_the_middle_return():
    assert make_evaluation(6.0, 1.0, 2.0).mean == (6 + 1 + 2) / 3


def test_evaluation_deviation_is_the_sample_deviation():
    # Mean 3; squares 9, 4, 1.
    assert make_evaluation(6.0, 1.0, 2.0).standard_deviation == pytest.approx(((9 + 4 + 1) / 2) ** 0.5)


def test_evaluation_lower_bound_is_two_standard_errors_below_the_mean():
    expected = 3 - 2 * ((9 + 4 + 1) / 2) ** 0.5 / 3**0.5
    assert make_evaluation(6.0, 1.0, 2.0).lower_bound == pytest.approx(expected)


def test_evaluation_of_one_episode_has_no_deviation():
    found = make_evaluation(4.0)

    assert (found.mean, found.standard_deviation, found.lower_bound) == (4.0, 0.0, 4.0)


def test_cart_pole_balanced_by_hand_written_weights_returns_500():
    weights = make_weights([0, 0], features=4)
    weights.arrays[0][:, 1] = [0.1, 0.5, 3.0, 1.0]  # push right when the pole leans and falls right
    assert gymnasium.spec("CartPole-v1").max_episode_steps == 500

    found = make_evaluator("CartPole-v1").evaluate(weights, 20, 0)

    assert found.returns == [500.0] * 20
