"""Writers that are killed, fail or meet: what was whole stays whole, what is new is all or nothing."""

import contextlib
import errno
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from distdqn.checkpoints.store import Store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    """A folder with an empty store in it."""
    Store(str(tmp_path / "run")).check_writable()
    return tmp_path / "run"


def start(script, *arguments):
    """Runs a script as a process of its own, which can import the package."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def newest(store):
    """Number of the newest whole checkpoint, and those passed over."""
    ref, passed_over = store.newest_whole()
    return ref.number, passed_over


def document_of(store, number):
    """Checkpoint `number`: five arrays that say the number, and one that every checkpoint shares."""
    parts = [store.write_tree(np.full(5_000, number + i)) for i in range(5)]
    return {"number": number, "parts": parts, "shared": store.write_tree(np.arange(1_000))}


def assert_one_checkpoint(tree, number):
    """Everything in it is of that number."""
    assert tree["number"] == number
    assert [set(part.tolist()) for part in tree["parts"]] == [{number + i} for i in range(5)]
    assert tree["shared"].tolist() == list(range(1_000))


def names_in(folder):
    """Every file below the folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def named_files(store):
    """Every file that the checkpoints need."""
    names = [f"checkpoint-{number:012d}.json" for number in store.numbers()]
    for number in store.numbers():
        document = store.read_manifest(number)
        names += [f"blobs/{e['blob']}.safetensors" for e in (*document["parts"], document["shared"])]
    return sorted(set(names))


WRITER = """
    import itertools, sys
    import numpy as np
    from distdqn.checkpoints.store import Store

    store = Store(sys.argv[1], grace_seconds=0.0)
    print("ready", flush=True)
    for number in itertools.count(max(store.numbers(), default=0) + 1):
        parts = [store.write_tree(np.full(5_000, number + i)) for i in range(5)]
        shared = store.write_tree(np.arange(1_000))
        store.write_manifest(number, {"number": number, "parts": parts, "shared": shared})
        print(number, flush=True)
        store.prune(keep=2)
"""


def test_fault_12_killed_writer_leaves_the_new_checkpoint_or_the_one_before(folder):
    store = Store(str(folder), grace_seconds=0.0)
    store.write_manifest(0, document_of(store, 0))
    chance = random.Random(0)
    reached = 0
    for _ in range(10):
        writer = start(WRITER, folder)
        assert writer.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, 0.12))
        writer.send_signal(signal.SIGKILL)
        announced = [int(line) for line in writer.communicate()[0].splitlines() if line]
        reached = max([reached, *announced])

        ref, passed_over = Store(str(folder)).newest_whole()

        assert passed_over == []
        assert ref.number in (reached, reached + 1)
        assert_one_checkpoint(store.read_tree(ref.document), ref.number)
        reached = ref.number

    assert reached > 1
    store.prune(keep=2)
    assert len(store.numbers()) == 2
    assert names_in(folder) == named_files(store)


class Blown(BaseException):
    """Ends a writer as a signal would: no handler for errors catches it."""


class Fuse:
    """Fails from a certain call to the system on, for ever or that once.

    Attributes:
        calls: names of the calls made.
    """

    def __init__(self, monkeypatch, call, error, *, forever):
        self.calls = []
        self._blows = lambda i: i >= call if forever else i == call
        self._error = error
        for owner, name in [
            (os, "open"),
            (os, "fsync"),
            (os, "utime"),
            (Path, "open"),
            (Path, "replace"),
            (Path, "unlink"),
            (Path, "lstat"),
            (Path, "iterdir"),
        ]:
            monkeypatch.setattr(owner, name, self._guarded(name, getattr(owner, name)))

    def _guarded(self, name, call):
        def guarded(*arguments, **options):
            self.calls.append(name)
            if self._blows(len(self.calls)):
                raise self._error
            return call(*arguments, **options)

        return guarded


FAULTS = {
    "killed": (Blown(), True),
    "full": (OSError(errno.ENOSPC, "No space left on device"), True),
    "full-once": (OSError(errno.ENOSPC, "No space left on device"), False),
    "not-permitted-once": (PermissionError(errno.EACCES, "Permission denied"), False),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_at_each_call_to_the_system_in_turn_leaves_whole_checkpoints(folder, tmp_path, name):
    error, forever = FAULTS[name]
    store = Store(str(folder))
    for number in (1, 2):
        store.write_manifest(number, document_of(store, number))
    call, calls, found = 0, [], []
    while call == 0 or len(calls) >= call:
        call += 1
        copy = shutil.copytree(folder, tmp_path / f"copy{call}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: None)  # the fuse alone counts
            fuse = Fuse(patch, call, error, forever=forever)
            with contextlib.suppress(type(error)):
                writer = Store(str(copy), grace_seconds=0.0)
                writer.write_manifest(3, document_of(writer, 3))
                writer.prune(keep=1)
        calls = fuse.calls

        survivor = Store(str(copy), grace_seconds=0.0)
        ref, passed_over = survivor.newest_whole()

        assert passed_over == []
        assert_one_checkpoint(survivor.read_tree(ref.document), ref.number)
        found.append(ref.number)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: None)
            survivor.prune(keep=1)
        assert names_in(copy) == named_files(survivor)  # leftovers are cleaned next time
        shutil.rmtree(copy)

    assert call > 60
    assert found == sorted(found)
    assert {2, 3} == set(found)


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
def test_failed_write_leaves_nothing_under_any_name(folder, monkeypatch, owner, name):
    store = Store(str(folder))
    store.write_manifest(1, document_of(store, 1))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(owner, name, fail)
    for write in (lambda: store.write_tree(np.arange(77)), lambda: store.write_manifest(1, {"other": 1})):
        with pytest.raises(OSError, match="No space left"):
            write()

    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_file_system_that_cannot_sync_folders_is_written_to(folder, monkeypatch, code):
    fsync = os.fsync

    def fail_on_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_on_folders)
    store = Store(str(folder))
    store.write_manifest(1, document_of(store, 1))

    assert store.newest_whole()[0].number == 1


