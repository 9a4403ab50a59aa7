"""The layers of a network in NumPy, each a function of its inputs. Images are `[B, H, W, C]`."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distdqn.types import FloatArray, Layer

Operation = Callable[[list[FloatArray]], FloatArray]

_Function = Callable[[FloatArray], FloatArray]


def bind_layer(layer: Layer, arrays: Sequence[FloatArray]) -> Operation:
    """The layer as a function of its inputs.

    Args:
        layer: its kind and settings; see `PolicyWeights.layers`.
        arrays: of the whole network, `[...]` each.

    Raises:
        ValueError: the kind or the activation is unknown.
    """
    kind = layer["kind"]
    if kind in _OPERATIONS:
        return _OPERATIONS[kind]
    if kind not in _BINDERS:
        raise ValueError(f"Layer kind `{kind}` is unknown to the NumPy policy.")
    return _BINDERS[kind](layer, [arrays[i] for i in layer["arrays"]])


def _leaky_relu(x: FloatArray, slope: float = 0.2) -> FloatArray:
    return np.where(x > 0.0, x, np.float32(slope) * x)


def _sigmoid(x: FloatArray) -> FloatArray:
    # Unlike `1 / (1 + exp(-x))`, this never overflows.
    result: FloatArray = np.multiply(0.5, 1.0 + np.tanh(0.5 * x))
    return result


def _elu(x: FloatArray) -> FloatArray:
    return np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0)))


def _gelu(x: FloatArray) -> FloatArray:
    """`x * P(normal number <= x)`.

    Source: Abramowitz and Stegun (1964), formula 7.1.26, with an error of 1.5e-7, as large as float32's.
    """
    size = np.abs(x) * math.sqrt(0.5)
    t = 1.0 / (1.0 + 0.3275911 * size)
    series: Any = 0.0
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + factor) * t
    beyond = 0.5 * series * np.exp(-size * size)  # probability of a number beyond `size`
    result: FloatArray = x * np.where(x > 0.0, 1.0 - beyond, beyond)
    return result


def _softmax(logits: FloatArray) -> FloatArray:
    """Probabilities `[..., K]` from logits `[..., K]`."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: FloatArray = np.divide(powers, powers.sum(axis=-1, keepdims=True))
    return probabilities


ACTIVATIONS: dict[str, _Function] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "elu": _elu,
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "softmax": _softmax,
}


def _activation(layer: Layer) -> _Function:
    name = layer["activation"]
    if name not in ACTIVATIONS:
        raise ValueError(f"Activation `{name}` of layer `{layer['name']}` is unknown to the NumPy policy.")
    return ACTIVATIONS[name]


def _bind_activation(layer: Layer, _: list[FloatArray]) -> Operation:
    activation = _activation(layer)
    return lambda inputs: activation(inputs[0])


def _bind_rescaling(layer: Layer, _: list[FloatArray]) -> Operation:
    scale, offset = np.float32(layer["scale"]), np.float32(layer["offset"])
    return lambda inputs: inputs[0] * scale + offset


def _bind_dense(layer: Layer, arrays: list[FloatArray]) -> Operation:
    """`activation(x @ kernel + bias)`, the bias optional."""
    activation, kernel = _activation(layer), arrays[0]  # [features, units]
    bias = arrays[1] if len(arrays) > 1 else np.float32(0.0)
    return lambda inputs: activation(inputs[0] @ kernel + bias)


class NoisyDense:
    """`distdqn.networks.layers.NoisyDense` in NumPy: `resample` draws new noise."""

    def __init__(self, layer: Layer, arrays: list[FloatArray]) -> None:
        self._kernel, self._bias, self._kernel_sigma, self._bias_sigma = arrays[:4]
        self._activation = _activation(layer)
        self._noisy_kernel, self._noisy_bias = self._kernel, self._bias

    def resample(self, generator: np.random.Generator) -> None:
        """Draws new noise."""
        inputs, units = self._kernel.shape
        noise_in = _signed_root(generator.standard_normal((inputs,), np.float32))
        noise_out = _signed_root(generator.standard_normal((units,), np.float32))
        self._noisy_kernel = self._kernel + self._kernel_sigma * np.outer(noise_in, noise_out)
        self._noisy_bias = self._bias + self._bias_sigma * noise_out

    def __call__(self, inputs: list[FloatArray]) -> FloatArray:
        """Outputs `[B, units]` of `inputs[0]` `[B, features]`."""
        return self._activation(inputs[0] @ self._noisy_kernel + self._noisy_bias)


def _signed_root(values: FloatArray) -> FloatArray:
    """`sign(v) * sqrt(|v|)` of each of `[C]`."""
    roots: FloatArray = np.sign(values) * np.sqrt(np.abs(values))
    return roots


def _scale_and_offset(layer: Layer, arrays: list[FloatArray]) -> tuple[Any, Any, list[FloatArray]]:
    """A normalization's scale and offset, each `[C]` or a number, and its other arrays."""
    remaining = list(arrays)
    scale = remaining.pop(0) if layer["scale"] else np.float32(1.0)
    offset = remaining.pop(0) if layer["center"] else np.float32(0.0)
    return scale, offset, remaining


def _bind_layer_normalization(layer: Layer, arrays: list[FloatArray]) -> Operation:
    """`(x - mean) / sqrt(variance + epsilon) * scale + offset` over the last axis."""
    scale, offset, _ = _scale_and_offset(layer, arrays)
    epsilon = np.float32(layer["epsilon"])

    def normalize(inputs: list[FloatArray]) -> FloatArray:
        centred = inputs[0] - inputs[0].mean(axis=-1, keepdims=True)
        variance = np.mean(np.square(centred), axis=-1, keepdims=True)
        result: FloatArray = centred / np.sqrt(variance + epsilon) * scale + offset
        return result

    return normalize


