"""Replays, and checkpoints of them, for tests."""

import json

import numpy as np

from distdqn.config.config import ReplayOptions
from distdqn.replay.frames import make_frame_layout
from distdqn.replay.replay import Replay
from distdqn.replay.ring_buffer import segments
from distdqn.types import Transitions

SAMPLERS = ["uniform", "prioritized"]
STACKS = make_frame_layout((3, 2, 2), 255)


def make_replay(capacity, sampler="uniform", seed=0, exponent=0.6, shard=0):
    """A replay, or a shard of one, that keeps `capacity` transitions."""
    options = ReplayOptions(
        replay_capacity=capacity * (shard + 1),
        replay_shards=shard + 1,
        min_replay_size=1,
        sampler=sampler,
        priority_exponent=exponent,
        seed=seed,
    )
    return Replay(options, shard)


def make_vectors(first, count, generator=None):
    number = np.arange(first, first + count, dtype=np.float32)
    priority = number if generator is None else generator.random(count, np.float32)
    return Transitions(number[:, None], number.astype(np.int32), number, -number, number[:, None], priority)


def through_disk(tree):
    """As a store gives it back: arrays, here read-only ones, and everything else through JSON."""
    if isinstance(tree, np.ndarray):
        array = tree.copy()
        array.setflags(write=False)
        return array
    if isinstance(tree, dict):
        return {key: through_disk(value) for key, value in tree.items()}
    return json.loads(json.dumps(tree))


def saved(replay, length=7):
    """A checkpoint in segments of `length`."""
    index = through_disk(replay.get_index())
    pairs = segments(index["first"], index["inserted"], length)
    rows = [through_disk(replay.get_rows(*pair)) for pair in pairs]
    frames = index["frames"]
    pairs = segments(frames["first"], frames["inserted"], length) if frames else []
    return index, rows, [through_disk(replay.get_frames(*pair)) for pair in pairs]


def restore(replay, checkpoint, seed=0):
    """Puts a checkpoint back, segments in any order."""
    index, rows, frames = checkpoint
    calls = [(replay.set_rows, state) for state in rows] + [(replay.set_frames, state) for state in frames]
    for position in np.random.default_rng(seed).permutation(len(calls)):
        calls[position][0](calls[position][1])
    replay.set_index(index)
    assert replay.check_valid() == (True, "")
    return replay


def plain(tree):
    """Nested lists that are equal only if all arrays are, bit for bit."""
    if isinstance(tree, np.ndarray):
        return [str(tree.dtype), tree.shape, tree.tobytes()]
    if isinstance(tree, dict):
        return [[key, plain(value)] for key, value in tree.items()]
    return [plain(value) for value in tree] if isinstance(tree, list | tuple) else tree
