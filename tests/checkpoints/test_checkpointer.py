"""Checkpoints of a run: each segment of replay written once, the newest and the best kept."""

import errno
import itertools

import numpy as np
import pytest
from toy_images import Walk, packed
from toy_replay_state import SAMPLERS, STACKS, make_replay, make_vectors, plain

from distdqn.checkpoints.checkpointer import Checkpointer, Segment, segments_of
from distdqn.checkpoints.format import manifest_name
from distdqn.checkpoints.reshard import RestorePlan
from distdqn.checkpoints.store import CheckpointRef, Store
from distdqn.errors import CheckpointError

_names = itertools.count()


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    """An empty store: a folder, or an object store that lives in this process."""
    made = Store(str(tmp_path) if request.param == "local" else f"memory://checkpoints{next(_names)}")
    made.check_writable()
    return made


@pytest.fixture
def folder(tmp_path):
    """A folder with an empty store in it."""
    Store(str(tmp_path)).check_writable()
    return tmp_path


def checkpoints_in(store, keep=3, notes=None):
    """A checkpointer that keeps `keep` checkpoints and puts its notes into `notes`."""
    return Checkpointer(store, keep, (notes if notes is not None else []).append)


def tree_of(number, best=None):
    """All but replay, with arrays that no other number has."""
    weights = None if best is None else {"arrays": [np.full(3, best, np.float32)]}
    goal = {"best": None if best is None else {"learner_steps": best}, "best_weights": weights}
    return {"learner": {"learner_steps": number, "network": np.full(5, number)}, "goal": goal}


def index_of(first, inserted, rows_per_segment=100, frames=None, frames_per_segment=1):
    """What a replay says of its segments."""
    return {
        "first": first,
        "inserted": inserted,
        "rows_per_segment": rows_per_segment,
        "frames": frames,
        "frames_per_segment": frames_per_segment,
    }


def rows_of(segment):
    """What a replay would give for a segment."""
    return {"begin": segment.begin, "columns": {"number": np.arange(segment.begin, segment.end)}}


def write(checkpoints, number, index=None, best=None):
    """Writes a checkpoint; returns the ranges of the segments that had to be written."""
    indexes = [] if index is None else [index]
    missing = checkpoints.missing(indexes)
    for segment in missing:
        checkpoints.add_segment(segment, rows_of(segment))
    checkpoints.write(number, tree_of(number, best), indexes)
    return [(segment.begin, segment.end) for segment in missing]


# Segments.


def test_replay_is_cut_at_multiples_of_the_length_and_the_last_part_is_shorter():
    assert segments_of(0, index_of(150, 420)) == [
        Segment(0, "rows", 100, 200),
        Segment(0, "rows", 200, 300),
        Segment(0, "rows", 300, 400),
        Segment(0, "rows", 400, 420),
    ]
    assert segments_of(0, index_of(0, 0)) == []


def test_frames_come_before_the_rows_that_refer_to_them():
    frames = {"first": 30, "inserted": 95}
    assert segments_of(0, index_of(0, 100, frames=frames, frames_per_segment=50)) == [
        Segment(0, "frames", 0, 50),
        Segment(0, "frames", 50, 95),
        Segment(0, "rows", 0, 100),
    ]


def test_segments_are_written_once_and_the_last_one_whenever_it_has_grown(store):
    checkpoints = checkpoints_in(store)
    assert write(checkpoints, 1, index_of(0, 250)) == [(0, 100), (100, 200), (200, 250)]
    assert write(checkpoints, 2, index_of(0, 260)) == [(200, 260)]
    assert write(checkpoints, 3, index_of(0, 310)) == [(200, 300), (300, 310)]
    assert write(checkpoints, 4, index_of(0, 310)) == []


def test_segments_of_other_lengths_or_of_another_process_are_written_again(store):
    checkpoints = checkpoints_in(store)
    write(checkpoints, 1, index_of(0, 200))
    assert write(checkpoints, 2, index_of(0, 200, rows_per_segment=50)) == [
        (0, 50),
        (50, 100),
        (100, 150),
        (150, 200),
    ]
    assert write(checkpoints_in(store), 3, index_of(0, 200)) == [(0, 100), (100, 200)]


