"""Evaluations that several processes share."""

from dataclasses import replace

import pytest
from distributed.fakes import FakeActor, FakeBackend, fault, make_run, starts
from toy_actors import make_actor
from toy_slow import STEP_SECONDS, SlowCartPole

from distdqn.config.config import Config
from distdqn.distributed.scheduler import wanted_evaluators
from distdqn.environments.registry import inspect_environment
from distdqn.training.backend import LocalBackend
from distdqn.training.builders import role_parts
from distdqn.training.calls import Calls
from distdqn.training.resolve import resolve
from distdqn.training.team import Team
from distdqn.types import Evaluation, EvaluationRequest, RolloutRequest


class _IdleActor(FakeActor):
    """Waits 1.9 ms in each env step."""

    def rollout(self, order, weights=None):
        report, chunk = super().rollout(order, weights)
        return replace(report, idle_seconds=0.0019 * report.env_steps), chunk


def _parts(backend):
    """Number of an evaluation -> the episodes of each process that plays it."""
    parts = {}
    for record in backend.calls_of("evaluator", "evaluate"):
        parts.setdefault(record.arguments[2], []).append((record.handle.index, record.arguments[1]))
    return parts


def test_evaluators_share_the_episodes_as_evenly_as_possible():
    backend = FakeBackend()
    run = make_run(backend, evaluators=3, eval_period=100)
    assert run.supervisor.run() == "max_env_steps"
    parts = _parts(backend)
    assert run.counters.evaluations == len(parts) > 3
    assert all(sorted(each) == [(0, 2), (1, 2), (2, 1)] for each in parts.values())


@pytest.mark.parametrize(("actor", "evaluators"), [(_IdleActor, 4), (FakeActor, 1)])
def test_evaluators_become_more_only_where_environments_wait(actor, evaluators):
    backend = FakeBackend(make_role={"actor": actor})
    run = make_run(backend, evaluators="auto", eval_period=100)
    assert run.supervisor.run() == "max_env_steps"
    assert all(len(each) == evaluators for each in _parts(backend).values())
    assert [starts(backend, "evaluator", index) for index in range(5)].count([0]) == evaluators


@pytest.mark.parametrize(("milliseconds", "expected"), [(0.0, 1), (0.4, 1), (0.6, 2), (2.0, 4), (99.0, 8)])
def test_number_of_evaluators_follows_the_waiting(milliseconds, expected):
    assert wanted_evaluators(milliseconds / 1_000.0) == expected


def test_only_the_part_of_a_dead_evaluator_is_played_again():
    backend = FakeBackend(seconds={"evaluate": 5.0})
    backend.at(20.0, lambda: backend.kill("evaluator", 1))
    run = make_run(backend, evaluators=2, eval_episodes=5, eval_period=100, max_env_steps=20_000)
    assert run.supervisor.run() == "max_env_steps"
    assert [starts(backend, "evaluator", index) for index in range(2)] == [[0], [0, 1]]
    (again,) = [sorted(each) for each in _parts(backend).values() if len(each) != 2]
    assert again == [(0, 3), (1, 2), (1, 2)]
    assert run.counters.evaluations == len(_parts(backend))


def test_evaluation_is_skipped_once_where_all_its_parts_lack_weights():
    backend = FakeBackend(faults=fault("evaluator", "evaluate", 2, words="what it needs failed: gone"))
    run = make_run(backend, evaluators=3, eval_period=40, max_failures=2)
    assert run.supervisor.run() == "max_env_steps"
    (note,) = run.console.notes
    assert note.startswith("An evaluation is skipped because its weights are lost: ")
    assert run.counters.evaluations == len(_parts(backend)) - 1


def test_joined_evaluation_holds_the_episodes_of_all_parts():
    first = Evaluation([1.0, 2.0], (0, 3), 30, seconds=5.0, env_faults=1, env_tracebacks=["one"])
    second = Evaluation([3.0], (0, 3), 30, seconds=7.0, env_faults=2, is_cut=True)
    joined = Evaluation.joined([first, second])
    assert joined == Evaluation([1.0, 2.0, 3.0], (0, 3), 30, 7.0, 3, ["one"], is_cut=True)
    assert Evaluation.joined([first]) == first


def test_evaluators_of_one_run_play_different_episodes():
    given = Config(mode="serial", evaluators=3, actors=1, hidden_sizes=(4,), batch_size=8)
    spec = inspect_environment(given.env)
    config = resolve(given, spec)
    backend = LocalBackend(lambda *role: role_parts(config, spec, *role))
    team = Team(Calls(backend, config), config, actors=1)
    request = EvaluationRequest(team.publish(), episodes=7, number=1, confirms=False)
    played = team.evaluate(request)
    assert len(played.returns) == 7
    assert played.returns == team.evaluate(request).returns
    (single,) = (each.handle.evaluate(request.weights, 3, 1).returns for each in team.evaluators[:1])
    assert played.returns[:3] == single
    assert played.returns[3:] != [*single, *single][:4]


@pytest.mark.skipif("sys.platform != 'linux'")
def test_actor_reports_the_seconds_that_its_environments_wait():
    request = RolloutRequest(env_steps=0, limit=10)
    report, _ = make_actor(SlowCartPole, envs_per_actor=1).rollout(request)
    assert report.env_steps * STEP_SECONDS * 0.9 < report.idle_seconds <= report.total_seconds
