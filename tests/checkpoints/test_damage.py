"""Checkpoints that were changed on disk, by a disk or by mistake: each is found out."""

import contextlib
import io
import os
import tracemalloc

import numpy as np
import pytest

from distdqn.checkpoints.format import document_from_bytes, manifest_bytes
from distdqn.checkpoints.store import Store
from distdqn.errors import CheckpointDamaged


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with an empty store in it."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # most of the time, and not the subject here
    Store(str(tmp_path / "run")).check_writable()
    return tmp_path / "run"


def cut(path, generator):
    """Ends a file early."""
    path.write_bytes(path.read_bytes()[: int(generator.integers(path.stat().st_size))])


def flip(path, generator):
    """Flips one bit."""
    content = bytearray(path.read_bytes())
    content[generator.integers(len(content))] ^= 1 << generator.integers(8)
    path.write_bytes(content)


def lengthen(path, generator):
    """Adds bytes at the end."""
    path.write_bytes(path.read_bytes() + generator.bytes(int(generator.integers(1, 99))))


def blank(path, generator):
    """Zeroes a stretch, as a disk does that lost a page; one that held something."""
    content = bytearray(path.read_bytes())
    first = int(generator.integers(np.flatnonzero(np.frombuffer(content, np.uint8))[-1] + 1))
    content[first:] = bytes(len(content) - first)
    path.write_bytes(content)


def lose(path, generator):  # noqa: ARG001
    """Deletes a file."""
    path.unlink()


def swap(path, generator):
    """Exchanges two files of a kind."""
    others = sorted({*path.parent.glob(f"*{path.suffix}")} - {path})
    other = others[generator.integers(len(others))]
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def replace_by_folder(path, generator):  # noqa: ARG001
    """Puts a folder in a file's place."""
    path.unlink()
    path.mkdir()


DAMAGES = [cut, flip, lengthen, blank, lose, swap, replace_by_folder]


@pytest.mark.parametrize("seed", range(200))
def test_fault_13_random_damage_is_found_and_the_checkpoint_before_is_loaded(folder, seed):
    generator = np.random.default_rng(seed)
    store = Store(str(folder))
    arrays, documents = {}, {}
    for number in (1, 2):
        arrays[number] = [generator.random(int(generator.integers(1, 40))) for _ in range(3)]
        files = [store.write_tree({"array": array}) for array in arrays[number]]
        documents[number] = {"epsilon": 0.1 * number, "arrays": files}
        store.write_manifest(number, documents[number])
    damage = DAMAGES[seed % len(DAMAGES)]
    of_manifest = generator.random() < 0.4
    ref = documents[2]["arrays"][generator.integers(3)]["array"]
    name = "checkpoint-000000000002.json" if of_manifest else f"blobs/{ref['blob']}.safetensors"
    is_exchanged = damage is swap

    damage(folder / name, generator)

    fresh = Store(str(folder))
    with pytest.raises(CheckpointDamaged, match=r"checkpoint-000000000002|blobs"):
        fresh.read_tree(fresh.verify(2).document)
    with pytest.raises(CheckpointDamaged):
        fresh.read_tree(fresh.read_manifest(2))
    if is_exchanged:
        return  # which may have damaged both
    ref, passed_over = fresh.newest_whole()
    assert (ref.number, [n for n, _ in passed_over]) == (1, [] if (damage is lose and of_manifest) else [2])
    assert ref.document["epsilon"] == 0.1
    for found, written in zip(ref.read("arrays"), arrays[1], strict=True):
        assert found["array"].tobytes() == written.tobytes()


