"""A saved replay that comes back in another number of shards than it was saved with."""

import itertools

import numpy as np
import pytest
from toy_images import Walk, packed, rows_of
from toy_replay_state import SAMPLERS, STACKS, make_replay, make_vectors

from distdqn.checkpoints.checkpointer import Checkpointer
from distdqn.checkpoints.reshard import RestorePlan, reshard
from distdqn.checkpoints.store import CheckpointRef, Store
from distdqn.replay.shards import shard_capacities
from distdqn.types import ReplayInfo

TREE = {"goal": {"best": None}}


@pytest.fixture
def store(tmp_path):
    made = Store(str(tmp_path))
    made.check_writable()
    return made


def filled(capacity, content, sampler, seed):
    """A replay after half its capacity more than fits, in chunks."""
    replay, walk = make_replay(capacity, sampler), Walk(STACKS, 256, 2, 9, seed)
    generator = np.random.default_rng(seed)
    while replay.inserted < 1.5 * capacity:
        vectors = make_vectors(10_000 * seed + replay.inserted, 23, generator)
        replay.insert(vectors if content == "vectors" else packed(STACKS, walk.chunk(23)))
    return replay


def save(store, replays):
    """A checkpoint of these shards."""
    checkpoints = Checkpointer(store, 2, lambda _text: None)
    indexes = [replay.get_index() for replay in replays]
    for segment in checkpoints.missing(indexes):
        get = getattr(replays[segment.shard], f"get_{segment.kind}")
        checkpoints.add_segment(segment, get(segment.begin, segment.end))
    checkpoints.write(1, TREE, indexes)
    return store.newest_whole()[0]


def dealt(ref, replays):
    """Fills these shards with what the checkpoint holds."""
    plan = RestorePlan(ref, len(replays))
    for index, replay in enumerate(replays):
        for method, argument in plan.calls(index):
            assert method == "set_chunk"
            replay.set_chunk(argument)
        assert replay.check_valid() == (True, "")
        assert replay.inserted <= plan.info(index).inserted == plan.info(index).size
    assert plan.inserted == sum(plan.info(index).inserted for index in range(len(replays)))
    return replays


def contents(replays):
    """All rows with the values of their priorities, those of every replay in order."""
    found = []
    for replay in replays:
        ids = np.arange(replay.inserted - replay.size, replay.inserted)
        state = replay._sampler.get_state(ids)
        values = np.ones(len(ids)) if state is None else state["values"]
        found.append(list(zip(map(tuple, rows_of(replay._rows(ids))), values.tolist(), strict=True)))
    return found


def assert_same(found, expected):
    """The same rows, with priorities that are equal but for float32's rounding."""
    found, expected = (sorted(itertools.chain(*each)) for each in (found, expected))
    assert [row for row, _ in found] == [row for row, _ in expected]
    np.testing.assert_allclose([p for _, p in found], [p for _, p in expected], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (1, 3), (3, 1), (2, 5), (4, 2)])
