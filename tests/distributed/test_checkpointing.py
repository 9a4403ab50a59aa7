"""Checkpointer of an `async` run with a fake fleet and a real store."""

import dataclasses
import itertools
from collections import Counter

import pytest
from distributed.fakes import (
    ROWS_PER_SEGMENT,
    FakeBackend,
    FakeEvaluator,
    FakeExecutor,
    FakeReplay,
    block_blobs,
    fault,
    loaded,
    make_checkpoints,
    make_run,
    newest_start,
    starts,
    unblock_blobs,
)
from toy_replay_state import make_replay, make_vectors, plain

from distdqn.checkpoints.reshard import RestorePlan
from distdqn.checkpoints.store import Store
from distdqn.errors import RoleFailure

_LOOK = 0.2  # the supervisor looks at signals and deadlines this often


def _saving(folder, seconds=5.0, keep=100, **options):
    return {"checkpoints": make_checkpoints(folder, keep), "seconds": seconds, **options}


# When.


@pytest.mark.parametrize("write", [0.0, 3.0])
def test_checkpoint_is_begun_when_its_seconds_since_the_last_are_over(tmp_path, write):
    backend = FakeBackend()
    saving = _saving(tmp_path, seconds=5.0, executor=FakeExecutor(backend, write))
    run = make_run(backend, max_seconds=60.0, max_env_steps=10**6, saving={**saving, "with_replay": False})
    run.supervisor.run()
    times = [record.at for record in backend.calls_of("learner", "get_state")]
    assert 5.0 <= times[0] <= 5.0 + _LOOK
    assert len(times) >= 10
    # The learner answers after two calls of 0.1 s; its answer is written at the next look.
    for earlier, later in itertools.pairwise(times):
        assert earlier + 5.0 <= later <= earlier + 5.0 + 2 * 0.1 + 3 * _LOOK


def test_no_checkpoint_is_begun_before_the_learner_is_up(tmp_path):
    backend = FakeBackend(seconds={"start": 20.0})
    make_run(backend, max_seconds=30.0, saving=_saving(tmp_path, seconds=2.0)).supervisor.run()
    assert 20.0 <= backend.calls_of("learner", "get_state")[0].at <= 20.0 + _LOOK


def test_run_without_checkpoints_is_never_asked_for_its_state():
    run = make_run()
    run.supervisor.run()
    run.finish()
    assert {r.method for r in run.backend.records} & {"get_state", "get_index", "get_rows"} == set()


# In small steps.


@pytest.mark.parametrize("write", [0.0, 2.0])
def test_one_segment_is_asked_for_at_a_time_and_only_once_the_last_is_written(tmp_path, write):
    backend = FakeBackend(seconds={"get_rows": 0.5})
    saving = _saving(tmp_path, executor=FakeExecutor(backend, write))
    make_run(backend, max_seconds=60.0, max_env_steps=10**6, saving=saving).supervisor.run()
    rows = backend.calls_of("replay", "get_rows")
    assert len(rows) > 15
    assert {record.in_flight for record in rows} == {1}
    times = [record.at for record in rows]
    assert all(later - earlier >= 0.5 + write for earlier, later in itertools.pairwise(times))


def test_acting_and_learning_go_on_between_the_calls_of_a_checkpoint(tmp_path):
    backend = FakeBackend(seconds={"get_rows": 0.05})
    run = make_run(backend, max_env_steps=10_000, saving=_saving(tmp_path, seconds=10.0))
    run.supervisor.run()
    first, *_, last = [r.at for r in backend.calls_of("replay", "get_rows") if r.at < 20.0]
    during = Counter(record.method for record in backend.records if first <= record.at <= last)
    # A learner call takes 0.1 s and pays for one of the rollouts, of 50 transitions, in two.
    assert during["get_rows"] >= 8
    assert during["learn"] >= 0.8 * (last - first) / 0.1 - 1
    assert during["insert"] >= 0.5 * during["learn"] - 2


