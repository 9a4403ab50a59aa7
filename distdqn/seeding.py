"""Where every random stream of a run comes from.

One seed is split into independent streams by name and position, so that adding an
actor never changes the numbers another actor draws.
"""

import numpy as np

_STREAMS = ("exploration", "environment", "replay", "network", "evaluation", "shards")

# Training and evaluation reset their environments from disjoint halves of the seeds
# that every Gymnasium environment takes (31 bits). `SyncVectorEnv` counts upwards
# from the seed it is given; the margin keeps that inside the half.
_HALF = 2**30

_MARGIN = 2**16


def make_generator(seed: int, stream: str, *indices: int) -> np.random.Generator:
    """A random generator of its own for each `(seed, stream, indices)`."""
    return np.random.default_rng(_sequence(seed, stream, indices))


def make_integer_seed(seed: int, stream: str, *indices: int) -> int:
    """A 31-bit seed for `(seed, stream, indices)`.

    Seeds of the stream `evaluation` lie in `[2**30, 2**31)`, all others below, so
    evaluation never replays the start of a training episode.
    """
    drawn = int(_sequence(seed, stream, indices).generate_state(1)[0]) % (_HALF - _MARGIN)
    return drawn + (_HALF if stream == "evaluation" else 0)


def _sequence(seed: int, stream: str, indices: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(_STREAMS.index(stream), *indices))
