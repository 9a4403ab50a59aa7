"""Which stored items a batch is made of: distributions over item ids, apart from storage.

A sampler is told what is inserted and what is evicted, and draws ids. It never sees a
transition.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

ItemIds = npt.NDArray[np.int64]


class Sampler(Protocol):
    """A distribution over the ids `[first, end)` of the stored items."""

    def sample(self, first: int, end: int, count: int, generator: np.random.Generator) -> ItemIds:
        """Draws `count` ids `[count]` from those stored, with replacement.

        Args:
            first: id of the oldest stored item.
            end: one past the id of the newest.
            count: how many to draw.
            generator: all randomness comes from it.
        """
        ...


class UniformSampler:
    """Every stored item with the same probability.

    Source: Lin (1992); Mnih et al. (2015), "Training algorithm for deep Q-networks".
    """

    def sample(self, first: int, end: int, count: int, generator: np.random.Generator) -> ItemIds:
        """See `Sampler.sample`."""
        return generator.integers(first, end, size=count)