def test_folder_that_cannot_be_synced_for_a_fault_is_an_error(folder, monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    store = Store(str(folder))
    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(OSError, match="Input/output"):
        store.write_manifest(1, {})


def test_content_is_durable_before_its_name_and_arrays_before_their_manifest(folder, monkeypatch):
    happened = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor):
        # By number, as a file has another name when it is synced.
        happened.append(("sync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def noted_replace(path, target):
        happened.append(("name", path.stat().st_ino))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    store = Store(str(folder))

    store.write_manifest(1, {"a": store.write_tree(np.ones(3))})

    (blob,) = (folder / "blobs").iterdir()
    (manifest,) = folder.glob("*.json")
    blob, blobs, manifest, top = (p.stat().st_ino for p in (blob, folder / "blobs", manifest, folder))
    assert happened == [
        ("sync", blob),
        ("name", blob),
        ("sync", blobs),
        ("sync", manifest),
        ("name", manifest),
        ("sync", top),
    ]


LIMITED_WRITER = """
    import resource, sys
    import numpy as np
    from distdqn.checkpoints.store import Store

    store = Store(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        store.write_tree(np.arange(100_000))
    except OSError as error:
        print(error.errno)
    print(store.write_tree(np.arange(100))["bytes"])
"""


def test_write_that_is_cut_short_by_a_limit_leaves_no_file(folder):
    store = Store(str(folder))
    store.write_manifest(1, document_of(store, 1))
    before = names_in(folder)

    output, _ = start(LIMITED_WRITER, folder).communicate(timeout=60)

    assert output.split() == [str(errno.EFBIG), str(8 + 64 + 100 * 8)]
    assert len(set(names_in(folder)) - set(before)) == 1
    assert store.newest_whole()[0].number == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; only the superuser can make one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "distdqn-test", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_fault_18_full_disk_is_reported_and_spares_the_checkpoint_before(small_disk):
    store = Store(str(small_disk), grace_seconds=0.0)
    store.check_writable()
    store.write_manifest(1, document_of(store, 1))  # about 210 KB
    before = names_in(small_disk)

    for size in (10**6, 10**5):
        with pytest.raises(OSError, match="No space left") as caught:
            store.write_tree({"big": [np.full(size, i) for i in range(2)]})
        assert caught.value.errno == errno.ENOSPC

    assert newest(store) == (1, [])
    store.prune(keep=1)
    assert names_in(small_disk) == before
    store.write_manifest(2, document_of(store, 2))
    assert store.newest_whole()[0].number == 2


TWIN = """
    import sys, time
    import numpy as np
    from distdqn.checkpoints.store import Store

    store = Store(sys.argv[1])
    print("ready", flush=True)
    time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
    for value in range(40):
        store.write_tree(np.full(20_000, value))
"""


def test_two_processes_write_the_same_arrays_at_the_same_time(folder):
    together = time.time() + 1.0
    twins = [start(TWIN, folder, together) for _ in range(2)]
    assert [twin.wait(timeout=60) for twin in twins] == [0, 0]
    for twin in twins:
        twin.stdout.close()

    assert len(names_in(folder)) == 40
    for value in range(40):
        store = Store(str(folder))
        assert set(store.read_tree(store.write_tree(np.full(20_000, value))).tolist()) == {value}


def test_pruning_beside_a_writer_leaves_it_what_it_needs(folder):
    driver = Store(str(folder))  # the usual grace period
    again = 0
    with ThreadPoolExecutor(1) as role:
        for number in range(1, 30):
            # Content alternates, so each checkpoint asks for what a prune is giving up.
            written = role.submit(document_of, Store(str(folder)), number % 2)
            while not written.done():
                driver.prune(keep=1)
            try:
                driver.write_manifest(number, written.result())
            except FileNotFoundError:  # asked for between a look at its age and its deletion
                again += 1
                driver.write_manifest(number, document_of(driver, number % 2))
            assert newest(driver) == (number, [])

    assert again <= 2


def test_what_is_remembered_of_written_arrays_is_forgotten_once_they_are_pruned(folder):
    store = Store(str(folder), grace_seconds=0.0)
    for value in range(5):
        time.sleep(0.02)  # one tick of the file system's clock
        store.write_manifest(value, {"a": store.write_tree(np.array([value]))})
        store.prune(keep=2)

    assert len(store._seen_whole) == len(list((folder / "blobs").iterdir())) == 2


def test_fault_39_folder_that_was_deleted_is_made_again_and_the_next_checkpoint_is_whole(folder):
    store = Store(str(folder))
    ref = store.write_tree(np.ones(3))
    shutil.rmtree(folder)

    with pytest.raises(FileNotFoundError):  # its array was deleted, too
        store.write_manifest(1, {"a": ref})
    store.write_manifest(2, {"a": store.write_tree(np.ones(3))})
    store.prune(keep=1)

    assert newest(Store(str(folder))) == (2, [])
