"""Checks of the torso and of the user's module that need neither Keras nor TensorFlow."""

import contextlib
import importlib.machinery
import importlib.util

from distdqn.errors import ConfigError

# A convolution without padding has no output below these.
_MIN_PIXELS = {"dense": 0, "small": 3, "nature": 36, "impala": 1, "impala-wide": 1}


def choose_torso(shape: tuple[int, ...], is_image: bool, wanted: str = "nature") -> str:
    """The torso for observations of this shape: `dense`, or for images `wanted` or one for smaller images."""
    if not is_image or len(shape) not in (2, 3):
        return "dense"
    pixels = min(spatial_shape(shape)[:2])
    return next((torso for torso in (wanted, "nature", "small") if pixels >= _MIN_PIXELS[torso]), "dense")


def spatial_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and channels of an image of this shape.

    An image with two axes has one channel. `ConfigError` if the shape does not have two or three axes.
    """
    match shape:
        case (height, width):
            return height, width, 1
        case (first, second, third):
            return (second, third, first) if is_channel_first(shape) else (first, second, third)
    raise ConfigError(
        f"`torso`: convolutions need observations with 2 or 3 axes, not of the shape {shape} (use `dense`)."
    )


def is_channel_first(shape: tuple[int, ...]) -> bool:
    """Whether the first of three axes holds the channels: it is smaller than the last."""
    return len(shape) == 3 and shape[0] < shape[-1]


def check_torso(torso: str, shape: tuple[int, ...]) -> None:
    """Raises `ConfigError` if observations of this shape are no images, or too small ones, for `torso`."""
    if torso == "dense":
        return
    height, width, _ = spatial_shape(shape)
    if min(height, width) < _MIN_PIXELS[torso]:
        raise ConfigError(
            f"`torso`: `{torso}` needs images of at least {_MIN_PIXELS[torso]} pixels a side, not "
            f"{height} x {width} (use `{choose_torso(shape, is_image=True)}`)."
        )


def check_importable(name: str) -> None:
    """Raises `ConfigError` unless `name` is `module:function`, and finds the module without importing it."""
    module_name, colon, function_name = name.partition(":")
    parts = module_name.split(".")
    if not colon or not all(part.isidentifier() for part in [*parts, function_name]):
        raise ConfigError(f"`network`: `{name}` is not of the form `module:function`.")
    found, *inner = parts
    spec = None
    with contextlib.suppress(ValueError):  # a module that was not imported from a file
        if found != "__main__":  # which is a different module in another process
            spec = importlib.util.find_spec(found)
    while spec is not None and inner:
        found = f"{found}.{inner.pop(0)}"
        folders = spec.submodule_search_locations or []
        spec = importlib.machinery.PathFinder.find_spec(found, folders)  # imports no parent
    if spec is None:
        raise ConfigError(
            f"`network`: cannot find the module `{found}` of `{name}` (is its folder on the Python path?)."
        )
