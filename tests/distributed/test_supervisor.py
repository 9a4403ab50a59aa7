import itertools
from collections import Counter

import pytest
from distributed.fakes import HANG, FakeActor, FakeEvaluator, FakeFleet, FakeLearner, make_run

from distdqn.acting.evaluator import Evaluation
from distdqn.errors import RoleFailure

_LOOK = 0.2  # the supervisor looks at signals and deadlines this often


def _fault(role, method, *numbers, words="Boom", incarnations=None):
    """Faults of one role in the n-th calls of one method; of every call if none is given."""

    def faults(handle, called, n):
        is_meant = (handle.role, called) == (role, method) and (not numbers or n in numbers)
        if incarnations is not None and handle.incarnation not in incarnations:
            return None
        return words if is_meant else None

    return faults


def _starts(fleet, role, index=0):
    return [handle.incarnation for handle in fleet.started if (handle.role, handle.index) == (role, index)]


# The beginning.


def test_learner_is_started_before_all_others():
    run = make_run(actors=3)
    roles = [handle.role for handle in run.fleet.started]
    assert roles[0] == "learner"
    assert Counter(roles) == {"learner": 1, "replay": 1, "actor": 3, "evaluator": 1}


def test_actors_act_while_the_learner_still_starts():
    run = make_run(FakeFleet(seconds={"compile": 20.0}))
    run.supervisor.run()
    assert run.fleet.calls_of("actor", "rollout")[0].at == 0.0
    assert sum(r.at < 20.0 for r in run.fleet.calls_of("replay", "insert")) > 2


def test_notice_of_the_compiler_is_passed_on_to_the_user():
    run = make_run(FakeFleet(make_role={"learner": lambda: FakeLearner(notice="no XLA here")}))
    run.supervisor.run()
    assert run.console.notes == ["no XLA here"]


# Who may go on.


@pytest.mark.parametrize(("rollout", "learn"), [(0.01, 1.0), (1.0, 0.01), (0.1, 0.1)])
def test_never_more_than_two_calls_are_under_way_to_a_role(rollout, learn):
    run = make_run(FakeFleet(seconds={"rollout": rollout, "learn": learn}), actors=3)
    run.supervisor.run()
    for role, method in (("actor", "rollout"), ("learner", "learn")):
        assert max(record.under_way for record in run.fleet.calls_of(role, method)) == 2
    assert all(record.under_way == 1 for record in run.fleet.calls_of("evaluator", "evaluate"))


def test_every_actor_gets_a_rollout_before_any_gets_a_second():
    run = make_run(FakeFleet(), actors=4)
    run.supervisor.run()
    first = [record.handle.index for record in run.fleet.calls_of("actor", "rollout")[:4]]
    assert first == [0, 1, 2, 3]


@pytest.mark.parametrize("learn", [0.02, 0.1, 0.5])
def test_rollouts_are_shared_out_evenly_whichever_side_waits(learn):
    run = make_run(FakeFleet(seconds={"learn": learn}), actors=4, max_env_steps=20_000)
    run.supervisor.run()
    shares = Counter(record.handle.index for record in run.fleet.calls_of("actor", "rollout"))
    assert all(shares[index] >= 0.15 * sum(shares.values()) for index in range(4))  # 0.25 if quite even


def test_death_of_an_actor_is_noticed_while_the_learner_is_the_slower_side():
    fleet = FakeFleet(seconds={"learn": 0.5})
    fleet.at(50.0, lambda: fleet.kill("actor", 1))
    run = make_run(fleet, actors=4, max_env_steps=20_000)
    run.supervisor.run()
    assert run.counters.actor_restarts == 1


@pytest.mark.parametrize("shortfall", [0, 7])
@pytest.mark.parametrize("max_env_steps", [5_000, 5_001, 5_049, 30])
@pytest.mark.parametrize("actors", [1, 3])
def test_env_step_budget_is_met_exactly(actors, max_env_steps, shortfall):
    fleet = FakeFleet(make_role={"actor": lambda: FakeActor(shortfall)})
    run = make_run(fleet, actors=actors, max_env_steps=max_env_steps)
    assert run.supervisor.run() == "max_env_steps"
    assert run.counters.env_steps == max_env_steps
    assert run.replay.inserted == max_env_steps
    assert all(1 <= record.arguments[0].limit <= 50 for record in fleet.calls_of("actor", "rollout"))