def _bind_batch_normalization(layer: Layer, arrays: list[FloatArray]) -> Operation:
    """Returns the normalization with the mean and variance of training."""
    scale, offset, (mean, variance) = _scale_and_offset(layer, arrays)
    factor = scale / np.sqrt(variance + np.float32(layer["epsilon"]))  # [C]
    constant = offset - mean * factor  # [C]
    return lambda inputs: inputs[0] * factor + constant


def _windows(images: FloatArray, size: tuple[int, int], layer: Layer, fill: float = 0.0) -> FloatArray:
    """A view of every window of `size` pixels, `[B, H', W', C, *size]`.

    With padding `same` there are `ceil(H / stride)` by `ceil(W / stride)` windows. Missing pixels at the
    edges are `fill`, an odd one at the end.
    """
    strides = layer["strides"]
    if layer["padding"] == "same":
        amounts = [(0, 0), (0, 0)]
        for pixels, window, stride in zip(images.shape[1:3], size, strides, strict=True):
            missing = max((-(-pixels // stride) - 1) * stride + window - pixels, 0)
            amounts.insert(-1, (missing // 2, missing - missing // 2))
        images = np.pad(images, amounts, constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(images, size, axis=(1, 2))
    return view[:, :: strides[0], :: strides[1]]


def _bind_conv2d(layer: Layer, arrays: list[FloatArray]) -> Operation:
    """One matrix product of all windows, each a row, and the kernel."""
    height, width, _, filters = arrays[0].shape
    activation, kernel = _activation(layer), arrays[0].reshape(-1, filters)  # [height * width * C, filters]
    bias = arrays[1] if len(arrays) > 1 else np.float32(0.0)

    def convolve(inputs: list[FloatArray]) -> FloatArray:
        windows = _windows(inputs[0], (height, width), layer)
        rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, len(kernel))  # [B * H' * W', ...]
        result = rows @ kernel
        result += bias  # in place: a new array costs more than the sum
        return activation(result).reshape(*windows.shape[:3], filters)  # [B, H', W', filters]

    return convolve


def _bind_max_pooling2d(layer: Layer, _: list[FloatArray]) -> Operation:
    """The maximum of each window and channel."""
    size = tuple(layer["size"])
    return lambda inputs: _reduce(np.maximum, _windows(inputs[0], size, layer, -math.inf))


def _bind_average_pooling2d(layer: Layer, _: list[FloatArray]) -> Operation:
    """The mean of each window and channel, without missing pixels."""
    size = tuple(layer["size"])

    def total(images: FloatArray) -> FloatArray:
        return _reduce(np.add, _windows(images, size, layer))

    return lambda inputs: total(inputs[0]) / total(np.ones_like(inputs[0][:1, :, :, :1]))


def _reduce(function: Any, windows: FloatArray) -> FloatArray:
    """`function` over the pixels of each window, `[B, H', W', C]`."""
    # Pixel by pixel of the window, since NumPy is slow over two short last axes.
    pixels = [windows[..., i, j] for i in range(windows.shape[-2]) for j in range(windows.shape[-1])]
    result: FloatArray = functools.reduce(function, pixels)
    return result


# By kind: operations of inputs alone, and functions that make an operation of a layer and its own arrays.
_OPERATIONS: dict[str, Operation] = {
    "input": lambda inputs: inputs[0],
    "identity": lambda inputs: inputs[0],
    "flatten": lambda inputs: inputs[0].reshape(len(inputs[0]), math.prod(inputs[0].shape[1:])),  # [B, F]
    "mean_over_steps": lambda inputs: inputs[0].mean(axis=1),  # [B, F]
    "global_average2d": lambda inputs: inputs[0].mean(axis=(1, 2)),  # [B, C]
    "global_maximum2d": lambda inputs: inputs[0].max(axis=(1, 2)),  # [B, C]
    "add": lambda inputs: functools.reduce(np.add, inputs),
    "subtract": lambda inputs: inputs[0] - inputs[1],
    "multiply": lambda inputs: functools.reduce(np.multiply, inputs),
    "average": lambda inputs: functools.reduce(np.add, inputs) / np.float32(len(inputs)),
    "maximum": lambda inputs: functools.reduce(np.maximum, inputs),
    "minimum": lambda inputs: functools.reduce(np.minimum, inputs),
}
_BINDERS: dict[str, Callable[[Layer, list[FloatArray]], Operation]] = {
    "reshape": lambda layer, _: lambda inputs: inputs[0].reshape(len(inputs[0]), *layer["shape"]),
    "permute": lambda layer, _: lambda inputs: inputs[0].transpose(layer["axes"]),
    "concatenate": lambda layer, _: lambda inputs: np.concatenate(inputs, layer["axis"]),
    "leaky_relu": lambda layer, _: lambda inputs: _leaky_relu(inputs[0], layer["slope"]),
    "rescaling": _bind_rescaling,
    "activation": _bind_activation,
    "dense": _bind_dense,
    "noisy_dense": NoisyDense,
    "layer_normalization": _bind_layer_normalization,
    "batch_normalization": _bind_batch_normalization,
    "conv2d": _bind_conv2d,
    "max_pooling2d": _bind_max_pooling2d,
    "average_pooling2d": _bind_average_pooling2d,
}
