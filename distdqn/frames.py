"""Frames: stacked images share most of theirs, so chunks and replay hold each one once."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FrameArray = npt.NDArray[np.generic]  # of uint8
Positions = npt.NDArray[np.int32]


@dataclass(frozen=True)
class FrameLayout:
    """How an observation is made of `S` frames.

    Attributes:
        observation_shape: shape of one observation.
        stack_axis: its axis along which frames are stacked; None if the whole observation
            is one frame.
    """

    observation_shape: tuple[int, ...]
    stack_axis: int | None

    @property
    def frames(self) -> int:
        """`S`, frames in one observation."""
        return 1 if self.stack_axis is None else self.observation_shape[self.stack_axis]

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame."""
        return tuple(n for axis, n in enumerate(self.observation_shape) if axis != self.stack_axis)

    def split(self, observation: FrameArray) -> FrameArray:
        """The frames `[C, S, *frame_shape]` of observations `[C, *observation_shape]`."""
        if self.stack_axis is None:
            return observation[:, None]
        return np.moveaxis(observation, 1 + self.stack_axis, 1)

    def join(self, frames: FrameArray) -> FrameArray:
        """The observations `[C, *observation_shape]` made of frames `[C, S, *frame_shape]`."""
        if self.stack_axis is None:
            return frames[:, 0]
        return np.ascontiguousarray(np.moveaxis(frames, 1, 1 + self.stack_axis))


@dataclass(frozen=True)
class Frames:
    """The distinct frames of a chunk of transitions.

    Attributes:
        image: `[F, *frame_shape]` uint8.
        key: `[F]` int64, a digest of each frame's content.
        layout: how observations are made of them.
    """

    image: FrameArray
    key: npt.NDArray[np.int64]
    layout: FrameLayout


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
