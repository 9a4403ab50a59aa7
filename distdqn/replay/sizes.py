"""How much memory a replay will take, told before it takes it."""

import math
from typing import Protocol

from distdqn.frames import make_frame_layout
from distdqn.replay.frame_store import frame_capacity


class Observations(Protocol):
    """What an environment's spec says of its observations."""

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation."""
        ...

    @property
    def observation_dtype(self) -> str:
        """`uint8` for images, else `float32`."""
        ...

    @property
    def observation_high(self) -> float:
        """Largest value of the space."""
        ...


def replay_bytes(capacity: int, spec: Observations, prioritized: bool = False) -> int:
    """Bytes of a full replay, except room for the frames of one chunk.

    Args:
        capacity: most transitions kept.
        spec: of the environment.
        prioritized: whether there is a sum tree, too.
    """
    tree = 2 * 8 << (capacity - 1).bit_length() if prioritized else 0
    numbers = capacity * 3 * 4 + tree  # action, reward, discount
    if spec.observation_dtype != "uint8":
        return numbers + capacity * 2 * 4 * math.prod(spec.observation_shape)
    layout = make_frame_layout(spec.observation_shape, spec.observation_high)
    frame_ids = capacity * 2 * 8 * layout.frames
    frame_bytes = math.prod(layout.frame_shape) + 8  # its pixels and its key
    return numbers + frame_ids + frame_capacity(layout, capacity) * frame_bytes
