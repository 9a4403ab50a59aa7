"""The supervisor with a fake fleet: every fault and its answer."""

import pytest
from distributed.fakes import HANG, FakeFleet, fault, make_run, starts

from distdqn.errors import RoleFailure

_LOOK = 0.2  # the supervisor looks at signals and deadlines this often


def test_dead_actor_is_replaced_and_what_it_held_is_given_back():
    fleet = FakeFleet(seconds={"rollout": 1.0})
    fleet.at(20.5, lambda: fleet.kill("actor", 1))
    run = make_run(fleet, actors=3)
    assert run.supervisor.run() == "max_env_steps"
    assert [starts(fleet, "actor", index) for index in range(3)] == [[0], [0, 1], [0]]
    assert run.counters.actor_restarts == 1
    assert run.counters.lost_rollouts == 2  # one ran, one was queued
    assert run.counters.env_steps == run.replay.inserted == 5_000
    assert [handle for handle in fleet.ended if handle.role == "actor"] == [
        handle
        for handle in fleet.started
        if (handle.index, handle.incarnation) == (1, 0) and handle.role == "actor"
    ]


def test_replacement_of_an_actor_is_told_with_who_and_why():
    fleet = FakeFleet(faults=fault("actor", "rollout", 3, words="Traceback:\n  lines\nValueError: odd"))
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
    fleet = FakeFleet(faults=fault("actor", "rollout", 4, words=HANG, incarnations=[0]))
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
    assert starts(fleet, "actor") == [0, 1]
    assert run.counters.actor_restarts == 1
    assert run.counters.lost_rollouts == 2


def test_all_actors_may_die_at_once_three_times():
    fleet = FakeFleet()
    for at in (5.0, 10.0, 15.0):
        fleet.at(at, lambda: [fleet.kill("actor", index) for index in range(3)])
    run = make_run(fleet, actors=3, max_env_steps=20_000)
    assert run.supervisor.run() == "max_env_steps"
    assert [starts(fleet, "actor", index) for index in range(3)] == [[0, 1, 2, 3]] * 3
    assert run.counters.actor_restarts == 9
    assert run.counters.env_steps == 20_000


def test_actor_that_keeps_failing_ends_the_run_with_its_name_and_words():
    fleet = FakeFleet(faults=fault("actor", "rollout", words="Boom: the environment is odd"))
    run = make_run(fleet, actors=1, max_failures=3)
    with pytest.raises(RoleFailure, match=r"actor-0 .*failed 3 times running.*Boom: the environment is odd"):
        run.supervisor.run()
    assert starts(fleet, "actor") == [0, 1, 2]


def test_actor_that_never_starts_ends_the_run():
    fleet = FakeFleet(faults=fault("actor", "identify", words=HANG))
    run = make_run(fleet, actors=1, max_failures=3, start_timeout_seconds=60.0)
    with pytest.raises(RoleFailure, match="actor-0"):
        run.supervisor.run()
    assert 3 * 60.0 <= fleet.now <= 3 * (60.0 + _LOOK)


def test_completed_call_between_failures_lets_the_run_go_on():
    # The first rollout of every life completes, the second raises.
    fleet = FakeFleet(faults=fault("actor", "rollout", 2))
    run = make_run(fleet, actors=1, max_failures=2, max_env_steps=500)
    assert run.supervisor.run() == "max_env_steps"
    assert run.counters.actor_restarts >= 5
    assert run.counters.env_steps == 500


@pytest.mark.parametrize("method", ["compile", "publish", "learn"])
@pytest.mark.parametrize("words", ["ValueError: bad", HANG])
def test_failing_learner_ends_the_run_under_its_own_name(method, words):
    fleet = FakeFleet(faults=fault("learner", method, words=words))
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
    fleet = FakeFleet(faults=fault("learner", "identify", words="ImportError: tensorflow"))
    with pytest.raises(RoleFailure, match=r"learner .*ImportError: tensorflow"):
        make_run(fleet).supervisor.run()


@pytest.mark.parametrize("method", ["insert", "sample"])
@pytest.mark.parametrize("words", ["MemoryError: full", HANG])
def test_failing_replay_ends_the_run_under_its_own_name(method, words):
    fleet = FakeFleet(faults=fault("replay", method, words=words))
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
    fleet = FakeFleet(faults=fault("evaluator", "evaluate"))
    with pytest.raises(RoleFailure, match=r"evaluator .*failed 3 times running"):
        make_run(fleet, eval_period=100, max_failures=3).supervisor.run()
