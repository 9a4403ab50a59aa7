"""Options and specs of small networks, and the network of the value head by its few settings."""

from typing import Any

from distdqn.config.config import LearningOptions
from distdqn.networks.q_network import make_networks
from distdqn.types import EnvironmentSpec


def make_spec(
    shape: tuple[int, ...], actions: int, dtype: str = "float32", high: float = 1.0
) -> EnvironmentSpec:
    """Of an environment with observations of this shape, between 0 and `high`."""
    return EnvironmentSpec("toy", shape, actions, None, dtype, 0.0, high, None)


def make_options(**changes: Any) -> LearningOptions:
    """A dense network with five hidden units and Q-values, or a `network`, resolved, but for `changes`."""
    defaults: dict[str, Any] = {"layer_norm": False, "head": "value", "precision": "float32"}
    if "network" not in changes:
        defaults |= {"hidden_sizes": (5,), "torso": "dense"}
    return LearningOptions(**(defaults | changes))


def make_q_network(
    shape: tuple[int, ...],
    actions: int,
    hidden_sizes: tuple[int, ...],
    layer_norm: bool,
    seed: int,
    dueling: bool = False,
) -> Any:
    """A Keras model from observations `[B, *shape]` to Q-values `[B, A]`."""
    options = make_options(hidden_sizes=hidden_sizes, layer_norm=layer_norm, dueling=dueling)
    return make_networks(options, make_spec(shape, actions), seed)[0]
