"""When evaluations are due, which weights are the best, and when the goal is reached."""

import dataclasses
import math
from types import SimpleNamespace

import pytest

from distdqn.config.config import Config
from distdqn.reporting.metrics import Counters
from distdqn.training.loop import Run
from distdqn.training.stopping import Goal, StopRequest
from distdqn.types import Evaluation, EvaluationRequest


def make_goal(target_return: float | None = 100.0) -> Goal:
    """Evaluates every 10 learner steps: 2 episodes, 4 to confirm."""
    return Goal(Config(target_return=target_return, eval_period=10, eval_episodes=2, confirm_episodes=4))


def evaluation(returns: list[float], version: int) -> Evaluation:
    """An evaluation with these returns."""
    return Evaluation(returns, (0, version), learner_steps=version, seconds=0.0)


def ordered(goal: Goal, weights: object, learner_steps: int, final: bool = False) -> EvaluationRequest:
    """The order that is due."""
    order = goal.next_request(weights, learner_steps, final)
    assert order is not None
    return order


def judge(goal: Goal, version: int, returns: list[float]) -> EvaluationRequest:
    """Has weights number `version`, due after ten times as many steps, evaluated."""
    order = ordered(goal, f"weights {version}", 10 * version)
    goal.add(order, evaluation(returns, version))
    return order


def test_evaluation_is_due_each_period_and_not_before() -> None:
    goal = make_goal()
    due = []
    for learner_steps in range(36):
        if goal.is_due(learner_steps):
            due.append(learner_steps)
            order = ordered(goal, "weights", learner_steps)
            goal.add(order, evaluation([0.0, 0.0], learner_steps))

    assert due == [10, 20, 30]


def test_fault_37_evaluation_that_was_cut_is_never_the_best_and_never_reaches_the_goal() -> None:
    goal = make_goal()
    cut = dataclasses.replace(evaluation([500.0, 500.0], 1), is_cut=True)
    goal.add(ordered(goal, "weights", 10), cut)
    assert (goal.best, goal.is_due(11)) == (None, False)

    judge(goal, 2, [200.0, 200.0])
    confirming = ordered(goal, "newer", 21)
    assert confirming.confirms
    goal.add(confirming, cut)
    assert not goal.reached
    assert not goal.is_due(22)


@pytest.mark.parametrize(("took", "ends"), [(0.0, 100.0), (4.0, 94.0), (60.0, 75.0)])
def test_fault_36_training_leaves_time_for_the_last_evaluation(took: float, ends: float) -> None:
    goal = make_goal()
    goal.add(ordered(goal, "weights", 10), dataclasses.replace(evaluation([0.0, 0.0], 1), seconds=took))

    for seconds, reason in ((ends - 0.1, None), (ends, "max_seconds")):
        assert make_run(Counters(), seconds, goal, max_seconds=100.0).stop_reason == reason


def test_evaluations_missed_in_one_call_are_made_up_once() -> None:
    goal = make_goal()

    assert goal.next_request("weights", 9) is None
    assert ordered(goal, "weights", 47).weights == "weights"
    assert not goal.is_due(49)
    assert goal.is_due(50)


def test_regular_order_asks_for_the_newest_weights_and_its_own_episodes() -> None:
    goal = make_goal()

    first, second = ordered(goal, "first", 10), ordered(goal, "second", 20)

    assert first == EvaluationRequest("first", episodes=2, number=1, confirms=False)
    assert second == EvaluationRequest("second", episodes=2, number=2, confirms=False)


def test_two_errors_below_the_mean_at_the_goal_order_a_confirmation_of_the_same_weights() -> None:
    goal = make_goal()
    judge(goal, 1, [110.1, 130.1])  # 120.1 - 2 * 14.14 / sqrt(2) = 100.1

    assert not goal.reached
    assert goal.is_due(11)
    assert ordered(goal, "newer weights", 11) == EvaluationRequest("weights 1", 4, number=2, confirms=True)


def test_two_errors_below_the_mean_short_of_the_goal_order_no_confirmation() -> None:
    goal = make_goal()
    judge(goal, 1, [109.9, 129.9])  # 119.9 - 20

    assert not goal.is_due(11)


