"""How a saved replay is restored, also into another number of shards than it was saved with."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distdqn.checkpoints.store import CheckpointRef, Store
from distdqn.errors import restoring
from distdqn.replay.samplers import priorities_in
from distdqn.replay.shards import shard_capacities
from distdqn.types import FrameLayout, Frames, IntArray, ReplayInfo, Transitions, Tree

_MAX_ROWS = 1024  # of a block: adjacent rows share frames
_MIN_BLOCKS = 8  # for each new shard, so that each gets rows of every age


@dataclass(frozen=True)
class RestorePlan:
    """How the replay of a checkpoint is restored into any number of shards."""

    ref: CheckpointRef | None  # None leaves replay empty
    shards: int  # how many there are now

    def calls(self, shard: int) -> Iterator[tuple[str, Any]]:
        """Methods of `Replay` and their arguments that fill one shard, in order; reads lazily.

        `CheckpointError` if a part is not what was written, or cannot be read.
        """
        if self.ref is None:
            return
        store, saved = self.ref.store, self.ref.document["replay"]
        with restoring(f"Replay in checkpoint {self.ref.number}"):
            if len(saved) == self.shards:
                for part in saved[shard]["parts"]:
                    yield f"set_{part['kind']}", store.read_tree(part["state"])
                yield "set_index", store.read_tree(saved[shard]["index"])
            else:
                for chunk in reshard(store, saved, self.shards, shard):
                    yield "set_chunk", chunk

    def info(self, shard: int) -> ReplayInfo:
        """What a filled shard holds, with a `total_priority` of 0; resharding drops overwritten rows."""
        saved = [] if self.ref is None else self.ref.document["replay"]
        if len(saved) == self.shards:
            index = saved[shard]["index"]
            inserted = int(index["inserted"])
            return ReplayInfo(inserted, inserted - int(index["first"]))
        inserted = shard_capacities(sum(map(_size, saved)), self.shards)[shard]
        return ReplayInfo(inserted, inserted)

    @property
    def inserted(self) -> int:
        """Transitions ever inserted into all filled shards."""
        return sum(self.info(shard).inserted for shard in range(self.shards))


def reshard(store: Store, saved: Sequence[Tree], shards: int, shard: int) -> Iterator[Transitions]:
    """Chunks to insert into `shard` of `shards` new ones, the oldest first.

    Blocks of adjacent rows go to the shards in turn, with their priorities, the same number of rows to each.
    Memory holds a segment of rows and the frames of one block for each of the `saved` shards of a checkpoint.
    """
    sources = [_SavedShard(store, each) for each in saved]
    size = sum(map(_size, saved))
    room = shard_capacities(size, shards)
    block_rows = min(_MAX_ROWS, max(1, size // (_MIN_BLOCKS * shards)))
    blocks = heapq.merge(*(source.blocks(block_rows) for source in sources), key=lambda block: block[0])
    turn = 0
    for _, source, begin, end in blocks:
        while begin < end:
            while not room[turn]:
                turn = (turn + 1) % shards
            until = min(end, begin + room[turn])
            room[turn] -= until - begin
            if turn == shard and (chunk := source.chunk(begin, until)) is not None:
                yield chunk
            begin, turn = until, (turn + 1) % shards


class _SavedShard:
    """One shard of a checkpoint, read segment by segment."""

    def __init__(self, store: Store, saved: Tree) -> None:
        self._saved = saved
        self._first = int(saved["index"]["first"])
        self._priority = priorities_in(store.read_tree(saved["index"]["sampler"]))
        self._rows = _Segments(store, saved, "rows")
        self._frames = _Segments(store, saved, "frames")

    def blocks(self, block_rows: int) -> Iterator[tuple[int, "_SavedShard", int, int]]:
        """Its rows in blocks within one segment, the oldest first.

        Each has an age (minus the number of rows from its first to the shard's end), this shard, the
        id of its first row and one past that of its last.
        """
        inserted = int(self._saved["index"]["inserted"])
        for first, last in _row_ranges(self._saved):
            for begin in range(first, last, block_rows):
                yield begin - inserted, self, begin, min(begin + block_rows, last)

    def chunk(self, begin: int, end: int) -> Transitions | None:
        """The rows with ids in `[begin, end)` whose frames were saved; None if there are none."""
        _, columns = self._rows.read(np.arange(begin, end))  # [C, ...]
        if self._priority is not None:
            columns["priority"] = self._priority[begin - self._first : end - self._first]
        if (index := self._saved["index"]["frames"]) is None:
            return Transitions(**columns)
        both = np.stack([columns["observation"], columns["next_observation"]], axis=1)  # [C, 2, S]
        ids, frames = self._frames.read(np.unique(both))
        is_whole = np.isin(both, ids).all(axis=(1, 2))  # [C]
        if not is_whole.any():
            return None
        columns = {name: column[is_whole] for name, column in columns.items()}
        at = np.searchsorted(ids, both[is_whole]).astype(np.int32)  # [C', 2, S]
        columns |= {"observation": at[:, 0], "next_observation": at[:, 1]}
        layout = FrameLayout(tuple(index["observation_shape"]), index["stack_axis"])
        return Transitions(**columns, frames=Frames(frames["image"], frames["key"], layout))


class _Segments:
    """The rows or frames of a saved shard; the segments that were read last stay in memory."""

    def __init__(self, store: Store, saved: Tree, kind: str) -> None:
        self._store = store
        self._ranges = saved_ranges(saved, kind)
        self._columns: dict[int, Tree] = {}  # by the id where they begin

    def read(self, ids: IntArray) -> tuple[IntArray, Tree]:
        """Those of the ascending `ids` that were saved, `[C']`, and their columns `[C', ...]`."""
        split = ((begin, ids[(ids >= begin) & (ids < end)], part) for begin, end, part in self._ranges)
        there = [each for each in split if each[1].size]
        self._columns = {
            begin: self._columns.get(begin) or self._store.read_tree(document)["columns"]
            for begin, _, document in there
        }
        found = np.concatenate([ids[:0], *(some for _, some, _ in there)])
        names = self._columns[there[0][0]] if there else ()
        columns = {
            name: np.concatenate([self._columns[begin][name][some - begin] for begin, some, _ in there])
            for name in names
        }
        return found, columns


def saved_ranges(saved: Tree, kind: str) -> list[tuple[int, int, Tree]]:
    """First id, one past the last, and document of each segment of a `kind` that is not empty."""
    ranges = []
    for state in (part["state"] for part in saved["parts"] if part["kind"] == kind):
        count = max((int(column["shape"][0]) for column in state["columns"].values()), default=0)
        if count:
            ranges.append((state["begin"], state["begin"] + count, state))
    return sorted(ranges, key=lambda each: each[0])


def _row_ranges(saved: Tree) -> list[tuple[int, int]]:
    """First id and one past the last of each segment of rows, without those that the index leaves out."""
    first = int(saved["index"]["first"])
    return [(max(begin, first), end) for begin, end, _ in saved_ranges(saved, "rows") if end > first]


def _size(saved: Tree) -> int:
    """Rows that were saved."""
    return sum(end - begin for begin, end in _row_ranges(saved))
