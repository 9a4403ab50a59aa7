"""How a saved replay is restored, also into another number of shards than it was saved with."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distdqn.checkpoints.store import CheckpointRef, Store
from distdqn.replay.samplers import priorities_in
from distdqn.replay.shards import shard_capacities
from distdqn.types import AnyArray, FloatArray, FrameLayout, Frames, ReplayInfo, Transitions, Tree

_MAX_ROWS = 1024  # of a block: adjacent rows share frames
_MIN_BLOCKS = 8  # for each new shard, so that each gets rows of every age


@dataclass(frozen=True)
class RestorePlan:
    """How the replay of a checkpoint is restored into any number of shards."""

    ref: CheckpointRef | None  # None leaves replay empty
    shards: int  # how many there are now

    def calls(self, shard: int) -> Iterator[tuple[str, Any]]:
        """Methods of `Replay` and their arguments that fill one shard, in order; reads lazily.

        Raises:
            CheckpointDamaged: a part is not what was written.
            OSError: it cannot be read.
        """
        if self.ref is None:
            return
        store, saved = self.ref.store, self.ref.document["replay"]
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
        rows = sum(end - begin for each in saved for begin, end, _ in _rows(each))
        inserted = shard_capacities(rows, self.shards)[shard]
        return ReplayInfo(inserted, inserted)

    @property
    def inserted(self) -> int:
        """Transitions ever inserted into all filled shards."""
        return sum(self.info(shard).inserted for shard in range(self.shards))


def reshard(store: Store, saved: Sequence[Tree], shards: int, shard: int) -> Iterator[Transitions]:
    """Chunks to insert into `shard` of `shards` new ones, the oldest first.

    Blocks of adjacent rows go to the shards in turn, with their priorities, the same number of
    rows to each. Memory holds a segment of rows and the frames of one block for each of the `saved`
    shards of a checkpoint; every new shard reads all rows once.
    """
    sources = [_SavedShard(store, each) for each in saved]
    size = sum(source.size for source in sources)
    room = shard_capacities(size, shards)
    block_rows = min(_MAX_ROWS, max(1, size // (_MIN_BLOCKS * shards)))
    blocks = heapq.merge(*(source.blocks(block_rows) for source in sources), key=lambda block: block.age)
    turn = 0
    for block in blocks:
        begin = 0
        while begin < block.rows:
            while not room[turn]:
                turn = (turn + 1) % shards
            end = min(block.rows, begin + room[turn])
            room[turn] -= end - begin
            if turn == shard and (chunk := block.chunk(begin, end)) is not None:
                yield chunk
            begin, turn = end, (turn + 1) % shards


@dataclass(frozen=True)
class _Block:
    """Adjacent rows of a saved shard."""

    source: "_SavedShard"
    age: int  # minus the number of rows from its first to the shard's end
    columns: dict[str, AnyArray]  # [C, ...], as they were stored
    priority: FloatArray | None  # [C]

    @property
    def rows(self) -> int:
        return len(self.columns["action"])

    def chunk(self, begin: int, end: int) -> Transitions | None:
        """Its rows `[begin, end)` without those whose frames are missing; None if none is left."""
        columns: dict[str, Any] = {name: column[begin:end] for name, column in self.columns.items()}
        priority = None if self.priority is None else self.priority[begin:end]
        if self.source.frames is None:
            return Transitions(**columns, priority=priority)
        return self.source.frames.packed(columns, priority)


class _SavedShard:
    """One shard of a checkpoint, read segment by segment."""

    def __init__(self, store: Store, saved: Tree) -> None:
        index = saved["index"]
        self._store = store
        self._first, self._inserted = int(index["first"]), int(index["inserted"])
        self._segments = _rows(saved)
        self._priority = priorities_in(store.read_tree(index["sampler"]))
        self.frames = None if index["frames"] is None else _SavedFrames(store, saved)

    @property
    def size(self) -> int:
        """Rows that were saved."""
        return sum(end - begin for begin, end, _ in self._segments)

    def blocks(self, block_rows: int) -> Iterator[_Block]:
        """Its rows in blocks, the oldest first."""
        for begin, end, document in self._segments:
            columns, saved_begin = self._store.read_tree(document)["columns"], document["begin"]
            for first in range(begin, end, block_rows):
                last = min(first + block_rows, end)
                rows = {
                    name: column[first - saved_begin : last - saved_begin] for name, column in columns.items()
                }
                of_rows = slice(first - self._first, last - self._first)
                priority = None if self._priority is None else self._priority[of_rows]
                yield _Block(self, first - self._inserted, rows, priority)


class _SavedFrames:
    """The frames of one shard of a checkpoint; the segments of the last block stay in memory."""

    def __init__(self, store: Store, saved: Tree) -> None:
        index = saved["index"]["frames"]
        self._store = store
        self._layout = FrameLayout(tuple(index["observation_shape"]), index["stack_axis"])
        self._segments = _ranges(saved, "frames", "key")
        self._read: dict[int, Tree] = {}  # columns, by where they begin

    def packed(self, columns: dict[str, Any], priority: FloatArray | None) -> Transitions | None:
        """A chunk of the rows `[C, ...]` whose frames are all saved; None if there are none."""
        both = np.stack([columns["observation"], columns["next_observation"]], axis=1)  # [C, 2, S]
        ids = np.unique(both)
        there = [
            (begin, ids[(ids >= begin) & (ids < end)], document)
            for begin, end, document in self._segments
            if np.any((ids >= begin) & (ids < end))
        ]
        self._read = {
            begin: self._read.get(begin) or self._store.read_tree(document)["columns"]
            for begin, _, document in there
        }
        found = np.concatenate([ids[:0], *(some for _, some, _ in there)])
        is_whole = np.isin(both, found).all(axis=(1, 2))  # [C]
        if not is_whole.any():
            return None
        at = np.searchsorted(found, both[is_whole]).astype(np.int32)  # [C', 2, S]
        image, key = (
            np.concatenate([self._read[begin][name][some - begin] for begin, some, _ in there])
            for name in ("image", "key")
        )
        kept = {name: column[is_whole] for name, column in columns.items()}
        kept |= {"observation": at[:, 0], "next_observation": at[:, 1]}
        priority = None if priority is None else priority[is_whole]
        return Transitions(**kept, priority=priority, frames=Frames(image, key, self._layout))


def _rows(saved: Tree) -> list[tuple[int, int, Tree]]:
    """`_ranges` of the rows, without those overwritten before the checkpoint began."""
    first = int(saved["index"]["first"])
    ranges = _ranges(saved, "rows", "action")
    return [(max(begin, first), end, document) for begin, end, document in ranges if end > first]


def _ranges(saved: Tree, kind: str, column: str) -> list[tuple[int, int, Tree]]:
    """First id, one past the last, and document of each segment of a `kind` that is not empty."""
    ranges = [
        (state["begin"], state["begin"] + state["columns"][column]["shape"][0], state)
        for state in (part["state"] for part in saved["parts"] if part["kind"] == kind)
        if state["columns"]
    ]
    return sorted((each for each in ranges if each[0] < each[1]), key=lambda each: each[0])
