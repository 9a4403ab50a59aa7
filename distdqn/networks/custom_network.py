"""The user's own network: the Keras model that `module:function` makes of space and number of actions."""

import importlib
from collections.abc import Callable
from typing import Any

import gymnasium
import keras
import numpy as np

from distdqn.errors import ConfigError, one_line
from distdqn.types import EnvironmentSpec


def make_observation_space(spec: EnvironmentSpec) -> gymnasium.spaces.Box:
    """The observation space that the user's function gets."""
    dtype = np.dtype(spec.observation_dtype).type
    low, high = dtype(spec.observation_low), dtype(spec.observation_high)
    return gymnasium.spaces.Box(low, high, spec.observation_shape, dtype)


def build_custom_network(
    name: str, spec: EnvironmentSpec, output_shape: tuple[int, ...], seed: int
) -> keras.Model:
    """The Keras model that `function(space, actions)` of `module:function` makes.

    Args:
        name: `module:function`.
        spec: of the environment.
        output_shape: `(A,)`, or `(A, K)` under a distributional head.
        seed: set as the global seed of Keras, Python, NumPy and TensorFlow before the call.

    Returns:
        A functional Keras model with one input `[B, *observation_shape]` and one output
        `[B, *output_shape]`.

    Raises:
        ConfigError: it cannot be imported, called, or used.
    """
    function = _import_function(name)
    space = make_observation_space(spec)
    keras.utils.set_random_seed(seed)
    try:
        model = function(space, spec.actions)
    except Exception as error:
        raise ConfigError(f"`network`: `{name}` fails: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(model, keras.Model):
        raise ConfigError(f"`network`: `{name}` must return a Keras model, not a `{type(model).__name__}`.")
    try:
        model = _built(model, space)
    except Exception as error:
        raise ConfigError(
            f"`network`: the model of `{name}` does not accept observations of the shape {space.shape}: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
    for kind, tensors, shape in (
        ("input", model.inputs, spec.observation_shape),
        ("output", model.outputs, output_shape),
    ):
        found = [tuple(tensor.shape[1:]) for tensor in tensors]
        if found != [shape]:
            raise ConfigError(
                f"`network`: the model of `{name}` must have one {kind} of the shape {shape}, not {found}."
            )
    return keras.Model(model.inputs[0], model.outputs[0], name="q_network")


def _import_function(name: str) -> Callable[[gymnasium.spaces.Box, int], Any]:
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"`network`: cannot import `{module_name}` of `{name}`: {type(error).__name__}: "
            f"{one_line(error)} (is its folder on the Python path, and does it import by itself?)"
        ) from error
    function: Callable[[gymnasium.spaces.Box, int], Any] | None = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(f"`network`: `{module_name}` has no function `{function_name}`.")
    return function


def _built(model: keras.Model, space: gymnasium.spaces.Box) -> keras.Model:
    """`model` with known inputs and outputs."""
    kind = type(model)
    if not (kind.__module__.startswith("keras.") and kind.__name__ in ("Functional", "Sequential")):
        inputs = keras.Input(space.shape, dtype=space.dtype.name)
        return keras.Model(inputs, model(inputs))
    if not model.built:  # a `Sequential` without an input
        model.build((None, *space.shape))
    return model