# Four returns `m - d, m - d, m + d, m + d`: their standard deviation is d * sqrt(4 / 3), two
# standard errors are 2 * d * sqrt(4 / 3) / sqrt(4) = 1.1547 * d.
@pytest.mark.parametrize(
    ("returns", "reached"),
    [
        ([100.0, 100.0, 100.0, 100.0], True),
        ([97.0, 97.0, 103.0, 103.0], False),  # 100 - 3.46
        ([101.0, 101.0, 107.0, 107.0], True),  # 104 - 3.46 = 100.54
        ([100.0, 100.0, 106.0, 106.0], False),  # 103 - 3.46 = 99.54
        ([99.9, 99.9, 99.9, 99.9], False),
    ],
)
def test_goal_is_reached_when_two_standard_errors_below_the_mean_reach_it(
    returns: list[float], reached: bool
) -> None:
    goal = make_goal()
    judge(goal, 1, [100.0, 100.0])
    goal.add(ordered(goal, "newer", 12), evaluation(returns, 1))

    assert goal.reached is reached


def test_regular_evaluation_never_reaches_the_goal_by_itself() -> None:
    goal = make_goal()
    judge(goal, 1, [500.0, 500.0])

    assert not goal.reached


def test_training_goes_on_when_the_confirmation_fails() -> None:
    goal = make_goal()
    judge(goal, 1, [100.0, 100.0])
    goal.add(ordered(goal, "newer", 12), evaluation([0.0, 0.0, 200.0, 200.0], 1))

    assert not goal.is_due(19)
    assert judge(goal, 2, [120.0, 120.0]) == EvaluationRequest("weights 2", 2, number=3, confirms=False)
    goal.add(ordered(goal, "newer", 21), evaluation([120.0] * 4, 2))
    assert goal.reached
    assert goal.best_weights == "weights 2"


def test_confirmation_counts_for_the_weights_it_was_made_with() -> None:
    goal = make_goal()
    judge(goal, 1, [100.0, 100.0])
    goal.add(ordered(goal, "newer weights", 19), evaluation([150.0] * 4, 1))

    assert goal.best_weights == "weights 1"
    assert goal.best is not None
    assert goal.best.returns == [150.0] * 4


