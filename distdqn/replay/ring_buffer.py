"""Preallocated columns of rows, saved and restored in segments."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from distdqn.types import AnyArray

Ids = npt.NDArray[np.int64]

_SEGMENT_BYTES = 4 * 2**20  # copying as much takes a few milliseconds


def segments(first: int, inserted: int, rows_per_segment: int) -> list[tuple[int, int]]:
    """The ranges `(begin, end)` of ids, oldest first, in which rows `[first, inserted)` are saved.

    All begin at multiples of `rows_per_segment`. A segment of full length is saved once, because its
    rows do not change; after a restore, only if it ends by the checkpoint's `inserted`.
    """
    if first >= inserted:
        return []
    begins = range(first // rows_per_segment * rows_per_segment, inserted, rows_per_segment)
    return [(begin, min(begin + rows_per_segment, inserted)) for begin in begins]


class Ring:
    """The newest `capacity` rows of some columns: row `i` is at position `i % capacity`.

    The owner counts the rows and knows which are stored.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.columns: dict[str, Any] = {}  # [capacity, ...] by name; none before the first rows
        # Only during a restore.
        self._restored = np.empty(0, np.int64)  # [capacity], id at each position
        self._overwritten = 0  # rows with lower ids may be missing

    @property
    def rows_per_segment(self) -> int:
        """How many rows take about 4 MB, at least 1."""
        row_bytes: int = sum(c.itemsize * math.prod(c.shape[1:]) for c in self.columns.values())
        return max(1, _SEGMENT_BYTES // max(1, row_bytes))

    def write(self, ids: Ids, columns: Mapping[str, AnyArray]) -> None:
        """Copies rows `[C, ...]` to the positions of `ids` `[C]`, which must differ."""
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
        """The rows with ids in `[begin, end)`, of which `[first, inserted)` are stored."""
        begin = max(begin, first)
        columns = self.read(np.arange(begin, min(end, inserted)))
        return {"begin": begin, "first": first, "columns": columns}

    def set_segment(self, segment: dict[str, Any]) -> None:
        """Restores a segment, in any order: of two rows for one position, the newer stays.

        `ValueError` if its columns differ in length, or do not match those of other segments.
        """
        self._overwritten = max(self._overwritten, segment["first"])
        columns = segment["columns"]
        lengths = {len(column) for column in columns.values()}
        if not any(lengths):
            return
        kinds = _kinds(columns)
        own = _kinds(self.columns) or kinds
        if len(lengths) > 1 or own != kinds:
            raise ValueError(
                f"`segment` has columns of {sorted(lengths)} rows, {kinds}, which do not fit {own}."
            )
        if not len(self._restored):
            self._restored = np.full(self.capacity, -1)
        ids = segment["begin"] + np.arange(lengths.pop())[-self.capacity :]
        is_newer = ids > self._restored[ids % self.capacity]
        newest = {name: column[-len(ids) :][is_newer] for name, column in columns.items()}
        self.write(ids[is_newer], newest)
        self._restored[ids[is_newer] % self.capacity] = ids[is_newer]

    def finish_restore(self, first: int, inserted: int) -> int:
        """The lowest id, at least `first`, from which all rows up to `inserted` are there.

        Older rows may have been overwritten before their segment was saved, or during the restore.
        `ValueError` if any other row of `[first, inserted)` is missing.
        """
        ids = np.arange(max(first, inserted - self.capacity), inserted)
        restored = self._restored[ids % self.capacity] if len(self._restored) else np.full(len(ids), -1)
        self._restored = np.empty(0, np.int64)
        missing = np.flatnonzero(restored != ids)
        if not len(missing):
            return inserted - len(ids)
        newest = int(ids[missing[-1]])
        if newest >= self._overwritten and restored[missing[-1]] < newest:
            raise ValueError(f"Row {newest} is missing; the checkpoint has rows {first} to {inserted - 1}.")
        return newest + 1


def _kinds(columns: Mapping[str, AnyArray]) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Dtype and shape of a row, by column."""
    return {name: (column.dtype, column.shape[1:]) for name, column in columns.items()}
