"""A binary tree of sums, for drawing positions in proportion to their values."""

import numpy as np
import numpy.typing as npt

from distdqn.transition import FloatArray

Positions = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


class SumTree:
    """Keeps `capacity` non-negative values and the sums of all halves, quarters and so on.

    Every operation works on a whole array of positions, level by level. A sum is always
    computed anew from the two below it, so no rounding error builds up.

    Source: Schaul et al. (2016), appendix B.2.1, arXiv:1511.05952.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._depth = max(0, (capacity - 1).bit_length())
        self._leaves = 1 << self._depth
        # Node 1 is the root, 2i and 2i+1 are below node i, the leaves come last.
        self._nodes = np.zeros(2 * self._leaves, np.float64)

    @property
    def total(self) -> float:
        """Sum of all values."""
        return float(self._nodes[1])

    def get(self, positions: Positions) -> Values:
        """Values `[C]` at `positions` `[C]`."""
        return self._nodes[self._leaves + positions]

    def set(self, positions: Positions, values: Values | FloatArray) -> None:
        """Replaces the values at `positions` `[C]` by `values` `[C]`; of equal positions the last counts.

        Raises:
            ValueError: a value is negative or not finite, and would spoil every sum above it.
        """
        if not np.all(np.isfinite(values) & (values >= 0.0)):
            raise ValueError("`values` of a sum tree must be finite and at least 0.")
        node = self._leaves + positions
        self._nodes[node] = values
        for _ in range(self._depth):
            node = node // 2
            self._nodes[node] = self._nodes[2 * node] + self._nodes[2 * node + 1]

    def find(self, targets: Values) -> Positions:
        """For each target the position at which the running sum of values exceeds it.

        Args:
            targets: `[C]` in [0, total).

        Returns:
            `[C]` positions, never one whose value is 0.
        """
        node = np.ones(len(targets), np.int64)
        rest = targets.astype(np.float64)
        for _ in range(self._depth):
            left = self._nodes[2 * node]
            # Rounding may leave a target past the last value: it goes to that value.
            goes_right = (rest >= left) & (self._nodes[2 * node + 1] > 0.0)
            rest = np.where(goes_right, rest - left, rest)
            node = 2 * node + goes_right
        return node - self._leaves

    def check_valid(self) -> tuple[bool, str]:
        """Whether every sum is that of the two below it, and if not, which is wrong."""
        inner = np.arange(1, self._leaves)
        wrong = inner[self._nodes[inner] != self._nodes[2 * inner] + self._nodes[2 * inner + 1]]
        return len(wrong) == 0, f"nodes {wrong[:5].tolist()} are not the sums of those below" if len(
            wrong
        ) else ""
