import numpy as np
import pytest

from distdqn.replay.frames import FrameStore, frame_capacity, newest_rows
from distdqn.types import FrameLayout, Frames

LAYOUT = FrameLayout((1, 1), None)


def make_frames(*values):
    """Frames of one pixel; value and key say the same."""
    return Frames(np.array(values, np.uint8).reshape(-1, 1, 1), np.array(values, np.int64), LAYOUT)


class Chunks:
    """Adds chunks whose transitions need one frame each, and counts their items."""

    def __init__(self, store):
        self.store = store
        self.items = 0

    def add(self, *values):
        self.items += len(values)
        return self.store.add(make_frames(*values), np.arange(len(values))[:, None], self.items)[
            :, 0
        ].tolist()


def test_frames_get_rising_ids_and_come_back_by_them():
    store = FrameStore(LAYOUT, 8, 4)
    chunks = Chunks(store)

    assert chunks.add(7, 8, 9) == [0, 1, 2]
    assert chunks.add(5) == [3]
    assert store.observations(np.array([[[3], [0]]])).tolist() == [[[[5]], [[7]]]]


def test_frame_that_comes_again_is_not_stored_again():
    chunks = Chunks(FrameStore(LAYOUT, 8, 8))
    chunks.add(7, 8, 9)

    assert chunks.add(9, 4, 7) == [2, 3, 0]


def test_frame_beyond_the_age_limit_is_stored_again():
    chunks = Chunks(FrameStore(LAYOUT, 20, 4))
    chunks.add(7, 8, 9)

    assert chunks.add(1) == [3]
    assert chunks.add(7) == [0]  # the newest four are 0, 1, 2 and 3
    assert chunks.add(2) == [4]
    assert chunks.add(7, 8) == [5, 1]  # the newest four are 1, 2, 3 and 4


def test_nothing_is_found_again_without_any_age_allowed():
    chunks = Chunks(FrameStore(LAYOUT, 20, 0))

    assert [chunks.add(7), chunks.add(7)] == [[0], [1]]


def test_known_keys_do_not_pile_up():
    chunks = Chunks(FrameStore(LAYOUT, 20, 5))
    for value in range(200):
        chunks.add(value)

    assert len(chunks.store._known) <= 2 * 5


def test_items_go_by_whole_chunks_with_their_oldest_frame():
    chunks = Chunks(FrameStore(LAYOUT, 5, 0))
    chunks.add(1, 2)  # items 0 and 1
    chunks.add(3, 4)
    assert chunks.store.first_item == 0

    chunks.add(5, 6)  # six frames: the first one is overwritten

    assert (chunks.store.oldest, chunks.store.first_item) == (1, 2)


def test_chunk_that_refers_further_back_takes_those_before_it_along():
    chunks = Chunks(FrameStore(LAYOUT, 6, 6))
    chunks.add(1, 2)  # frames 0 and 1
    chunks.add(3, 4)  # frames 2 and 3
    chunks.add(2)  # item 4 refers to frame 1
    chunks.add(5, 6)  # frames 4 and 5, items 5 and 6

    chunks.add(7, 8)  # frames 0 and 1 are overwritten, though 2 and 3 are not

    assert chunks.store.first_item == 5


def test_frame_known_but_about_to_be_overwritten_is_stored_again():
    chunks = Chunks(FrameStore(LAYOUT, 4, 4))
    chunks.add(1, 2, 3)

    ids = chunks.add(4, 5, 1)  # two new ones leave no room for the first

    assert ids == [3, 4, 5]
    assert chunks.store.observations(np.array([[ids]]).reshape(1, 3, 1)).ravel().tolist() == [4, 5, 1]


def test_chunk_with_too_many_frames_keeps_its_newest_transitions():
    store = FrameStore(LAYOUT, 3, 3)
    Chunks(store).add(9)  # item 0

    ids = store.add(make_frames(1, 2, 3, 4, 5), np.array([[0, 1], [1, 2], [2, 3], [3, 4]]), end=5)

    assert ids.tolist() == [[1, 2], [2, 3]]  # of frames 3, 4 and 5
    assert store.first_item == 3
    assert store.observations(ids[None, :, 1:]).ravel().tolist() == [4, 5]


@pytest.mark.parametrize(("capacity", "rows"), [(5, 4), (4, 3), (3, 2), (2, 1)])
def test_newest_rows_keeps_as_many_of_the_newest_rows_as_possible(capacity, rows):
    positions = np.array([[0, 1], [1, 2], [2, 3], [3, 4]])

    assert newest_rows(positions, capacity).tolist() == positions[-rows:].tolist()


@pytest.mark.parametrize("seed", range(10))
def test_newest_rows_agrees_with_counting_the_frames_of_every_tail(seed):
    generator = np.random.default_rng(seed)
    positions = generator.integers(0, 30, size=(int(generator.integers(1, 20)), 4))
    capacity = int(generator.integers(4, 30))

    tails = [positions[row:] for row in range(len(positions))]

    expected = next(tail for tail in tails if len(np.unique(tail)) <= capacity)
    assert newest_rows(positions, capacity).tolist() == expected.tolist()


def test_store_has_room_for_old_references_and_one_chunk():
    stack = FrameLayout((4, 84, 84), 0)

    assert frame_capacity(stack, 1_000, 100) == 1_000 + 1_000 // 8 + 100
    assert frame_capacity(stack, 1, 1) == 1 + 2 * 4  # the frames of one transition at least
