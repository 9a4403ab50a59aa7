"""A replay for tests whose draws are predictable."""

import numpy as np
from toy_replay_state import make_replay


class EveryItem:
    """A sampler that draws the stored items in order, and records the ranges it drew from."""

    def __init__(self):
        self.ranges = []

    def insert(self, item_id, priority):
        pass

    def update(self, item_id, priority):
        pass

    def evict(self, item_id):
        pass

    def total_priority(self, first, end):
        return float(end - first)

    def check_valid(self, first, end):  # noqa: ARG002
        return True, ""

    def probability(self, first, end, item_id):
        return np.full(item_id.shape, 1.0 / (end - first))

    def sample(self, first, end, count, generator):  # noqa: ARG002
        self.ranges.append((first, end))
        return first + np.arange(count, dtype=np.int64) % (end - first)


def make_every_item_replay(capacity):
    """A replay that draws its items in order."""
    replay = make_replay(capacity)
    replay._sampler = EveryItem()
    return replay
