"""The supervisor with a fake fleet: how a run ends, what it reports, what must not grow."""

import itertools

import pytest
from distributed.fakes import FakeBackend, FakeEvaluator, fault, make_run

from distdqn.types import Evaluation

_LOOK = 0.2  # the supervisor looks at signals and deadlines this often


# The end.


def test_run_ends_at_once_when_the_goal_is_confirmed():
    backend = FakeBackend(make_role={"evaluator": lambda: FakeEvaluator(lambda steps: float(steps))})
    run = make_run(backend, target_return=300.0, eval_period=100, max_env_steps=10**6)
    assert run.supervisor.run() == "goal_reached"
    confirming = backend.calls_of("evaluator", "evaluate")[-1]
    assert confirming.arguments[1] == 10
    assert run.goal.best.learner_steps >= 300
    assert backend.now == pytest.approx(confirming.at + 0.5)
    assert all(record.at < backend.now for record in backend.records)


def test_same_weights_are_confirmed_that_reached_the_goal():
    backend = FakeBackend(make_role={"evaluator": lambda: FakeEvaluator(lambda steps: float(steps))})
    run = make_run(backend, target_return=300.0, eval_period=100, max_env_steps=10**6)
    run.supervisor.run()
    *_, candidate, confirming = backend.calls_of("evaluator", "evaluate")
    assert confirming.arguments[0] is candidate.arguments[0]
    assert run.goal.best_weights is candidate.arguments[0]


class _LuckyEvaluator:
    """Reaches the goal in every short evaluation, and misses it in every confirming one."""

    def evaluate(self, weights, episodes, number, _seconds):  # noqa: ARG002
        score = 500.0 if episodes == 5 else 400.0
        return Evaluation([score] * episodes, weights.weights_version, weights.learner_steps, 0.1)


def test_run_goes_on_when_the_goal_is_not_confirmed():
    run = make_run(
        FakeBackend(make_role={"evaluator": _LuckyEvaluator}), target_return=475.0, eval_period=100
    )
    assert run.supervisor.run() == "max_env_steps"
    assert not run.goal.reached


def test_learner_that_is_far_ahead_is_evaluated_one_order_at_a_time():
    backend = FakeBackend(seconds={"evaluate": 7.0})
    run = make_run(backend, eval_period=8, max_env_steps=20_000)
    run.supervisor.run()
    times = [record.at for record in backend.calls_of("evaluator", "evaluate")]
    assert len(times) > 3
    assert all(later - earlier >= 6.999 for earlier, later in itertools.pairwise(times))


def test_evaluation_under_way_is_waited_for_when_the_budget_is_spent():
    backend = FakeBackend(seconds={"evaluate": 20.0})
    run = make_run(backend, eval_period=400, max_env_steps=3_000)
    run.supervisor.run()
    assert run.counters.evaluations == len(backend.calls_of("evaluator", "evaluate")) == 1


def test_run_ends_when_its_seconds_are_spent():
    run = make_run(max_env_steps=10**9, max_seconds=12.3)
    assert run.supervisor.run() == "max_seconds"
    assert 12.3 <= run.backend.now <= 12.3 + _LOOK


@pytest.mark.parametrize("reason", ["interrupted", "terminated"])
@pytest.mark.parametrize("at", [0.5, 25.0])
def test_run_ends_soon_after_a_stop_is_requested(reason, at):
    backend = FakeBackend(seconds={"rollout": 7.0, "learn": 7.0})
    run = make_run(backend, max_env_steps=10**9)
    backend.at(at, lambda: setattr(run.stop, "reason", reason))
    assert run.supervisor.run() == reason
    assert backend.now <= at + _LOOK


def test_weights_are_there_only_after_the_first_were_published():
    backend = FakeBackend(seconds={"start": 3.0})
    run = make_run(backend, max_seconds=1.0)
    run.supervisor.run()
    assert run.supervisor.team.newest is None
    run = make_run(max_seconds=10.0)
    run.supervisor.run()
    assert run.supervisor.team.newest is not None


