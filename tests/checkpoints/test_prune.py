"""Which checkpoints are kept, which is chosen, and which files go."""

import os
import time

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.numpy import load_file

from distdqn.checkpoints.files import LocalFiles
from distdqn.checkpoints.format import manifest_bytes
from distdqn.checkpoints.store import Store
from distdqn.errors import CheckpointDamaged, CheckpointTooNew, NoCheckpoint


@pytest.fixture
def folder(tmp_path):
    """A folder with an empty store in it."""
    Store(str(tmp_path)).check_writable()
    return tmp_path


@pytest.fixture
def store(folder):
    """The store in it."""
    return Store(str(folder))


def add(store, number, *values):
    """Checkpoint `number` of one array for each value."""
    store.write_manifest(number, {"arrays": [store.write_tree(np.array([value])) for value in values]})


def stored_values(folder):
    """The values of all arrays on disk, in whatever checkpoint or none."""
    return sorted(load_file(path)["array"].item() for path in (folder / "blobs").glob("*.safetensors"))


def path_of(folder, value):
    """The file of the array of one value."""
    paths = (folder / "blobs").glob("*.safetensors")
    return next(path for path in paths if load_file(path)["array"].tolist() == [value])


def manifest_path(folder, number):
    """The manifest's file."""
    return folder / f"checkpoint-{number:012d}.json"


def make_older(path, seconds):
    """Sets a file's time back."""
    then = time.time() - seconds
    os.utime(path, (then, then), follow_symlinks=False)


def listing(folder):
    """Every file with its content."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def settle():
    """Waits for one tick of the file system's clock, which is coarser than ours."""
    time.sleep(0.02)


def test_newest_and_chosen_checkpoints_are_kept_with_their_arrays_only(folder, store):
    for number in range(1, 7):
        add(store, number, number, 10 * number, 0)  # 0 is in all of them
        settle()

    store.prune(keep=2, also=[3, 99])

    assert store.numbers() == [3, 5, 6]
    assert stored_values(folder) == [0, 3, 5, 6, 30, 50, 60]
    assert [store.verify(number).document["arrays"][2] for number in (3, 5, 6)]


def test_keeping_more_than_there_are_deletes_nothing(folder, store):
    add(store, 1, 1)
    before = listing(folder)

    store.prune(keep=5)

    assert listing(folder) == before


def test_prune_of_an_empty_store_does_nothing(store):
    store.prune(keep=1)

    assert store.numbers() == []


def test_prune_works_the_same_in_an_object_store():
    store = Store("memory://prune/run")
    for number in range(1, 5):
        add(store, number, number, 0)
        settle()
    store.write_tree(np.array([77]))

    store.prune(keep=2)

    assert store.numbers() == [3, 4]
    assert [store.verify(n).read("arrays")[0].item() for n in (3, 4)] == [3, 4]
    assert len(Store("memory://prune/run")._files.sizes("blobs/")) == 4  # 3, 4, 0 and the young 77


def test_arrays_without_a_manifest_go_when_they_are_older_than_the_grace_period(folder):
    store = Store(str(folder), grace_seconds=100.0)
    add(store, 1, 1)
    for value, age in ((2, 90), (3, 110)):
        store.write_tree(np.array([value]))
        make_older(path_of(folder, value), age)
    make_older(path_of(folder, 1), 1000)

    store.prune(keep=1)

    assert stored_values(folder) == [1, 2]


def test_array_asked_for_again_survives_a_prune_until_its_manifest_is_there(folder):
    store = Store(str(folder), grace_seconds=100.0)
    add(store, 1, 1)
    add(store, 2, 2)
    store.write_tree(np.array([3]))
    for value in (1, 3):
        make_older(path_of(folder, value), 1000)
    settle()
    # Checkpoint 3 is being made of what a pruned one and an abandoned one had.
    refs = [Store(str(folder)).write_tree(np.array([value])) for value in (1, 3)]

    store.prune(keep=1)
    store.write_manifest(3, {"arrays": refs})

    assert store.newest_whole()[0].number == 3


def test_half_written_files_go_when_they_are_old_and_stay_while_young(folder):
    store = Store(str(folder), grace_seconds=100.0)
    for place in (folder, folder / "blobs"):
        for name, age in ((".00112233445566aa.part", 110), (".00112233445566bb.part", 90)):
            (place / name).write_bytes(b"half")
            make_older(place / name, age)

    store.prune(keep=1)

    assert [path.name for path in folder.rglob("*.part")] == [".00112233445566bb.part"] * 2


def test_file_that_is_renamed_while_pruning_looks_at_it_is_no_fault(folder, monkeypatch):
    sizes = LocalFiles.sizes
    ghost = {".00112233445566aa.part": 4}
    monkeypatch.setattr(LocalFiles, "sizes", lambda self, place: {**sizes(self, place), **ghost})

    Store(str(folder), grace_seconds=0.0).prune(keep=1)

    assert listing(folder) == {}


