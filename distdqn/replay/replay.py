"""The replay memory: preallocated columns, the oldest item overwritten first."""

from typing import Any

import numpy as np

from distdqn.config.config import ReplayOptions
from distdqn.replay.frames import FrameIds, FrameStore, frame_capacity
from distdqn.replay.ring_buffer import Ring
from distdqn.replay.samplers import ItemIds, make_sampler
from distdqn.replay.shards import importance_weights, shard_capacities
from distdqn.seeding import make_generator
from distdqn.types import (
    FrameLayout,
    Frames,
    PriorityUpdate,
    ReplayInfo,
    SampledBatches,
    SampledRows,
    Transitions,
)

_IMAGES = ("observation", "next_observation")


class Replay:
    """Keeps the newest `replay_capacity` transitions and draws batches of them.

    An item's id is its insertion number and is never used twice. Item `i` lies at
    position `i % capacity` of every column.

    A checkpoint of it is its index (`get_index`) and, for each of the ranges that
    `segments` tells, `get_rows` and `get_frames`. It may go on meanwhile: what is
    overwritten before its turn comes is missing, and nothing else.

    Of images, the columns hold the numbers of their frames, and each frame is kept once.
    There is room for about `replay_capacity` frames, one new one for each transition. Where
    episodes are so short that their first frames add much to that, or where all actors
    together bring more than an eighth of `replay_capacity` between two chunks of one of them,
    frames run out first and fewer transitions are kept: `size` says how many.

    Args:
        options: capacity of all shards together, sampler and seed.
        shard: index of this shard; each has a random stream of its own.
    """

    def __init__(self, options: ReplayOptions, shard: int = 0) -> None:
        self._capacity = shard_capacities(options.replay_capacity, options.replay_shards)[shard]
        self._sampler = make_sampler(options, self._capacity)
        self._generator = make_generator(options.seed, "replay", *([shard] if shard else []))
        self._ring = Ring(self._capacity)
        self._frames: FrameStore | None = None
        self._chunk_frames = 0  # of the first chunk, as room was made for
        self._first = 0
        self._inserted = 0

    @property
    def inserted(self) -> int:
        """Transitions ever inserted; the id of the next one."""
        return self._inserted

    @property
    def size(self) -> int:
        """Transitions stored now."""
        return self._inserted - self._first

    @property
    def info(self) -> ReplayInfo:
        """What it holds now."""
        total_priority = self._sampler.total_priority(self._first, self._inserted)
        return ReplayInfo(self._inserted, self.size, total_priority)

    def insert(self, chunk: Transitions) -> ReplayInfo:
        """Stores a chunk `[C]`, oldest first, and returns what it holds then.

        The columns are copied: arrays that come out of a shared store are views that
        would pin it.

        Called by: the supervisor, for each chunk an actor made. Waits for: nothing.
        After a restart: empty.
        """
        if not len(chunk):
            return self.info
        columns = chunk.columns()
        kept = min(len(chunk), self._capacity)  # of a chunk larger than the memory, the newest
        if chunk.frames is not None:
            ids = self._add_frames(chunk, chunk.frames)  # [C', 2 * S]
            columns["observation"], columns["next_observation"] = np.split(ids, 2, axis=1)
            kept = min(kept, len(ids))
        self._inserted += len(chunk)
        item_id = np.arange(self._inserted - kept, self._inserted)  # [C']
        self._ring.write(item_id, {name: column[-kept:] for name, column in columns.items()})
        self._sampler.insert(item_id, None if chunk.priority is None else chunk.priority[-kept:])
        self._evict()
        return self.info

    def set_chunk(self, chunk: Transitions) -> ReplayInfo:
        """Puts back rows `[C]` of a replay that was saved in another number of shards.

        Called by: the driver, oldest first, on a replay that nothing else was inserted into,
        in place of `set_rows`, `set_frames` and `set_index`. Waits for: nothing. After a
        restart: all are needed again.
        """
        return self.insert(chunk)

    def _add_frames(self, chunk: Transitions, frames: Frames) -> FrameIds:
        """Stores the frames of a chunk, or of its newest rows if there are too many."""
        store = self._frame_store(frames.layout, len(frames.key))
        positions = np.concatenate([chunk.observation, chunk.next_observation], axis=1)  # [C, 2 * S]
        return store.add(frames, positions, self._inserted + len(chunk))

    def _frame_store(self, layout: FrameLayout, chunk_frames: int) -> FrameStore:
        """Where frames are kept, made when the first ones come."""
        if self._frames is None:
            self._chunk_frames = chunk_frames
            room = frame_capacity(layout, self._capacity, chunk_frames)
            self._frames = FrameStore(layout, room, max_age=self._capacity // 8)
        return self._frames

    def _evict(self) -> None:
        """Lets go of the items that are overwritten, or some of whose frames are."""
        overwritten = max(self._first, self._inserted - self._capacity)
        self._first = max(overwritten, self._frames.first_item) if self._frames else overwritten
        if overwritten < self._first:
            self._sampler.evict(np.arange(overwritten, self._first))

    def sample(
        self, batches: int, batch_size: int, importance_sampling_exponent: float = 0.0
    ) -> SampledBatches:
        """Draws `batches` batches of `batch_size`, stacked to `[U, B]`, with their importance weights.

        Called by: the supervisor on the learner's behalf, one call ahead, once pacing
        has granted it. Waits for: nothing. After a restart: not called until `min_replay_size`
        transitions are in again.

        Raises:
            ValueError: nothing is stored yet.
        """
        item_id = self._drawn(batches * batch_size).reshape(batches, batch_size)  # [U, B]
        probability = self._sampler.probability(self._first, self._inserted, item_id)  # [U, B]
        weight = importance_weights(probability, self.size, importance_sampling_exponent)
        return SampledBatches(self._rows(item_id), item_id, weight)

    def draw(self, count: int) -> SampledRows:
        """Draws `count` transitions `[C]`: the part of this shard in a learner call's batches.

        Called by: like `sample`, where there are several shards. Waits for: nothing. After a
        restart: not called until something is in again.

        Raises:
            ValueError: nothing is stored yet.
        """
        item_id = self._drawn(count)  # [C]
        probability = self._sampler.probability(self._first, self._inserted, item_id)
        return SampledRows(self._rows(item_id), item_id, probability)

    def _drawn(self, count: int) -> ItemIds:
        """Ids `[C]` of items, by the sampler's distribution."""
        if self.size == 0:
            raise ValueError("An empty replay was drawn from: no transition is stored yet.")
        return self._sampler.sample(self._first, self._inserted, count, self._generator)

    def _rows(self, item_id: ItemIds) -> Transitions:
        """The items of `item_id` `[...]`."""
        columns = self._ring.read(item_id)
        if self._frames is not None:
            for name in _IMAGES:
                columns[name] = self._frames.observations(columns[name])
        return Transitions(**columns)

    def update_priorities(self, update: PriorityUpdate) -> ReplayInfo:
        """Gives items new priorities; of an item named twice, the last one counts.

        Those that are too late, as their items have been overwritten, change nothing.

        Called by: the supervisor, with what a learner's call returned. Waits for: nothing.
        After a restart: changes nothing for items that are no longer stored.

        Returns:
            What it holds then.
        """
        item_id, priority = update.item_id.ravel(), update.priority.ravel()  # [U * B]
        is_stored = (item_id >= self._first) & (item_id < self._inserted)
        self._sampler.update(item_id[is_stored], priority[is_stored])
        return self.info

    def get_index(self) -> dict[str, Any]:
        """All of its state but rows and frames, as of now.

        `rows_per_segment` and `frames_per_segment` are the lengths to call `segments` with,
        for `get_rows` with `first` and `inserted`, and for `get_frames` with those of
        `frames`; `frames` is None where there are none. Segments keep these lengths as long as
        the environment is the same.

        Called by: the driver, to begin a checkpoint. Waits for: nothing.
        After a restart: says that nothing was ever inserted, until `set_index`.
        """
        frames = self._frames
        return {
            "capacity": self._capacity,
            "first": self._first,
            "inserted": self._inserted,
            "rows_per_segment": self._ring.rows_per_segment,
            "sampler": self._sampler.get_state(np.arange(self._first, self._inserted)),
            "generator": self._generator.bit_generator.state,
            "frames": None if frames is None else {**self._frame_settings(frames), **frames.get_index()},
            "frames_per_segment": 1 if frames is None else frames.frames_per_segment,
        }

    def get_rows(self, begin: int, end: int) -> dict[str, Any]:
        """The items with ids in `[begin, end)` that are stored now: `begin` and `columns` `[C, ...]`.

        Of images, these are the ids of their frames. If nothing is left, `C` is 0, and that
        is saved, too: it says what is missing for good reason, as `first` of every segment does.

        Called by: the driver, for each of the `segments` that it does not have yet, oldest
        first, as these are overwritten first. Waits for: nothing. After a restart: empty.
        """
        return self._ring.get_segment(begin, end, self._first, self._inserted)

    def get_frames(self, begin: int, end: int) -> dict[str, Any]:
        """The frames with ids in `[begin, end)` that are stored now, like `get_rows`.

        Called by: the driver, like `get_rows`. Waits for: nothing. After a restart: empty.
        """
        if self._frames is None:
            return {"begin": begin, "first": 0, "columns": {}}
        return {**self._frame_settings(self._frames), **self._frames.get_frames(begin, end)}

    def set_rows(self, state: dict[str, Any]) -> None:
        """Puts back what `get_rows` returned; the segments may come in any order.

        Called by: the driver, before `set_index`, on a replay that nothing was inserted
        into. Waits for: nothing. After a restart: all segments are needed again.

        Raises:
            ValueError: the segment does not fit the others, or something was inserted.
        """
        self._check_new()
        self._ring.set_segment(state)

    def set_frames(self, state: dict[str, Any]) -> None:
        """Puts back what `get_frames` returned; the segments may come in any order.

        Called by: the driver, before `set_index`, like `set_rows`. Waits for: nothing.
        After a restart: all segments are needed again.

        Raises:
            ValueError: the segment does not fit the others, or something was inserted.
        """
        self._check_new()
        if state["columns"]:
            self._restored_frames(state).set_frames(state)

    def set_index(self, index: dict[str, Any]) -> ReplayInfo:
        """Goes on where `get_index` was called, with the rows and frames that were put back.

        With all of them and the same arguments, it goes on bit for bit. What is missing at
        the old end, or does not fit into a smaller `replay_capacity`, counts as overwritten, and
        items that came after the index are dropped. Their ids are given away again:
        priorities of batches drawn before may then belong to other items.

        Called by: the driver, once, after all `set_rows` and `set_frames`. Waits for:
        nothing. After a restart: everything has to be put back again.

        Returns:
            What it holds then.

        Raises:
            ValueError: it cannot: a segment is missing, or something was inserted. The
                replay is of no use then; build another.
        """
        self._check_new()
        first = self._ring.end_restoring(index["first"], index["inserted"])
        if index["frames"] is not None:
            store = self._restored_frames(index["frames"])
            store.set_index(index["frames"])
            if first < index["inserted"]:
                needed = self._needed_frames(first, index["inserted"])
                incomplete = np.flatnonzero(needed.min(axis=1) < store.oldest)
                first += int(incomplete[-1]) + 1 if len(incomplete) else 0
        self._first, self._inserted = first, index["inserted"]
        self._sampler.set_state(np.arange(first, self._inserted), index["sampler"])
        self._generator.bit_generator.state = index["generator"]
        is_valid, reason = self.check_valid()
        if not is_valid:
            raise ValueError(f"The state of a replay contradicts itself: {reason}.")
        return self.info

    def _frame_settings(self, store: FrameStore) -> dict[str, Any]:
        """What the frame store was made with; goes with every segment, as any may come first."""
        layout = store.layout
        return {
            "observation_shape": list(layout.observation_shape),
            "stack_axis": layout.stack_axis,
            "chunk_frames": self._chunk_frames,
        }

    def _restored_frames(self, state: dict[str, Any]) -> FrameStore:
        """A frame store like the one that was saved, in proportion to our own `replay_capacity`."""
        layout = FrameLayout(tuple(state["observation_shape"]), state["stack_axis"])
        return self._frame_store(layout, state["chunk_frames"])

    def _needed_frames(self, first: int, end: int) -> FrameIds:
        """The frames `[C, 2 * S]` of the items with ids in `[first, end)`."""
        position = np.arange(first, end) % self._capacity
        return np.concatenate([self._ring.columns[name][position] for name in _IMAGES], axis=1)

    def _check_new(self) -> None:
        """Refuses to put anything back where it would mix with other items."""
        if self._inserted:
            raise ValueError(f"Nothing can be put back into a replay that has {self._inserted} items.")

    def check_valid(self) -> tuple[bool, str]:
        """Whether frames and sampler agree with what is stored, and if not, how."""
        if self._frames is not None and self.size:
            needed = self._needed_frames(self._first, self._inserted)
            oldest, newest = int(np.min(needed)), int(np.max(needed))
            if oldest < self._frames.oldest:
                return False, f"frame {oldest} is overwritten, and a stored item refers to it"
            if newest >= self._frames.end:
                return False, f"frame {newest} has not come yet, and a stored item refers to it"
        return self._sampler.check_valid(self._first, self._inserted)
