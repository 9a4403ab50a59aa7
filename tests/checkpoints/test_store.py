"""The store of checkpoints when nothing goes wrong: what goes in comes out, and is kept once."""

import hashlib
import itertools
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from distdqn.checkpoints.files import LocalFiles, files_at
from distdqn.checkpoints.store import CheckpointRef, Store
from distdqn.errors import CheckpointDamaged, ConfigError

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES += ["float16", "float32", "float64"]
SHAPES = [(), (0,), (1,), (3, 0, 2), (7,), (2, 3, 4), (1,) * 32]
_names = itertools.count()


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    """A place for a store: a folder, and an object store that lives in this process."""
    return str(tmp_path / "a" / "b") if request.param == "local" else f"memory://store{next(_names)}/run"


@pytest.fixture
def store(root):
    """An empty store, ready to be written to."""
    made = Store(root)
    made.check_writable()
    return made


@pytest.fixture
def folder(tmp_path):
    """A folder with an empty store in it."""
    Store(str(tmp_path)).check_writable()
    return tmp_path


def random_array(dtype, shape):
    """Any bit patterns, so that every value of the type can occur, NaN too."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    content = np.random.default_rng(0).integers(0, 256, count, dtype=np.uint8)
    return ((content > 127) if dtype == "bool" else content.view(dtype)).reshape(shape)


def test_array_comes_back_bit_for_bit_for_every_type_and_shape(store):
    for dtype, shape in itertools.product(DTYPES, SHAPES):
        array = random_array(dtype, shape)

        ref = store.write_tree(array)
        found = store.read_tree(json.loads(json.dumps(ref)))

        assert (ref["dtype"], ref["shape"]) == (dtype, list(shape))
        assert (found.dtype, found.shape) == (array.dtype, shape)
        assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_file_of_arrays_is_one_that_safetensors_reads_and_is_named_by_its_sum(folder, dtype):
    arrays = {f"{i}": random_array(dtype, shape) for i, shape in enumerate(SHAPES)}

    document = Store(str(folder)).write_tree(arrays)

    (path,) = (folder / "blobs").iterdir()
    assert {ref["blob"] for ref in document.values()} == {path.stem}
    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
    assert {ref["bytes"] for ref in document.values()} == {path.stat().st_size}
    loaded = load_file(path)
    for name, array in arrays.items():
        found = loaded[name]
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_arrays_of_a_tree_are_named_by_their_places_in_one_file_whatever_their_order(folder):
    store, first, second = Store(str(folder)), np.arange(3), np.ones((2, 2), np.float32)

    one = store.write_tree({"networks": {"online": [first, second]}, "number": 1})
    other = store.write_tree({"number": 2, "networks": {"online": (first, second)}})

    (path,) = (folder / "blobs").iterdir()
    assert one["networks"] == other["networks"]
    assert sorted(load_file(path)) == ["networks.online.0", "networks.online.1"]


@pytest.mark.parametrize("tree", [{"a": {"b": np.ones(1)}, "a.b": np.ones(1)}, {"__metadata__": np.ones(1)}])
def test_arrays_whose_names_would_not_tell_them_apart_are_refused(store, tree):
    with pytest.raises(ValueError, match="two arrays named"):
        store.write_tree(tree)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4).T,
        np.asfortranarray(np.arange(24).reshape(2, 3, 4)),
        np.arange(20, dtype=np.int32)[::-3],
        np.broadcast_to(np.float32(1.5), (3, 2)),
        np.arange(5, dtype=">f4"),
        np.array(258, dtype=">u2"),
    ],
    ids=["transposed", "fortran", "strided", "broadcast", "big-endian", "big-endian-scalar"],
)
def test_array_that_lies_otherwise_in_memory_comes_back_equal(store, array):
    found = store.read_tree(store.write_tree(array))

    assert found.tolist() == array.tolist()
    assert (found.dtype, found.shape) == (array.dtype.newbyteorder("="), array.shape)
    assert store.write_tree(found) == store.write_tree(array)


@pytest.mark.parametrize(
    "array",
    [
        np.array([{}, []], dtype=object),
        np.array(["a"]),
        np.array([b"a"]),
        np.array([1j]),
        np.array(["2026-01-01"], dtype="M8[D]"),
        np.zeros(2, dtype=[("x", "f4")]),
        np.zeros(2, dtype=np.longdouble),
        np.zeros((1,) * 33),
    ],
    ids=["object", "text", "bytes", "complex", "time", "fields", "longdouble", "33-axes"],
)
def test_array_that_could_not_be_read_back_is_refused(store, array):
    with pytest.raises(ValueError, match="only booleans, integers and floats"):
        store.write_tree(array)


def test_array_read_back_is_writable_and_independent_of_the_store(store):
    ref = store.write_tree(np.zeros(3))

    store.read_tree(ref)[:] = 1.0

    assert store.read_tree(ref).tolist() == [0.0, 0.0, 0.0]


def test_million_rows_are_stored_with_one_copy_and_read_with_two(folder):
    array = np.random.default_rng(0).random((1_000_000, 4), dtype=np.float32)  # 16 MB
    store = Store(str(folder))
    tracemalloc.start()
    try:
        ref = store.write_tree(array)
        peak_of_write = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        found = store.read_tree(ref)
        peak_of_read = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        Store(str(folder)).write_tree(array)  # reads back what is there
        peak_of_check = tracemalloc.get_traced_memory()[1] - found.nbytes
    finally:
        tracemalloc.stop()

    assert np.array_equal(found, array)
    assert peak_of_write < array.nbytes + 1_000_000
    assert peak_of_read < 2 * array.nbytes + 1_000_000
    assert peak_of_check < 3 * array.nbytes + 1_000_000


def test_equal_content_is_stored_once_and_not_written_again(folder):
    first = Store(str(folder)).write_tree(np.arange(6))
    (path,) = (folder / "blobs").iterdir()
    inode = path.stat().st_ino

    again = Store(str(folder)).write_tree(np.arange(6))

    assert again == first
    assert [p.stat().st_ino for p in (folder / "blobs").iterdir()] == [inode]
    # The same bytes under another shape or type are another array.
    Store(str(folder)).write_tree(np.arange(6).reshape(2, 3))
    assert len(list((folder / "blobs").iterdir())) == 2


def test_file_that_is_there_is_read_back_once_before_it_is_relied_on(folder, monkeypatch):
    Store(str(folder)).write_tree(np.arange(6))
    read = []
    reading = LocalFiles.reading
    monkeypatch.setattr(LocalFiles, "reading", lambda self, name: read.append(name) or reading(self, name))
    store = Store(str(folder))

    for _ in range(3):
        store.write_tree(np.arange(6))
        store.write_tree(np.arange(7))  # written by this very store: known

    assert len(read) == 1


def test_damaged_file_is_replaced_when_its_content_is_written_again(folder):
    ref = Store(str(folder)).write_tree(np.arange(6))
    path = folder / "blobs" / f"{ref['blob']}.safetensors"
    whole = path.read_bytes()

    for damaged in (whole[:-1] + b"\x01", whole[:-1], b""):
        path.write_bytes(damaged)
        Store(str(folder)).write_tree(np.arange(6))
        assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_random_generator_continues_from_a_stored_state(store, name):
    generator = np.random.Generator(getattr(np.random, name)(3))
    generator.integers(0, 9, 5, dtype=np.int32)  # leaves half a word behind
    store.write_manifest(1, {"generator": store.write_tree(generator.bit_generator.state)})
    other = np.random.Generator(getattr(np.random, name)(4))

    other.bit_generator.state = store.read_tree(store.read_manifest(1))["generator"]

    assert other.random(10).tolist() == generator.random(10).tolist()


def test_tree_comes_back_with_its_arrays_and_scalars(store):
    ref = store.write_tree(np.arange(2))
    tree = {
        "weights": [np.ones((2, 2), np.float32), (np.zeros(0), 2**200)],
        "z before a": {"b": None, "a": True, "ü": "\ud800\n"},
        "numpy": [np.float32(0.1), np.int64(-7), np.bool_(True)],
        "floats": [0.1, -0.0, float("inf"), 5e-324],
        "ref": ref,
    }

    document = store.write_tree(tree)
    store.write_manifest(7, document)
    found = store.read_tree(store.read_manifest(7))

    assert document["ref"] == ref
    assert list(found) == list(tree)
    assert found["weights"][0].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert found["weights"][1][0].shape == (0,)
    assert found["weights"][1][1] == 2**200
    assert found["z before a"] == tree["z before a"]
    assert found["numpy"] == [float(np.float32(0.1)), -7, True]
    assert [value.hex() for value in found["floats"]] == [value.hex() for value in tree["floats"]]
    assert found["ref"].tolist() == [0, 1]


@pytest.mark.parametrize("leaf", [{1, 2}, b"bytes", 1j, np.complex64(1), object(), Path("x")])
def test_tree_refuses_what_is_neither_an_array_nor_json(store, leaf):
    with pytest.raises(TypeError, match="neither an array nor JSON"):
        store.write_tree({"a": [leaf]})


@pytest.mark.parametrize("tree", [{"blob": 1}, {"blob": "0" * 64, "bytes": 4}])
def test_tree_refuses_references_that_would_not_come_back(store, tree):
    with pytest.raises(ValueError, match="reference to an array is malformed"):
        store.write_tree({"a": [tree]})


def test_nan_survives_a_manifest_as_every_other_float_does(store):
    store.write_manifest(1, {"best": float("nan")})

    assert np.isnan(store.verify(1).document["best"])


def nested(levels):
    """A dictionary in a dictionary and so on."""
    return {"a": nested(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"a": {1: "a"}}, "keys that are no text"),
        ({"a": [{"b": {None: 1}}]}, "keys that are no text"),
        (nested(100), "deeper than 100"),
        ({"a": {"blob": "../x"}}, "A reference to an array is malformed"),
        ({"a": "x" * (64 * 2**20)}, "use arrays"),
    ],
    ids=["key", "deep key", "depth", "ref", "length"],
)
def test_manifest_that_could_not_be_read_back_is_not_written(store, document, reason):
    with pytest.raises(ValueError, match=reason):
        store.write_manifest(1, document)

    assert store.numbers() == []


def test_deepest_manifest_that_is_written_can_be_read(store):
    store.write_manifest(1, nested(99))

    assert store.verify(1).document == nested(99)


def test_manifest_is_refused_when_an_array_it_names_is_gone(store):
    document = {"a": store.write_tree(np.ones(3)), "b": {**Store("memory://other").write_tree(np.ones(4))}}

    with pytest.raises(FileNotFoundError, match="gone") as caught:
        store.write_manifest(1, document)

    assert document["b"]["blob"] in str(caught.value)
    assert store.numbers() == []


def test_numbers_are_those_of_manifests_in_ascending_order(folder):
    store = Store(str(folder))
    for number in (10**12, 20, 0, 3):
        store.write_manifest(number, {})
    for name in ("checkpoint-5.json", "checkpoint-000000000006.json.bak", "checkpoint-0000000000007.json"):
        (folder / name).write_text("{}")
    (folder / "checkpoint-00000000000\N{ARABIC-INDIC DIGIT ONE}.json").write_text("{}")

    assert store.numbers() == [0, 3, 20, 10**12]
    assert store.verify(10**12).document == {}


def test_checkpoint_written_again_replaces_the_one_before(store):
    store.write_manifest(5, {"try": 1})
    store.write_manifest(5, {"try": 2})

    assert store.numbers() == [5]
    assert store.newest_whole() == (CheckpointRef(store, 5, {"try": 2}), [])


def test_manifest_is_json_that_says_what_the_design_says(folder):
    Store(str(folder)).write_manifest(123, {"a": 1})

    found = json.loads((folder / "checkpoint-000000000123.json").read_text())

    signed = b'{"format":4,"number":123,"document":{"a":1}}'
    assert found == {
        "format": 4,
        "number": 123,
        "sha256": hashlib.sha256(signed).hexdigest(),
        "document": {"a": 1},
    }


def test_folders_are_made_by_the_check_and_by_nothing_that_reads(tmp_path):
    store = Store(str(tmp_path / "a" / "b"))
    with pytest.raises(CheckpointDamaged, match="is missing"):
        store.verify(1)
    assert store.numbers() == []
    assert list(tmp_path.iterdir()) == []

    store.check_writable()

    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["a", "a/b", "a/b/blobs"]


@pytest.mark.parametrize("below", ["file", "file/below"])
def test_check_fails_when_the_path_is_a_file(tmp_path, below):
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError, match="file"):
        Store(str(tmp_path / below)).check_writable()


def test_url_of_the_local_disk_is_written_as_safely_as_a_path(tmp_path):
    assert isinstance(files_at(f"file://{tmp_path}"), LocalFiles)
    store = Store(f"file://{tmp_path}/x")
    store.check_writable()

    store.write_manifest(1, {"a": store.write_tree(np.ones(3))})

    assert Store(str(tmp_path / "x")).newest_whole()[0].number == 1


def test_url_of_an_unknown_kind_is_a_mistake_in_the_options():
    with pytest.raises(ConfigError, match="nowhere://x"):
        Store("nowhere://x")
