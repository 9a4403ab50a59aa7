"""The replay memory: preallocated columns, the oldest item overwritten first."""

from collections.abc import Callable

import numpy as np

from distdqn.replay.samplers import Sampler, UniformSampler
from distdqn.seeding import make_generator
from distdqn.transition import AnyArray, PriorityUpdate, SampledBatches, Transitions


class Replay:
    """Keeps the newest `capacity` transitions and draws batches of them.

    An item's id is its insertion number and is never used twice. Item `i` lies at
    position `i % capacity` of every column.

    Args:
        capacity: most transitions kept.
        seed: of the run; drawing has a stream of its own.
        make_sampler: builds the distribution that batches are drawn from.
    """

    def __init__(
        self, capacity: int, seed: int, make_sampler: Callable[[], Sampler] = UniformSampler
    ) -> None:
        self._capacity = capacity
        self._sampler = make_sampler()
        self._generator = make_generator(seed, "replay")
        self._columns: dict[str, AnyArray] = {}
        self._inserted = 0

    @property
    def inserted(self) -> int:
        """Transitions ever inserted; the id of the next one."""
        return self._inserted

    @property
    def size(self) -> int:
        """Transitions stored now."""
        return min(self._inserted, self._capacity)

    def insert(self, chunk: Transitions) -> int:
        """Stores a chunk `[C]`, oldest first, and returns `inserted` after it.

        The columns are copied: arrays that come out of a shared store are views that
        would pin it.

        Called by: the supervisor, for each chunk an actor made. Waits for: nothing.
        After a restart: empty.
        """
        if not self._columns:
            self._columns = {
                name: np.zeros((self._capacity, *column.shape[1:]), column.dtype)
                for name, column in chunk.columns().items()
            }
        count = len(chunk)
        kept = min(count, self._capacity)  # of a chunk larger than the memory, the newest
        item_id = np.arange(self._inserted + count - kept, self._inserted + count)  # [C]
        for name, column in chunk.columns().items():
            self._columns[name][item_id % self._capacity] = column[count - kept :]
        self._sampler.insert(item_id, None if chunk.priority is None else chunk.priority[count - kept :])
        self._inserted += count
        return self._inserted

    def sample(self, batches: int, batch_size: int, importance_exponent: float = 0.0) -> SampledBatches:
        """Draws `batches` batches of `batch_size`, stacked to `[U, B]`.

        `importance_weight = (size * probability)^-importance_exponent`, divided by the
        largest of its batch, so that it only ever makes a step smaller.

        Called by: the supervisor on the learner's behalf, one call ahead, once pacing
        has granted it. Waits for: nothing. After a restart: not called until `min_size`
        transitions are in again.

        Raises:
            ValueError: nothing is stored yet.

        Source: Schaul et al. (2016), section 3.4, arXiv:1511.05952.
        """
        if self.size == 0:
            raise ValueError("`sample` was called on an empty replay: no transition is stored yet.")
        first, end = self._inserted - self.size, self._inserted
        drawn = self._sampler.sample(first, end, batches * batch_size, self._generator)
        item_id = drawn.reshape(batches, batch_size)  # [U, B]
        columns = {name: column[item_id % self._capacity] for name, column in self._columns.items()}
        probability = self._sampler.probability(first, end, item_id)  # [U, B]
        weight = (self.size * probability) ** -importance_exponent  # [U, B]
        weight /= weight.max(axis=1, keepdims=True)
        return SampledBatches(
            Transitions(**columns),  # type: ignore[arg-type]
            item_id,
            weight.astype(np.float32),
        )

    def update_priorities(self, update: PriorityUpdate) -> int:
        """Gives items new priorities; of an item named twice, the last one counts.

        Called by: the supervisor, with what a learner's call returned. Waits for: nothing.
        After a restart: changes nothing for items that are no longer stored.

        Returns:
            How many were too late: their items had been overwritten.
        """
        item_id, priority = update.item_id.ravel(), update.priority.ravel()  # [U * B]
        is_stored = (item_id >= self._inserted - self.size) & (item_id < self._inserted)
        self._sampler.update(item_id[is_stored], priority[is_stored])
        return int(np.count_nonzero(~is_stored))

    def check_valid(self) -> tuple[bool, str]:
        """Whether the sampler agrees with what is stored, and if not, how."""
        return self._sampler.check_valid(self._inserted - self.size, self._inserted)