def test_segments_that_were_overwritten_in_replay_are_forgotten(store):
    checkpoints = checkpoints_in(store)
    write(checkpoints, 1, index_of(0, 300))
    assert write(checkpoints, 2, index_of(150, 450)) == [(300, 400), (400, 450)]
    assert [segment.begin for segment in checkpoints._written] == [100, 200, 300, 400]


def test_checkpoint_holds_tree_and_replay_in_the_order_to_put_them_back(store):
    checkpoints = checkpoints_in(store)
    write(checkpoints, 1, index_of(0, 150))
    write(checkpoints, 2, index_of(0, 230))
    ref = checkpoints.newest()
    assert (ref.store, ref.number) == (store, 2)
    document = ref.document
    assert plain(store.read_tree(document["learner"])) == plain(tree_of(2)["learner"])
    calls = list(RestorePlan(ref, 1).calls(0))
    assert [method for method, _ in calls] == ["set_rows", "set_rows", "set_rows", "set_index"]
    numbers = [state["columns"]["number"].tolist() for _, state in calls[:-1]]
    assert numbers == [list(range(100)), list(range(100, 200)), list(range(200, 230))]
    assert calls[-1][1] == index_of(0, 230)


@pytest.mark.parametrize("content", ["vectors", "images"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_real_replay_comes_back_bit_for_bit_from_the_last_of_several(folder, monkeypatch, content, sampler):
    monkeypatch.setattr("distdqn.replay.ring_buffer._SEGMENT_BYTES", 600)
    replay, walk = make_replay(100, sampler), Walk(STACKS, 256, 1, 20, 0)
    checkpoints = checkpoints_in(Store(str(folder)))
    generator = np.random.default_rng(0)
    written = []
    for number in range(8):
        vectors = make_vectors(replay.inserted, 37, generator)
        replay.insert(vectors if content == "vectors" else packed(STACKS, walk.chunk(37)))
        replay.sample(2, 8)
        index = replay.get_index()
        missing = checkpoints.missing([index])
        for segment in missing:
            get = getattr(replay, f"get_{segment.kind}")
            checkpoints.add_segment(segment, get(segment.begin, segment.end))
        checkpoints.write(number, tree_of(number), [index])
        written.append(len(missing) / len(segments_of(0, index)))
    assert max(written[3:]) < 0.75  # 37 of 100 are new each time, and one part was incomplete
    store = Store(str(folder))
    copy = make_replay(100, sampler)
    for method, state in RestorePlan(store.newest_whole()[0], 1).calls(0):
        getattr(copy, method)(state)
    assert plain(copy.get_index()) == plain(replay.get_index())
    for _ in range(5):
        assert plain(copy.sample(3, 20).transitions.columns()) == plain(
            replay.sample(3, 20).transitions.columns()
        )


# Which are kept.


def test_newest_ones_are_kept_and_nothing_else_stays_on_disk(folder):
    store = Store(str(folder), grace_seconds=0.0)
    checkpoints = checkpoints_in(store, keep=2)
    for number in range(1, 8):
        write(checkpoints, number, index_of(0, 60 * number))
    assert store.numbers() == [6, 7]
    named = set()
    for number in store.numbers():
        document = store.verify(number).document
        arrays = [document["learner"]["network"]] + [
            part["state"]["columns"]["number"] for part in document["replay"][0]["parts"]
        ]
        named |= {ref["blob"] for ref in arrays}
    # Two networks, of rows the segments to 100, 200, 300 and 400, and those to 360 and 420.
    assert {path.stem for path in (folder / "blobs").iterdir()} == named
    assert len(named) == 2 + 4 + 2


def test_fault_41_best_checkpoint_is_kept_after_any_number_of_resumes(store):
    write(checkpoints_in(store), 10, best=5)
    for number in range(20, 90, 10):
        start = CheckpointRef(store, store.numbers()[-1], store.read_manifest(store.numbers()[-1]))
        write(Checkpointer(store, 2, print, start), number, best=5)
    assert store.numbers() == [10, 70, 80]


@pytest.mark.parametrize("damage", ["cut", "deleted"])
def test_fault_41_damaged_best_checkpoint_is_told_and_given_up(folder, damage):
    store, notes = Store(str(folder)), []
    checkpoints = checkpoints_in(store, keep=2, notes=notes)
    write(checkpoints, 10, best=5)
    manifest = folder / manifest_name(10)
    manifest.write_bytes(manifest.read_bytes()[:-9])
    if damage == "deleted":
        manifest.unlink()
    for number in (20, 30, 40, 50):
        write(checkpoints, number, best=5)

    assert store.numbers() == [30, 40, 50]  # another one with the best weights is kept now
    (note,) = notes
    assert note.startswith("The checkpoint of the best evaluation is given up: ")


def test_checkpoint_with_the_best_weights_first_in_it_is_kept_besides_the_newest(store):
    checkpoints = checkpoints_in(store, keep=2)
    best = {10: None, 20: 15, 30: 15, 40: 15, 50: 45, 60: 45, 70: 45, 80: 45}
    kept = {}
    for number, steps in best.items():
        write(checkpoints, number, best=steps)
        kept[number] = store.numbers()
    assert kept[40] == [20, 30, 40]
    assert kept[50] == [40, 50]
    assert kept[80] == [50, 70, 80]
    assert store.read_tree(store.read_manifest(50)["goal"])["best_weights"]["arrays"][0].tolist() == [45] * 3


def test_checkpoint_that_is_made_later_has_the_larger_number_whatever_its_steps(store):
    checkpoints = checkpoints_in(store)
    write(checkpoints, 5, index_of(0, 100))
    write(checkpoints, 5, index_of(0, 300))
    assert store.numbers() == [5, 6]
    assert checkpoints.newest().document["replay"][0]["index"]["inserted"] == 300


# Faults.


def test_newest_that_is_whole_is_found_and_none_if_there_is_none(folder):
    checkpoints = checkpoints_in(Store(str(folder)))
    assert checkpoints.newest() is None
    for number in (1, 2, 3):
        write(checkpoints, number)
    for number in (3, 2):
        path = folder / f"checkpoint-{number:012d}.json"
        path.write_bytes(path.read_bytes()[:-9])
        assert checkpoints.newest().document["learner"]["learner_steps"] == number - 1
    (folder / "checkpoint-000000000001.json").write_text("{}")
    assert checkpoints.newest() is None


def test_array_that_vanished_is_written_again_after_the_failure_it_caused(folder):
    notes = []
    checkpoints = checkpoints_in(Store(str(folder)), notes=notes)
    index = index_of(0, 100)
    write(checkpoints, 1, index)
    (ref,) = [
        part["state"]["columns"]["number"] for part in checkpoints.newest().document["replay"][0]["parts"]
    ]
    (folder / "blobs" / f"{ref['blob']}.safetensors").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        write(checkpoints, 2, index)
    checkpoints.add_failure(caught.value)
    write(checkpoints, 3, index)
    assert Store(str(folder)).newest_whole()[0].number == 3


def test_fifth_consecutive_failure_is_an_error_and_those_before_are_notes(folder):
    notes = []
    checkpoints = checkpoints_in(Store(str(folder)), notes=notes)
    full = OSError(errno.ENOSPC, "No space left on device")
    for _ in range(4):
        checkpoints.add_failure(full)
    write(checkpoints, 1)  # the count restarts
    for _ in range(4):
        checkpoints.add_failure(full)
    told = (
        "A checkpoint could not be written (OSError: [Errno 28] No space left on device); training continues"
    )
    assert notes == [f"{told}, and the next one is written in full."] * 8
    with pytest.raises(CheckpointError, match=r"No space left on device.*5 consecutive times") as caught:
        checkpoints.add_failure(full)
    assert caught.value.exit_code == 4