def test_segments_that_were_complete_are_not_asked_for_again(tmp_path):
    run = make_run(saving=_saving(tmp_path))
    run.supervisor.run()
    begun = [record.at for record in run.backend.calls_of("replay", "get_index")]
    asked = [(record.at, *record.arguments) for record in run.backend.calls_of("replay", "get_rows")]
    complete = Counter((begin, end) for _, begin, end in asked if end - begin == ROWS_PER_SEGMENT)
    assert set(complete.values()) == {1}
    assert len(begun) >= 3
    before = 0
    for at, until, index in zip(begun, [*begun[1:], run.backend.now], run.replay.indexes, strict=True):
        # From the segment that was incomplete the last time, if one was, to the newest.
        begins = [begin for when, begin, _ in asked if at <= when < until]
        assert begins == list(range(before // 100 * 100, index["inserted"], 100))
        before = index["inserted"]


# What is in it.


def test_checkpoint_holds_what_the_roles_had_at_one_time(tmp_path):
    backend = FakeBackend(seconds={"get_rows": 0.05})
    run = make_run(backend, eval_period=40, saving=_saving(tmp_path))
    run.supervisor.run()
    numbers = Store(str(tmp_path)).numbers()
    assert len(numbers) >= 3
    for number in numbers:
        learner, replay, document = loaded(tmp_path, number)
        counters = document["metrics"]["counters"]
        assert number == learner.steps == counters["learner_steps"] > 0
        assert replay.rows == run.replay.rows[: replay.inserted]
        assert abs(counters["inserted"] - replay.inserted) <= 2 * 2 * 50  # what two actors bring meanwhile
        assert document["about"]["config"]["envs_per_actor"] == 16
    best, evaluated = document["goal"]["best"], run.goal.get_state()["best"]
    assert best["returns"] == evaluated["returns"]


def test_run_that_goes_on_ends_as_one_that_was_never_interrupted(tmp_path):
    def make(**options):
        backend = FakeBackend(make_role={"evaluator": lambda: FakeEvaluator(lambda steps: float(steps))})
        return make_run(backend, eval_period=100, saving=_saving(tmp_path), **options)

    run = make(max_env_steps=3_000)
    run.supervisor.run()
    run.finish()
    again = make(max_env_steps=5_000, start=newest_start(tmp_path))
    assert again.counters == dataclasses.replace(run.counters, episodes_lost=2 * 16)
    assert again.goal.best == run.goal.best
    assert again.goal.best_weights.arrays[0].tolist() == [run.goal.best.learner_steps] * 2
    assert again.metrics.recent_returns == run.metrics.recent_returns
    assert again.supervisor.run() == "max_env_steps"
    # 4 * (5000 - 100) samples, 25 for each step, in 2,000 env steps more.
    assert again.counters.sampled == 4 * 4900
    assert again.counters.learner_steps == again.learner.steps == 784
    assert again.counters.env_steps == again.counters.inserted == again.replay.inserted == 5_000
    assert again.replay.rows[:3_000] == run.replay.rows
    assert again.learner.restored == [run.learner.steps]
    numbers = [[r.arguments[2] for r in each.backend.calls_of("evaluator")] for each in (run, again)]
    assert numbers[0] + numbers[1] == list(range(1, len(numbers[0] + numbers[1]) + 1))
    assert {r.arguments for r in again.backend.calls_of("actor", "flush")} == {(run.learner.steps,)}


def test_checkpoint_whose_learner_answers_late_says_of_replay_what_is_saved_of_it(tmp_path):
    # Replay answers at 2 s, when little is in, and the learner only when it has compiled.
    backend = FakeBackend(seconds={"rollout": 2.0, "compile": 20.0})
    make_run(backend, max_seconds=22.0, saving=_saving(tmp_path, seconds=2.0)).supervisor.run()
    assert loaded(tmp_path)[1].inserted < 100  # `min_replay_size`
    again = make_run(FakeBackend(seconds={"rollout": 5.0, "compile": 0.0}), start=newest_start(tmp_path))
    again.supervisor.run()
    assert starts(again.backend, "replay") == [0]
    assert all(record.inserted >= 100 for record in again.backend.calls_of("replay", "sample"))


def test_checkpoint_without_replay_has_it_filled_again_before_learning(tmp_path):
    run = make_run(max_env_steps=3_000, saving=_saving(tmp_path, with_replay=False))
    run.supervisor.run()
    run.finish()
    assert not [r for r in run.backend.records if r.method in ("get_index", "get_rows")]
    again = make_run(max_env_steps=5_000, start=newest_start(tmp_path))
    again.supervisor.run()
    assert again.replay.inserted_when_first_sampled >= 100 + 25
    # 4 * (2000 - 100) samples more, 25 for each step.
    assert again.counters.learner_steps == run.counters.learner_steps + 7_600 // 25
    assert (again.counters.env_steps, again.counters.inserted) == (5_000, 2_000)


class _RealReplay(FakeReplay):
    """A real replay of 300 vectors, which gives the numbers of its chunks' rows away as chunks."""

    def __init__(self):
        super().__init__()
        self.real = make_replay(300)
        self.get_index, self.get_rows = self.real.get_index, self.real.get_rows

    def insert(self, chunk):
        info = self.real.insert(make_vectors(self.inserted, int(chunk.split()[-1])))
        self.inserted = info.inserted
        return info


def test_real_replay_that_overwrites_rows_meanwhile_is_saved_but_for_those(tmp_path, monkeypatch):
    # Of 20 bytes: observation, action, reward, discount, next observation, 4 each.
    monkeypatch.setattr("distdqn.replay.ring_buffer._SEGMENT_BYTES", 20 * 100)
    backend = FakeBackend(make_role={"replay": _RealReplay}, seconds={"get_rows": 0.2})
    make_run(backend, max_seconds=60.0, max_env_steps=10**6, saving=_saving(tmp_path)).supervisor.run()
    store = Store(str(tmp_path))
    missing = []
    for number in store.numbers():
        ref = store.verify(number)
        index, replay, whole = ref.document["replay"][0]["index"], make_replay(300), make_replay(300)
        for method, state in RestorePlan(ref, 1).calls(0):
            getattr(replay, method)(state)
        whole.insert(make_vectors(0, index["inserted"]))
        first = index["inserted"] - replay.size
        missing.append(first - index["first"])
        rows = [each.get_rows(first, index["inserted"])["columns"] for each in (replay, whole)]
        assert plain(rows[0]) == plain(rows[1])
    assert len(missing) >= 3
    assert 0 < max(missing) < 300


def test_replay_of_which_nothing_is_left_when_its_turn_comes_is_not_in_the_checkpoint(tmp_path):
    # Replay keeps two rollouts; many more come in while the learner has not answered yet.
    backend = FakeBackend(
        make_role={"replay": lambda: FakeReplay(100)}, seconds={"get_state": 5.0, "rollout": 0.1}
    )
    saving = _saving(tmp_path, seconds=5.0)
    options = {"min_replay_size": 50, "max_env_steps": 10**6, "samples_per_insert": 0.1}
    make_run(backend, max_seconds=20.0, saving=saving, **options).supervisor.run()
    document = Store(str(tmp_path)).newest_whole()[0].document
    assert document["metrics"]["counters"]["inserted"] > 1_000
    assert document["replay"] == []
    again = make_run(FakeBackend(), max_seconds=40.0, start=newest_start(tmp_path), **options)
    again.supervisor.run()
    assert starts(again.backend, "replay") == [0]  # it was never asked for what it does not have
    assert again.counters.learner_steps > document["learner"]["learner_steps"]


# Faults.


@pytest.mark.parametrize("role", ["learner", "replay"])
@pytest.mark.parametrize("at", [24.4, 26.7])  # the state is asked for, and some rows are
def test_checkpoint_is_given_up_when_a_role_dies_in_the_middle_and_the_next_is_made(tmp_path, role, at):
    backend = FakeBackend(seconds={"get_state": 0.5, "get_rows": 0.5})
    executor = FakeExecutor(backend)
    backend.at(at, lambda: backend.kill(role))
    saving = _saving(tmp_path, seconds=8.0, executor=executor)
    run = make_run(backend, max_seconds=90.0, max_env_steps=10**6, saving=saving)
    run.supervisor.run()
    assert starts(backend, role) == [0, 1]
    asked = [record.at for record in backend.records if record.method.startswith("get_")]
    assert any(at - 0.5 < when < at for when in asked)
    assert not any(at + _LOOK < when < at + 8.0 for when in asked + executor.tasks)
    assert any(at + 8.0 < when for when in executor.tasks)
    _, replay, document = loaded(tmp_path)
    assert replay.rows == run.replay.rows[: replay.inserted]
    assert document["metrics"]["counters"][f"{role}_restarts"] == 1


def test_segment_still_being_written_when_replay_dies_is_no_part_of_the_next_checkpoint(tmp_path):
    backend = FakeBackend()
    executor = FakeExecutor(backend, 1.0)
    run = make_run(backend, saving=_saving(tmp_path, executor=executor))
    backend.at(7.5, lambda: backend.kill("replay"))
    run.supervisor.run()
    run.finish()
    assert any(7.5 - 1.0 < at < 7.5 for at in executor.tasks)
    _, replay, _ = loaded(tmp_path)
    assert replay.rows == run.replay.rows


def test_answer_for_a_checkpoint_that_was_given_up_is_not_taken_for_the_next_ones(tmp_path):
    # The learner dies while replay is at a segment for 20 s; the next checkpoint begins meanwhile.
    backend = FakeBackend(
        seconds={"get_rows": lambda handle: 20.0 if handle.calls_of["get_rows"] == 3 else 0.1}
    )
    backend.at(15.0, lambda: backend.kill("learner"))
    run = make_run(backend, max_env_steps=10**6, max_seconds=60.0, saving=_saving(tmp_path, seconds=2.0))
    run.supervisor.run()
    run.finish()
    _, replay, _ = loaded(tmp_path)
    assert replay.rows == run.replay.rows
    for number in Store(str(tmp_path)).numbers():
        _, replay, _ = loaded(tmp_path, number)
        assert replay.rows == run.replay.rows[: replay.inserted]


@pytest.mark.parametrize(("role", "index"), [("actor", 0), ("evaluator", 0)])
def test_death_of_any_other_role_disturbs_no_checkpoint(tmp_path, role, index):
    backend = FakeBackend(seconds={"get_rows": 0.5})
    backend.at(9.0, lambda: backend.kill(role, index))
    saving = _saving(tmp_path, seconds=8.0)
    make_run(backend, max_seconds=23.0, eval_period=8, max_env_steps=10**6, saving=saving).supervisor.run()
    assert len(starts(backend, role)) == 2
    assert len(Store(str(tmp_path)).numbers()) == len(backend.calls_of("learner", "get_state")) == 1


# The end.


@pytest.mark.parametrize("write", [0.0, 50.0])
def test_last_checkpoint_is_made_at_the_end_whatever_is_under_way(tmp_path, write):
    backend = FakeBackend(seconds={"get_rows": 0.5})
    saving = _saving(tmp_path, executor=FakeExecutor(backend, write))
    run = make_run(backend, max_seconds=7.0, max_env_steps=10**6, saving=saving)
    run.supervisor.run()
    assert Store(str(tmp_path)).numbers() == []
    run.finish()
    learner, replay, document = loaded(tmp_path)
    assert learner.steps == run.learner.steps > 0
    assert replay.rows == run.replay.rows
    assert document["metrics"]["counters"]["learner_steps"] == run.counters.learner_steps


def test_last_checkpoint_that_cannot_be_written_is_told_and_ends_no_run(tmp_path):
    notes = []
    run = make_run(saving={"checkpoints": make_checkpoints(tmp_path, note=notes.append)})
    run.supervisor.run()
    block_blobs(tmp_path)
    run.finish()
    (note,) = notes
    assert "could not be written" in note


def test_checkpoint_that_fails_while_the_run_ends_is_told_and_the_last_one_is_made(tmp_path):
    backend = FakeBackend()
    run = make_run(
        backend,
        max_seconds=7.0,
        max_env_steps=10**6,
        saving=_saving(tmp_path, executor=FakeExecutor(backend, 50.0)),
    )
    run.supervisor.run()
    block_blobs(tmp_path)
    run.checkpoints._task.exception()  # the writer meets it before the folder is back
    unblock_blobs(tmp_path)
    run.finish()
    assert [note for note in run.console.notes if "could not be written (NotADirectoryError" in note]
    assert loaded(tmp_path)[0].steps == run.learner.steps


def test_run_that_ends_as_an_actor_keeps_failing_can_be_gone_on_with(tmp_path):
    backend = FakeBackend(faults=fault("actor", "rollout", words="Boom", restarts=[1, 2, 3]))
    backend.at(10.0, lambda: backend.kill("actor", 1))
    run = make_run(backend, max_failures=3, max_env_steps=10**6, saving=_saving(tmp_path, seconds=1_000.0))
    with pytest.raises(RoleFailure, match=r"actor-1 .*failed 3 consecutive times"):
        run.supervisor.run()
    run.finish()
    again = make_run(start=newest_start(tmp_path))
    assert again.supervisor.run() == "max_env_steps"
    assert again.learner.restored == [run.learner.steps]
    assert again.replay.rows[: run.replay.inserted] == run.replay.rows
