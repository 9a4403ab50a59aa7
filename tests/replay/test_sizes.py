from types import SimpleNamespace

import numpy as np
import pytest
from toy_replay_state import make_replay

from distdqn.replay.frames import make_frame_layout, pack_frames
from distdqn.replay.samplers import PrioritizedSampler
from distdqn.replay.shards import replay_bytes
from distdqn.types import Transitions


def held_bytes(replay):
    """Bytes of all arrays."""
    count = sum(column.nbytes for column in replay._ring.columns.values())
    if replay._frames is not None:
        count += sum(column.nbytes for column in replay._frames.ring.columns.values())
    if isinstance(replay._sampler, PrioritizedSampler):
        count += replay._sampler._tree._nodes.nbytes
    return count


@pytest.mark.parametrize("prioritized", [False, True], ids=["uniform", "prioritized"])
@pytest.mark.parametrize("capacity", [1, 1_000, 1_024, 1_025])
@pytest.mark.parametrize(
    ("shape", "dtype", "high"),
    [
        ((4,), "float32", np.inf),
        ((3, 3, 2), "float32", 1.0),
        ((4, 20, 20), "uint8", 255.0),
        ((20, 20, 4), "uint8", 255.0),
        ((10, 10, 6), "uint8", 1.0),
        ((20, 20), "uint8", 255.0),
        ((20, 20, 3), "uint8", 255.0),
        ((6, 20, 20), "uint8", 255.0),
    ],
    ids=str,
)
def test_fault_27_replay_takes_the_bytes_that_were_estimated(shape, dtype, high, capacity, prioritized):
    replay = make_replay(capacity, "prioritized" if prioritized else "uniform")
    images, number = np.zeros((1, *shape), dtype), np.zeros(1, np.float32)
    chunk = Transitions(images, number.astype(np.int32), number, number, images)
    if dtype == "uint8":
        frames, before, after = pack_frames(make_frame_layout(shape, high), images, images)
        chunk = Transitions(before, chunk.action, number, number, after, frames=frames)
    replay.insert(chunk)

    spec = SimpleNamespace(observation_shape=shape, observation_dtype=dtype, observation_high=high)

    assert replay_bytes(capacity, spec, prioritized) == held_bytes(replay)


def test_size_of_a_million_atari_frames_is_a_little_more_than_theirs():
    atari = SimpleNamespace(observation_shape=(4, 84, 84), observation_dtype="uint8", observation_high=255.0)

    estimate = replay_bytes(10**6, atari)

    frames = 84 * 84 * 10**6
    assert 1.125 * frames < estimate < 1.14 * frames  # an eighth more, and 76 bytes of numbers each