def test_last_weights_are_published_and_exported_after_the_run():
    run = make_run(weights_update_period=8)
    run.supervisor.run()
    last = run.supervisor.team.publish()
    assert last.learner_steps == run.counters.learner_steps == 784
    assert last.weights_version == (0, 784 // 8 + 2)
    assert run.supervisor.team.export(last) == b"network (0, 100)"


# Reports.


@pytest.mark.parametrize("rollout", [0.05, 8.0])
def test_report_is_made_at_least_every_period(rollout):
    run = make_run(
        FakeBackend(seconds={"rollout": rollout, "start": 5.0}), report_seconds=1.5, max_seconds=60.0
    )
    run.supervisor.run()
    times = [0.0, *(line["wall_seconds"] for line in run.console.lines)]
    assert len(times) > 10
    assert all(1.5 <= later - earlier <= 1.5 + _LOOK for earlier, later in itertools.pairwise(times))


def test_every_evaluation_has_one_report_of_its_own():
    backend = FakeBackend(make_role={"evaluator": lambda: FakeEvaluator(lambda steps: float(steps))})
    run = make_run(backend, eval_period=100, max_env_steps=20_000)
    run.supervisor.run()
    lines = [line for line in run.console.lines if line["eval_return_mean"] is not None]
    evaluated = [record.arguments[0].learner_steps for record in backend.calls_of("evaluator", "evaluate")]
    assert [line["eval_learner_steps"] for line in lines] == evaluated
    assert [line["eval_return_mean"] for line in lines] == [float(steps) for steps in evaluated]
    assert len(lines) > 5


def test_report_counts_the_actors_that_are_up():
    backend = FakeBackend(seconds={"rollout": 0.5, "learn": 0.01})
    run = make_run(backend, actors=3, max_seconds=20.0, max_env_steps=10**6)

    def kill_and_start_slowly():
        backend.kill("actor", 1)
        backend.seconds["start"] = 5.0

    backend.at(10.05, kill_and_start_slowly)
    run.supervisor.run()
    alive = {round(line["wall_seconds"]): line["actors_alive"] for line in run.console.lines}
    assert (alive[5], alive[12], alive[18]) == (3, 2, 3)
    assert run.console.lines[-1]["actor_restarts"] == 1


def test_status_names_every_role_with_its_process():
    backend = FakeBackend(seconds={"rollout": 0.5, "learn": 0.01})
    backend.at(10.0, lambda: backend.kill("actor", 1))
    run = make_run(backend, actors=2, max_seconds=20.0, max_env_steps=10**6)
    run.supervisor.run()
    status = run.directory.files["status.json"]
    restarts = {role["role"]: role["restarts"] for role in status["roles"]}
    others = {"learner": 0, "replay-0": 0, "evaluator": 0, "control": 0}
    assert restarts == {**others, "actor-0": 0, "actor-1": 1}
    assert len({role["pid"] for role in status["roles"]} - {None}) == 6
    assert status["ray"] == {"address": "nowhere", "namespace": "fake"}


# Nothing grows.


def _sizes(thing):
    """Entries in everything that `thing` keeps."""
    return sum(len(value) for value in vars(thing).values() if isinstance(value, dict | list | set | tuple))


def test_state_stays_bounded_over_thousands_of_calls():
    # Every actor dies after 20 rollouts, so replaced processes must be forgotten, too.
    backend = FakeBackend(faults=fault("actor", "rollout", 21), keep_records=False)
    run = make_run(backend, actors=4, max_env_steps=200_000, eval_period=200)
    sizes = []

    def measure():
        sizes.append((_sizes(run.calls) + _sizes(run.supervisor) + _sizes(run.goal), len(backend.live_refs)))
        backend.at(backend.now + 10.0, measure)

    backend.at(10.0, measure)
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


def test_weights_of_the_best_evaluation_are_kept_in_the_driver_itself():
    run = make_run(eval_period=100)
    run.supervisor.run()
    assert run.goal.best.learner_steps > 0
    assert run.goal.best_weights.learner_steps == run.goal.best.learner_steps


def test_old_weights_are_let_go_of():
    backend = FakeBackend(keep_records=False)
    run = make_run(backend, actors=2, max_env_steps=50_000, weights_update_period=4, eval_period=100)
    counts = []

    def measure():
        versions = {
            ref.task.values[1].weights_version
            for ref in backend.live_refs
            if ref.task.method == "learn" and ref.task.values[1] is not None
        }
        counts.append(len(versions))
        backend.at(backend.now + 5.0, measure)

    backend.at(10.0, measure)
    run.supervisor.run()
    assert run.counters.learner_steps > 5_000
    # The newest, the best, one under evaluation, two under way, one a rollout still needs.
    assert max(counts) <= 1 + 1 + 1 + 2 + 2 * 2
