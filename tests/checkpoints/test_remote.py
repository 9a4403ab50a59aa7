"""Object stores: what their libraries raise, and that what other writers put is seen."""

import contextlib
import itertools
from types import SimpleNamespace
from unittest.mock import Mock

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from distdqn.checkpoints.checkpointer import Checkpointer
from distdqn.checkpoints.files import RemoteFiles
from distdqn.checkpoints.store import Store
from distdqn.inspect import main
from distdqn.training.checkpointing import save

_names = itertools.count()


class EndpointUnreachable(Exception):
    """As such libraries have it: no `OSError`."""


class CloudFileSystem(MemoryFileSystem):
    """An object store that can be cut off."""

    protocol = "cloud"
    store: dict[str, object] = {}  # noqa: RUF012 - as its parent has it
    pseudo_dirs = [""]  # noqa: RUF012
    is_cut_off = False

    def __getattribute__(self, name):
        if name in ("pipe_file", "info", "ls", "open", "rm_file", "modified") and CloudFileSystem.is_cut_off:
            raise EndpointUnreachable("could not connect to the endpoint")
        return super().__getattribute__(name)


@pytest.fixture
def root():
    """URL of an empty place in a store that can be reached, until it is cut off."""
    fsspec.register_implementation("cloud", CloudFileSystem, clobber=True)
    CloudFileSystem.is_cut_off = False
    yield f"cloud://bucket{next(_names)}/run"
    CloudFileSystem.is_cut_off = False


@contextlib.contextmanager
def cut_off():
    """Nothing can be reached meanwhile."""
    CloudFileSystem.is_cut_off = True
    try:
        yield
    finally:
        CloudFileSystem.is_cut_off = False


def tree_of(number):
    learner = {"learner_steps": number, "network": np.full(9, number)}
    return {"learner": learner, "goal": {"best": None}}


def test_fault_18_store_that_cannot_be_reached_is_a_failed_checkpoint_and_the_next_is_made(root):
    notes = []
    checkpointer = Checkpointer(Store(root), 3, notes.append)
    run = SimpleNamespace(checkpointer=checkpointer, metrics=Mock())
    save(run, tree_of(1), ask_shards=[])
    with cut_off():
        save(run, tree_of(2), ask_shards=[])
    save(run, tree_of(3), ask_shards=[])
    assert len(notes) == 1
    assert "EndpointUnreachable: could not connect" in notes[0]
    assert Store(root).numbers() == [1, 3]
    assert Store(root).newest_whole()[1] == []


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.check_writable(),
        lambda store: store.numbers(),
        lambda store: store.verify(1),
        lambda store: store.written_at(1),
        lambda store: store.prune(1),
    ],
    ids=["check_writable", "numbers", "verify", "written_at", "prune"],
)
def test_whatever_the_library_of_a_store_raises_is_a_fault_of_the_place(root, use):
    store = Store(root)
    Checkpointer(store, 3, print).write(1, tree_of(1), [])
    with cut_off(), pytest.raises(OSError, match="EndpointUnreachable: could not connect"):
        use(store)


def test_inspect_says_one_line_of_a_store_that_cannot_be_reached(root, capsys):
    with cut_off():
        assert main([root]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"distdqn: error: {root} cannot be read: EndpointUnreachable")


class CachingFileSystem(MemoryFileSystem):
    """Remembers listings until told not to, as those of real object stores do."""

    cachable = False
    protocol = "caching"

    def __init__(self):
        super().__init__()
        self.listings = {}

    def ls(self, path, detail=True, **options):  # noqa: ARG002
        if path not in self.listings:
            self.listings[path] = super().ls(path, detail=True)
        return self.listings[path]

    def info(self, path, **options):  # noqa: ARG002
        return next((item for item in self.ls(path.rpartition("/")[0]) if item["name"] == path), None) or {
            "type": "directory"
        }

    def invalidate_cache(self, path=None):  # noqa: ARG002
        self.listings.clear()


def test_objects_of_other_writers_are_seen_in_spite_of_cached_listings():
    root = f"/store{next(_names)}"
    files = RemoteFiles(CachingFileSystem(), root)
    files.write("blobs/a", b"1")
    assert (files.sizes("blobs/"), files.holds("blobs/b", 2)) == ({"blobs/a": 1}, False)

    RemoteFiles(MemoryFileSystem(), root).write("blobs/b", b"22")
    held = files.holds("blobs/b", 2)
    RemoteFiles(MemoryFileSystem(), root).write("blobs/c", b"333")
    with files.reading("blobs/c") as (stream, size):
        assert (stream.read(), size) == (b"333", 3)
    RemoteFiles(MemoryFileSystem(), root).write("blobs/d", b"")

    assert held
    assert files.sizes("blobs/") == {"blobs/a": 1, "blobs/b": 2, "blobs/c": 3, "blobs/d": 0}
