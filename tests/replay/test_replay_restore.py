"""Replay restored from a checkpoint under other options, or from one with missing parts."""

import numpy as np
import pytest
from toy_images import LAYOUTS, Walk, assert_batches_are, packed, rows_of
from toy_replay_state import SAMPLERS, STACKS, make_replay, make_vectors, restore, saved

from distdqn.replay.ring_buffer import segments


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("content", ["vectors", "images"])
@pytest.mark.parametrize("seed", range(8))
def test_newest_items_are_kept_when_capacity_changes(seed, content, sampler):
    generator = np.random.default_rng(seed)
    capacity, changed = (int(n) for n in generator.integers(30, 120, size=2))
    layout = LAYOUTS[seed % len(LAYOUTS)]
    walk, naive = Walk(layout, 256, 5, 1_000, seed), []
    replay = make_replay(capacity, sampler)
    for _ in range(int(generator.integers(3, 12))):
        chunk = walk.chunk(20) if content == "images" else make_vectors(len(naive), 20, generator)
        naive += rows_of(chunk)
        replay.insert(packed(layout, chunk) if content == "images" else chunk)

    checkpoint = saved(replay)
    copy = restore(make_replay(changed, sampler), checkpoint)

    assert copy.inserted == len(naive)
    assert copy.size == min(replay.size, changed)
    if sampler == "prioritized":
        values = checkpoint[0]["sampler"]["values"][-copy.size :]
        assert copy.get_index()["sampler"]["values"].tolist() == values.tolist()
    for _ in range(10):
        assert_batches_are(naive, copy.sample(4, 25))
        chunk = walk.chunk(20) if content == "images" else make_vectors(len(naive), 20, generator)
        naive += rows_of(chunk)
        copy.insert(packed(layout, chunk) if content == "images" else chunk)
        assert copy.check_valid() == (True, "")
    assert copy.size == changed


def test_images_of_half_a_chunk_are_kept_when_capacity_is_less_than_a_chunk():
    walk, replay = Walk(STACKS, 256, 1, 1_000, 0), make_replay(300)
    naive = []
    for count in (3, 60, 60):  # the first one has few frames, and room for one chunk is made by it
        chunk = walk.chunk(count)
        naive += rows_of(chunk)
        replay.insert(packed(STACKS, chunk))

    copy = restore(make_replay(20), saved(replay))

    assert copy.size == 20
    assert_batches_are(naive, copy.sample(4, 25))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("content", ["vectors", "images"])
@pytest.mark.parametrize("seed", range(8))
def test_replay_accepts_inserts_while_it_is_saved(seed, content, sampler):
    generator = np.random.default_rng(seed)
    layout = LAYOUTS[seed % len(LAYOUTS)]
    walk, naive = Walk(layout, 256, 5, 30, seed), []
    replay = make_replay(100, sampler)

    def insert():
        count = int(generator.integers(1, 12))
        chunk = walk.chunk(count)
        if content == "vectors":
            chunk = make_vectors(len(naive), count, generator)
        naive.extend(rows_of(chunk))
        replay.insert(packed(layout, chunk) if content == "images" else chunk)

    while replay.inserted < 150:
        insert()
    index = replay.get_index()
    pairs = segments(index["first"], index["inserted"], 7)
    calls = [(replay.get_rows, begin, begin + 7) for begin, _ in pairs]  # also what comes later
    if index["frames"]:
        pairs = segments(index["frames"]["first"], index["frames"]["inserted"], 7)
        calls += [(replay.get_frames, begin, begin + 7) for begin, _ in pairs]
    taken = [[], []]
    for turn, (method, begin, end) in enumerate(calls):
        if turn == 0 or generator.random() < 0.1:
            insert()
        taken[method == replay.get_frames].append(method(begin, end))

    copy = restore(make_replay(100, sampler), (index, *taken))

    assert copy.inserted == index["inserted"]
    assert 20 < copy.size < 100  # some were overwritten before their segment was read
    assert_batches_are(naive, copy.sample(4, 25))


