"""The user's own network: the Keras model that `module:function` makes of a space and a number of actions."""

import contextlib
import importlib
from collections.abc import Iterator

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
    """The Keras model that `function(space, actions)` of `module:function` returns.

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
    module_name, _, function_name = name.partition(":")
    hint = " (is its folder on the Python path, and does it import by itself?)"
    with _as_config_error(f"cannot import `{module_name}` of `{name}`", hint):
        module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(f"`network`: `{module_name}` has no function `{function_name}`.")
    space = make_observation_space(spec)
    keras.utils.set_random_seed(seed)
    with _as_config_error(f"`{name}` fails"):
        model = function(space, spec.actions)
    if not isinstance(model, keras.Model):
        raise ConfigError(f"`network`: `{name}` must return a Keras model, not a `{type(model).__name__}`.")
    with _as_config_error(f"the model of `{name}` does not accept observations of the shape {space.shape}"):
        model = _functional(model, space)
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


@contextlib.contextmanager
def _as_config_error(failure: str, hint: str = "") -> Iterator[None]:
    """Raises any error of the user's code as a `ConfigError` of one line."""
    try:
        yield
    except Exception as error:
        cause = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(f"`network`: {failure}: {cause}{hint}") from error


def _functional(model: keras.Model, space: gymnasium.spaces.Box) -> keras.Model:
    """`model` with known inputs and outputs."""
    kind = type(model)
    if not (kind.__module__.startswith("keras.") and kind.__name__ in ("Functional", "Sequential")):
        inputs = keras.Input(space.shape, dtype=space.dtype.name)
        return keras.Model(inputs, model(inputs))
    if not model.built:  # a `Sequential` without an input
        model.build((None, *space.shape))
    return model
