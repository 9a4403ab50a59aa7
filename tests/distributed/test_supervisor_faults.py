"""The supervisor with a fake fleet: every fault and its answer, where no checkpoint was made."""

import pytest
from distributed.fakes import HANG, FakeBackend, fault, make_run, starts

from distdqn.errors import RoleFailure

_LOOK = 0.2  # the supervisor looks at signals and deadlines this often


# Actors.


def test_dead_actor_is_replaced_and_what_it_held_is_given_back():
    backend = FakeBackend(seconds={"rollout": 1.0})
    backend.at(20.5, lambda: backend.kill("actor", 1))
    run = make_run(backend, actors=3)
    assert run.supervisor.run() == "max_env_steps"
    assert [starts(backend, "actor", index) for index in range(3)] == [[0], [0, 1], [0]]
    assert run.counters.actor_restarts == 1
    assert run.counters.lost_rollouts == 2  # one ran, one was queued
    assert run.counters.env_steps == run.replay.inserted == 5_000
    assert [handle for handle in backend.ended if handle.role == "actor"] == [
        handle
        for handle in backend.started
        if (handle.index, handle.restarts) == (1, 0) and handle.role == "actor"
    ]


def test_replacement_of_an_actor_is_told_with_who_and_why():
    backend = FakeBackend(faults=fault("actor", "rollout", 3, words="Traceback:\n  lines\nValueError: odd"))
    run = make_run(backend, actors=1, max_env_steps=300)
    run.supervisor.run()
    assert "actor-0 failed in `rollout` and is replaced: ValueError: odd" in run.console.notes


def test_other_actors_and_the_learner_go_on_while_one_is_replaced():
    backend = FakeBackend(seconds={"rollout": 0.5, "learn": 0.01})
    run = make_run(backend, actors=3, max_env_steps=10_000)

    def kill_and_start_slowly():
        backend.kill("actor", 1)
        backend.seconds["start"] = 25.0

    backend.at(10.0, kill_and_start_slowly)
    run.supervisor.run()
    for second in range(10, 15):
        calls = [r for r in backend.records if second <= r.at < second + 1]
        assert {r.handle.index for r in calls if r.method == "rollout"} >= {0, 2}
        assert any(r.method == "learn" for r in calls)


def test_actor_that_never_answers_is_replaced_after_its_deadline():
    backend = FakeBackend(faults=fault("actor", "rollout", 4, words=HANG, restarts=[0]))
    run = make_run(backend, actors=1, env_timeout_seconds=30.0)
    run.supervisor.run()
    hung = backend.calls_of("actor", "rollout")[3]
    (replaced_at,) = [r.at for r in backend.calls_of("actor", "rollout") if r.handle.restarts == 1][:1]
    # Its time runs from the end of the call before it, 0.1 s long; its successor takes 1 s to start.
    begin = hung.at + 0.1
    assert begin + 30.0 + 1.0 <= replaced_at <= begin + 30.0 + 1.0 + 2 * _LOOK
    assert run.counters.actor_restarts == 1
    assert run.counters.env_steps == 5_000


def test_calls_that_fail_together_make_one_restart():
    backend = FakeBackend(seconds={"rollout": 5.0})
    backend.at(3.0, lambda: backend.kill("actor", 0))  # two rollouts are under way
    run = make_run(backend, actors=1, max_failures=2)
    run.supervisor.run()
    assert starts(backend, "actor") == [0, 1]
    assert run.counters.actor_restarts == 1
    assert run.counters.lost_rollouts == 2


def test_all_actors_may_die_at_once_three_times():
    backend = FakeBackend()
    for at in (5.0, 10.0, 15.0):
        backend.at(at, lambda: [backend.kill("actor", index) for index in range(3)])
    run = make_run(backend, actors=3, max_env_steps=20_000)
    assert run.supervisor.run() == "max_env_steps"
    assert [starts(backend, "actor", index) for index in range(3)] == [[0, 1, 2, 3]] * 3
    assert run.counters.actor_restarts == 9
    assert run.counters.env_steps == 20_000


def test_actor_that_keeps_failing_ends_the_run_with_its_name_and_words():
    backend = FakeBackend(faults=fault("actor", "rollout", words="Boom: the environment is odd"))
    run = make_run(backend, actors=1, max_failures=3)
    with pytest.raises(
        RoleFailure, match=r"actor-0 .*failed 3 consecutive times.*Boom: the environment is odd"
    ):
        run.supervisor.run()
    assert starts(backend, "actor") == [0, 1, 2]