def test_objects_without_a_time_are_never_old_enough_to_go(monkeypatch):
    def modified(self, path):
        raise NotImplementedError

    monkeypatch.setattr(MemoryFileSystem, "modified", modified)
    store = Store("memory://timeless/run", grace_seconds=60.0)
    for number in (1, 2):
        add(store, number, number)
    store.write_tree(np.array([3]))

    store.prune(keep=1)

    assert store.numbers() == [2]
    assert len(store._files.sizes("blobs/")) == 3


def test_files_of_others_are_left_alone(folder):
    names = [
        "notes.txt",
        "blobs/notes.safetensors",
        "blobs/.hidden",
        ".part",
        f"blobs/{'a' * 64}.safetensors.bak",
    ]
    for name in names:
        (folder / name).write_bytes(b"mine")
        make_older(folder / name, 10**6)

    Store(str(folder), grace_seconds=0.0).prune(keep=1)

    assert sorted(path.relative_to(folder).as_posix() for path in listing(folder)) == sorted(names)


def test_damaged_manifest_does_not_count_as_kept_and_keeps_every_array(folder, store):
    for number in range(1, 5):
        add(store, number, number)
    manifest_path(folder, 4).write_bytes(b"{}")
    settle()

    store.prune(keep=1)

    assert store.numbers() == [3, 4]
    assert stored_values(folder) == [1, 2, 3, 4]


def test_damaged_manifest_goes_when_it_is_older_than_those_kept(folder):
    store = Store(str(folder), grace_seconds=100.0)
    for number in (1, 2, 3):
        add(store, number, number)
    manifest_path(folder, 1).write_bytes(b"{}")
    settle()

    store.prune(keep=2)

    assert store.numbers() == [2, 3]
    assert stored_values(folder) == [1, 2, 3]  # whose 1 is, nobody can tell any more
    make_older(path_of(folder, 1), 110)
    store.prune(keep=2)
    assert stored_values(folder) == [2, 3]


def test_damaged_manifest_of_a_chosen_checkpoint_keeps_every_array(folder, store):
    for number in (1, 2, 3):
        add(store, number, number)
    manifest_path(folder, 1).write_bytes(b"{}")

    store.prune(keep=1, also=[1])

    assert store.numbers() == [1, 3]
    assert stored_values(folder) == [1, 2, 3]


def test_newest_whole_checkpoint_is_found_behind_damaged_ones(folder, store):
    for number in (1, 2, 3, 4):
        add(store, number, number)
    path_of(folder, 3).unlink()
    manifest_path(folder, 4).write_bytes(manifest_path(folder, 4).read_bytes()[:-20])
    before = listing(folder)

    ref, passed_over = store.newest_whole()

    assert ref.number == 2
    assert store.read_tree(ref.document)["arrays"][0].tolist() == [2]
    assert [n for n, _ in passed_over] == [4, 3]
    assert manifest_path(folder, 4).name in passed_over[0][1]
    assert "is missing" in passed_over[1][1]
    assert all("\n" not in reason for _, reason in passed_over)
    assert listing(folder) == before


def test_newest_whole_checkpoint_is_chosen_among_those_named(store):
    for number in (1, 2, 3, 4):
        add(store, number, number)

    assert store.newest_whole(1, 3, 2)[0].number == 3


@pytest.mark.parametrize("name", ["", "missing"])
def test_search_without_any_checkpoint_says_so(folder, name):
    with pytest.raises(NoCheckpoint, match="holds no checkpoint") as caught:
        Store(str(folder / name)).newest_whole()

    assert caught.value.exit_code == 4


def test_search_among_damaged_ones_names_each_and_deletes_nothing(folder, store):
    add(store, 1, 1)
    add(store, 2, 2)
    for path in (folder / "blobs").iterdir():
        path.write_bytes(b"")
    before = listing(folder)

    with pytest.raises(CheckpointDamaged) as caught:
        store.newest_whole()

    assert caught.value.exit_code == 4
    assert len(caught.value.mistakes) == 3
    assert "no checkpoint is whole; nothing was deleted" in caught.value.mistakes[0]
    assert listing(folder) == before


def test_checkpoint_of_a_later_release_is_named_with_both_formats(folder, store):
    add(store, 1, 1)
    manifest_path(folder, 2).write_bytes(manifest_bytes(2, {"new": True}, version=7))

    for read in (store.newest_whole, lambda: store.read_manifest(2), lambda: store.verify(2)):
        with pytest.raises(CheckpointTooNew, match="format 7, this release reads 4") as caught:
            read()

    assert caught.value.exit_code == 4
    store.prune(keep=1)
    assert store.numbers() == [1, 2]  # it is neither counted nor deleted
