"""The user's own network: the Keras model that `module:function` makes of a space and a number of actions."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import keras
import numpy as np
from gymnasium.spaces import Box, Dict

from distdqn.config.model import function_name, import_named
from distdqn.errors import ConfigError, one_line
from distdqn.types import EnvironmentSpec


def make_observation_space(spec: EnvironmentSpec) -> Box | Dict:
    """The observation space that the user's function gets: a `Dict` if observations have several parts."""
    boxes: dict[str, Box] = {}
    for part in spec.parts:
        if part.kind == "image":
            boxes[part.name] = Box(0, int(part.high), part.shape, np.uint8)
        elif part.kind == "vector":
            boxes[part.name] = Box(-np.inf, np.inf, part.shape, np.float32)
    if boxes:
        return Dict(list(boxes.items())) if len(boxes) > 1 else next(iter(boxes.values()))
    dtype = np.dtype(spec.observation_dtype).type
    low, high = dtype(spec.observation_low), dtype(spec.observation_high)
    return Box(low, high, spec.observation_shape, dtype)


def build_custom_network(
    network: str | Callable[..., Any], spec: EnvironmentSpec, output_shape: tuple[int, ...], seed: int
) -> keras.Model:
    """The Keras model that the user's function, or `module:function`, makes of `(space, actions)`.

    Before the call, `seed` becomes the global seed of Keras, Python, NumPy and TensorFlow. `output_shape` is
    `(A,)`, or `(A, K)` under a distributional head.

    The model is functional, with one input `[B, *observation_shape]`, or one for each part by name, and one
    output `[B, *output_shape]`. `ConfigError` if it cannot be imported, called, or used.
    """
    name, function = function_name(network), cast("Any", network)
    if isinstance(function, str):
        function = import_named("network", name)
        if not callable(function):
            module_name, _, attribute = name.partition(":")
            raise ConfigError(f"`network`: `{module_name}` has no function `{attribute}`.")
    space = make_observation_space(spec)
    keras.utils.set_random_seed(seed)
    with _as_config_error(f"`{name}` fails"):
        model = function(space, spec.actions)
    if not isinstance(model, keras.Model):
        raise ConfigError(f"`network`: `{name}` must return a Keras model, not a `{type(model).__name__}`.")
    shown = f"parts {', '.join(space.spaces)}" if isinstance(space, Dict) else f"shape {space.shape}"
    with _as_config_error(f"the model of `{name}` does not accept observations of the {shown}"):
        model = _functional(model, space)
    expected = {"output": (model.outputs, output_shape)}
    if isinstance(space, Box):
        expected = {"input": (model.inputs, space.shape), **expected}
    for kind, (tensors, shape) in expected.items():
        found = [tuple(tensor.shape[1:]) for tensor in tensors]
        if found != [shape]:
            cure = "; give `--head value`" if found == [(spec.actions,)] and kind == "output" else ""
            raise ConfigError(
                f"`network`: the model of `{name}` must have one {kind} of the shape {shape}, not "
                f"{found}{cure}."
            )
    if isinstance(space, Dict):
        return model
    return keras.Model(model.inputs[0], model.outputs[0], name="q_network")


@contextlib.contextmanager
def _as_config_error(failure: str) -> Iterator[None]:
    """Raises any error of the user's code as a `ConfigError` of one line."""
    try:
        yield
    except Exception as error:
        cause = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(f"`network`: {failure}: {cause}") from error


def _functional(model: keras.Model, space: Box | Dict) -> keras.Model:
    """`model` with known inputs and outputs."""
    kind = type(model)
    if isinstance(space, Dict):
        dtypes = {name: np.dtype(box.dtype).name for name, box in space.items()}
        parts = {name: keras.Input(space[name].shape, dtype=dtypes[name], name=name) for name in dtypes}
        return keras.Model(parts, model(parts))
    if not (kind.__module__.startswith("keras.") and kind.__name__ in ("Functional", "Sequential")):
        inputs = keras.Input(space.shape, dtype=space.dtype.name)
        return keras.Model(inputs, model(inputs))
    if not model.built:  # a `Sequential` without an input
        model.build((None, *space.shape))
    return model
