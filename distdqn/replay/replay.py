"""The replay buffer: preallocated columns, the oldest items overwritten first."""

from typing import Any

import numpy as np

from distdqn.config.config import ReplayOptions
from distdqn.replay.frames import FrameIds, FrameStore, frame_capacity
from distdqn.replay.ring_buffer import Ring
from distdqn.replay.samplers import ItemIds, PrioritizedSampler, UniformSampler
from distdqn.replay.shards import importance_weights, shard_capacities
from distdqn.seeding import make_generator
from distdqn.types import FrameLayout, PriorityUpdate, ReplayInfo, SampledBatches, SampledRows, Transitions

_IMAGES = ("observation", "next_observation")


class Replay:
    """Stores the newest `replay_capacity` transitions, or those of one `shard`, and samples batches.

    The id of an item is its insertion number and never reused. Item `i` is at position
    `i % capacity` of every column.

    For images, the columns hold frame ids, and each distinct frame is stored once. There is room
    for about one new frame a transition. With very short episodes, or when all actors together
    insert more than an eighth of the capacity between two chunks of one actor, frames run out
    first and `size` stays below the capacity.

    A checkpoint of it is `get_index` and, for each range of `segments`, `get_rows` and
    `get_frames`. Inserts may continue meanwhile; rows overwritten before their call are missing.
    """

    def __init__(self, options: ReplayOptions, shard: int = 0) -> None:
        self._capacity = shard_capacities(options.replay_capacity, options.replay_shards)[shard]
        self._sampler = UniformSampler()
        if options.sampler == "prioritized":
            self._sampler = PrioritizedSampler(self._capacity, options.priority_exponent)
        self._generator = make_generator(options.seed, "replay", *([shard] if shard else []))
        self._ring = Ring(self._capacity)
        self._frames: FrameStore | None = None  # created with the first images
        self._chunk_frames = 0  # of the first chunk, part of the capacity of frames
        self._first = 0
        self.inserted = 0  # transitions ever, which is the id of the next one

    @property
    def size(self) -> int:
        """Transitions stored."""
        return self.inserted - self._first

    @property
    def info(self) -> ReplayInfo:
        """What is stored."""
        return ReplayInfo(self.inserted, self.size, self._sampler.total_priority(self._first, self.inserted))

    def insert(self, chunk: Transitions) -> ReplayInfo:
        """Copies a chunk `[C]`, oldest first, into the columns; returns what is stored then."""
        if not len(chunk):
            return self.info
        columns = chunk.columns()
        kept = min(len(chunk), self._capacity)  # the newest of a chunk larger than the capacity
        end = self.inserted + len(chunk)
        if chunk.frames is not None:
            store = self._frame_store(chunk.frames.layout, len(chunk.frames.key))
            positions = np.concatenate([chunk.observation, chunk.next_observation], axis=1)  # [C, 2 * S]
            ids = store.add(chunk.frames, positions, end)  # [C', 2 * S]
            columns["observation"], columns["next_observation"] = np.split(ids, 2, axis=1)
            kept = min(kept, len(ids))
        self.inserted = end
        item_id = np.arange(end - kept, end)  # [C']
        self._ring.write(item_id, {name: column[-kept:] for name, column in columns.items()})
        self._sampler.insert(item_id, None if chunk.priority is None else chunk.priority[-kept:])
        self._evict()
        return self.info

    def _frame_store(self, layout: FrameLayout, chunk_frames: int) -> FrameStore:
        if self._frames is None:
            self._chunk_frames = chunk_frames
            capacity = frame_capacity(layout, self._capacity, chunk_frames)
            self._frames = FrameStore(layout, capacity, max_age=self._capacity // 8)
        return self._frames

    def _evict(self) -> None:
        """Removes the items that are overwritten, or that have lost a frame."""
        overwritten = max(self._first, self.inserted - self._capacity)
        self._first = max(overwritten, self._frames.first_item) if self._frames else overwritten
        if overwritten < self._first:
            self._sampler.evict(np.arange(overwritten, self._first))

    def sample(
        self, batches: int, batch_size: int, importance_sampling_exponent: float = 0.0
    ) -> SampledBatches:
        """Draws `U = batches` batches of `B = batch_size` transitions, `[U, B]`; see `draw`."""
        rows, shape = self.draw(batches * batch_size), (batches, batch_size)
        columns: dict[str, Any] = rows.transitions.columns()
        columns = {name: column.reshape(*shape, *column.shape[1:]) for name, column in columns.items()}
        weight = importance_weights(rows.probability.reshape(shape), self.size, importance_sampling_exponent)
        return SampledBatches(Transitions(**columns), rows.item_id.reshape(shape), weight)

    def draw(self, count: int) -> SampledRows:
        """Draws `count` transitions `[C]`, this shard's part of the batches; `ValueError` if it is empty."""
        if self.size == 0:
            raise ValueError("An empty replay cannot be sampled.")
        item_id = self._sampler.sample(self._first, self.inserted, count, self._generator)  # [C]
        probability = self._sampler.probability(self._first, self.inserted, item_id)
        return SampledRows(self._rows(item_id), item_id, probability)

    def _rows(self, item_id: ItemIds) -> Transitions:
        """The items `[C]` with these ids."""
        columns = self._ring.read(item_id)
        if self._frames is not None:
            for name in _IMAGES:
                columns[name] = self._frames.observations(columns[name])
        return Transitions(**columns)

    def update_priorities(self, update: PriorityUpdate) -> ReplayInfo:
        """Changes priorities, except of evicted items, of equal ids the last; returns what is stored."""
        item_id, priority = update.item_id.ravel(), update.priority.ravel()  # [U * B]
        is_stored = (item_id >= self._first) & (item_id < self.inserted)
        self._sampler.update(item_id[is_stored], priority[is_stored])
        return self.info

    def get_index(self) -> dict[str, Any]:
        """The state without rows and frames, and the arguments of `segments` for both.

        The lengths of segments depend on the environment alone.
        """
        frames = self._frames
        return {
            "capacity": self._capacity,
            "first": self._first,
            "inserted": self.inserted,
            "rows_per_segment": self._ring.rows_per_segment,
            "sampler": self._sampler.get_state(np.arange(self._first, self.inserted)),
            "generator": self._generator.bit_generator.state,
            "frames": None if frames is None else {**self._frame_settings(frames), **frames.get_index()},
            "frames_per_segment": 1 if frames is None else frames.ring.rows_per_segment,
        }

    def get_rows(self, begin: int, end: int) -> dict[str, Any]:
        """The stored items with ids in `[begin, end)`: `begin`, `first` and `columns` `[C, ...]`.

        An empty segment is saved, too: its `first` says that its rows were overwritten.
        """
        return self._ring.get_segment(begin, end, self._first, self.inserted)

    def get_frames(self, begin: int, end: int) -> dict[str, Any]:
        """The stored frames with ids in `[begin, end)`, in the form of `get_rows`."""
        if (store := self._frames) is None:
            return {"begin": begin, "first": 0, "columns": {}}
        return {**self._frame_settings(store), **store.ring.get_segment(begin, end, store.oldest, store.end)}

    def set_rows(self, state: dict[str, Any]) -> None:
        """Restores what `get_rows` returned, in any order of segments, before `set_index`."""
        self._check_new()
        if state["columns"]:
            Transitions(**state["columns"])  # `TypeError` if one is missing
        self._ring.set_segment(state)

    def set_frames(self, state: dict[str, Any]) -> None:
        """Restores what `get_frames` returned, in any order of segments, before `set_index`."""
        self._check_new()
        if state["columns"]:
            self._restored_frames(state).ring.set_segment(state)

    def set_index(self, index: dict[str, Any]) -> ReplayInfo:
        """Restores what `get_index` returned, after all rows and frames; returns what is stored.

        With all segments and the same options, replay continues bit for bit. The oldest rows may be
        missing, or exceed a smaller capacity. Later ids are reused.

        Raises:
            ValueError: here, a segment is missing, and the replay cannot be used; in `set_rows` and
                `set_frames`, the segment does not match the others; in all, the replay has items.
        """
        self._check_new()
        first = self._ring.finish_restore(index["first"], index["inserted"])
        if index["frames"] is not None:
            store = self._restored_frames(index["frames"])
            store.set_index(index["frames"])
            if first < index["inserted"]:
                frame_ids = self._frame_ids(first, index["inserted"])
                incomplete = np.flatnonzero(frame_ids.min(axis=1) < store.oldest)
                first += int(incomplete[-1]) + 1 if len(incomplete) else 0
        self._first, self.inserted = first, index["inserted"]
        self._sampler.set_state(np.arange(first, self.inserted), index["sampler"])
        self._generator.bit_generator.state = index["generator"]
        is_valid, reason = self.check_valid()
        if not is_valid:
            raise ValueError(f"The restored replay is inconsistent: {reason}.")
        return self.info

    def set_chunk(self, chunk: Transitions) -> ReplayInfo:
        """Restores rows `[C]`, oldest first, of another number of shards, without other `set_*` calls."""
        return self.insert(chunk)

    def _frame_settings(self, store: FrameStore) -> dict[str, Any]:
        """The settings of the frame store, saved in every segment because any may come first."""
        layout = {**vars(store.layout), "observation_shape": list(store.layout.observation_shape)}
        return {**layout, "chunk_frames": self._chunk_frames}

    def _restored_frames(self, state: dict[str, Any]) -> FrameStore:
        """A frame store with the saved settings, sized for the current capacity."""
        layout = FrameLayout(tuple(state["observation_shape"]), state["stack_axis"], state["channels"])
        return self._frame_store(layout, state["chunk_frames"])

    def _frame_ids(self, first: int, end: int) -> FrameIds:
        """The frames `[C, 2 * S]` of the items with ids in `[first, end)`."""
        position = np.arange(first, end) % self._capacity
        return np.concatenate([self._ring.columns[name][position] for name in _IMAGES], axis=1)

    def _check_new(self) -> None:
        if self.inserted:
            raise ValueError(f"A replay with {self.inserted} items cannot be restored.")

    def check_valid(self) -> tuple[bool, str]:
        """Whether frames and sampler agree with what is stored, and if not, the reason."""
        if self._frames is not None and self.size:
            frame_ids = self._frame_ids(self._first, self.inserted)
            oldest, newest = int(np.min(frame_ids)), int(np.max(frame_ids))
            if oldest < self._frames.oldest:
                return False, f"a stored item refers to frame {oldest}, which is overwritten"
            if newest >= self._frames.end:
                return False, f"a stored item refers to frame {newest}, which was never stored"
        return self._sampler.check_valid(self._first, self.inserted)
