"""What stands between an image and the dense layers: convolutions, by the papers' settings.

Keras is imported where it is used: only the learner's process loads it.
"""

from typing import Any, Protocol

from distdqn.errors import ConfigError

Tensor = Any  # Keras ships no types

# Below these a convolution without padding has nothing left to look at.
_MIN_PIXELS = {"small": 3, "nature": 36, "impala": 1}


class Convolution(Protocol):
    """Makes one convolution with weights of its own and applies it."""

    def __call__(
        self,
        features: Tensor,
        filters: int,
        size: int,
        stride: int = 1,
        padding: str = "same",
        activation: str | None = None,
    ) -> Tensor:
        """From `features` `[B, H, W, C]` to `[B, H', W', filters]`."""
        ...


def choose_torso(shape: tuple[int, ...], is_image: bool) -> str:
    """The torso that suits observations: `dense`, `small` or `nature`.

    Args:
        shape: of one observation.
        is_image: whether its numbers are pixels.
    """
    if not is_image or len(shape) not in (2, 3):
        return "dense"
    pixels = min(spatial_shape(shape)[:2])
    if pixels < _MIN_PIXELS["small"]:
        return "dense"
    return "small" if pixels < _MIN_PIXELS["nature"] else "nature"


def spatial_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and channels of an image of this shape.

    Two axes are one channel. Of three, the first is taken for the channels where it is
    smaller than the last, as in Atari's stacks of frames.

    Raises:
        ConfigError: an image has two or three axes.
    """
    match shape:
        case (height, width):
            return height, width, 1
        case (first, second, third) if _is_channel_first(shape):
            return second, third, first
        case (height, width, channels):
            return height, width, channels
    raise ConfigError(
        f"`torso`: convolutions need observations with 2 or 3 axes, not of the shape {shape} (use `dense`)."
    )


def check_torso(torso: str, shape: tuple[int, ...]) -> None:
    """Refuses observations that `torso` cannot look at.

    Raises:
        ConfigError: they are no images, or too small.
    """
    if torso == "dense":
        return
    height, width, _ = spatial_shape(shape)
    least = _MIN_PIXELS[torso]
    if min(height, width) < least:
        raise ConfigError(
            f"`torso`: `{torso}` needs images of at least {least} pixels a side, not {height} x {width} "
            f"(use `{choose_torso(shape, is_image=True)}`)."
        )


def torso_features(torso: str, shape: tuple[int, ...], images: Tensor, convolve: Convolution) -> Tensor:
    """Features `[B, F]` that `torso` sees in images.

    - `dense`: the numbers themselves.
    - `small`: one convolution (Young and Tian 2019, section 3.1, arXiv:1903.03176), of 64
      filters: with its 16, dense layers nearly keep up on MinAtar's Breakout.
    - `nature`: three convolutions (Mnih et al. 2015, "Model architecture").
    - `impala`: fifteen, in residual blocks (Espeholt et al. 2018, figure 3, arXiv:1802.01561).

    Args:
        torso: its name.
        shape: of one observation.
        images: `[B, *shape]` float32.
        convolve: makes and applies a convolution.

    Raises:
        ConfigError: the observations do not suit the torso.
    """
    import keras

    check_torso(torso, shape)
    if torso == "dense":
        return images if len(shape) == 1 else keras.layers.Flatten()(images)  # [B, F]
    features = _channels_last(shape, images)  # [B, H, W, C]
    match torso:
        case "small":
            features = convolve(features, 64, 3, padding="valid", activation="relu")
        case "nature":
            for filters, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
                features = convolve(features, filters, size, stride, "valid", "relu")
        case "impala":
            for filters in (16, 32, 32):
                features = _impala_section(features, filters, convolve)
            features = keras.layers.Activation("relu")(features)
    return keras.layers.Flatten()(features)  # [B, F]


def _impala_section(features: Tensor, filters: int, convolve: Convolution) -> Tensor:
    """A convolution, half the pixels a side, and two residual blocks, `[B, H/2, W/2, filters]`."""
    import keras

    features = convolve(features, filters, 3)
    features = keras.layers.MaxPooling2D(3, 2, "same")(features)
    for _ in range(2):
        change = convolve(keras.layers.Activation("relu")(features), filters, 3)
        change = convolve(keras.layers.Activation("relu")(change), filters, 3)
        features = keras.layers.Add()([features, change])
    return features


def _channels_last(shape: tuple[int, ...], images: Tensor) -> Tensor:
    """Images `[B, *shape]` as `[B, H, W, C]`, the only layout TensorFlow convolves on a CPU."""
    import keras

    if len(shape) == 2:
        return keras.layers.Reshape((*shape, 1))(images)
    return keras.layers.Permute((2, 3, 1))(images) if _is_channel_first(shape) else images


def _is_channel_first(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] < shape[-1]