@pytest.mark.parametrize("content", ["vectors", "images"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_row_comes_back_with_its_priority(store, monkeypatch, sampler, content, before, after):
    monkeypatch.setattr("distdqn.replay.ring_buffer._SEGMENT_BYTES", 900)
    monkeypatch.setattr("distdqn.checkpoints.reshard._MAX_ROWS", 16)
    capacity = 240
    replays = [
        filled(part, content, sampler, seed) for seed, part in enumerate(shard_capacities(capacity, before))
    ]
    ref = save(store, replays)
    # Blocks of images that are told apart share fewer frames: room for a few more.
    room = 2 * capacity if content == "images" else capacity
    copies = dealt(ref, [make_replay(part, sampler) for part in shard_capacities(room, after)])
    assert_same(contents(copies), contents(replays))
    sizes = [copy.size for copy in copies]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == sum(replay.size for replay in replays)


def test_every_shard_gets_rows_of_every_age_in_order(store):
    ref = save(store, [filled(1_000, "vectors", "uniform", 0)])
    first, second = dealt(ref, [make_replay(500) for _ in range(2)])
    for copy in (first, second):
        numbers = copy._rows(np.arange(500)).reward
        assert np.all(np.diff(numbers) > 0)
        assert np.histogram(numbers, bins=4, range=(505, 1_506))[0].min() >= 100
    assert min(first._rows(np.arange(500)).reward.min(), second._rows(np.arange(500)).reward.min()) == 518


def test_less_capacity_than_before_keeps_the_newest(store):
    ref = save(store, [filled(1_000, "vectors", "uniform", 0)])  # 518 to 1517
    copies = dealt(ref, [make_replay(100) for _ in range(2)])
    numbers = np.concatenate([copy._rows(np.arange(400, 500)).reward for copy in copies])
    assert numbers.min() >= 1_517 - 200 - 2 * 62  # a block of each shard at most, of 1000 / (8 * 2) rows
    assert numbers.max() == 1_517


@pytest.mark.parametrize(("then", "now"), [("prioritized", "uniform"), ("uniform", "prioritized")])
def test_another_sampler_than_before_takes_the_rows(store, then, now):
    replay = filled(60, "vectors", then, 0)
    copies = dealt(save(store, [replay]), [make_replay(30, now) for _ in range(2)])
    rows = [{row for part in contents(each) for row, _ in part} for each in (copies, [replay])]
    assert rows[0] == rows[1]
    assert {value for part in contents(copies) for _, value in part} <= {1.0, (1.0 + 1e-6) ** 0.6}


def test_another_exponent_than_before_keeps_the_priorities(store):
    replay = make_replay(8, "prioritized", exponent=0.5)
    replay.insert(make_vectors(0, 8))  # with their numbers as priorities
    (copy, _) = copies = [make_replay(4, "prioritized", exponent=1.0) for _ in range(2)]
    dealt(save(store, [replay]), copies)
    numbers = copy._rows(np.arange(4)).reward
    np.testing.assert_allclose(copy._sampler._tree.get(np.arange(4)), numbers, atol=2e-6)


def test_rows_whose_frames_were_overwritten_while_they_were_saved_are_left_out(store, monkeypatch):
    monkeypatch.setattr("distdqn.replay.ring_buffer._SEGMENT_BYTES", 900)
    replay, walk = make_replay(120), Walk(STACKS, 256, 2, 9, 0)
    replay.insert(packed(STACKS, walk.chunk(120)))
    checkpoints, index = Checkpointer(store, 2, lambda _text: None), replay.get_index()
    replay.insert(packed(STACKS, walk.chunk(40)))
    for segment in checkpoints.missing([index]):
        get = getattr(replay, f"get_{segment.kind}")
        checkpoints.add_segment(segment, get(segment.begin, segment.end))
    checkpoints.write(1, TREE, [index])
    copies = dealt(store.newest_whole()[0], [make_replay(120) for _ in range(2)])
    (kept,) = contents([replay])
    assert 60 <= sum(copy.size for copy in copies) <= 80
    assert {row for part in contents(copies) for row, _ in part} <= {row for row, _ in kept}


def test_no_more_than_a_segment_of_each_shard_is_read_ahead(store, monkeypatch):
    monkeypatch.setattr("distdqn.replay.ring_buffer._SEGMENT_BYTES", 20 * 50)
    ref = save(store, [filled(1_000, "vectors", "uniform", seed) for seed in range(3)])
    read, whole = [], store.read_tree

    def read_tree(tree):
        read.append(tree)
        return whole(tree)

    monkeypatch.setattr(store, "read_tree", read_tree)
    given = 0
    for chunk in reshard(store, ref.document["replay"], 2, 0):
        given += len(chunk)  # half of what was read
        segments = sum(isinstance(tree, dict) and "begin" in tree for tree in read)
        assert segments <= 2 * given / 50 + 2 * 3
    assert given == 1_500


def test_plan_without_checkpoint_or_without_saved_replay_leaves_replay_empty(store):
    nothing = CheckpointRef(store, 1, {"replay": []})
    for plan in (RestorePlan(None, 2), RestorePlan(nothing, 2)):
        assert list(plan.calls(1)) == []
        assert plan.info(1) == ReplayInfo()
        assert plan.inserted == 0


def test_plan_for_as_many_shards_as_were_saved_gives_them_back_as_they_were(store):
    replays = [filled(60, "vectors", "uniform", seed) for seed in range(2)]
    plan = RestorePlan(save(store, replays), 2)
    assert plan.info(1) == ReplayInfo(inserted=92, size=60)
    assert plan.inserted == 2 * 92
    assert [method for method, _ in plan.calls(1)] == ["set_rows", "set_index"]


def test_same_checkpoint_is_dealt_out_in_the_same_way_every_time(store):
    ref = save(store, [filled(100, "vectors", "prioritized", 0)])
    first, second = (list(reshard(store, ref.document["replay"], 3, 1)) for _ in range(2))
    assert len(first) > 3
    for one, other in zip(first, second, strict=True):
        assert rows_of(one) == rows_of(other)
