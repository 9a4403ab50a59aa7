"""A restored replay continues bit for bit like the one that was saved."""

import functools
from itertools import pairwise

import numpy as np
import pytest
from toy_images import LAYOUTS, Walk, packed
from toy_replay_state import SAMPLERS, STACKS, make_replay, make_vectors, plain, restore, saved

from distdqn.types import FrameLayout, PriorityUpdate


def walks(seed, layout):
    """Three actors: long episodes, short ones, and short ones of few different images."""
    kinds = [(256, 1, 30), (256, 5, 4), (2, 3, 2)]
    return [Walk(layout, *kind, [seed, k]) for k, kind in enumerate(kinds)]


def result_of(replay, method, argument):
    """What a call returned, comparable bit for bit."""
    result = getattr(replay, method)(*argument)
    if method != "sample":
        return result, replay.size
    columns = [*result.transitions.columns().values(), result.item_id, result.importance_weight]
    return [plain(column) for column in columns]


def random_call(generator, replay, next_chunk):
    """Any of the three calls, with arguments that make sense for `replay`."""
    match generator.integers(4):
        case 0 if replay.size:
            return "sample", (int(generator.integers(1, 4)), int(generator.integers(1, 9)), 0.5)
        case 1 if replay.size:
            ids = generator.integers(max(0, replay.inserted - 2 * replay.size), replay.inserted, size=(2, 5))
            return "update_priorities", (PriorityUpdate(ids, generator.random((2, 5), np.float32)),)
    return "insert", (next_chunk(),)


@functools.cache
def run_with_forks(seed, content, sampler):
    """Restores copies at random moments, checks that all continue alike, and returns the cases met."""
    generator = np.random.default_rng(seed)
    capacity = int(generator.integers(1, 90))
    layout = LAYOUTS[seed % len(LAYOUTS)]
    actors = walks(seed, layout)

    def next_chunk():
        count = int(generator.integers(0, 24))
        if content == "vectors":
            return make_vectors(replays[0].inserted, count, generator)
        return packed(layout, actors[generator.integers(3)].chunk(count))

    replays, met, frames_before = [make_replay(capacity, sampler, seed)], set(), 0
    for _ in range(150):
        if generator.random() < 0.1:
            source = replays[generator.integers(len(replays))]  # perhaps one restored itself
            fresh = make_replay(capacity, sampler, seed)
            checkpoint = saved(source, int(generator.integers(1, 40)))
            replays = [*replays[:3], restore(fresh, checkpoint, seed)]
            frames_before = source._frames.end if source._frames else 0
            met.add("wrapped" if source.inserted > capacity else "not wrapped")
            met.add("frames ran out" if source.size < min(source.inserted, capacity) else "enough frames")
        method, argument = random_call(generator, replays[0], next_chunk)
        results = [result_of(replay, method, argument) for replay in replays]
        assert all(result == results[0] for result in results), method
        if content == "images" and method == "insert" and len(argument[0]):
            rows = replays[0].get_rows(replays[0].inserted - len(argument[0]), replays[0].inserted)
            if min(rows["columns"]["observation"][0]) < frames_before:
                met.add("frames from before are found")
        if generator.random() < 0.2:
            assert all(one == other for one, other in pairwise(plain(saved(r)) for r in replays))
    return met


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("content", ["vectors", "images"])
@pytest.mark.parametrize("seed", range(6))
def test_restored_replay_continues_bit_for_bit_under_random_operations(seed, content, sampler):
    assert "wrapped" in run_with_forks(seed, content, sampler)


def test_random_operations_cover_all_cases():
    met = set.union(*(run_with_forks(seed, "images", "uniform") for seed in range(6)))

    assert met == {
        "not wrapped",
        "wrapped",
        "frames ran out",
        "enough frames",
        "frames from before are found",
    }


def test_frame_seen_before_the_checkpoint_is_found_again_after_it():
    replay, walk = make_replay(800), Walk(STACKS, 256, 1, 1_000, 0)
    replay.insert(packed(STACKS, walk.chunk(50)))
    copy = restore(make_replay(800), saved(replay))

    copy.insert(packed(STACKS, walk.chunk(50)))

    # A black one to begin with, and those of 100 steps with the last image.
    assert copy._frames.end == 1 + 101


def test_restored_replay_draws_the_random_numbers_that_would_have_come():
    replay = make_replay(100, seed=5)
    replay.insert(make_vectors(0, 100))
    replay.sample(1, 7)
    copy = restore(make_replay(100, seed=6), saved(replay))  # its own seed does not matter

    expected = [replay.sample(2, 3).item_id.tolist() for _ in range(3)]

    assert [copy.sample(2, 3).item_id.tolist() for _ in range(3)] == expected


def test_checkpoint_of_an_empty_replay_restores_its_random_numbers():
    replay = make_replay(10)
    replay._generator.random(3)
    copy = restore(make_replay(10), saved(replay))
    for each in (replay, copy):
        assert (each.insert(make_vectors(0, 8)).inserted, each.size) == (8, 8)

    assert copy.sample(1, 9).item_id.tolist() == replay.sample(1, 9).item_id.tolist()


def test_late_priority_after_restoring_changes_nothing_for_an_evicted_item():
    replay = make_replay(4, "prioritized", exponent=1.0)
    replay.insert(make_vectors(0, 6))  # items 2 to 5 are left
    copy = restore(make_replay(4, "prioritized", exponent=1.0), saved(replay))
    before = plain(copy.get_index())

    late = PriorityUpdate(np.array([[0, 1, 6]]), np.ones((1, 3), np.float32))
    copy.update_priorities(late)

    assert plain(copy.get_index()) == before


def test_index_has_lengths_of_segments_of_about_four_megabytes():
    vectors, images = make_replay(10), make_replay(10)
    vectors.insert(make_vectors(0, 1))
    atari = FrameLayout((4, 84, 84), 0)
    images.insert(packed(atari, Walk(atari, 256, 1, 20, 0).chunk(3)))

    assert vectors.get_index()["rows_per_segment"] == 4 * 2**20 // (5 * 4)
    index = images.get_index()
    assert index["rows_per_segment"] == 4 * 2**20 // (2 * 4 * 8 + 3 * 4)  # frame ids, and three numbers
    assert index["frames_per_segment"] == 4 * 2**20 // (84 * 84 + 8)  # pixels, and a key


def test_returned_state_may_be_changed_by_the_caller():
    replay = make_replay(60, "prioritized")
    replay.insert(packed(STACKS, Walk(STACKS, 256, 1, 20, 0).chunk(50)))
    before = plain(saved(replay))

    index = replay.get_index()
    index["sampler"]["values"][:] = 0
    index["frames"]["chunk_oldest"][:] = 9
    for state in (replay.get_rows(0, 50), replay.get_frames(0, 50)):
        for column in state["columns"].values():
            column[:] = 9

    assert plain(saved(replay)) == before


def test_checkpoint_of_an_empty_replay_has_no_segments():
    replay = make_replay(8)

    assert replay.get_rows(0, 5) == replay.get_frames(0, 5) == {"begin": 0, "first": 0, "columns": {}}
    assert saved(replay)[1:] == ([], [])
