"""Frames: stacked images share most of theirs, so chunks and replay hold each one once."""

import hashlib
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from distdqn.replay.ring_buffer import Ring
from distdqn.types import FrameArray, FrameLayout, Frames, Positions


def make_frame_layout(observation_shape: tuple[int, ...], observation_high: float) -> FrameLayout:
    """The layout of image observations, told from their space.

    Images of full brightness with three axes are stacks, along the smaller of the first
    and the last axis: the two orders in use. Taking colours for a stack is harmless, too.
    Anything else is one frame, as are MinAtar's maps of bits.

    Args:
        observation_shape: shape of one observation, two or three axes.
        observation_high: largest value of the space.
    """
    if len(observation_shape) != 3 or observation_high != 255:
        return FrameLayout(observation_shape, None)
    return FrameLayout(observation_shape, 0 if observation_shape[0] <= observation_shape[2] else 2)


def pack_frames(
    layout: FrameLayout, observation: FrameArray, next_observation: FrameArray
) -> tuple[Frames, Positions, Positions]:
    """The distinct frames of a chunk, and which of them each observation is made of.

    Frames are compared by content, whatever the environment stacks and pads them with.

    Args:
        layout: of the observations.
        observation: `[C, *observation_shape]` uint8.
        next_observation: `[C, *observation_shape]` uint8.

    Returns:
        The frames, and for either observation `[C, S]` int32 positions in `Frames.image`.
    """
    both = np.concatenate([layout.split(observation), layout.split(next_observation)])  # [2C, S, *frame]
    rows = np.ascontiguousarray(both).reshape(-1, int(np.prod(layout.frame_shape)))  # [2C * S, bytes]
    place: dict[bytes, int] = {}
    positions = [place.setdefault(row.tobytes(), len(place)) for row in rows]
    observation_at, next_at = np.array(positions, np.int32).reshape(2, -1, layout.frames)
    image = np.frombuffer(b"".join(place), np.uint8).reshape(-1, *layout.frame_shape)
    digests = b"".join(hashlib.blake2b(frame, digest_size=8).digest() for frame in place)
    return Frames(image, np.frombuffer(digests, np.int64), layout), observation_at, next_at


FrameIds = npt.NDArray[np.int64]


def frame_capacity(layout: FrameLayout, capacity: int, chunk_frames: int = 0) -> int:
    """Frames to keep for `replay_capacity` transitions that bring one new frame each.

    An eighth more, because a chunk may refer to frames that old; and one chunk more,
    because transitions leave one by one and frames only with the oldest of their chunk.

    Args:
        layout: of the observations.
        capacity: most transitions stored.
        chunk_frames: distinct frames of one chunk.
    """
    return capacity + capacity // 8 + max(chunk_frames, 2 * layout.frames)


