"""Small learners for tests, and batches for them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from toy_networks import make_options, make_spec

from distdqn.learning.learner import Learner
from distdqn.types import EnvironmentSpec, SampledBatches, Transitions

UPDATES, BATCH_SIZE, ACTIONS = 2, 4, 3
VECTOR = make_spec((2,), ACTIONS)
IMAGE = make_spec((4, 4, 2), ACTIONS, "uint8", 255.0)


def build_learner(spec: EnvironmentSpec = VECTOR, generation: int = 0, **changes: Any) -> Learner:
    """Five hidden units, three actions, for a prioritized replay, but for `changes`."""
    options: dict[str, Any] = {
        "batch_size": BATCH_SIZE,
        "updates_per_call": UPDATES,
        "sampler": "prioritized",
        "learning_rate": 0.01,
        "target_update_period": 3,
        "atoms": 5,
        "v_min": -2.0,
        "v_max": 2.0,
    }
    return Learner(make_options(**(options | changes)), spec, generation)


@dataclass(frozen=True)
class Batches:
    """Makes batches `[U, B]` of an environment; those of a number are always the same."""

    spec: EnvironmentSpec = VECTOR

    def make(self, number: int, reward: float | None = None) -> SampledBatches:
        """Random transitions and importance weights; `reward` is in place of that of the first."""
        generator = np.random.default_rng(number)
        lead = (UPDATES, BATCH_SIZE)
        shape = (*lead, *self.spec.observation_shape)
        if self.spec.is_image:
            first, second = generator.integers(256, size=(2, *shape)).astype(np.uint8)
        else:
            first, second = generator.normal(size=(2, *shape)).astype(np.float32)
        rewards = generator.normal(size=lead).astype(np.float32)
        if reward is not None:
            rewards[:, 0] = reward
        action = generator.integers(ACTIONS, size=lead).astype(np.int32)
        transitions = Transitions(first, action, rewards, np.full(lead, 0.9, np.float32), second)
        weight = generator.random(lead, np.float32)
        return SampledBatches(transitions, np.arange(UPDATES * BATCH_SIZE).reshape(lead), weight)