def test_best_weights_are_those_with_the_highest_lower_bound() -> None:
    goal = make_goal(target_return=None)
    judge(goal, 1, [50.0, 50.0])  # 50
    judge(goal, 2, [0.0, 120.0])  # mean 60, two standard errors 120: -60
    assert goal.best_weights == "weights 1"

    judge(goal, 3, [54.0, 56.0])  # mean 55, two standard errors 2: 53
    assert goal.best_weights == "weights 3"

    judge(goal, 4, [10.0, 10.0])
    assert goal.best_weights == "weights 3"
    assert goal.best == evaluation([54.0, 56.0], 3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_with_a_return_that_is_not_finite_are_neither_best_nor_at_the_goal(value: float) -> None:
    goal = make_goal()
    judge(goal, 1, [value, 100.0])
    assert goal.next_request("newer", 2) is None
    judge(goal, 2, [-1000.0, 1000.0])
    assert goal.best_weights == "weights 2"

    judge(goal, 3, [value, 2000.0])
    assert goal.best_weights == "weights 2"


def test_newer_weights_are_the_best_among_equals() -> None:
    goal = make_goal(target_return=None)
    judge(goal, 1, [50.0, 50.0])
    judge(goal, 2, [50.0, 50.0])

    assert goal.best_weights == "weights 2"


def test_second_look_at_the_best_weights_replaces_a_flattering_first_one() -> None:
    goal = make_goal()
    judge(goal, 1, [110.0, 110.0])
    goal.add(ordered(goal, "newer", 12), evaluation([60.0] * 4, 1))

    assert goal.best is not None
    assert goal.best.returns == [60.0] * 4
    judge(goal, 2, [80.0, 80.0])
    assert goal.best_weights == "weights 2"


def test_goal_that_was_confirmed_names_the_best_whatever_came_before() -> None:
    goal = make_goal()
    judge(goal, 1, [100.0, 100.0])
    goal.add(ordered(goal, "newer", 12), evaluation([90.0, 90.0, 300.0, 300.0], 1))  # bound below 100
    judge(goal, 2, [400.0, 400.0])
    goal.add(ordered(goal, "newer", 22), evaluation([101.0] * 4, 2))

    assert goal.reached
    assert goal.best_weights == "weights 2"
    assert goal.best is not None
    assert goal.best.returns == [101.0] * 4


def test_final_weights_are_evaluated_once_before_their_period_is_over() -> None:
    goal = make_goal()
    judge(goal, 1, [10.0, 10.0])
    assert not goal.is_due(13)

    order = ordered(goal, "last", 13, final=True)
    goal.add(order, evaluation([20.0, 20.0], 13))

    assert order == EvaluationRequest("last", 2, number=2, confirms=False)
    assert goal.next_request("last", 13, final=True) is None


def test_final_weights_are_not_evaluated_again_when_they_just_were() -> None:
    goal = make_goal()
    judge(goal, 1, [10.0, 10.0])

    assert goal.next_request("last", 10, final=True) is None


def test_final_weights_are_confirmed_when_they_reach_the_goal() -> None:
    goal = make_goal()
    goal.add(ordered(goal, "last", 3, final=True), evaluation([100.0, 100.0], 3))

    order = ordered(goal, "last", 3, final=True)
    goal.add(order, evaluation([100.0] * 4, 3))

    assert order.confirms
    assert goal.reached
    assert goal.next_request("last", 3, final=True) is None


def test_weights_that_never_learned_are_evaluated_at_the_end() -> None:
    assert make_goal().is_due(0, final=True)


def test_run_without_a_goal_is_evaluated_but_never_reaches_one() -> None:
    goal = make_goal(target_return=None)
    judge(goal, 1, [1e9, 1e9])

    assert not goal.reached
    assert not goal.is_due(11)
    assert goal.best_weights == "weights 1"


@pytest.mark.parametrize("target_return", [-110.0, 0.0])
def test_goal_of_zero_or_less_counts_as_a_goal(target_return: float) -> None:
    goal = make_goal(target_return)
    judge(goal, 1, [target_return, target_return])
    goal.add(ordered(goal, "newer", 12), evaluation([target_return] * 4, 1))

    assert goal.reached


def make_run(counters: Counters, seconds: float, goal: Goal | None = None, **options: object) -> Run:
    """A run after so many seconds, without a goal if none is given."""
    callbacks = SimpleNamespace(asks_to_stop=False)
    metrics = SimpleNamespace(counters=counters, seconds=seconds, callbacks=callbacks)
    config = Config(min_replay_size=1, **options)
    return Run(config, {}, goal or make_goal(None), StopRequest(), None, metrics, None)


def test_budget_leaves_what_is_not_yet_requested_and_never_less_than_nothing() -> None:
    budget = make_run(Counters(), 0.0, max_env_steps=1_000)

    assert [budget.env_steps_left(n) for n in (0, 999, 1_000, 1_300)] == [1_000, 1, 0, 0]


def test_budget_of_seconds_is_used_up_at_its_last_moment() -> None:
    reasons = [make_run(Counters(), seconds, max_seconds=5.0).stop_reason for seconds in (4.9, 5.0, 6.0)]

    assert reasons == [None, "max_seconds", "max_seconds"]
    assert make_run(Counters(), 1e9).stop_reason is None


def test_budget_of_episodes_and_of_env_steps_end_a_run() -> None:
    assert make_run(Counters(episodes=3), 0.0, max_episodes=3).stop_reason == "max_episodes"
    assert make_run(Counters(env_steps=1_000), 0.0, max_env_steps=1_000).stop_reason == "max_env_steps"
    assert make_run(Counters(env_steps=999), 0.0, max_env_steps=1_000).stop_reason is None


def test_goal_and_request_come_before_the_budgets() -> None:
    ending = make_run(Counters(env_steps=1_000), 2.0, max_env_steps=1_000, max_seconds=1.0)
    ending.request.reason = "interrupted"
    assert ending.stop_reason == "interrupted"
    ending.goal.reached = True
    assert ending.stop_reason == "goal_reached"
