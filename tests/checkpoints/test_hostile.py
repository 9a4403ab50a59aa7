"""Checkpoints made by somebody who means harm: refused before anything is opened, made or run."""

import hashlib
import io
import json
import os
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy

from distdqn.checkpoints.store import Store
from distdqn.errors import CheckpointDamaged

DIGEST = hashlib.sha256(b"").hexdigest()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with an empty store in it, which has a file beside it."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # most of the time, and not the subject here
    (tmp_path / "outside.safetensors").write_bytes(b"secret")
    Store(str(tmp_path / "run")).check_writable()
    return tmp_path / "run"


def forge(folder, document, number=1):
    """A manifest whose own sum is right, of any document; by the rule, not by our code."""
    signed = {"format": 4, "number": number, "document": document}
    digest = hashlib.sha256(json.dumps(signed, separators=(",", ":")).encode()).hexdigest()
    whole = {"format": 4, "number": number, "sha256": digest, "document": document}
    path = folder / "checkpoint-000000000001.json"
    path.write_text(json.dumps(whole, separators=(",", ":")) + "\n")
    return path


def forge_blob(folder, content, **changes):
    """A file of any content under its true sum, and an ref for it."""
    digest = hashlib.sha256(content).hexdigest()
    (folder / "blobs" / f"{digest}.safetensors").write_bytes(content)
    ref = {"blob": digest, "bytes": len(content), "tensor": "array", "dtype": "float32", "shape": [0]}
    return {**ref, **changes}


def assert_refused(folder, ref, reason):
    """Neither reading nor verifying accepts the ref, and each says why in one line."""
    forge(folder, {"weights": [ref]})
    store = Store(str(folder))
    for read in (
        lambda: store.read_tree(store.read_manifest(1)),
        lambda: store.verify(1),
        store.newest_whole,
    ):
        with pytest.raises(CheckpointDamaged, match=reason) as caught:
            read()
        assert caught.value.exit_code == 4
        assert str(folder) in str(caught.value)
        assert all("\n" not in mistake and len(mistake) < 600 for mistake in caught.value.mistakes)


SOUND = {"blob": DIGEST, "bytes": 136, "tensor": "array", "dtype": "float32", "shape": [2]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"blob": "../../outside"}, "`blob`"),
        ({"blob": "/etc/passwd"}, "`blob`"),
        ({"blob": "../" + DIGEST[3:]}, "`blob`"),
        ({"blob": DIGEST[:-1]}, "`blob`"),
        ({"blob": DIGEST + "\n"}, "`blob`"),
        ({"blob": DIGEST.upper()}, "`blob`"),
        ({"blob": "\N{ARABIC-INDIC DIGIT ONE}" * 64}, "`blob`"),
        ({"blob": None}, "`blob`"),
        ({"blob": [DIGEST]}, "`blob`"),
        ({"blob": {"blob": DIGEST}}, "`blob`"),
        ({"dtype": "object"}, "`dtype`"),
        ({"dtype": "O"}, "`dtype`"),
        ({"dtype": ">f4"}, "`dtype`"),
        ({"dtype": "float32,float32"}, "`dtype`"),
        ({"dtype": ["float32"]}, "`dtype`"),
        ({"dtype": None}, "`dtype`"),
        ({"shape": 2}, "`shape"),
        ({"shape": [-2]}, "`shape"),
        ({"shape": [2.0]}, "`shape"),
        ({"shape": [True, 2]}, "`shape"),
        ({"shape": [[2]]}, "`shape"),
        ({"shape": [1] * 33}, "`shape"),
        ({"shape": [10**4000]}, "`shape"),
        ({"shape": [2**62, 2**62, 0], "bytes": 128}, "`shape"),
        ({"shape": [2**60]}, "`shape`.*larger than its file"),
        ({"bytes": 7}, "`shape`.*larger than its file"),
        ({"bytes": -1}, "`bytes`"),
        ({"bytes": 136.0}, "`bytes`"),
        ({"bytes": "136"}, "`bytes`"),
        ({"bytes": 2**63}, "`bytes`"),
        ({"tensor": None}, "`tensor`"),
        ({"tensor": ["array"]}, "`tensor`"),
        ({"extra": 1}, "`extra`"),
        ({"\x1b]0;owned\x07": 1}, "x1b"),
    ],
)
def test_malformed_reference_is_refused_before_any_file_is_opened(folder, monkeypatch, changes, reason):
    opened = []
    ref = {**SOUND, **changes}
    path = forge(folder, {"weights": [ref]})
    real = os.open
    monkeypatch.setattr(os, "open", lambda p, *rest: opened.append(str(p)) or real(p, *rest))

    assert_refused(folder, ref, reason)

    assert set(opened) <= {str(path)}


