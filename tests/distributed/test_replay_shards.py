"""Replay that is put back part by part, while everything else goes on."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from distributed.fakes import FakeBackend, FakeExecutor, make_checkpoints, make_run, newest_start, starts

from distdqn.checkpoints.checkpointer import Checkpointer
from distdqn.checkpoints.store import Store
from distdqn.errors import CheckpointError


def _saving(folder, **options):
    return {"checkpoints": make_checkpoints(folder, options.pop("keep", 3)), "seconds": 5.0, **options}


def test_replay_is_put_back_a_few_parts_at_a_time_and_before_all_else(tmp_path):
    backend = FakeBackend(seconds={"set_rows": 0.5})
    backend.at(14.0, lambda: backend.kill("replay"))
    run = make_run(backend, saving=_saving(tmp_path, keep=1), max_env_steps=10_000)
    assert run.supervisor.run() == "max_env_steps"
    calls = [record for record in backend.calls_of("replay") if record.handle.restarts == 1]
    kinds = [record.method for record in calls]
    last = kinds.index("set_index")
    assert set(kinds[:last]) == {"set_rows"}
    assert last > 5
    assert max(record.in_flight for record in calls[:last]) == 2
    assert "insert" in kinds[last:]
    assert run.counters.inserted == run.replay.inserted == 10_000 - run.counters.lost_transitions


def test_run_goes_on_while_a_slow_disk_is_read(tmp_path):
    backend = FakeBackend(seconds={"rollout": 0.4})
    backend.at(14.0, lambda: backend.kill("replay"))
    saving = _saving(tmp_path, executor=FakeExecutor(backend, 1.0))
    run = make_run(backend, actors=4, saving=saving, max_env_steps=20_000)
    assert run.supervisor.run() == "max_env_steps"
    index = next(r for r in backend.calls_of("replay", "set_index") if r.handle.restarts == 1)
    assert index.at > 14.0 + 5 * 1.0
    rollouts = [r for r in backend.calls_of("actor", "rollout") if 14.0 < r.at < index.at]
    assert len(rollouts) >= 4  # until they are as far ahead as pacing lets them be
    times = [line["wall_seconds"] for line in run.console.lines]
    assert max(after - before for before, after in itertools.pairwise(times)) < 1.5  # nobody waits
    assert run.replay.inserted == 20_000 - run.counters.lost_transitions


@pytest.mark.parametrize("end", [14.5, 17.0])
def test_last_checkpoint_of_a_run_that_ends_meanwhile_holds_all_that_is_being_put_back(tmp_path, end):
    backend = FakeBackend(seconds={"set_rows": 5.0})
    backend.at(14.0, lambda: backend.kill("replay"))
    saving = _saving(tmp_path, executor=FakeExecutor(backend, 1.0), keep=1)
    run = make_run(backend, saving=saving, max_seconds=end)
    assert run.supervisor.run() == "max_seconds"
    assert run.supervisor.shards.is_restoring
    began = backend.now
    run.finish()
    assert backend.now - began < 1.0  # it neither waits until all is back nor saves it again
    again = make_run(max_env_steps=1, start=newest_start(tmp_path))
    again.supervisor.run()
    dead = next(handle.object for handle in backend.started if handle.role == "replay")
    assert again.replay.rows == dead.rows[: run.counters.inserted]
    assert run.counters.inserted > 300
    assert again.learner.restored == [run.learner.steps]


def _interrupted(folder, shards=1):
    """A run that ended with a checkpoint in `folder`."""
    run = make_run(max_env_steps=2_000, replay_shards=shards, saving=_saving(folder))
    run.supervisor.run()
    run.finish()
    return run


def _goes_on(folder, backend, **options):
    """A run that goes on from the newest checkpoint in `folder`, and saves there."""
    store = Store(str(folder))
    start, _ = store.newest_whole()
    saving = {"checkpoints": Checkpointer(store, 3, lambda _text: None), "seconds": 1_000.0}
    return make_run(backend, start=start, saving=saving, max_env_steps=10**6, **options)


def _stop_at(backend, run, seconds, reason="interrupted"):
    backend.at(seconds, lambda: setattr(run.stop, "reason", reason))
    assert run.supervisor.run() == reason


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_fault_10_run_that_is_interrupted_as_it_is_put_back_ends_at_once_and_needs_no_checkpoint(
    tmp_path, is_elsewhere
):
    _interrupted(tmp_path / "old")
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.json"))
    backend = FakeBackend(seconds={"set_rows": 5.0})
    if is_elsewhere:
        options = {"start": newest_start(tmp_path / "old"), "saving": _saving(tmp_path / "new")}
        run = make_run(backend, max_env_steps=10**6, **options)
    else:
        run = _goes_on(tmp_path / "old", backend)
    _stop_at(backend, run, 8.0)
    assert run.supervisor.team.newest is not None
    assert run.supervisor.shards.is_restoring
    began = backend.now
    run.finish()
    assert backend.now == began
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.json")) == before
    assert [note for note in run.console.notes if note.startswith("No progress since the checkpoint")]


def test_fault_10_run_that_is_interrupted_soon_after_it_was_put_back_saves_only_what_is_new(tmp_path):
    before = _interrupted(tmp_path)
    backend = FakeBackend(seconds={"get_rows": 5.0})
    run = _goes_on(tmp_path, backend)
    _stop_at(backend, run, 7.0)
    run.finish()
    begin = before.replay.inserted  # a multiple of the length of a segment
    asked = [record.arguments for record in backend.calls_of("replay", "get_rows")]
    assert [first for first, _ in asked] == list(range(begin, run.replay.inserted, 100))
    again = make_run(max_env_steps=1, start=newest_start(tmp_path))
    again.supervisor.run()
    assert again.replay.rows == run.replay.rows
    assert again.replay.rows[:begin] == before.replay.rows
    assert again.learner.restored == [run.learner.steps]
    assert run.learner.steps > before.learner.steps


def test_fault_10_run_interrupted_as_one_of_its_shards_is_put_back_keeps_what_others_have(
    tmp_path,
):
    _interrupted(tmp_path, shards=2)
    slow = {"set_rows": lambda handle: 100.0 if handle.index == 1 else 0.01}
    backend = FakeBackend(seconds=slow)
    run = _goes_on(tmp_path, backend, replay_shards=2)
    _stop_at(backend, run, 9.0)
    began = backend.now
    run.finish()
    assert backend.now - began < 1.0
    again = make_run(max_env_steps=1, replay_shards=2, start=newest_start(tmp_path))
    again.supervisor.run()
    first, second = (again.backend.newest("replay", index).object for index in (0, 1))
    assert first.rows == backend.newest("replay", 0).object.rows
    assert len(first.rows) > 1_000 == len(second.rows)


def _change(folder, ref):
    path = folder / "blobs" / f"{ref['blob']}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("is_only_the_newest", [True, False])
def test_fault_13_replay_whose_checkpoint_was_changed_meanwhile_is_filled_from_the_one_before(
    tmp_path, is_only_the_newest
):
    backend = FakeBackend()
    run = make_run(backend, saving=_saving(tmp_path), max_env_steps=10_000)
    inserted = []

    def change_and_kill():
        store = Store(str(tmp_path))
        documents = [store.read_manifest(number) for number in store.numbers()]
        inserted[:] = [document["replay"][0]["index"]["inserted"] for document in documents]
        parts = documents[-1]["replay"][0]["parts"]
        _change(tmp_path, parts[-1 if is_only_the_newest else 0]["state"]["columns"]["value"])
        backend.kill("replay")

    backend.at(12.0, change_and_kill)
    assert run.supervisor.run() == "max_env_steps"
    assert len(inserted) == 2
    assert starts(backend, "replay") == [0, 1, 2]
    indexes = [record.arguments[0]["inserted"] for record in backend.calls_of("replay", "set_index")]
    assert indexes == ([inserted[0]] if is_only_the_newest else [])
    assert run.counters.inserted + run.counters.lost_transitions == 10_000 == run.counters.env_steps
    assert [note for note in run.console.notes if "cannot be restored and is replaced" in note]
    run.finish()
    again = make_run(max_env_steps=1, start=newest_start(tmp_path))
    again.supervisor.run()
    assert again.replay.rows == run.replay.rows


def test_fault_13_run_whose_own_checkpoint_is_changed_as_it_is_put_back_ends(tmp_path):
    _interrupted(tmp_path)
    run = _goes_on(tmp_path, FakeBackend())
    document = Store(str(tmp_path)).newest_whole()[0].document
    _change(tmp_path, document["replay"][0]["parts"][-1]["state"]["columns"]["value"])
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        run.supervisor.run()


def test_replay_that_dies_while_it_is_put_back_is_put_back_again(tmp_path):
    backend = FakeBackend(seconds={"set_rows": 0.5})
    for at in (14.0, 17.0):
        backend.at(at, lambda: backend.kill("replay"))
    run = make_run(backend, saving=_saving(tmp_path), max_env_steps=10_000)
    assert run.supervisor.run() == "max_env_steps"
    assert starts(backend, "replay") == [0, 1, 2]
    first, second = ([h.object for h in backend.started if h.role == "replay"])[1:]
    assert "set_index" not in first.restored
    assert second.restored[-1] == "set_index"
    assert run.counters.inserted == run.replay.inserted == 10_000 - run.counters.lost_transitions


@pytest.mark.parametrize("seconds", [0.5, 2.0])  # for each part; an actor has 10 s to leave
def test_actor_that_leaves_meanwhile_hands_over_what_is_open_afterwards(tmp_path, seconds):
    backend = FakeBackend(seconds={"set_rows": seconds})
    backend.at(24.0, lambda: backend.kill("replay"))
    backend.at(24.5, lambda: backend.command(1))
    run = make_run(backend, actors=3, saving=_saving(tmp_path), max_env_steps=20_000)
    assert run.supervisor.run() == "max_env_steps"
    (cut, _) = backend.calls_of("actor", "flush")
    calls = [record for record in backend.calls_of("replay") if record.handle.restarts == 1]
    kinds = [record.method for record in calls]
    last = kinds.index("set_index")
    assert 24.0 < cut.at < calls[last].at
    assert set(kinds[:last]) == {"set_rows"}
    assert [note for note in run.console.notes if "in time" in note] == []
    assert len(run.supervisor.team.actors) == 1


def test_replay_is_put_back_by_a_real_thread(tmp_path):
    before = make_run(max_env_steps=2_000, saving=_saving(tmp_path))
    before.supervisor.run()
    before.finish()
    with ThreadPoolExecutor(1) as executor:
        run = make_run(start=newest_start(tmp_path), saving={"executor": executor})
        assert run.supervisor.run() == "max_env_steps"
    assert run.replay.restored[-1] == "set_index"
    assert run.replay.rows[:2_000] == before.replay.rows
    assert run.replay.inserted == run.counters.inserted == 5_000
