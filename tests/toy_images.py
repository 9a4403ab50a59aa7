"""Streams of transitions between stacked images, for tests of replay."""

import dataclasses

import numpy as np

from distdqn.replay.frames import pack_frames
from distdqn.types import FrameLayout, Transitions

LAYOUTS = [FrameLayout((3, 2, 2), 0), FrameLayout((2, 2, 3), 2), FrameLayout((2, 2), None)]


class Walk:
    """An endless stream of transitions between stacked images, cut into chunks anywhere."""

    def __init__(self, layout, colours, n_step, mean_length, seed):
        self._layout, self._n_step, self._mean_length = layout, n_step, mean_length
        self._generator = np.random.default_rng(seed)
        self._colours = colours
        self._waiting = []

    def chunk(self, count):
        """`count` transitions with whole observations."""
        while len(self._waiting) < count:
            self._waiting += self._episode()
        rows, self._waiting = self._waiting[:count], self._waiting[count:]
        shape = (count, *self._layout.observation_shape)
        before, after = (np.array([row[k] for row in rows], np.uint8).reshape(shape) for k in (0, 1))
        number = self._generator.random(count).astype(np.float32)
        return Transitions(before, (number * 9).astype(np.int32), number, number / 2, after, number)

    def _episode(self):
        length = 1 + int(self._generator.geometric(1 / self._mean_length))
        black = [np.zeros(self._layout.frame_shape, np.uint8)] * (self._layout.frames - 1)
        size = (length, *self._layout.frame_shape)
        frames = black + list(self._generator.integers(self._colours, size=size, dtype=np.uint8))
        stacks = [np.stack(frames[t : t + self._layout.frames]) for t in range(length)]
        images = self._layout.join(np.stack(stacks))
        return [(images[t], images[min(t + self._n_step, length - 1)]) for t in range(length - 1)]


def packed(layout, chunk):
    frames, before, after = pack_frames(layout, chunk.observation, chunk.next_observation)
    return dataclasses.replace(chunk, observation=before, next_observation=after, frames=frames)


def rows_of(chunk):
    """Its rows as bytes of every column."""
    columns = chunk.columns().values()
    return [[column[i].tobytes() for column in columns] for i in range(len(chunk))]


def assert_batches_are(naive, batches):
    flat = Transitions(
        **{name: c.reshape(-1, *c.shape[2:]) for name, c in batches.transitions.columns().items()}
    )
    expected = [naive[item_id] for item_id in batches.item_id.ravel().tolist()]
    assert rows_of(flat) == expected