def test_rollout_orders_tell_the_env_steps_accepted_so_far():
    run = make_run(actors=3)
    accepted = [(0.0, 0)]
    take = run.journal.add_rollout

    def note(report, inserted):
        take(report, inserted)
        accepted.append((run.fleet.now, accepted[-1][1] + report.env_steps))

    run.journal.add_rollout = note
    run.supervisor.run()
    for record in run.fleet.calls_of("actor", "rollout"):
        assert record.arguments[0].env_steps == max(steps for at, steps in accepted if at <= record.at)
    assert accepted[-1][1] == 5_000


@pytest.mark.parametrize("actors", [1, 8])
@pytest.mark.parametrize(("rollout", "learn"), [(0.001, 1.0), (10.0, 0.001), (0.1, 0.05)])
def test_samples_per_insert_holds_within_its_tolerance_throughout(actors, rollout, learn):
    fleet = FakeFleet(seconds={"rollout": rollout, "learn": learn})
    run = make_run(fleet, actors=actors, max_env_steps=40_000)
    run.supervisor.run()
    # From where a tenth of the goal exceeds the slack of 4 * actors * 50 + 2 * 100 samples.
    begin = 100 + (actors * 4 * 50 + 2 * 100) / (0.1 * 4)
    ratios = [
        (line["samples_per_insert"], line["replay_size"] - 100)
        for line in run.console.lines
        if line["replay_size"] > begin
    ]
    assert len(ratios) > 20
    # Pacing looks before a rollout of 50 starts, so the backlog may be that much larger.
    assert all(4.0 * (1 - 0.1) * (1 - 50 / paced) <= ratio <= 4.0 for ratio, paced in ratios)


def test_all_samples_that_inserts_pay_for_are_drawn_in_the_end():
    run = make_run(max_env_steps=5_000)
    run.supervisor.run()
    # 4 * (5000 - 100) samples are due, 4 * 25 in each call: all 196 calls.
    assert run.counters.sampled == 4 * 4900
    assert run.counters.learner_steps == 4 * 196


def test_no_actor_is_called_while_the_actors_wait():
    fleet = FakeFleet(seconds={"learn": 1000.0, "rollout": 0.01})
    run = make_run(fleet, max_seconds=500.0, start_timeout_seconds=10_000.0)
    assert run.supervisor.run() == "max_seconds"
    times = [record.at for record in fleet.calls_of("actor")]
    # Slack 4 * 2 * 50 + 2 * 100 = 600 samples: 150 transitions above the 100 of `min_size`.
    assert 100 + 150 <= run.replay.inserted <= 100 + 150 + 2 * 50
    assert max(times) < 10.0
    assert fleet.waits <= 500 / _LOOK + 100  # it does not spin either
    waits = [(line["actors_wait_fraction"], line["learner_wait_fraction"]) for line in run.console.lines]
    assert all(actors > 0.99 and learner == 0.0 for actors, learner in waits[10:])


def test_no_call_is_made_to_learner_or_replay_while_the_learner_waits():
    fleet = FakeFleet(seconds={"rollout": lambda handle: 0.01 if handle.calls_of["rollout"] < 9 else 1000.0})
    run = make_run(fleet, actors=1, max_seconds=500.0, env_timeout_seconds=10_000.0)
    run.supervisor.run()
    # 8 rollouts of 50 are in, which pay for 4 * (400 - 100) / 100 = 12 calls.
    assert len(fleet.calls_of("learner", "learn")) == len(fleet.calls_of("replay", "sample")) == 12
    assert max(record.at for record in fleet.calls_of("learner") + fleet.calls_of("replay")) < 10.0
    assert fleet.waits <= 500 / _LOOK + 100
    assert all(line["learner_wait_fraction"] > 0.99 for line in run.console.lines[10:])