def test_replay_that_was_overwritten_while_it_was_saved_is_restored_empty_and_usable():
    replay, walk = make_replay(40, "prioritized"), Walk(STACKS, 256, 1, 20, 0)
    replay.insert(packed(STACKS, walk.chunk(30)))
    index = replay.get_index()
    for _ in range(6):
        replay.insert(packed(STACKS, walk.chunk(30)))
    states = [replay.get_rows(0, 30)], [replay.get_frames(0, index["frames"]["inserted"])]
    copy = restore(make_replay(40, "prioritized"), (index, *states))
    assert (copy.inserted, copy.size) == (30, 0)

    chunk = walk.chunk(25)

    assert copy.insert(packed(STACKS, chunk)).inserted == 55
    assert copy.size == 25
    assert copy.check_valid() == (True, "")
    assert_batches_are([None] * 30 + rows_of(chunk), copy.sample(4, 25))


def test_images_of_half_a_chunk_stay_as_long_as_there_is_room():
    walk, replay = Walk(STACKS, 256, 1, 1_000, 0), make_replay(300)
    replay.insert(packed(STACKS, walk.chunk(60)))
    index, rows, frames = saved(replay)
    # As if frames 0 to 20 had been overwritten: item i needs i and i + 1.
    gone = {name: column[:0] for name, column in frames[0]["columns"].items()}
    frames[:3] = [{**frames[0], "begin": 21, "first": 21, "columns": gone}]
    copy = restore(make_replay(300), (index, rows, frames))
    assert copy.size == 60 - 21

    copy.insert(packed(STACKS, walk.chunk(5)))

    assert copy.size == 60 - 21 + 5


def saved_images():
    replay = make_replay(60)
    replay.insert(packed(STACKS, Walk(STACKS, 256, 1, 20, 0).chunk(50)))
    return saved(replay)


@pytest.mark.parametrize("kind", ["rows", "frames"])
@pytest.mark.parametrize("lost", [1, 3, -1])
def test_checkpoint_with_a_gap_is_refused(kind, lost):
    index, rows, frames = saved_images()
    del (rows if kind == "rows" else frames)[lost]

    with pytest.raises(ValueError, match="is missing;"):
        restore(make_replay(60), (index, rows, frames))


def test_item_that_needs_a_frame_which_never_came_is_refused():
    index, rows, frames = saved_images()
    index["frames"]["inserted"] -= 1

    with pytest.raises(ValueError, match="was never stored"):
        restore(make_replay(60), (index, rows, frames))


@pytest.mark.parametrize("method", ["set_rows", "set_frames", "set_index"])
def test_replay_with_items_refuses_to_be_restored(method):
    replay = make_replay(60)
    replay.insert(make_vectors(0, 3))
    index, rows, frames = saved_images()

    with pytest.raises(ValueError, match="3 items"):
        getattr(replay, method)({"set_rows": rows[0], "set_frames": frames[0], "set_index": index}[method])


def restored_values(sampler, exponent, changed_sampler, changed_exponent):
    """Tree values of items of priorities 1, 2 and 3 after a change of the sampler."""
    replay = make_replay(4, sampler, exponent=exponent)
    replay.insert(make_vectors(0, 4))
    copy = restore(make_replay(3, changed_sampler, exponent=changed_exponent), saved(replay))
    return copy.get_index()["sampler"]["values"].tolist()


def test_priorities_are_one_each_where_uniform_replay_was_saved():
    assert restored_values("uniform", 0.0, "prioritized", 0.5) == pytest.approx([1, 1, 1])


def test_priorities_stay_the_same_when_the_exponent_changes():
    assert restored_values("prioritized", 0.5, "prioritized", 1.0) == pytest.approx([1, 2, 3], rel=1e-5)


def test_priorities_are_one_each_where_the_exponent_was_zero():
    assert restored_values("prioritized", 0.0, "prioritized", 1.0) == pytest.approx([1, 1, 1], rel=1e-5)


def test_priorities_are_ignored_by_uniform_replay():
    replay = make_replay(8, "prioritized")
    replay.insert(make_vectors(0, 4))
    copy = restore(make_replay(8, "uniform"), saved(replay))

    assert copy.get_index()["sampler"] is None
    assert copy.sample(1, 100).importance_weight.tolist() == [[1.0] * 100]
