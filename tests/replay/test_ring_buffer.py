import numpy as np
import pytest

from distdqn.replay.ring_buffer import Ring, segments


def make_columns(ids):
    """Rows that say their ids in two ways."""
    number = np.array(ids, np.int64)
    return {"number": number, "pair": np.stack([number, -number], axis=1).astype(np.float32)}


def segment(begin, end, first=0):
    return {"begin": begin, "first": first, "columns": make_columns(range(begin, end))}


def restored_ring(capacity, *given):
    ring = Ring(capacity)
    for each in given:
        ring.set_segment(segment(*each))
    return ring


def test_segments_begin_at_multiples_and_end_with_the_newest_row():
    assert segments(0, 10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert segments(5, 12, 4) == [(4, 8), (8, 12)]
    assert segments(7, 9, 1) == [(7, 8), (8, 9)]


def test_segments_of_nothing_are_none():
    assert segments(0, 0, 4) == segments(6, 6, 4) == []


@pytest.mark.parametrize("seed", range(5))
def test_full_segments_stay_the_same_while_rows_come_and_go(seed):
    generator = np.random.default_rng(seed)
    length, inserted, seen = int(generator.integers(1, 9)), 0, set()
    for _ in range(40):
        inserted += int(generator.integers(0, 12))
        first = max(0, inserted - 30)
        now = segments(first, inserted, length)

        covered = [i for begin, end in now for i in range(begin, end)]
        assert covered == list(range(first // length * length if now else 0, inserted if now else 0))
        full = {(begin, end) for begin, end in now if end - begin == length}
        assert {pair for pair in seen if pair[1] > first} <= full
        seen |= full


def test_row_lies_where_its_id_says_and_comes_back():
    ring = Ring(4)
    ring.write(np.arange(3, 6), make_columns([3, 4, 5]))

    assert ring.columns["number"].tolist() == [4, 5, 0, 3]
    assert ring.read(np.array([[5], [3]]))["pair"].tolist() == [[[5, -5]], [[3, -3]]]


@pytest.mark.parametrize(("row_shape", "rows"), [((7,), 2**20 // 9), ((84, 84), 148), ((2048, 2048), 1)])
def test_segment_takes_about_four_megabytes(row_shape, rows):
    ring = Ring(3)
    ring.write(np.arange(1), {"number": np.zeros(1, np.int64), "row": np.zeros((1, *row_shape), np.float32)})

    # 8 + 7 * 4 bytes make 36; 8 + 84 * 84 * 4 make 28,232; and one row at least.
    assert ring.rows_per_segment == rows


def test_segment_holds_what_is_stored_of_it():
    ring = Ring(4)
    ring.write(np.arange(3, 7), make_columns([3, 4, 5, 6]))

    taken = ring.get_segment(2, 6, first=4, inserted=7)

    assert (taken["begin"], taken["first"]) == (4, 4)
    assert taken["columns"]["number"].tolist() == [4, 5]
    assert taken["columns"]["pair"].dtype == np.float32


@pytest.mark.parametrize(("begin", "end"), [(0, 3), (2, 4), (7, 9), (8, 20)])
def test_segment_is_empty_if_nothing_of_it_is_stored(begin, end):
    ring = Ring(4)
    ring.write(np.arange(3, 7), make_columns([3, 4, 5, 6]))

    assert ring.get_segment(begin, end, first=4, inserted=7)["columns"]["pair"].shape == (0, 2)


@pytest.mark.parametrize("seed", range(20))
def test_newest_rows_stay_in_whatever_order_segments_come(seed):
    generator = np.random.default_rng(seed)
    capacity, length, inserted = (int(generator.integers(1, high)) for high in (20, 30, 90))
    first = int(generator.integers(inserted))
    ring = Ring(capacity)
    for begin, end in generator.permutation(segments(first, inserted, length)).tolist():
        ring.set_segment(segment(begin, end))

    begin = ring.finish_restore(first, inserted)

    assert begin == max(first, inserted - capacity)
    ids = np.arange(begin, inserted)
    assert ring.read(ids)["number"].tolist() == ids.tolist()
    assert ring.read(ids)["pair"][:, 1].tolist() == (-ids).tolist()


def test_rows_older_than_the_first_one_do_not_come_back():
    assert restored_ring(8, (12, 20)).finish_restore(14, 20) == 14


def test_rows_overwritten_before_their_segment_was_taken_out_may_be_missing():
    ring = restored_ring(8, (12, 14), (15, 16, 15), (16, 20))  # 14 was overwritten after 12 was taken

    assert ring.finish_restore(12, 20) == 15


def test_all_rows_may_have_been_overwritten():
    assert restored_ring(4, (30, 30, 30)).finish_restore(12, 16) == 16


@pytest.mark.parametrize("missing", [12, 13, 15])
def test_row_missing_for_no_reason_is_refused(missing):
    ring = restored_ring(8, (12, missing, 12), (missing + 1, 16, 12))

    with pytest.raises(ValueError, match=f"Row {missing} is missing"):
        ring.finish_restore(12, 16)


def test_all_rows_missing_for_no_reason_are_refused():
    with pytest.raises(ValueError, match="Row 15 is missing"):
        Ring(4).finish_restore(12, 16)


def test_rows_that_came_after_the_index_are_left_out():
    ring = restored_ring(8, (12, 16), (16, 18))  # rows 16 and 17 after it

    assert ring.finish_restore(12, 16) == 12
    assert ring.read(np.arange(12, 16))["number"].tolist() == [12, 13, 14, 15]


def test_rows_that_came_after_the_index_may_have_taken_the_places_of_the_oldest():
    assert restored_ring(4, (12, 16), (16, 18)).finish_restore(12, 16) == 14


@pytest.mark.parametrize(
    "columns",
    [
        {"number": np.zeros(2, np.int64), "pair": np.zeros((3, 2), np.float32)},
        {"number": np.zeros(2, np.int64), "pair": np.zeros((2, 1), np.float32)},
        {"number": np.zeros(2, np.int64), "pair": np.zeros((2, 2), np.float64)},
        {"number": np.zeros(2, np.int64)},
    ],
    ids=["another length", "another shape", "another dtype", "a column less"],
)
def test_segment_that_does_not_fit_the_others_is_refused(columns):
    ring = restored_ring(8, (0, 2))

    with pytest.raises(ValueError, match="do not fit"):
        ring.set_segment({"begin": 2, "first": 0, "columns": columns})


def test_segment_without_rows_changes_nothing():
    ring = Ring(8)
    ring.set_segment({"begin": 2, "first": 0, "columns": {}})
    absurd = {"number": np.zeros((0, 2**60), np.int8)}
    ring.set_segment({"begin": 2, "first": 0, "columns": absurd})

    assert ring.columns == {}


def test_restored_rows_are_copies():
    ring, given = Ring(2), segment(0, 2)
    ring.set_segment(given)

    given["columns"]["number"][:] = 9

    assert ring.columns["number"].tolist() == [0, 1]
