"""Independent random streams from one seed.

Streams are derived by name and position, so a new actor does not change the numbers that another one draws.
"""

import numpy as np

_STREAMS = ("exploration", "environment", "replay", "network", "evaluation", "shards")
# Gymnasium's seeds have 31 bits: training uses the lower half, evaluation the upper one.
# `SyncVectorEnv` counts upwards from its seed; a margin as large keeps that within the half.
_HALF = 2**30
MAX_ENVIRONMENTS = 2**16  # of one actor: the most that `envs_per_actor` allows


def make_generator(seed: int, stream: str, *indices: int) -> np.random.Generator:
    """The random generator of `(seed, stream, indices)`, independent of all others."""
    return np.random.default_rng(_sequence(seed, stream, indices))


def make_integer_seed(seed: int, stream: str, *indices: int) -> int:
    """A 31-bit seed for `(seed, stream, indices)`.

    Seeds of the stream `evaluation` are in `[2**30, 2**31)`, all others below, so that
    evaluation never repeats a training episode.
    """
    drawn = int(_sequence(seed, stream, indices).generate_state(1)[0]) % (_HALF - MAX_ENVIRONMENTS)
    return drawn + (_HALF if stream == "evaluation" else 0)


def _sequence(seed: int, stream: str, indices: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(_STREAMS.index(stream), *indices))
