"""Update loops for tests, each compiled once, and batches for them."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf
from toy_networks import make_options, make_q_network

from distdqn.learning.update import UpdateLoop
from distdqn.types import Transitions

SETTINGS: dict[str, Any] = {
    "learning_rate": 0.01,
    "adam_epsilon": 0.01,  # large, so that the size of a gradient shows in the step
    "max_gradient_norm": None,
    "loss": "squared",
    "double": False,
    "target_update_period": 10**6,
    "target_update_rate": 1.0,
}


def build_loop(layer_norm: bool = False, **changes: Any) -> UpdateLoop:
    """Three inputs, five hidden units, four actions."""
    networks = (make_q_network((3,), 4, (5,), layer_norm, seed) for seed in (0, 100))
    return make_update_loop(*networks, **changes)


def make_update_loop(online: Any, target: Any, noise_seed: int = 0, **changes: Any) -> UpdateLoop:
    """A loop with the settings of all these tests but for `changes`."""
    return UpdateLoop(online, target, make_options(**(SETTINGS | changes)), noise_seed)


@functools.cache
def compiled(layer_norm: bool, settings: tuple[tuple[str, Any], ...]) -> tuple[UpdateLoop, list[np.ndarray]]:
    """A loop that is compiled once for all tests with these settings, and its optimizer at first."""
    loop = build_loop(layer_norm, **dict(settings))
    return loop, [variable.numpy().copy() for variable in loop.optimizer.variables]


def make_loop(seed: int = 0, layer_norm: bool = False, **changes: Any) -> UpdateLoop:
    """A loop as if new; the next call with the same settings takes it over.

    The target network starts elsewhere than the online network.
    """
    loop, optimizer = compiled(layer_norm, tuple(sorted((SETTINGS | changes).items())))
    loop.online.set_weights(make_q_network((3,), 4, (5,), layer_norm, seed).get_weights())
    loop.target.set_weights(make_q_network((3,), 4, (5,), layer_norm, seed + 100).get_weights())
    for variable, value in zip(loop.optimizer.variables, optimizer, strict=True):
        variable.assign(value)
    return loop


def make_batches(updates: int, batch_size: int, seed: int = 0, reward_scale: float = 1.0) -> Transitions:
    """Random transitions `[U, B]`, some of which terminated."""
    generator = np.random.default_rng(seed)
    lead = (updates, batch_size)
    return Transitions(
        observation=generator.normal(size=(*lead, 3)).astype(np.float32),
        action=generator.integers(4, size=lead).astype(np.int32),
        reward=(reward_scale * generator.normal(size=lead)).astype(np.float32),
        discount=generator.choice([0.0, 0.9, 0.81], size=lead).astype(np.float32),
        next_observation=generator.normal(size=(*lead, 3)).astype(np.float32),
    )


def update_eagerly(
    loop: UpdateLoop,
    batches: Transitions,
    learner_steps: int = 0,
    importance_weight: np.ndarray | None = None,
) -> float:
    """Makes the update of the first batch without the compiled loop, which takes a second to compile.

    Returns its loss.
    """
    batch = {name: column[0] for name, column in loop._tensors(batches, importance_weight).items()}
    is_finite = tf.constant(True)
    step_metrics, *_ = loop._update(batch | {"is_finite": is_finite}, tf.constant(learner_steps, tf.int64))
    return float(step_metrics[1])


def part(batches: Transitions, begin: int, end: int) -> Transitions:
    """The batches from `begin` up to `end`."""
    return Transitions(**{name: column[begin:end] for name, column in batches.columns().items()})
