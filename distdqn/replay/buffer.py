"""The replay memory: preallocated columns, the oldest item overwritten first."""

import numpy as np

from distdqn.replay.samplers import Sampler, UniformSampler
from distdqn.seeding import make_generator
from distdqn.transition import AnyArray, SampledBatches, Transitions


class Replay:
    """Keeps the newest `capacity` transitions and draws batches of them.

    An item's id is its insertion number and is never used twice. Item `i` lies at
    position `i % capacity` of every column.
    """

    def __init__(self, capacity: int, seed: int, sampler: Sampler | None = None) -> None:
        self._capacity = capacity
        self._sampler = sampler or UniformSampler()
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
        positions = np.arange(self._inserted + count - kept, self._inserted + count) % self._capacity
        for name, column in chunk.columns().items():
            self._columns[name][positions] = column[count - kept :]
        self._inserted += count
        return self._inserted

    def sample(self, batches: int, batch_size: int) -> SampledBatches:
        """Draws `batches` batches of `batch_size`, stacked to `[U, B]`.

        Called by: the supervisor on the learner's behalf, one call ahead, once pacing
        has granted it. Waits for: nothing. After a restart: not called until `min_size`
        transitions are in again.

        Raises:
            ValueError: nothing is stored yet.
        """
        if self.size == 0:
            raise ValueError("`sample` was called on an empty replay: no transition is stored yet.")
        first = self._inserted - self.size
        drawn = self._sampler.sample(first, self._inserted, batches * batch_size, self._generator)
        item_id = drawn.reshape(batches, batch_size)  # [U, B]
        positions = item_id % self._capacity
        columns = {name: column[positions] for name, column in self._columns.items()}  # [U, B, ...]
        return SampledBatches(Transitions(**columns), item_id)  # type: ignore[arg-type]
