"""Images as frames: overlapping stacks share most of theirs, so each distinct frame is stored once."""

import hashlib
import math
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from distdqn.replay.ring_buffer import Ring
from distdqn.types import FrameArray, FrameLayout, Frames, IntArray, Positions

FrameIds = npt.NDArray[np.int64]


def make_frame_layout(observation_shape: tuple[int, ...], observation_high: float) -> FrameLayout:
    """The frame layout of image observations with two or three axes.

    Three axes and a maximum of 255 mean a stack along the smaller of the first and the last axis. A
    multiple of three is taken for colours, which all change with each step: three channels are one frame,
    so that replay holds its capacity. All else is one frame, also MinAtar's boolean maps.
    """
    if len(observation_shape) != 3 or observation_high != 255:
        return FrameLayout(observation_shape, None)
    axis = 0 if observation_shape[0] <= observation_shape[2] else 2
    if observation_shape[axis] == 3:
        return FrameLayout(observation_shape, None)
    return FrameLayout(observation_shape, axis, 1 if observation_shape[axis] % 3 else 3)


def pack_frames(
    layout: FrameLayout, observation: FrameArray, next_observation: FrameArray
) -> tuple[Frames, Positions, Positions]:
    """The distinct frames, by content, of two observations `[C, *observation_shape]` uint8.

    Returns them, and for each observation `[C, S]` int32 positions in `Frames.image`.
    """
    place: dict[bytes, int] = {}
    positions: list[int] = []
    for images in (observation, next_observation):
        frames = np.ascontiguousarray(layout.split(images))  # [C, S, *frame_shape]
        rows = frames.reshape(-1, math.prod(layout.frame_shape))  # [C * S, bytes]
        positions += [place.setdefault(row.tobytes(), len(place)) for row in rows]
    observation_at, next_at = np.array(positions, np.int32).reshape(2, -1, layout.frames)
    image = np.frombuffer(b"".join(place), np.uint8).reshape(-1, *layout.frame_shape)
    digests = b"".join(hashlib.blake2b(frame, digest_size=8).digest() for frame in place)
    return Frames(image, np.frombuffer(digests, np.int64), layout), observation_at, next_at


def frame_capacity(layout: FrameLayout, capacity: int, chunk_frames: int = 0) -> int:
    """Frames to store for `capacity` transitions in chunks of `chunk_frames` distinct frames.

    One for each transition; one eighth more, since a chunk may refer to frames that old; and one
    chunk more, since frames are released with the oldest transition of their chunk.
    """
    return capacity + capacity // 8 + max(chunk_frames, 2 * layout.frames)


def newest_rows(positions: IntArray, max_frames: int) -> IntArray:
    """The longest tail `[C', K]` of `positions` `[C, K]` with at most `max_frames >= K` distinct values."""
    last_row = np.full(np.max(positions) + 1, -1)
    # The last of several equal positions counts.
    last_row[positions.ravel()] = np.repeat(np.arange(len(positions)), positions.shape[1])
    if len(last_row) <= max_frames:
        return positions
    return positions[np.sort(last_row)[-max_frames - 1] + 1 :]


class FrameStore:
    """A ring of frames. The id of a frame is its insertion number and never reused.

    A frame whose key is among those of the newest `max_age` frames is not stored again. Without
    this bound, the loss of an old frame would evict a new transition and everything before it.
    `capacity` is at least the frames of one transition.
    """

    def __init__(self, layout: FrameLayout, capacity: int, max_age: int) -> None:
        self.layout = layout
        self.capacity = capacity
        self.first_item = 0  # all items from this id on have their frames
        self._max_age = max_age
        self.ring = Ring(capacity)  # of `image` and `key`
        self._begin = 0  # id of the oldest restored frame
        self.end = 0  # one past the id of the newest frame
        self._known: dict[int, int] = {}  # newest id by key; those that are too old are dropped in bulk
        # One past the id of a chunk's last item, and the id of its oldest frame. Both rise: a chunk
        # with an older frame replaces the entries before it.
        self._chunks: deque[tuple[int, int]] = deque()

    @property
    def oldest(self) -> int:
        """Id of the oldest stored frame."""
        return max(self._begin, self.end - self.capacity)

    def add(self, frames: Frames, positions: IntArray, end: int) -> FrameIds:
        """Stores the new frames of a chunk whose last item has the id `end - 1`.

        Returns the ids `[C', K]` of the frames at `positions` `[C, K]`; only of the newest transitions
        if the chunk has too many frames.
        """
        ids = self._ids(frames, newest_rows(positions, self.capacity))  # [C', K]
        if len(ids) < len(positions):
            self.first_item = end - len(ids)
        oldest = int(np.min(ids))
        while self._chunks and self._chunks[-1][1] >= oldest:
            self._chunks.pop()
        self._chunks.append((end, oldest))
        while self._chunks[0][1] < self.oldest:
            self.first_item = max(self.first_item, self._chunks.popleft()[0])
        return ids

    def _ids(self, frames: Frames, positions: IntArray) -> FrameIds:
        """The ids of the frames at `positions` `[C, K]`; stores the new ones."""
        used = np.unique(positions)
        oldest_reused = max(self.end - self._max_age, self.end + len(used) - self.capacity)
        ids: FrameIds = np.zeros(len(frames.key), np.int64)
        fresh: list[int] = []
        for position, key in zip(used.tolist(), frames.key[used].tolist(), strict=True):
            known = self._known.get(key)
            if known is None or known < oldest_reused:
                known = self._known[key] = self.end + len(fresh)
                fresh.append(position)
            ids[position] = known
        new_ids = np.arange(self.end, self.end + len(fresh))
        self.ring.write(new_ids, {"image": frames.image[fresh], "key": frames.key[fresh]})
        self.end += len(fresh)
        if len(self._known) > 2 * self._max_age:
            oldest_reused = self.end - self._max_age
            self._known = {key: known for key, known in self._known.items() if known >= oldest_reused}
        return ids[positions]

    def observations(self, ids: FrameIds) -> FrameArray:
        """The observations `[U, B, *observation_shape]` of the frames `[U, B, S]`."""
        position = ids.reshape(-1, ids.shape[-1]) % self.capacity
        frames = self.ring.columns["image"][position]  # [U * B, S, *frame_shape]
        return self.layout.join(frames).reshape(*ids.shape[:-1], *self.layout.observation_shape)

    def get_index(self) -> dict[str, Any]:
        """Which frames are stored, and the oldest frame of each chunk."""
        chunks = np.array(self._chunks, np.int64).reshape(-1, 2)
        ends, oldest = chunks[:, 0], chunks[:, 1]
        return {"first": self.oldest, "inserted": self.end, "chunk_end": ends, "chunk_oldest": oldest}

    def set_index(self, index: dict[str, Any]) -> None:
        """Restores what `get_index` returned, after the ring; `ValueError` if a segment is missing.

        The caller drops incomplete items.
        """
        self.end = index["inserted"]
        self._begin = self.ring.finish_restore(index["first"], self.end)
        newest = np.arange(max(self.oldest, self.end - self._max_age), self.end)
        if len(newest):
            keys = self.ring.read(newest)["key"].tolist()
            self._known = dict(zip(keys, newest.tolist(), strict=True))
        # Later items of a chunk may have their frames where earlier ones have lost them.
        oldest = np.maximum(index["chunk_oldest"], self.oldest)
        self._chunks = deque(zip(index["chunk_end"].tolist(), oldest.tolist(), strict=True))
