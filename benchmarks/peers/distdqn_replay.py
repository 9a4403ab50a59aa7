"""Measures transitions/s that distdqn's replay samples in this process. Prints one line of JSON.

python distdqn_replay.py --seconds 2
"""

from importlib.metadata import version

import replay_timing

from distdqn.config.config import Config
from distdqn.replay.replay import Replay
from distdqn.types import Transitions


def make_draw(sampler, columns, seed):
    """A function that draws batches from a full replay."""
    replay = Replay(
        Config(
            sampler=sampler,
            seed=seed,
            replay_capacity=replay_timing.TRANSITIONS,
            priority_exponent=replay_timing.PRIORITY_EXPONENT,
        )
    )
    replay.insert(Transitions(*columns))
    exponent = replay_timing.EXPONENT if sampler == "prioritized" else 0.0
    return lambda batches, batch_size: replay.sample(batches, batch_size, exponent)


if __name__ == "__main__":
    replay_timing.main(__doc__, make_draw, {name: version(name) for name in ("distdqn", "numpy")})
