"""Measures transitions/s that the replay buffers of cpprb sample in this process. Prints one line of JSON.

python cpprb_replay.py --seconds 2
"""

from importlib.metadata import version

import replay_timing
from cpprb import PrioritizedReplayBuffer, ReplayBuffer

COLUMNS = {
    "obs": {"shape": 4},
    "act": {"dtype": "int32"},
    "rew": {},
    "discount": {},
    "next_obs": {"shape": 4},
}


def make_draw(sampler, columns, _seed):
    """A function that draws batches from a full buffer. The buffers have no seed."""
    *values, priority = columns
    items = dict(zip(COLUMNS, values, strict=True))
    if sampler == "uniform":
        uniform = ReplayBuffer(replay_timing.TRANSITIONS, COLUMNS)
        uniform.add(**items)
        return lambda batches, batch_size: uniform.sample(batches * batch_size)
    buffer = PrioritizedReplayBuffer(
        replay_timing.TRANSITIONS, COLUMNS, alpha=replay_timing.PRIORITY_EXPONENT
    )
    buffer.add(**items, priorities=priority)
    return lambda batches, batch_size: buffer.sample(batches * batch_size, beta=replay_timing.EXPONENT)


if __name__ == "__main__":
    replay_timing.main(__doc__, make_draw, {name: version(name) for name in ("cpprb", "numpy")})
