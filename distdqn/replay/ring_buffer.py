"""Rows in preallocated columns, which can be taken out and put back in segments."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from distdqn.types import AnyArray

Ids = npt.NDArray[np.int64]

_SEGMENT_BYTES = 4 * 2**20  # a call that copies as much takes a few milliseconds


def segments(first: int, inserted: int, rows_per_segment: int) -> list[tuple[int, int]]:
    """The ranges `(begin, end)` of ids, oldest first, in which `[first, inserted)` is saved.

    All begin at multiples of `rows_per_segment`, whatever `first` is. One of full length
    is complete: what it holds now, it holds until it is overwritten, so that it never has
    to be saved again. After going back to an older checkpoint this is so only for those
    that end by its `inserted`; the ids from there on are given to other rows.

    Args:
        first: id of the oldest row.
        inserted: one past the id of the newest.
        rows_per_segment: length of all but the last, see `Replay.get_index`.
    """
    if first >= inserted:
        return []
    begins = range(first // rows_per_segment * rows_per_segment, inserted, rows_per_segment)
    return [(begin, min(begin + rows_per_segment, inserted)) for begin in begins]


class Ring:
    """The newest `replay_capacity` rows of some columns; row `i` lies at position `i % capacity`.

    Who owns it counts the rows, and knows which of them are stored.

    Attributes:
        capacity: rows kept.
        columns: `[capacity, ...]` by name; none before the first rows come.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.columns: dict[str, Any] = {}
        # While segments are put back: the id at each position, and below which id rows had been
        # overwritten when a segment was taken out.
        self._restored = np.empty(0, np.int64)
        self._overwritten = 0

    @property
    def rows_per_segment(self) -> int:
        """How many rows take about 4 MB, at least 1."""
        row_bytes: int = sum(c.itemsize * math.prod(c.shape[1:]) for c in self.columns.values())
        return max(1, _SEGMENT_BYTES // max(1, row_bytes))

    def write(self, ids: Ids, columns: Mapping[str, AnyArray]) -> None:
        """Copies rows `[C, ...]` to the places of `ids` `[C]`, of which no two share one."""
        if not self.columns:
            self.columns = {
                name: np.zeros((self.capacity, *column.shape[1:]), column.dtype)
                for name, column in columns.items()
            }
        position = ids % self.capacity
        for name, column in columns.items():
            self.columns[name][position] = column

    def read(self, ids: Ids) -> dict[str, Any]:
        """Copies of the rows `[..., *row_shape]` of `ids` `[...]`, by column."""
        position = ids % self.capacity
        return {name: column[position] for name, column in self.columns.items()}

    def get_segment(self, begin: int, end: int, first: int, inserted: int) -> dict[str, Any]:
        """The rows with ids in `[begin, end)` that are stored, these being `[first, inserted)`."""
        begin = max(begin, first)
        columns = self.read(np.arange(begin, min(end, inserted)))
        return {"begin": begin, "first": first, "columns": columns}

    def set_segment(self, segment: dict[str, Any]) -> None:
        """Puts rows back. Segments may come in any order: of two rows for one place, the newer stays.

        Raises:
            ValueError: its columns are not alike in length, or not like those of others.
        """
        self._overwritten = max(self._overwritten, segment["first"])
        columns = segment["columns"]
        lengths = {len(column) for column in columns.values()}
        if not lengths or lengths == {0}:
            return
        kinds = {name: (column.dtype, column.shape[1:]) for name, column in columns.items()}
        own = {name: (column.dtype, column.shape[1:]) for name, column in self.columns.items()}
        if len(lengths) > 1 or (own and own != kinds):
            raise ValueError(
                f"`segment` has columns of {sorted(lengths)} rows, {kinds}, which do not fit {own or kinds}."
            )
        if not len(self._restored):
            self._restored = np.full(self.capacity, -1)
        ids = segment["begin"] + np.arange(lengths.pop())[-self.capacity :]
        is_newer = ids > self._restored[ids % self.capacity]
        newest = {name: column[-len(ids) :][is_newer] for name, column in columns.items()}
        self.write(ids[is_newer], newest)
        self._restored[ids[is_newer] % self.capacity] = ids[is_newer]

    def end_restoring(self, first: int, inserted: int) -> int:
        """The id from which on all rows up to `inserted` are there, at least `first`.

        Older ones may be missing: those that were overwritten before their segment was
        taken out, and those whose places a newer row took.

        Raises:
            ValueError: any other row of `[first, inserted)` is missing.
        """
        ids = np.arange(max(first, inserted - self.capacity), inserted)
        restored = self._restored[ids % self.capacity] if len(self._restored) else np.full(len(ids), -1)
        self._restored = np.empty(0, np.int64)
        missing = np.flatnonzero(restored != ids)
        if not len(missing):
            return inserted - len(ids)
        newest = int(ids[missing[-1]])
        if newest >= self._overwritten and restored[missing[-1]] < newest:
            raise ValueError(f"Row {newest} is missing; those from {first} to {inserted} were saved.")
        return newest + 1
