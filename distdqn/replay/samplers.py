"""Which stored items a batch is made of: distributions over item ids, apart from storage.

A sampler is told what is inserted, draws ids, and says how likely each was. It never sees
a transition.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from distdqn.config.config import ReplayOptions
from distdqn.types import FloatArray

ItemIds = npt.NDArray[np.int64]

# Added to every priority, so that no item can become impossible to draw (Schaul et al.
# (2016), section 3.3, leaves the number open).
_MIN_PRIORITY = 1e-6


class Sampler(Protocol):
    """A distribution over the ids `[first, end)` of the stored items."""

    def insert(self, item_id: ItemIds, priority: FloatArray | None) -> None:
        """Takes note of new items `[C]` with their first priorities `[C]`; None means 1 each."""
        ...

    def update(self, item_id: ItemIds, priority: FloatArray) -> None:
        """Takes note of new priorities `[C]` of stored items `[C]`."""
        ...

    def evict(self, item_id: ItemIds) -> None:
        """Takes note that items `[C]` are gone though no newer ones took their places."""
        ...

    def sample(self, first: int, end: int, count: int, generator: np.random.Generator) -> ItemIds:
        """Draws `count` ids `[count]` from those stored, with replacement, in random order.

        Args:
            first: id of the oldest stored item.
            end: one past the id of the newest.
            count: how many to draw.
            generator: all randomness comes from it.
        """
        ...

    def probability(self, first: int, end: int, item_id: ItemIds) -> npt.NDArray[np.float64]:
        """How likely one draw was to give each of `item_id` `[C]`, as `[C]`."""
        ...

    def total_priority(self, first: int, end: int) -> float:
        """What the items together weigh against those of other samplers of this kind."""
        ...

    def check_valid(self, first: int, end: int) -> tuple[bool, str]:
        """Whether the sampler agrees with what is stored, and if not, how."""
        ...

    def get_state(self, item_id: ItemIds) -> dict[str, Any] | None:
        """What it knows of the stored items `[C]`; None if that is nothing."""
        ...

    def set_state(self, item_id: ItemIds, state: dict[str, Any] | None) -> None:
        """Takes note of restored items `[C]`, the newest of those that `state` is of."""
        ...


class UniformSampler:
    """Every stored item with the same probability.

    Source: Lin (1992); Mnih et al. (2015), "Training algorithm for deep Q-networks".
    """

    def insert(self, item_id: ItemIds, priority: FloatArray | None) -> None:
        """See `Sampler.insert`; all items `[C]` are alike."""

    def update(self, item_id: ItemIds, priority: FloatArray) -> None:
        """See `Sampler.update`; all items `[C]` stay alike."""

    def evict(self, item_id: ItemIds) -> None:
        """See `Sampler.evict`; none of `[C]` is within `[first, end)` any more."""

    def sample(self, first: int, end: int, count: int, generator: np.random.Generator) -> ItemIds:
        """See `Sampler.sample`."""
        return generator.integers(first, end, size=count)

    def probability(self, first: int, end: int, item_id: ItemIds) -> npt.NDArray[np.float64]:
        """See `Sampler.probability`: `1 / size` for each of `[C]`."""
        return np.full(item_id.shape, 1.0 / (end - first))

    def total_priority(self, first: int, end: int) -> float:
        """See `Sampler.total_priority`: how many there are."""
        return float(end - first)

    def check_valid(self, first: int, end: int) -> tuple[bool, str]:  # noqa: ARG002
        """See `Sampler.check_valid`."""
        return True, ""

    def get_state(self, item_id: ItemIds) -> dict[str, Any] | None:  # noqa: ARG002
        """See `Sampler.get_state`; of items `[C]` there is nothing to know."""
        return None

    def set_state(self, item_id: ItemIds, state: dict[str, Any] | None) -> None:
        """See `Sampler.set_state`; all items `[C]` are alike, whatever they were."""


class PrioritizedSampler:
    """Items in proportion to a power of their priority: `P(i) = p_i^alpha / sum_k p_k^alpha`.

    Draws are stratified: `count` equal shares of the total, one draw from each.

    Source: Schaul et al. (2016), equation 1 and section 3.3, arXiv:1511.05952.
    """

    def __init__(self, capacity: int, exponent: float) -> None:
        self._capacity = capacity
        self._exponent = exponent
        self._tree = SumTree(capacity)

    def insert(self, item_id: ItemIds, priority: FloatArray | None) -> None:
        """See `Sampler.insert`, items and priorities `[C]`."""
        self.update(item_id, np.ones(len(item_id), np.float32) if priority is None else priority)

    def update(self, item_id: ItemIds, priority: FloatArray) -> None:
        """See `Sampler.update`, items and priorities `[C]`."""
        powers = (priority.astype(np.float64) + _MIN_PRIORITY) ** self._exponent
        self._tree.set(item_id % self._capacity, powers)

    def evict(self, item_id: ItemIds) -> None:
        """See `Sampler.evict`: items `[C]` become impossible to draw."""
        self._tree.set(item_id % self._capacity, np.zeros(len(item_id)))

    def sample(self, first: int, end: int, count: int, generator: np.random.Generator) -> ItemIds:  # noqa: ARG002
        """See `Sampler.sample`."""
        shares = generator.permutation(count) + generator.random(count)
        positions = self._tree.find(shares / count * self._tree.total)
        return first + (positions - first) % self._capacity

    def probability(self, first: int, end: int, item_id: ItemIds) -> npt.NDArray[np.float64]:  # noqa: ARG002
        """See `Sampler.probability`, items `[C]`."""
        return self._tree.get(item_id % self._capacity) / self._tree.total

    def total_priority(self, first: int, end: int) -> float:  # noqa: ARG002
        """See `Sampler.total_priority`: the sum of the powers of their priorities."""
        return self._tree.total

    def check_valid(self, first: int, end: int) -> tuple[bool, str]:
        """See `Sampler.check_valid`: stored items have a positive value, all else has none."""
        stored = np.zeros(self._capacity, np.bool_)
        stored[np.arange(first, end) % self._capacity] = True
        has_value = self._tree.get(np.arange(self._capacity)) > 0.0
        wrong = np.flatnonzero(stored != has_value)
        if len(wrong):
            return (
                False,
                f"positions {wrong[:5].tolist()} are stored but have no priority, or the other way round",
            )
        return self._tree.check_valid()

    def get_state(self, item_id: ItemIds) -> dict[str, Any] | None:
        """See `Sampler.get_state`: the powers of the priorities of items `[C]`, and the exponent."""
        return {"exponent": self._exponent, "values": self._tree.get(item_id % self._capacity)}

    def set_state(self, item_id: ItemIds, state: dict[str, Any] | None) -> None:
        """See `Sampler.set_state`; under another exponent items `[C]` keep their priorities.

        Where `state` has none, from uniform replay or the exponent 0, they are 1 each.
        """
        if state is None or state["exponent"] == 0.0:
            self.insert(item_id, None)
            return
        values = state["values"][len(state["values"]) - len(item_id) :]
        if state["exponent"] != self._exponent:  # else they come back bit for bit
            values = values ** (self._exponent / state["exponent"])
        self._tree.set(item_id % self._capacity, values)


def make_sampler(options: ReplayOptions, capacity: int) -> Sampler:
    """The distribution that `options.sampler` names, for a replay of `capacity` transitions."""
    if options.sampler == "uniform":
        return UniformSampler()
    return PrioritizedSampler(capacity, options.priority_exponent)


def priorities_in(state: dict[str, Any] | None) -> FloatArray | None:
    """The priorities `[C]` of the items of which a sampler's `state` is; None if they are all 1."""
    if state is None or state["exponent"] == 0.0:
        return None
    values: npt.NDArray[np.float64] = state["values"]
    priority: FloatArray = np.maximum(values ** (1.0 / state["exponent"]) - _MIN_PRIORITY, 0.0).astype(
        np.float32
    )
    return priority


Values = npt.NDArray[np.float64]


class SumTree:
    """Keeps `replay_capacity` non-negative values and the sums of all halves, quarters and so on.

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

    def get(self, positions: ItemIds) -> Values:
        """Values `[C]` at `positions` `[C]`."""
        return self._nodes[self._leaves + positions]

    def set(self, positions: ItemIds, values: Values | FloatArray) -> None:
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

    def find(self, targets: Values) -> ItemIds:
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
