"""Actors, evaluators and vector environments with small options, and the weights of small networks."""

import itertools
from typing import Any

import numpy as np

from distdqn.acting.actor import Actor
from distdqn.acting.evaluator import Evaluator
from distdqn.config.config import ActingOptions, SharedOptions
from distdqn.environments.registry import inspect_environment
from distdqn.environments.vector import EpisodeEnd, FaultLog, VectorEnvironment
from distdqn.types import EnvironmentSpec, PolicyWeights, Steps

# Of `CountingEnvironment`, for environments that should not be built to be inspected.
COUNTING_SPEC = EnvironmentSpec("toy", (3,), 3, None, "float32", 0.0, 255.0, None)

DEFAULTS: dict[str, Any] = {
    "envs_per_actor": 4,
    "rollout_length": 10,
    "n_step": 1,
    "discount": 0.5,
    "epsilon_start": 0.0,
    "epsilon_end": 0.0,
}


def make_actor(
    env: Any, spec: EnvironmentSpec | None = None, index: int = 0, restarts: int = 0, **options: Any
) -> Actor:
    """An actor that is greedy, with 1-step transitions and a discount of 0.5, unless `options` differ."""
    acting = ActingOptions(env=env, **(DEFAULTS | options))
    return Actor(acting, spec or inspect_environment(env), index, restarts)


def make_evaluator(env: Any, **options: Any) -> Evaluator:
    """An evaluator of this environment."""
    return Evaluator(SharedOptions(env=env, **options))


def make_vector(
    env: Any, environments: int, seed: int, checks_outputs: bool = False, has_mask: bool = False
) -> VectorEnvironment:
    """Environments of this seed, or a later one after each error."""
    seeds, faults = itertools.count(seed), FaultLog(env, 5)
    return VectorEnvironment(env, environments, seeds, faults, checks_outputs, has_mask)


def step_once(vector: VectorEnvironment, actions: Any) -> tuple[Steps, list[EpisodeEnd] | None]:
    """One step of all environments, as `[1, E]`, and the episodes that ended."""
    steps = vector.empty_steps(1)
    return steps, vector.step(np.array(actions), steps, 0)


def make_weights(bias, kernel=None, features=3, version=(0, 1), learner_steps=7):
    """`q_values = observation @ kernel + bias`, the kernel zero unless given."""
    kernel = np.zeros((features, len(bias))) if kernel is None else np.array(kernel)
    layers = [
        {"name": "observation", "kind": "input", "inputs": [], "arrays": []},
        {"name": "q", "kind": "dense", "inputs": ["observation"], "arrays": [0, 1], "activation": "linear"},
    ]
    arrays = [kernel.astype(np.float32), np.array(bias, np.float32)]
    return PolicyWeights(layers, arrays, version, learner_steps)


def make_random_weights(spec: EnvironmentSpec) -> PolicyWeights:
    """A random network that tells its actions from all of an observation."""
    layers = [
        {"name": "observation", "kind": "input", "inputs": [], "arrays": []},
        {"name": "flat", "kind": "flatten", "inputs": ["observation"], "arrays": []},
        {"name": "q", "kind": "dense", "inputs": ["flat"], "arrays": [0], "activation": "linear"},
    ]
    shape = (int(np.prod(spec.observation_shape)), spec.actions)
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return PolicyWeights(layers, [kernel], (0, 1), 0)