def test_actor_that_never_starts_ends_the_run():
    backend = FakeBackend(faults=fault("actor", "identify", words=HANG))
    run = make_run(backend, actors=1, max_failures=3, start_timeout_seconds=60.0)
    with pytest.raises(RoleFailure, match="actor-0"):
        run.supervisor.run()
    assert 3 * 60.0 <= backend.now <= 3 * (60.0 + _LOOK)


def test_completed_call_between_failures_lets_the_run_go_on():
    # The first rollout of every life completes, the second raises.
    backend = FakeBackend(faults=fault("actor", "rollout", 2))
    run = make_run(backend, actors=1, max_failures=2, max_env_steps=500)
    assert run.supervisor.run() == "max_env_steps"
    assert run.counters.actor_restarts >= 5
    assert run.counters.env_steps == 500


# The evaluator.


def test_evaluation_is_ordered_again_when_the_evaluator_dies():
    backend = FakeBackend(seconds={"evaluate": 5.0})
    backend.at(20.0, lambda: backend.kill("evaluator"))
    run = make_run(backend, eval_period=100, max_env_steps=20_000)
    assert run.supervisor.run() == "max_env_steps"
    evaluations = backend.calls_of("evaluator", "evaluate")
    numbers = [record.arguments[2] for record in evaluations]
    (again,) = [r for r, number in zip(evaluations, numbers, strict=True) if numbers.count(number) == 2][1:]
    first = next(record for record in evaluations if record.arguments[2] == again.arguments[2])
    assert first.arguments == again.arguments
    assert (first.handle.restarts, again.handle.restarts) == (0, 1)
    assert run.counters.evaluations == len(set(numbers)) > 3
    assert run.counters.actor_restarts == 0


def test_evaluator_that_keeps_failing_ends_the_run():
    backend = FakeBackend(faults=fault("evaluator", "evaluate"))
    with pytest.raises(RoleFailure, match=r"evaluator .*failed 3 consecutive times"):
        make_run(backend, eval_period=100, max_failures=3).supervisor.run()


# The learner.


def test_dead_learner_is_replaced_and_the_steps_it_made_are_counted_as_lost():
    backend = FakeBackend(seconds={"learn": 1.0})
    backend.at(10.5, lambda: backend.kill("learner"))
    run = make_run(backend)
    assert run.supervisor.run() == "max_env_steps"
    assert starts(backend, "learner") == [0, 1]
    assert (run.counters.learner_restarts, run.counters.actor_restarts) == (1, 0)
    # Up after 1.0 s, published after 1.01, compiled after 3.01: its calls end at 4.011, 5.011 .. 10.011.
    assert run.counters.lost_learner_steps == 7 * 4
    # All 4 * (5000 - 100) samples are drawn, 25 for each step; those for calls that failed again.
    assert run.counters.sampled == 4 * 4900
    assert run.counters.learner_steps == run.learner.steps == 784 - 28
    assert run.counters.env_steps == run.replay.inserted == 5_000
    sampled = [record.at for record in backend.calls_of("replay", "sample")]
    assert not any(10.5 < at < 10.5 + 1.0 + 0.01 + 2.0 for at in sampled)  # until it has compiled
    lost = "learner failed in `learn` and is replaced, 28 learner steps lost"
    assert run.console.notes == [f"{lost}: The process died."]


@pytest.mark.parametrize("at", [0.5, 1.005, 2.0])  # it starts, publishes, compiles
def test_learner_may_die_before_it_gave_the_first_weights(at):
    backend = FakeBackend()
    backend.at(at, lambda: backend.kill("learner"))
    run = make_run(backend)
    assert run.supervisor.run() == "max_env_steps"
    assert starts(backend, "learner") == [0, 1]
    assert (run.counters.lost_learner_steps, run.counters.learner_steps) == (0, 784)
    assert all(count == 1 for count in backend.newest("learner").calls_of.values() if count < 100)


@pytest.mark.parametrize("weights_update_period", [8, 10**6])
def test_new_epoch_of_weights_reaches_every_actor(weights_update_period):
    backend = FakeBackend(seconds={"learn": 0.5})
    backend.at(20.0, lambda: backend.kill("learner"))
    run = make_run(backend, actors=3, weights_update_period=weights_update_period)
    run.supervisor.run()
    for index in range(3):
        sent = [
            r.arguments[1].weights_version
            for r in backend.calls_of("actor", "rollout")
            if r.handle.index == index and len(r.arguments) > 1
        ]
        assert sent == sorted(set(sent))
        assert {generation for generation, _ in sent} == {0, 1}
    learn = [r.arguments[1] for r in backend.calls_of("learner", "learn") if r.handle.restarts == 1]
    assert learn[:4] == [
        False,
        weights_update_period == 8,
        False,
        weights_update_period == 8,
    ]  # 4 updates a call