def test_part_that_is_relied_on_is_read_only_by_a_process_that_has_not_read_it(folder):
    writer = Store(str(folder))
    parts = {"learner": writer.write_tree(np.arange(3)), "replay": writer.write_tree(np.arange(4))}
    writer.write_manifest(1, parts)
    path = folder / "blobs" / f"{parts['replay']['blob']}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    ref, _ = writer.newest_whole(relied_on="replay")
    assert (ref.number, ref.document) == (1, parts)
    for damaged in (
        lambda: writer.read_tree(parts["replay"]),  # and so it does not rely on it any more:
        lambda: writer.verify(1, "replay"),
        lambda: Store(str(folder)).verify(1, "replay"),
    ):
        with pytest.raises(CheckpointDamaged, match="SHA-256 differs"):
            damaged()
    path.write_bytes(whole)
    writer.verify(1)
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointDamaged, match=f"is {len(whole) - 1} bytes long"):
        writer.verify(1, "replay")
    path.write_bytes(whole)
    flip(folder / "blobs" / f"{parts['learner']['blob']}.safetensors", np.random.default_rng(0))
    with pytest.raises(CheckpointDamaged, match="SHA-256 differs"):
        writer.verify(1, "replay")


def cut_and_flipped(whole):
    """The content cut at every length, and with every bit flipped."""
    yield from (whole[:length] for length in range(len(whole)))
    for i in range(8 * len(whole)):
        content = bytearray(whole)
        content[i // 8] ^= 1 << i % 8
        yield bytes(content)


def test_every_flipped_bit_and_every_cut_of_a_manifest_is_found(folder):
    ref = Store(str(folder)).write_tree(np.arange(3))
    whole = manifest_bytes(12, {"é": [1e-05, True, None], "weights": ref})
    assert document_from_bytes(whole, 12, "m")["weights"] == ref

    for content in cut_and_flipped(whole):
        # Never "too new", even where the bit is one of the format's.
        with pytest.raises(CheckpointDamaged, match=r"^m: "):
            document_from_bytes(content, 12, "m")


def test_every_flipped_bit_and_every_cut_of_a_file_of_arrays_is_found(folder, monkeypatch):
    ref = Store(str(folder)).write_tree(np.arange(3, dtype=np.uint8))
    store, (path,) = Store(str(folder)), (folder / "blobs").iterdir()
    whole = path.read_bytes()
    for content in cut_and_flipped(whole):
        # Also when the size that the system told is not what is read in the end.
        for size in {len(content), len(whole)}:
            opened = contextlib.nullcontext((io.BytesIO(content), size))
            monkeypatch.setattr(store._files, "reading", lambda _, opened=opened: opened)
            with pytest.raises(CheckpointDamaged, match=path.name):
                store.read_tree(ref)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"format":1,"number":' + b"9" * 5000 + b"}",
        b'{"format":1,"number":1,"sha256":"","document":{}}\n',
        b'{"format":1,"format":1,"number":1,"document":{}}',
    ],
    ids=[
        "empty",
        "null",
        "list",
        "object",
        "text",
        "binary",
        "deep",
        "deeper",
        "digits",
        "unsigned",
        "twice",
    ],
)
def test_file_that_is_no_manifest_is_refused_in_one_line(folder, content):
    path = folder / "checkpoint-000000000001.json"
    path.write_bytes(content)

    with pytest.raises(CheckpointDamaged) as caught:
        Store(str(folder)).read_manifest(1)

    (line,) = caught.value.mistakes
    assert line.startswith(f"{path}: ")
    assert "\n" not in line


@pytest.mark.parametrize("version", [0, -1, True, "1", 1.0, None])
def test_format_that_never_was_is_damage_and_not_too_new(version):
    with pytest.raises(CheckpointDamaged):
        document_from_bytes(manifest_bytes(1, {}, version), 1, "m")


def test_huge_manifest_is_refused_without_being_read(folder):
    with (folder / "checkpoint-000000000001.json").open("wb") as stream:
        stream.truncate(2**40)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointDamaged, match="too long for a manifest"):
            Store(str(folder)).newest_whole()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 1_000_000


def test_place_of_a_store_is_the_same_by_any_of_its_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = [
        Store(root).place for root in ("run/checkpoints", "run/checkpoints/", f"{tmp_path}/run/checkpoints")
    ]
    assert places == [str(tmp_path / "run" / "checkpoints")] * 3
    assert Store("memory://run/").place == Store("memory://run").place == "memory://run"
