"""Checkpoints of an `async` run whose folder cannot be written to for a while, or is deleted."""

import shutil

import pytest
from distributed.fakes import FakeBackend, block_blobs, loaded, make_checkpoints, make_run, unblock_blobs

from distdqn.checkpoints.store import Store
from distdqn.errors import CheckpointError

_LOOK = 0.2  # the supervisor looks at signals and deadlines this often


def test_fault_18_training_goes_on_when_the_folder_cannot_be_written_to_for_a_while(tmp_path):
    backend, notes, learner_steps = FakeBackend(), [], []
    saving = {"checkpoints": make_checkpoints(tmp_path, note=notes.append), "seconds": 5.0}
    run = make_run(backend, max_seconds=60.0, max_env_steps=10**6, saving=saving)

    def change(how):
        how(tmp_path)
        learner_steps.append(run.counters.learner_steps)

    backend.at(12.0, lambda: change(block_blobs))
    backend.at(28.0, lambda: change(unblock_blobs))
    assert run.supervisor.run() == "max_seconds"
    assert len(notes) == 3  # of about 15, 20 and 25 s
    assert all("could not be written (NotADirectoryError" in note for note in notes)
    assert learner_steps[1] - learner_steps[0] > 0.9 * 16 / 0.1 * 4
    numbers = Store(str(tmp_path)).numbers()
    assert numbers[-1] > learner_steps[1]
    for number in numbers:
        loaded(tmp_path, number)


@pytest.mark.parametrize("with_replay", [True, False])
def test_fault_18_five_failures_running_end_the_run_and_leave_what_was_whole(tmp_path, with_replay):
    backend, notes = FakeBackend(), []
    saving = {"checkpoints": make_checkpoints(tmp_path, note=notes.append), "seconds": 5.0}
    run = make_run(
        backend, max_env_steps=10**6, max_seconds=100.0, saving={**saving, "with_replay": with_replay}
    )
    backend.at(7.0, lambda: block_blobs(tmp_path))
    with pytest.raises(CheckpointError, match="5 consecutive times"):
        run.supervisor.run()
    assert len(notes) == 4
    assert 5.0 + 5 * 5.0 <= backend.now <= 5.0 + 5 * (5.0 + 5 * _LOOK)
    unblock_blobs(tmp_path)
    assert Store(str(tmp_path)).newest_whole()[1] == []


def test_fault_39_checkpoint_after_the_folder_was_deleted_is_whole(tmp_path):
    backend, notes = FakeBackend(), []
    saving = {"checkpoints": make_checkpoints(tmp_path / "run", note=notes.append), "seconds": 5.0}
    run = make_run(backend, max_env_steps=10**6, max_seconds=24.0, saving=saving)
    backend.at(12.0, lambda: shutil.rmtree(tmp_path / "run"))
    assert run.supervisor.run() == "max_seconds"
    (note,) = notes  # of about 15 s, which relied on files of earlier ones
    assert "File of a checkpoint is gone" in note
    ref, passed_over = Store(str(tmp_path / "run")).newest_whole()
    assert passed_over == []
    loaded(tmp_path / "run", ref.number)


def test_failures_with_a_checkpoint_between_do_not_add_up(tmp_path):
    backend, notes = FakeBackend(), []
    saving = {"checkpoints": make_checkpoints(tmp_path, note=notes.append), "seconds": 5.0}
    for begin in (7.0, 37.0):  # 3 or 4 failures each time
        backend.at(begin, lambda: block_blobs(tmp_path))
        backend.at(begin + 20.0, lambda: unblock_blobs(tmp_path))
    run = make_run(backend, max_env_steps=10**6, max_seconds=70.0, saving=saving)
    assert run.supervisor.run() == "max_seconds"
    assert len(notes) >= 6