class FrameStore:
    """A ring of frames. A frame's id is its number in the order of storing, never used twice.

    A frame that comes again is found by its key and not stored again, as long as it is
    among the newest `max_age`. Without that bound one transition could refer to a frame
    about to be overwritten, and would take everything older than itself along.

    Attributes:
        layout: of the observations.
        capacity: frames kept.
        first_item: id of the first item from which on all have their frames.

    Args:
        layout: of the observations.
        capacity: frames kept, at least those of one transition.
        max_age: how many of the newest frames are found again.
    """

    def __init__(self, layout: FrameLayout, capacity: int, max_age: int) -> None:
        self.capacity = capacity
        self.first_item = 0
        self.layout = layout
        self._max_age = max_age
        self._ring = Ring(capacity)
        self._begin = 0  # restored frames may begin later than the ring has room for
        self._end = 0
        # Key -> the newest id that it was given to. Of no use, and soon forgotten, once that
        # is too old.
        self._known: dict[int, int] = {}
        # Of each chunk: one past its last item, and the oldest frame that it refers to. Both
        # rise: a chunk that refers as far back as those before it takes them along.
        self._chunks: deque[tuple[int, int]] = deque()

    @property
    def oldest(self) -> int:
        """Frames with ids below this one are gone."""
        return max(self._begin, self._end - self.capacity)

    @property
    def end(self) -> int:
        """One past the id of the newest frame."""
        return self._end

    @property
    def frames_per_segment(self) -> int:
        """How many frames take about 4 MB, at least 1."""
        return self._ring.rows_per_segment

    def add(self, frames: Frames, positions: npt.NDArray[np.integer], end: int) -> FrameIds:
        """Stores the frames of a chunk, those that are new.

        Args:
            frames: of the chunk.
            positions: `[C, K]`, which of them each of its transitions needs.
            end: one past the id of its last item.

        Returns:
            `[C', K]` ids of the frames; of a chunk with too many frames, for its newest
            transitions only.
        """
        ids = self._ids(frames, fitting(positions, self.capacity))  # [C', K]
        if len(ids) < len(positions):
            self.first_item = end - len(ids)
        oldest = int(np.min(ids))
        while self._chunks and self._chunks[-1][1] >= oldest:
            self._chunks.pop()
        self._chunks.append((end, oldest))
        while self._chunks[0][1] < self.oldest:
            self.first_item = max(self.first_item, self._chunks.popleft()[0])
        return ids

    def _ids(self, frames: Frames, positions: npt.NDArray[np.integer]) -> FrameIds:
        """The ids of the frames at `positions` `[C, K]`; stores those that have none."""
        used = np.unique(positions)
        oldest_found = max(self._end - self._max_age, self._end + len(used) - self.capacity)
        ids = np.zeros(len(frames.key), np.int64)
        fresh: list[int] = []
        for position, key in zip(used.tolist(), frames.key[used].tolist(), strict=True):
            known = self._known.get(key)
            if known is None or known < oldest_found:
                known = self._known[key] = self._end + len(fresh)
                fresh.append(position)
            ids[position] = known
        new_ids = np.arange(self._end, self._end + len(fresh))
        self._ring.write(new_ids, {"image": frames.image[fresh], "key": frames.key[fresh]})
        self._end += len(fresh)
        if len(self._known) > 2 * self._max_age:
            oldest_found = self._end - self._max_age
            self._known = {key: known for key, known in self._known.items() if known >= oldest_found}
        of_transitions: FrameIds = ids[positions]
        return of_transitions

    def observations(self, ids: FrameIds) -> FrameArray:
        """The observations `[U, B, *observation_shape]` made of the frames `[U, B, S]`."""
        position = ids.reshape(-1, ids.shape[-1]) % self.capacity
        frames = self._ring.columns["image"][position]  # [U * B, S, *frame_shape]
        return self.layout.join(frames).reshape(*ids.shape[:-1], *self.layout.observation_shape)

    def get_index(self) -> dict[str, Any]:
        """All but the frames: which are kept, and what the items of which chunk need."""
        chunks = np.array(self._chunks, np.int64).reshape(-1, 2)
        return {
            "first": self.oldest,
            "inserted": self._end,
            "chunk_end": chunks[:, 0],
            "chunk_oldest": chunks[:, 1],
        }

    def get_frames(self, begin: int, end: int) -> dict[str, Any]:
        """The frames with ids in `[begin, end)` that are kept, and their keys."""
        return self._ring.get_segment(begin, end, self.oldest, self._end)

    def set_frames(self, segment: dict[str, Any]) -> None:
        """Puts frames back into a new store."""
        self._ring.set_segment(segment)

    def set_index(self, index: dict[str, Any]) -> None:
        """Goes on where `get_index` was called, with those of its frames that were put back.

        Items of which a frame is not among them are the caller's to drop.

        Raises:
            ValueError: a segment is missing.
        """
        self._end = index["inserted"]
        self._begin = self._ring.end_restoring(index["first"], self._end)
        newest = np.arange(max(self.oldest, self._end - self._max_age), self._end)
        if len(newest):
            keys = self._ring.read(newest)["key"].tolist()
            self._known = dict(zip(keys, newest.tolist(), strict=True))
        # Of a chunk of which frames are gone, later items may have theirs.
        oldest = np.maximum(index["chunk_oldest"], self.oldest)
        self._chunks = deque(zip(index["chunk_end"].tolist(), oldest.tolist(), strict=True))


def fitting(positions: npt.NDArray[np.integer], capacity: int) -> npt.NDArray[np.integer]:
    """The newest transitions of a chunk that use no more frames than a store holds.

    Args:
        positions: `[C, K]`, the frames of each transition.
        capacity: most frames that may be used, at least `K`.

    Returns:
        `[C', K]`, the last rows of `positions`, as many as possible.
    """
    last_row = np.full(np.max(positions) + 1, -1)
    # Of equal positions the last counts.
    last_row[positions.ravel()] = np.repeat(np.arange(len(positions)), positions.shape[1])
    if len(last_row) <= capacity:
        return positions
    return positions[np.sort(last_row)[-capacity - 1] + 1 :]
