"""The user's own network: `module:function`, found, called and checked.

The function takes an observation space and the number of actions and returns a Keras model.
Keras and Gymnasium are imported where they are used.
"""

import importlib
import importlib.machinery
import importlib.util
from typing import Any

import numpy as np

from distdqn.errors import ConfigError, one_line


def check_importable(name: str) -> None:
    """Refuses a network whose module is not to be found, without importing it.

    Raises:
        ConfigError: `name` is not of the form `module:function`, or there is no such module.
    """
    module_name, colon, function_name = name.partition(":")
    if not colon or not function_name.isidentifier() or not _is_dotted(module_name):
        raise ConfigError(f"`network`: `{name}` is not of the form `module:function`.")
    top, *inner = module_name.split(".")
    try:
        # `__main__` is another module in another process.
        spec = None if top == "__main__" else importlib.util.find_spec(top)
    except ValueError:  # a module that was not imported from anywhere
        spec = None
    found = top
    for part in inner:
        if spec is None:
            break
        found = f"{found}.{part}"
        folders = spec.submodule_search_locations or []
        spec = importlib.machinery.PathFinder.find_spec(found, folders)  # imports no parent
    if spec is None:
        raise ConfigError(
            f"`network`: cannot find the module `{found}` of `{name}` (is its folder on the Python path?)."
        )


def make_observation_space(shape: tuple[int, ...], dtype: str, low: float, high: float) -> Any:
    """The Gymnasium `Box` that the user's function is given."""
    import gymnasium

    kind = np.dtype(dtype).type
    return gymnasium.spaces.Box(kind(low), kind(high), shape, kind)


def build_user_network(name: str, space: Any, output_shape: tuple[int, ...], seed: int) -> Any:
    """The Keras model that `function(space, actions)` of `module:function` makes.

    Sets the seeds of Keras, Python, NumPy and TensorFlow, from which the initial weights
    of most networks come.

    Args:
        name: `module:function`.
        space: the observations' `gymnasium.spaces.Box`.
        output_shape: `(A,)`, or `(A, K)` under a distributional head.
        seed: of the initial weights.

    Returns:
        A functional Keras model with one input `[B, *space.shape]` and one output
        `[B, *output_shape]`.

    Raises:
        ConfigError: it cannot be imported, called, or used.
    """
    import keras

    function = _import_function(name)
    keras.utils.set_random_seed(seed)
    try:
        model = function(space, output_shape[0])
    except Exception as error:
        raise ConfigError(f"`network`: `{name}` fails: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(model, keras.Model):
        raise ConfigError(f"`network`: `{name}` must return a Keras model, not a `{type(model).__name__}`.")
    return _functional(name, model, space, output_shape)


def _import_function(name: str) -> Any:
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"`network`: cannot import `{module_name}` of `{name}`: {type(error).__name__}: "
            f"{one_line(error)} (is its folder on the Python path, and does it import by itself?)"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(f"`network`: `{module_name}` has no function `{function_name}`.")
    return function


def _functional(name: str, model: Any, space: Any, output_shape: tuple[int, ...]) -> Any:
    """`model` as a functional model with one input and one output of the right shapes."""
    import keras

    kind = type(model)
    is_listed = kind.__module__.startswith("keras.") and kind.__name__ in ("Functional", "Sequential")
    try:
        if not is_listed:
            inputs = keras.Input(space.shape, dtype=space.dtype.name)
            model = keras.Model(inputs, model(inputs))
        elif not model.built:  # a `Sequential` that begins without an input
            model.build((None, *space.shape))
    except Exception as error:
        raise ConfigError(
            f"`network`: the model of `{name}` takes no observations of the shape {space.shape}: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
    found = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    if found != [tuple(space.shape)]:
        raise ConfigError(
            f"`network`: the model of `{name}` must have one input of the shape {space.shape}, not {found}."
        )
    found = [tuple(tensor.shape[1:]) for tensor in model.outputs]
    if found != [output_shape]:
        raise ConfigError(
            f"`network`: the model of `{name}` must have one output of the shape {output_shape}, not {found}."
        )
    return keras.Model(model.inputs[0], model.outputs[0], name="q_network")


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))