@pytest.mark.parametrize("method", ["identify", "publish", "compile", "learn"])
@pytest.mark.parametrize("words", ["ValueError: bad", HANG])
def test_learner_that_keeps_failing_ends_the_run_under_its_own_name(method, words):
    backend = FakeBackend(faults=fault("learner", method, words=words))
    with pytest.raises(RoleFailure, match=rf"learner .*failed 3 consecutive times, last in `{method}`"):
        make_run(backend, max_failures=3, max_seconds=1_500.0).supervisor.run()
    assert starts(backend, "learner") == [0, 1, 2]
    assert starts(backend, "replay") == [0]


def test_learner_whose_calls_complete_between_its_failures_lets_the_run_go_on():
    # Two calls of every life complete, the third raises.
    backend = FakeBackend(faults=fault("learner", "learn", 3))
    run = make_run(backend, max_failures=2, max_env_steps=500)
    assert run.supervisor.run() == "max_env_steps"
    # 4 * (500 - 100) samples pay for 16 calls: 8 lives of two, each of which but the last then failed.
    assert run.counters.learner_restarts == 7
    assert run.counters.lost_learner_steps == 7 * 2 * 4


def test_what_a_replaced_learner_still_answered_counts_for_nothing():
    # The third call raises, and the fourth, queued behind it, ends at the same instant.
    backend = FakeBackend(
        seconds={"learn": lambda handle: 0.0 if handle.calls_of["learn"] == 4 else 0.1},
        faults=fault("learner", "learn", 3, restarts=[0]),
    )
    run = make_run(backend)
    steps = []
    take = run.metrics.add_learn
    run.metrics.add_learn = lambda report, *rest: (steps.append(report.learner_steps), take(report, *rest))
    run.supervisor.run()
    assert steps[:5] == [4, 8, 4, 8, 12]
    assert run.counters.lost_learner_steps == 8


def test_evaluations_go_on_with_a_learner_that_had_to_begin_again():
    backend = FakeBackend()
    backend.at(20.0, lambda: backend.kill("learner"))
    run = make_run(backend, eval_period=40, max_env_steps=6_000)
    run.supervisor.run()
    weights = [record.arguments[0] for record in backend.calls_of("evaluator", "evaluate")]
    old, new = (
        [w.learner_steps for w in weights if w.weights_version[0] == generation] for generation in (0, 1)
    )
    assert max(old) > 300
    assert 40 <= new[0] < 40 + 20 + 20  # 0.5 s of evaluating are 20 steps; so are 0.5 s of waiting
    assert run.counters.lost_learner_steps > 300


def test_last_weights_are_due_for_evaluation_though_more_steps_were_evaluated_before():
    backend = FakeBackend()
    run = make_run(backend, eval_period=150, max_env_steps=3_000)
    backend.at(12.0, lambda: backend.kill("learner"))  # after 300 steps; 150 are not reached again
    run.supervisor.run()
    assert run.counters.learner_steps < 150 < run.counters.lost_learner_steps
    evaluated = {record.arguments[0].weights_version for record in backend.calls_of("evaluator", "evaluate")}
    assert run.supervisor.team.publish().weights_version not in evaluated
    assert run.goal.is_due(run.counters.learner_steps, final=True)


# Replay.


def test_dead_replay_is_replaced_and_what_was_in_it_is_counted_as_lost():
    backend = FakeBackend(seconds={"rollout": 1.0, "insert": 0.5, "learn": 0.01})
    backend.at(10.25, lambda: backend.kill("replay"))
    run = make_run(backend, actors=1)
    assert run.supervisor.run() == "max_env_steps"
    assert (starts(backend, "replay"), starts(backend, "learner")) == ([0, 1], [0])
    assert run.counters.replay_restarts == 1
    # Rollouts end at 2.0, 3.0 ..: those of 2.0 to 9.0 are in, that of 10.0 is on its way.
    assert run.counters.lost_transitions == 8 * 50
    assert run.counters.lost_rollouts == 1
    assert run.counters.env_steps == 5_000
    assert run.counters.inserted == run.replay.inserted == 5_000 - 8 * 50
    # 4 * (400 - 100) samples were drawn before, 4 * (4600 - 100) after, 25 for each step.
    assert run.counters.learner_steps == (1_200 + 18_000) // 25
    lost = "replay-0 failed in `insert` and is replaced, 400 transitions lost"
    assert run.console.notes == [f"{lost}: The process died."]


