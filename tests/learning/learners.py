"""Small learners for tests, and batches for them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from distdqn.learning.heads import CategoricalHead, Head, QuantileHead, ValueHead
from distdqn.learning.learner import Learner
from distdqn.networks.q_network import NetworkPlan
from distdqn.types import SampledBatches, Transitions

UPDATES, BATCH_SIZE, ACTIONS = 2, 4, 3
HEADS: dict[str, Head] = {
    "value": ValueHead("huber"),
    "quantile": QuantileHead(),
    "categorical": CategoricalHead(-2.0, 2.0, 5),
}
IMAGE: dict[str, Any] = {
    "observation_shape": (4, 4, 2),
    "observation_dtype": "uint8",
    "observation_high": 255.0,
}


def make_plan(**changes: Any) -> NetworkPlan:
    """Two inputs, five hidden units, three actions, but for `changes`."""
    arguments: dict[str, Any] = {"observation_shape": (2,), "actions": ACTIONS, "hidden_sizes": (5,)}
    arguments |= {"atoms": 5, "v_min": -2.0, "v_max": 2.0}
    return NetworkPlan(**(arguments | changes))


def build_learner(plan: NetworkPlan, seed: int = 0, generation: int = 0, **changes: Any) -> Learner:
    """A learner for a prioritized replay."""
    arguments: dict[str, Any] = {
        "head": HEADS[plan.head],
        "batch_size": BATCH_SIZE,
        "updates_per_call": UPDATES,
        "threads": 1,
        "prioritized": True,
        "learning_rate": 0.01,
        "adam_epsilon": 1e-8,
        "max_gradient_norm": 10.0,
        "double": True,
        "munchausen": None,
        "target_update_period": 3,
        "target_update_rate": 1.0,
    }
    return Learner(plan=plan, seed=seed, generation=generation, **(arguments | changes))


@dataclass(frozen=True)
class Batches:
    """Makes batches `[U, B]` that suit a plan; those of a number are always the same."""

    plan: NetworkPlan

    def make(self, number: int, reward: float | None = None) -> SampledBatches:
        """Random transitions and importance weights; `reward` is in place of that of the first."""
        generator = np.random.default_rng(number)
        lead = (UPDATES, BATCH_SIZE)
        shape = (*lead, *self.plan.observation_shape)
        if self.plan.observation_dtype == "uint8":
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
