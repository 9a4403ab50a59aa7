"""Distributions over the ids of stored items, apart from their storage."""

from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from distdqn.types import FloatArray

ItemIds = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

# Added to every priority, so that every item can be drawn (Schaul et al. 2016, section 3.3).
_MIN_PRIORITY = 1e-6


class UniformSampler:
    """Draws every stored item with the same probability, `P(i) = 1 / size`. It has no state.

    The ids of the stored items are `[first, end)`. Other samplers override what differs.

    Source: Lin (1992); Mnih et al. (2015), "Training algorithm for deep Q-networks".
    """

    def insert(self, item_id: ItemIds, priority: FloatArray | None) -> None:
        """Adds items `[C]` with their first priorities `[C]`; None means 1 each."""

    def update(self, item_id: ItemIds, priority: FloatArray) -> None:
        """Changes the priorities of stored items `[C]` to `priority` `[C]`."""

    def evict(self, item_id: ItemIds) -> None:
        """Removes items `[C]` that no newer items have overwritten."""

    def sample(self, first: int, end: int, count: int, generator: np.random.Generator) -> ItemIds:
        """Draws ids `[count]` of stored items, with replacement, in random order."""
        return generator.integers(first, end, size=count)

    def probability(self, first: int, end: int, item_id: ItemIds) -> Values:
        """The probability `[C]` of each item `[C]` in one draw."""
        return np.full(item_id.shape, 1.0 / (end - first))

    def total_priority(self, first: int, end: int) -> float:
        """The weight of all items together against those of another shard."""
        return float(end - first)

    def check_valid(self, first: int, end: int) -> tuple[bool, str]:  # noqa: ARG002
        """Whether the sampler agrees with what is stored, and if not, the reason."""
        return True, ""

    def get_state(self, item_id: ItemIds) -> dict[str, Any] | None:  # noqa: ARG002
        """The state of the stored items `[C]`; None if there is none."""
        return None

    def set_state(self, item_id: ItemIds, state: dict[str, Any] | None) -> None:
        """Restores items `[C]`, the newest of those of `state`."""


class PrioritizedSampler(UniformSampler):
    """Items in proportion to a power of their priority: `P(i) = p_i^alpha / sum_k p_k^alpha`.

    Draws are stratified: one from each of `count` equal parts of the sum. `exponent` is alpha.

    Source: Schaul et al. (2016), equation 1 and section 3.3, arXiv:1511.05952.
    """

    def __init__(self, capacity: int, exponent: float) -> None:
        self._capacity = capacity
        self._exponent = exponent
        self._tree = SumTree(capacity)

    @override
    def insert(self, item_id: ItemIds, priority: FloatArray | None) -> None:
        self.update(item_id, np.ones(len(item_id), np.float32) if priority is None else priority)

    @override
    def update(self, item_id: ItemIds, priority: FloatArray) -> None:
        powers = (priority.astype(np.float64) + _MIN_PRIORITY) ** self._exponent
        self._tree.set(item_id % self._capacity, powers)

    @override
    def evict(self, item_id: ItemIds) -> None:
        self._tree.set(item_id % self._capacity, np.zeros(len(item_id)))

    @override
    def sample(self, first: int, end: int, count: int, generator: np.random.Generator) -> ItemIds:
        strata = generator.permutation(count) + generator.random(count)  # [count] in [0, count)
        positions = self._tree.find(strata / count * self._tree.total)
        return first + (positions - first) % self._capacity

    @override
    def probability(self, first: int, end: int, item_id: ItemIds) -> Values:
        return self._tree.get(item_id % self._capacity) / self._tree.total

    @override
    def total_priority(self, first: int, end: int) -> float:
        return self._tree.total

    @override
    def check_valid(self, first: int, end: int) -> tuple[bool, str]:
        is_stored = np.zeros(self._capacity, np.bool_)
        is_stored[np.arange(first, end) % self._capacity] = True
        wrong = np.flatnonzero(is_stored != (self._tree.get(np.arange(self._capacity)) > 0.0))
        if len(wrong):
            return False, f"positions {wrong[:5].tolist()} have an item and no priority, or the reverse"
        return self._tree.check_valid()

    @override
    def get_state(self, item_id: ItemIds) -> dict[str, Any] | None:
        return {"exponent": self._exponent, "values": self._tree.get(item_id % self._capacity)}

    @override
    def set_state(self, item_id: ItemIds, state: dict[str, Any] | None) -> None:
        if state is None or state["exponent"] == 0.0:  # the priorities are unknown
            self.insert(item_id, None)
            return
        values = state["values"][len(state["values"]) - len(item_id) :]
        if state["exponent"] != self._exponent:  # otherwise restored bit for bit
            values = values ** (self._exponent / state["exponent"])
        self._tree.set(item_id % self._capacity, values)


def priorities_in(state: dict[str, Any] | None) -> FloatArray | None:
    """The priorities `[C]` in a sampler's state; None if they are all 1."""
    if state is None or state["exponent"] == 0.0:
        return None
    values: Values = state["values"]
    priority: Values = np.maximum(values ** (1.0 / state["exponent"]) - _MIN_PRIORITY, 0.0)
    return priority.astype(np.float32)


class SumTree:
    """Up to `capacity` non-negative values, and the sums of all halves, quarters and so on.

    Each sum is recomputed from the two below it, so rounding errors do not accumulate.

    Source: Schaul et al. (2016), appendix B.2.1, arXiv:1511.05952.
    """

    def __init__(self, capacity: int) -> None:
        self._depth = (capacity - 1).bit_length()
        self._leaves = 1 << self._depth
        # Node 1 is the root, 2i and 2i+1 are the children of i, the leaves come last.
        self._nodes = np.zeros(2 * self._leaves, np.float64)

    @property
    def total(self) -> float:
        """Sum of all values."""
        return float(self._nodes[1])

    def get(self, positions: ItemIds) -> Values:
        """Values `[C]` at `positions` `[C]`."""
        return self._nodes[self._leaves + positions]

    def set(self, positions: ItemIds, values: Values | FloatArray) -> None:
        """Sets the values `[C]` at `positions` `[C]`, of equal positions the last.

        `ValueError` if a value is negative or not finite.
        """
        if not np.all(np.isfinite(values) & (values >= 0.0)):
            raise ValueError("`values` of a sum tree must be finite and at least 0.")
        node = self._leaves + positions
        self._nodes[node] = values
        for _ in range(self._depth):
            node = node // 2
            self._nodes[node] = self._nodes[2 * node] + self._nodes[2 * node + 1]

    def find(self, targets: Values) -> ItemIds:
        """The positions `[C]` where the running sum first exceeds `targets` `[C]` in [0, total).

        A position with the value 0 is never returned.
        """
        node = np.ones(len(targets), np.int64)
        rest = targets.astype(np.float64)
        for _ in range(self._depth):
            left = self._nodes[2 * node]
            # Rounding may put a target past the last value: it then finds that value.
            goes_right = (rest >= left) & (self._nodes[2 * node + 1] > 0.0)
            rest = np.where(goes_right, rest - left, rest)
            node = 2 * node + goes_right
        return node - self._leaves

    def check_valid(self) -> tuple[bool, str]:
        """Whether every node is the sum of its children, and if not, which are wrong."""
        inner = np.arange(1, self._leaves)
        wrong = inner[self._nodes[inner] != self._nodes[2 * inner] + self._nodes[2 * inner + 1]]
        return not len(wrong), f"nodes {wrong[:5].tolist()} are not sums" if len(wrong) else ""