@pytest.mark.parametrize(("rollout", "learn"), [(0.05, 0.02), (0.05, 1.0), (1.0, 0.02)])
def test_learning_neither_bursts_nor_stops_after_replay_died(rollout, learn):
    backend = FakeBackend(seconds={"rollout": rollout, "learn": learn})
    backend.at(6.0, lambda: backend.kill("replay"))
    run = make_run(backend, max_env_steps=10_000)
    assert run.supervisor.run() == "max_env_steps"
    drawn = [r for r in backend.calls_of("replay", "sample") if r.handle.restarts == 1]
    assert len(drawn) > 50
    # As at the beginning: the n-th call of 100 samples comes once 100 + 25 * n transitions are in.
    assert all(record.inserted >= 100 + 25 * n for n, record in enumerate(drawn, 1))
    assert all((line["samples_per_insert"] or 0.0) <= 4.0 for line in run.console.lines)
    # A backlog of 4 * 2 * 50 + 2 * 100 samples, or of a tenth, is the most there may be.
    counters = run.counters
    assert counters.sampled >= 4 * (counters.inserted - 100) - 4 * 25 > 10_000


def test_learner_call_that_replay_failed_is_no_failure_of_the_learner():
    # The first batches are drawn from 3.01 to 8.01. The actor waits meanwhile, from the rollout on
    # that brings the backlog of 4 * (inserted - 100) samples over 400: only the learner's call
    # shows that replay is dead.
    backend = FakeBackend(seconds={"rollout": 0.01, "sample": 5.0})
    backend.at(6.0, lambda: backend.kill("replay"))
    run = make_run(backend, actors=1, max_failures=2, max_env_steps=1_000)
    assert run.supervisor.run() == "max_env_steps"
    (note,) = [note for note in run.console.notes if not note.startswith("Learning has not started")]
    assert note.startswith("replay-0 failed in `learn` and is replaced, 250 transitions lost")
    assert (starts(backend, "replay"), starts(backend, "learner")) == ([0, 1], [0])
    assert run.supervisor.team.learner.failures == ()


@pytest.mark.parametrize("method", ["identify", "insert", "sample"])
@pytest.mark.parametrize("words", ["MemoryError: full", HANG])
def test_replay_that_keeps_failing_ends_the_run_under_its_own_name(method, words):
    backend = FakeBackend(faults=fault("replay", method, words=words))
    with pytest.raises(RoleFailure, match=r"replay-0 .*failed 3 consecutive times"):
        make_run(backend, max_failures=3, max_seconds=1_500.0).supervisor.run()
    assert starts(backend, "replay") == [0, 1, 2]
    assert starts(backend, "learner") == [0]


def test_replay_whose_batches_are_learned_from_between_its_failures_lets_the_run_go_on():
    # Two calls of `sample` of every life complete, the third raises.
    backend = FakeBackend(faults=fault("replay", "sample", 3))
    run = make_run(backend, max_failures=2)
    assert run.supervisor.run() == "max_env_steps"
    assert run.counters.replay_restarts > 5


def test_what_a_replaced_replay_still_answered_counts_for_nothing():
    # The fourth call of `sample` raises; an insert queued behind it ends at the same instant.
    backend = FakeBackend(
        seconds={"insert": 0.0, "sample": 0.5, "learn": 5.0},
        faults=fault("replay", "sample", 4, restarts=[0]),
    )
    run = make_run(backend)
    totals = []
    take = run.metrics.add_rollout
    run.metrics.add_rollout = lambda report, inserted: (totals.append(inserted), take(report, inserted))
    run.supervisor.run()
    assert starts(backend, "replay") == [0, 1]  # the second was never asked for batches it could not have
    again = totals.index(50, 1)  # the new replay's first 50
    assert totals == [50 * n for n in range(1, again + 1)] + [
        50 * n for n in range(1, len(totals) - again + 1)
    ]
    assert run.counters.lost_transitions == 50 * again


def test_priorities_of_batches_from_a_dead_replay_never_reach_the_new_one():
    backend = FakeBackend(seconds={"learn": 1.0})
    backend.at(20.5, lambda: backend.kill("replay"))
    run = make_run(backend, sampler="prioritized")
    run.supervisor.run()
    first, second = (handle.object for handle in backend.started if handle.role == "replay")
    for replay in (first, second):
        steps = [int(update.removeprefix("priorities ")) for update in replay.updates]
        assert {run.learner.batches_of[n] for n in steps} == {replay.life}
        assert len(steps) > 10
    # One call was under way and one queued, both with batches of the dead one's.
    dead = [n for n, life in run.learner.batches_of.items() if life == first.life]
    assert len(dead) >= len(first.updates) + 1