@pytest.mark.parametrize("missing", ["bytes", "tensor", "dtype", "shape"])
def test_reference_without_one_of_its_keys_is_refused(folder, missing):
    assert_refused(folder, {k: v for k, v in SOUND.items() if k != missing}, f"`{missing}`: Field required")


def test_fault_17_absurd_shape_takes_no_memory_at_all(folder):
    ref = forge_blob(folder, b"x" * 200, shape=[2**60], bytes=2**62 + 128)
    tracemalloc.start()
    try:
        assert_refused(folder, ref, "is 200 bytes long, not 4611686018427388032")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 3_000_000


def test_array_that_memory_does_not_suffice_for_is_refused(folder, monkeypatch):
    ref = Store(str(folder)).write_tree(np.ones(2, np.float32))

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(safetensors.numpy, "load", fail)
    with pytest.raises(CheckpointDamaged, match=f"{ref['bytes']} bytes do not fit into memory"):
        Store(str(folder)).read_tree(ref)


class Trap:
    """Makes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_fault_17_pickled_content_is_refused_and_never_unpickled(folder, tmp_path):
    trap = tmp_path / "sprung"
    stream = io.BytesIO()
    np.save(stream, np.array([Trap(str(trap))], dtype=object), allow_pickle=True)
    content = stream.getvalue().ljust(512, b".")

    assert_refused(folder, forge_blob(folder, content, dtype="object", shape=[1]), "`dtype`")
    assert_refused(folder, forge_blob(folder, content, shape=[96]), "is not a file of arrays")

    assert not trap.exists()
    np.load(io.BytesIO(content), allow_pickle=True)  # the trap is armed
    assert trap.exists()


@pytest.mark.parametrize(
    "other",
    [np.zeros(2, np.int32), np.zeros((2, 1), np.float32), np.zeros((1, 2), np.float32, order="F")],
    ids=["type", "shape", "axes"],
)
def test_file_that_holds_another_array_than_its_reference_says_is_refused(folder, other):
    ref = Store(str(folder)).write_tree(other)

    assert_refused(folder, {**ref, "dtype": "float32", "shape": [2]}, r"does not hold float32 of shape \[2\]")


def test_array_that_is_not_in_its_file_and_length_that_is_not_that_of_its_file_are_refused(folder):
    ref = Store(str(folder)).write_tree(np.zeros(2, np.float32))

    assert_refused(folder, {**ref, "tensor": "other"}, "does not hold float32")
    size = ref["bytes"]
    assert_refused(folder, {**ref, "bytes": size + 1}, f"is {size} bytes long, not {size + 1}")
    forge(folder, {"weights": [ref, {**ref, "bytes": size + 1}]})
    with pytest.raises(CheckpointDamaged, match=f"is {size} bytes long, not {size + 1}"):
        Store(str(folder)).verify(1)


def header(**changes):
    """The beginning of a file that holds two floats, or something else."""
    return {"array": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


HEADERS = {
    "absurd shape": header(shape=[2**60]),
    "shape that overflows": header(shape=[2**62, 2**62]),
    "shape that overflows to nothing": header(shape=[2**62, 2**62, 0], data_offsets=[0, 0]),
    "axis that NumPy refuses": header(shape=[2**63, 0], data_offsets=[0, 0]),
    "negative axis": header(shape=[-2]),
    "more axes than NumPy has": header(shape=[1] * 70 + [2]),
    "overlapping arrays": {**header(), "other": header()["array"]},
    "hole": header(data_offsets=[4, 12]),
    "offsets beyond the end": header(data_offsets=[0, 2**40]),
    "offsets in disorder": header(data_offsets=[8, 0]),
    "objects": header(dtype="O"),
    "pickles": header(dtype="PICKLE"),
    "type that NumPy has not": header(dtype="BF16", shape=[4]),
    "type of half bytes": header(dtype="F4", shape=[1], data_offsets=[0, 0]),
    "no object": [],
    "deep nesting": json.loads("[" * 500 + "]" * 500),
}


@pytest.mark.parametrize("name", HEADERS)
def test_fault_17_hostile_header_is_refused(folder, name):
    text = json.dumps(HEADERS[name]).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(8)
    assert_refused(folder, forge_blob(folder, content, shape=[2]), "is not a file of arrays|does not hold")


@pytest.mark.parametrize("length", [0, 1, 2**20, 10**8 + 1, 2**40, 2**63, 2**64 - 1])
def test_fault_17_absurd_length_of_a_header_takes_no_memory(folder, length):
    ref = forge_blob(folder, length.to_bytes(8, "little") + b"x" * 200)
    tracemalloc.start()
    try:
        assert_refused(folder, ref, "is not a file of arrays")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 3_000_000


def test_file_under_two_references_is_held_against_each(folder):
    ref = Store(str(folder)).write_tree(np.zeros((2, 1), np.float32))
    forge(folder, {"weights": [{**ref, "shape": [2]}, ref]})

    with pytest.raises(CheckpointDamaged, match="does not hold"):
        Store(str(folder)).verify(1)


def test_fault_17_symbolic_links_and_pipes_are_refused_without_waiting(folder):
    ref = Store(str(folder)).write_tree(np.ones(2, np.float32))
    path = folder / "blobs" / f"{ref['blob']}.safetensors"
    elsewhere = path.rename(folder.parent / "elsewhere.safetensors")

    path.symlink_to(elsewhere)  # the right content, from a place that is not ours
    assert_refused(folder, ref, "is a symbolic link")
    path.unlink()
    path.symlink_to("nowhere")
    assert_refused(folder, ref, "is a symbolic link")
    path.unlink()
    os.mkfifo(path)
    assert_refused(folder, ref, "is not a regular file")
    path.unlink()
    path.mkdir()
    assert_refused(folder, ref, "is not a regular file")


def test_linked_file_is_replaced_by_a_real_one_when_its_content_is_written(folder):
    store = Store(str(folder))
    ref = store.write_tree(np.ones(2, np.float32))
    path = folder / "blobs" / f"{ref['blob']}.safetensors"
    path.rename(folder.parent / "elsewhere.safetensors")

    # A link's own size is the length of its text: the second is as long as the file.
    for text in (
        "../../elsewhere.safetensors",
        "../" + "/" * (ref["bytes"] - 27) + "../elsewhere.safetensors",
    ):
        path.symlink_to(text)
        store.write_tree(np.ones(2, np.float32))

        assert not path.is_symlink()
        assert store.read_tree(ref).tolist() == [1.0, 1.0]
        path.unlink()


def test_linked_manifest_is_reported_and_not_followed(folder):
    store = Store(str(folder))
    store.write_manifest(1, {"a": 1})
    path = folder / "checkpoint-000000000001.json"
    path.symlink_to(path.rename(folder.parent / "elsewhere.json"))

    assert store.numbers() == [1]
    with pytest.raises(CheckpointDamaged, match="is a symbolic link"):
        store.newest_whole()


@pytest.mark.parametrize("document", [None, [], "text", 1])
def test_signed_manifest_without_an_object_is_refused(folder, document):
    forge(folder, document)

    with pytest.raises(CheckpointDamaged, match="is not a manifest"):
        Store(str(folder)).read_manifest(1)


def test_signed_manifest_nested_too_deeply_is_refused(folder):
    document = {}
    for _ in range(200):
        document = {"a": document}
    forge(folder, document)

    with pytest.raises(CheckpointDamaged, match="nested deeper than 100"):
        Store(str(folder)).read_manifest(1)


@pytest.mark.parametrize("number", [2, True, "1", None, 1.0, -1])
def test_manifest_of_another_number_is_refused(folder, number):
    forge(folder, {}, number)

    with pytest.raises(CheckpointDamaged, match=r"under another's name|is not a manifest \(`number`"):
        Store(str(folder)).read_manifest(1)