@pytest.mark.parametrize("min_size", [1, 100, 1234])
def test_nothing_is_sampled_before_min_size_is_in(min_size):
    run = make_run(FakeFleet(seconds={"compile": 0.0, "rollout": 1.0}), min_size=min_size, actors=1)
    run.supervisor.run()
    first = run.fleet.calls_of("replay", "sample")[0]
    # 25 more transitions pay for the first 100 samples; rollouts bring 50 at a time.
    assert min_size + 25 <= first.inserted < min_size + 25 + 50


def test_nothing_is_sampled_before_the_learner_has_compiled():
    run = make_run(FakeFleet(seconds={"start": 1.0, "publish": 0.5, "compile": 30.0}))
    run.supervisor.run()
    first = run.fleet.calls_of("replay", "sample")[0]
    assert 1.0 + 0.5 + 30.0 <= first.at <= 1.0 + 0.5 + 30.0 + _LOOK
    assert min(record.at for record in run.fleet.calls_of("learner", "learn")) == first.at


# Weights.


@pytest.mark.parametrize(("rollout", "learn"), [(0.05, 0.2), (0.3, 0.02)])
def test_actor_is_sent_the_newest_weights_and_each_version_once(rollout, learn):
    fleet = FakeFleet(seconds={"rollout": rollout, "learn": learn, "publish": 0.5})
    run = make_run(fleet, actors=3)
    published = []  # (when its call is over, version)
    take = run.journal.add_published
    run.journal.add_published = lambda version: (published.append((fleet.now, version)), take(version))
    run.supervisor.run()
    last = {}
    for record in fleet.calls_of("actor", "rollout"):
        newest = max((version for at, version in published if at <= record.at), default=None)
        sent = record.arguments[1].weights_version if len(record.arguments) > 1 else None
        assert sent == (newest if newest != last.get(record.handle) else None)
        last[record.handle] = newest
    # 784 learner steps, a version every 8 of them and one before them all.
    assert [version for _, version in published] == [(0, n) for n in range(1, 784 // 8 + 2)]


def test_weights_are_published_every_period_of_learner_steps():
    run = make_run(publish_period=12)
    run.supervisor.run()
    publishes = [record.arguments[1] for record in run.fleet.calls_of("learner", "learn")]
    assert publishes == [n % 3 == 0 for n in range(1, 197)]  # 4 updates a call


def test_replaced_actor_is_sent_weights_though_no_newer_ones_came():
    fleet = FakeFleet(seconds={"learn": 0.5})
    fleet.at(20.0, lambda: fleet.kill("actor", 0))
    run = make_run(fleet, publish_period=10**6)
    run.supervisor.run()
    first = next(r for r in fleet.calls_of("actor", "rollout") if r.handle.incarnation == 1)
    assert first.arguments[1].weights_version == (0, 1)


# Faults.


def test_dead_actor_is_replaced_and_what_it_held_is_given_back():
    fleet = FakeFleet(seconds={"rollout": 1.0})
    fleet.at(20.5, lambda: fleet.kill("actor", 1))
    run = make_run(fleet, actors=3)
    assert run.supervisor.run() == "max_env_steps"
    assert [_starts(fleet, "actor", index) for index in range(3)] == [[0], [0, 1], [0]]
    assert run.counters.actor_restarts == 1
    assert run.counters.lost_rollouts == 2  # one ran, one was queued
    assert run.counters.env_steps == run.replay.inserted == 5_000
    assert [handle for handle in fleet.ended if handle.role == "actor"] == [
        handle
        for handle in fleet.started
        if (handle.index, handle.incarnation) == (1, 0) and handle.role == "actor"
    ]


def test_replacement_of_an_actor_is_told_with_who_and_why():
    fleet = FakeFleet(faults=_fault("actor", "rollout", 3, words="Traceback:\n  lines\nValueError: odd"))
    run = make_run(fleet, actors=1, max_env_steps=300)
    run.supervisor.run()
    assert "actor-0 (incarnation 0) failed in `rollout` and is replaced: ValueError: odd" in run.console.notes


def test_other_actors_and_the_learner_go_on_while_one_is_replaced():
    fleet = FakeFleet(seconds={"rollout": 0.5, "learn": 0.01})
    run = make_run(fleet, actors=3, max_env_steps=10_000)

    def kill_and_start_slowly():
        fleet.kill("actor", 1)
        fleet.seconds["start"] = 25.0

    fleet.at(10.0, kill_and_start_slowly)
    run.supervisor.run()
    for second in range(10, 15):
        calls = [r for r in fleet.records if second <= r.at < second + 1]
        assert {r.handle.index for r in calls if r.method == "rollout"} >= {0, 2}
        assert any(r.method == "learn" for r in calls)


def test_actor_that_never_answers_is_replaced_after_its_deadline():
    fleet = FakeFleet(faults=_fault("actor", "rollout", 4, words=HANG, incarnations=[0]))
    run = make_run(fleet, actors=1, env_timeout_seconds=30.0)
    run.supervisor.run()
    hung = fleet.calls_of("actor", "rollout")[3]
    (replaced_at,) = [r.at for r in fleet.calls_of("actor", "rollout") if r.handle.incarnation == 1][:1]
    # It was queued behind another call, so it has the time of two.
    assert hung.at + 2 * 30.0 <= replaced_at <= hung.at + 2 * 30.0 + _LOOK
    assert run.counters.actor_restarts == 1
    assert run.counters.env_steps == 5_000


def test_calls_that_fail_together_make_one_restart():
    fleet = FakeFleet(seconds={"rollout": 5.0, "start": 2.0})
    fleet.at(1.0, lambda: fleet.kill("actor", 0))  # `identify` and two rollouts are under way
    run = make_run(fleet, actors=1, max_failures=2)
    run.supervisor.run()
    assert _starts(fleet, "actor") == [0, 1]
    assert run.counters.actor_restarts == 1
    assert run.counters.lost_rollouts == 2


def test_all_actors_may_die_at_once_three_times():
    fleet = FakeFleet()
    for at in (5.0, 10.0, 15.0):
        fleet.at(at, lambda: [fleet.kill("actor", index) for index in range(3)])
    run = make_run(fleet, actors=3, max_env_steps=20_000)
    assert run.supervisor.run() == "max_env_steps"
    assert [_starts(fleet, "actor", index) for index in range(3)] == [[0, 1, 2, 3]] * 3
    assert run.counters.actor_restarts == 9
    assert run.counters.env_steps == 20_000


def test_actor_that_keeps_failing_ends_the_run_with_its_name_and_words():
    fleet = FakeFleet(faults=_fault("actor", "rollout", words="Boom: the environment is odd"))
    run = make_run(fleet, actors=1, max_failures=3)
    with pytest.raises(RoleFailure, match=r"actor-0 .*failed 3 times running.*Boom: the environment is odd"):
        run.supervisor.run()
    assert _starts(fleet, "actor") == [0, 1, 2]


def test_actor_that_never_starts_ends_the_run():
    fleet = FakeFleet(faults=_fault("actor", "identify", words=HANG))
    run = make_run(fleet, actors=1, max_failures=3, start_timeout_seconds=60.0)
    with pytest.raises(RoleFailure, match="actor-0"):
        run.supervisor.run()
    assert 3 * 60.0 <= fleet.now <= 3 * (60.0 + _LOOK)


def test_completed_call_between_failures_lets_the_run_go_on():
    # The first rollout of every life completes, the second raises.
    fleet = FakeFleet(faults=_fault("actor", "rollout", 2))
    run = make_run(fleet, actors=1, max_failures=2, max_env_steps=500)
    assert run.supervisor.run() == "max_env_steps"
    assert run.counters.actor_restarts >= 5
    assert run.counters.env_steps == 500


@pytest.mark.parametrize("method", ["compile", "publish", "learn"])
@pytest.mark.parametrize("words", ["ValueError: bad", HANG])
def test_failing_learner_ends_the_run_under_its_own_name(method, words):
    fleet = FakeFleet(faults=_fault("learner", method, words=words))
    with pytest.raises(RoleFailure, match=r"learner .*failed in"):
        make_run(fleet).supervisor.run()


@pytest.mark.parametrize("rollout", [0.05, 3.0])
def test_dead_learner_ends_the_run_under_its_own_name(rollout):
    fleet = FakeFleet(seconds={"rollout": rollout, "learn": 0.4})
    fleet.at(20.0, lambda: fleet.kill("learner"))
    with pytest.raises(RoleFailure, match=r"learner \(incarnation 0\) failed"):
        make_run(fleet).supervisor.run()
    assert fleet.now < 30.0


def test_learner_that_fails_to_start_ends_the_run():
    fleet = FakeFleet(faults=_fault("learner", "identify", words="ImportError: tensorflow"))
    with pytest.raises(RoleFailure, match=r"learner .*ImportError: tensorflow"):
        make_run(fleet).supervisor.run()


@pytest.mark.parametrize("method", ["insert", "sample"])
@pytest.mark.parametrize("words", ["MemoryError: full", HANG])
def test_failing_replay_ends_the_run_under_its_own_name(method, words):
    fleet = FakeFleet(faults=_fault("replay", method, words=words))
    with pytest.raises(RoleFailure, match="replay"):
        make_run(fleet).supervisor.run()


@pytest.mark.parametrize("rollout", [0.05, 1000.0])
def test_dead_replay_ends_the_run_under_its_own_name(rollout):
    # With rollouts that take for ever, only the learner's call shows that replay is dead.
    fleet = FakeFleet(
        seconds={
            "rollout": lambda handle: 0.01 if handle.calls_of["rollout"] < 9 else rollout,
            "sample": 5.0,
        }
    )
    fleet.at(6.0, lambda: fleet.kill("replay"))
    with pytest.raises(RoleFailure, match=r"replay \(incarnation 0\) failed"):
        make_run(fleet, actors=1, env_timeout_seconds=10_000.0).supervisor.run()
    assert fleet.now < 30.0


def test_evaluation_is_ordered_again_when_the_evaluator_dies():
    fleet = FakeFleet(seconds={"evaluate": 5.0})
    fleet.at(20.0, lambda: fleet.kill("evaluator"))
    run = make_run(fleet, eval_period=100, max_env_steps=20_000)
    assert run.supervisor.run() == "max_env_steps"
    evaluations = fleet.calls_of("evaluator", "evaluate")
    numbers = [record.arguments[2] for record in evaluations]
    (again,) = [r for r, number in zip(evaluations, numbers, strict=True) if numbers.count(number) == 2][1:]
    first = next(record for record in evaluations if record.arguments[2] == again.arguments[2])
    assert first.arguments == again.arguments
    assert (first.handle.incarnation, again.handle.incarnation) == (0, 1)
    assert run.counters.evaluations == len(set(numbers)) > 3
    assert run.counters.actor_restarts == 0


def test_evaluator_that_keeps_failing_ends_the_run():
    fleet = FakeFleet(faults=_fault("evaluator", "evaluate"))
    with pytest.raises(RoleFailure, match=r"evaluator .*failed 3 times running"):
        make_run(fleet, eval_period=100, max_failures=3).supervisor.run()


# The end.


def test_run_ends_at_once_when_the_goal_is_confirmed():
    fleet = FakeFleet(make_role={"evaluator": lambda: FakeEvaluator(lambda steps: float(steps))})
    run = make_run(fleet, target_return=300.0, eval_period=100, max_env_steps=10**6)
    assert run.supervisor.run() == "goal_reached"
    confirming = fleet.calls_of("evaluator", "evaluate")[-1]
    assert confirming.arguments[1] == 10
    assert run.goal.best.learner_steps >= 300
    assert fleet.now == pytest.approx(confirming.at + 0.5)
    assert all(record.at < fleet.now for record in fleet.records)


def test_same_weights_are_confirmed_that_reached_the_goal():
    fleet = FakeFleet(make_role={"evaluator": lambda: FakeEvaluator(lambda steps: float(steps))})
    run = make_run(fleet, target_return=300.0, eval_period=100, max_env_steps=10**6)
    run.supervisor.run()
    *_, candidate, confirming = fleet.calls_of("evaluator", "evaluate")
    assert confirming.arguments[0] is candidate.arguments[0]
    assert run.supervisor.value(run.goal.best_weights) is candidate.arguments[0]


class _LuckyEvaluator:
    """Reaches the goal in every short evaluation, and misses it in every confirming one."""

    def evaluate(self, weights, episodes, number):  # noqa: ARG002
        score = 500.0 if episodes == 5 else 400.0
        return Evaluation(
            [score] * episodes, [9] * episodes, weights.weights_version, weights.learner_steps, 0.1
        )


def test_run_goes_on_when_the_goal_is_not_confirmed():
    run = make_run(FakeFleet(make_role={"evaluator": _LuckyEvaluator}), target_return=475.0, eval_period=100)
    assert run.supervisor.run() == "max_env_steps"
    assert not run.goal.reached


def test_learner_that_is_far_ahead_is_evaluated_one_order_at_a_time():
    fleet = FakeFleet(seconds={"evaluate": 7.0})
    run = make_run(fleet, eval_period=8, max_env_steps=20_000)
    run.supervisor.run()
    times = [record.at for record in fleet.calls_of("evaluator", "evaluate")]
    assert len(times) > 3
    assert all(later - earlier >= 6.999 for earlier, later in itertools.pairwise(times))


def test_evaluation_under_way_is_waited_for_when_the_budget_is_spent():
    fleet = FakeFleet(seconds={"evaluate": 20.0})
    run = make_run(fleet, eval_period=400, max_env_steps=3_000)
    run.supervisor.run()
    assert run.counters.evaluations == len(fleet.calls_of("evaluator", "evaluate")) == 1


def test_run_ends_when_its_seconds_are_spent():
    run = make_run(max_env_steps=10**9, max_seconds=12.3)
    assert run.supervisor.run() == "max_seconds"
    assert 12.3 <= run.fleet.now <= 12.3 + _LOOK


@pytest.mark.parametrize("reason", ["interrupted", "terminated"])
@pytest.mark.parametrize("at", [0.5, 25.0])
def test_run_ends_soon_after_a_stop_is_requested(reason, at):
    fleet = FakeFleet(seconds={"rollout": 7.0, "learn": 7.0})
    run = make_run(fleet, max_env_steps=10**9)
    fleet.at(at, lambda: setattr(run.stop, "reason", reason))
    assert run.supervisor.run() == reason
    assert fleet.now <= at + _LOOK


def test_weights_are_there_only_after_the_first_were_published():
    fleet = FakeFleet(seconds={"start": 3.0})
    run = make_run(fleet, max_seconds=1.0)
    run.supervisor.run()
    assert not run.supervisor.has_weights
    run = make_run(max_seconds=10.0)
    run.supervisor.run()
    assert run.supervisor.has_weights


def test_last_weights_are_published_and_exported_after_the_run():
    run = make_run(publish_period=8)
    run.supervisor.run()
    last = run.supervisor.publish()
    assert last.learner_steps == run.counters.learner_steps == 784
    assert last.weights_version == (0, 784 // 8 + 2)
    assert run.supervisor.value(last) is last
    assert run.supervisor.export(last) == b"network (0, 100)"


# Reports.


@pytest.mark.parametrize("rollout", [0.05, 8.0])
def test_report_is_made_at_least_every_period(rollout):
    run = make_run(
        FakeFleet(seconds={"rollout": rollout, "start": 5.0}), report_seconds=1.5, max_seconds=60.0
    )
    run.supervisor.run()
    times = [0.0, *(line["wall_seconds"] for line in run.console.lines)]
    assert len(times) > 10
    assert all(1.5 <= later - earlier <= 1.5 + _LOOK for earlier, later in itertools.pairwise(times))


def test_every_evaluation_has_one_report_of_its_own():
    fleet = FakeFleet(make_role={"evaluator": lambda: FakeEvaluator(lambda steps: float(steps))})
    run = make_run(fleet, eval_period=100, max_env_steps=20_000)
    run.supervisor.run()
    lines = [line for line in run.console.lines if line["eval_return_mean"] is not None]
    evaluated = [record.arguments[0].learner_steps for record in fleet.calls_of("evaluator", "evaluate")]
    assert [line["eval_learner_steps"] for line in lines] == evaluated
    assert [line["eval_return_mean"] for line in lines] == [float(steps) for steps in evaluated]
    assert len(lines) > 5


def test_report_counts_the_actors_that_are_up():
    fleet = FakeFleet(seconds={"rollout": 0.5, "learn": 0.01})
    run = make_run(fleet, actors=3, max_seconds=20.0, max_env_steps=10**6)

    def kill_and_start_slowly():
        fleet.kill("actor", 1)
        fleet.seconds["start"] = 5.0

    fleet.at(10.05, kill_and_start_slowly)
    run.supervisor.run()
    alive = {round(line["wall_seconds"]): line["actors_alive"] for line in run.console.lines}
    assert (alive[5], alive[12], alive[18]) == (3, 2, 3)
    assert run.console.lines[-1]["actor_restarts"] == 1


def test_status_names_every_role_with_its_process():
    fleet = FakeFleet(seconds={"rollout": 0.5, "learn": 0.01})
    fleet.at(10.0, lambda: fleet.kill("actor", 1))
    run = make_run(fleet, actors=2, max_seconds=20.0, max_env_steps=10**6)
    run.supervisor.run()
    status = run.directory.files["status.json"]
    incarnations = {role["role"]: role["incarnation"] for role in status["roles"]}
    assert incarnations == {"learner": 0, "replay": 0, "evaluator": 0, "actor-0": 0, "actor-1": 1}
    assert len({role["pid"] for role in status["roles"]} - {None}) == 5
    assert status["ray"] == {"address": "nowhere", "namespace": "fake"}


# Nothing grows.


def _sizes(thing):
    """Entries in everything that `thing` keeps."""
    return sum(len(value) for value in vars(thing).values() if isinstance(value, dict | list | set | tuple))


def test_state_stays_bounded_over_thousands_of_calls():
    # Every actor dies after 20 rollouts, so replaced processes must be forgotten, too.
    fleet = FakeFleet(faults=_fault("actor", "rollout", 21), keep_records=False)
    run = make_run(fleet, actors=4, max_env_steps=200_000, eval_period=200)
    sizes = []

    def measure():
        sizes.append((_sizes(run.calls) + _sizes(run.supervisor) + _sizes(run.goal), len(fleet.live_refs)))
        fleet.at(fleet.now + 10.0, measure)

    fleet.at(10.0, measure)
    run.supervisor.run()
    assert run.counters.actor_restarts > 150
    assert run.counters.learner_steps > 30_000
    assert len(sizes) > 50
    most_entries, most_refs = (max(column) for column in zip(*sizes, strict=True))
    # Handles of 7 roles; calls under way: 2 to each of 4 actors, their inserts, 2 to the learner, an
    # evaluation, an `identify` each; 4 actors in the supervisor; 2 sizes in the goal.
    assert most_entries <= 7 + 8 + 8 + 2 + 1 + 4 + 4 + 2
    # Two for a rollout, whose chunk lives on in its insert; a learner's call with its batches has
    # three; then the newest weights, the best, the candidate, and those sent and under way.
    assert most_refs <= 2 * 8 + 2 * 8 + 3 * 2 + 1 + 4 + 2 * (3 + 8)


def test_old_weights_are_let_go_of():
    fleet = FakeFleet(keep_records=False)
    run = make_run(fleet, actors=2, max_env_steps=50_000, publish_period=4, eval_period=100)
    counts = []

    def measure():
        versions = {
            ref.task.values[1].weights_version
            for ref in fleet.live_refs
            if ref.task.method == "learn" and ref.task.values[1] is not None
        }
        counts.append(len(versions))
        fleet.at(fleet.now + 5.0, measure)

    fleet.at(10.0, measure)
    run.supervisor.run()
    assert run.counters.learner_steps > 5_000
    # The newest, the best, one under evaluation, two under way, one a rollout still needs.
    assert max(counts) <= 1 + 1 + 1 + 2 + 2 * 2
