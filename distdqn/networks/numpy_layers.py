"""Each kind of layer in NumPy: a function of its inputs, with its arrays filled in.

Images are `[B, H, W, C]`.
"""

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
        arrays: of the whole network, each of a shape `[...]` of its own.

    Raises:
        ValueError: the kind or the activation is unknown.
    """
    own = [arrays[i] for i in layer["arrays"]]
    match layer["kind"]:
        case "activation":
            activation = _activation(layer)
            return lambda inputs: activation(inputs[0])
        case "dense":
            return _bind_dense(own, _activation(layer))
        case "noisy_dense":
            return NoisyDense(own, _activation(layer))
        case "layer_normalization":
            return _bind_layer_normalization(own, layer)
        case "batch_normalization":
            return _bind_batch_normalization(own, layer)
        case "conv2d":
            return _bind_conv2d(own, layer, _activation(layer))
        case "max_pooling2d":
            return _bind_max_pooling2d(layer)
        case "average_pooling2d":
            return _bind_average_pooling2d(layer)
        case kind if kind in _SIMPLE:
            return _SIMPLE[kind]
        case _:
            return _bind_settings(layer)


def _bind_settings(layer: Layer) -> Operation:
    """A layer without arrays that is one expression of its settings."""
    match layer["kind"]:
        case "reshape":
            shape = layer["shape"]
            return lambda inputs: inputs[0].reshape(len(inputs[0]), *shape)  # [B, *shape]
        case "permute":
            axes = layer["axes"]
            return lambda inputs: inputs[0].transpose(axes)
        case "concatenate":
            axis = layer["axis"]
            return lambda inputs: np.concatenate(inputs, axis)
        case "rescaling":
            scale, offset = np.float32(layer["scale"]), np.float32(layer["offset"])
            return lambda inputs: inputs[0] * scale + offset
        case "leaky_relu":
            return lambda inputs: _leaky_relu(inputs[0], layer["slope"])
        case kind:
            raise ValueError(f"Layer kind `{kind}` is unknown to the NumPy policy.")


_SIMPLE: dict[str, Operation] = {
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

    Source: Abramowitz and Stegun (1964), formula 7.1.26, whose error of 1.5e-7 is that of
    float32.
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
    """The layer's activation function."""
    name = layer["activation"]
    if name not in ACTIVATIONS:
        raise ValueError(f"Activation `{name}` of layer `{layer['name']}` is unknown to the NumPy policy.")
    return ACTIVATIONS[name]


def _bind_dense(arrays: list[FloatArray], activation: _Function) -> Operation:
    """`activation(x @ kernel + bias)`, the bias optional."""
    kernel = arrays[0]  # [features, units]
    bias = arrays[1] if len(arrays) > 1 else np.float32(0.0)
    return lambda inputs: activation(inputs[0] @ kernel + bias)


class NoisyDense:
    """The layer of `distdqn.noisy` in NumPy: `resample` draws its noise anew."""

    def __init__(self, arrays: list[FloatArray], activation: _Function) -> None:
        self._kernel, self._bias, self._kernel_sigma, self._bias_sigma = arrays[:4]
        self._activation = activation
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


def _scale_and_offset(arrays: list[FloatArray], layer: Layer) -> tuple[Any, Any, list[FloatArray]]:
    """A normalization's scale and offset, each `[C]` or a number, and its other arrays."""
    remaining = list(arrays)
    scale = remaining.pop(0) if layer["scale"] else np.float32(1.0)
    offset = remaining.pop(0) if layer["center"] else np.float32(0.0)
    return scale, offset, remaining


def _bind_layer_normalization(arrays: list[FloatArray], layer: Layer) -> Operation:
    """`(x - mean) / sqrt(variance + epsilon) * scale + offset` over the last axis."""
    scale, offset, _ = _scale_and_offset(arrays, layer)
    epsilon = np.float32(layer["epsilon"])

    def normalize(inputs: list[FloatArray]) -> FloatArray:
        centred = inputs[0] - inputs[0].mean(axis=-1, keepdims=True)
        variance = np.mean(np.square(centred), axis=-1, keepdims=True)
        result: FloatArray = centred / np.sqrt(variance + epsilon) * scale + offset
        return result

    return normalize


def _bind_batch_normalization(arrays: list[FloatArray], layer: Layer) -> Operation:
    """The same with mean and variance as they were in training."""
    scale, offset, (mean, variance) = _scale_and_offset(arrays, layer)
    factor = scale / np.sqrt(variance + np.float32(layer["epsilon"]))  # [C]
    constant = offset - mean * factor  # [C]
    return lambda inputs: inputs[0] * factor + constant


def _windows(
    images: FloatArray, size: tuple[int, int], strides: Sequence[int], padding: str, fill: float
) -> FloatArray:
    """A view of every window of `size` pixels, `[B, H', W', C, *size]`.

    With padding `same` there are `ceil(H / stride)` by `ceil(W / stride)` of them, what is
    missing at the edges `fill`, the odd pixel at the end.
    """
    if padding == "same":
        amounts = [(0, 0), (0, 0)]
        for pixels, window, stride in zip(images.shape[1:3], size, strides, strict=True):
            missing = max((-(-pixels // stride) - 1) * stride + window - pixels, 0)
            amounts.insert(-1, (missing // 2, missing - missing // 2))
        images = np.pad(images, amounts, constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(images, size, axis=(1, 2))
    return view[:, :: strides[0], :: strides[1]]


def _bind_conv2d(arrays: list[FloatArray], layer: Layer, activation: _Function) -> Operation:
    """Each window as a row, times the kernel: one matrix product for all of them."""
    height, width, _, filters = arrays[0].shape
    kernel = arrays[0].reshape(-1, filters)  # [height * width * C, filters]
    bias = arrays[1] if len(arrays) > 1 else np.float32(0.0)

    def convolve(inputs: list[FloatArray]) -> FloatArray:
        windows = _windows(inputs[0], (height, width), layer["strides"], layer["padding"], 0.0)
        rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, len(kernel))  # [B * H' * W', ...]
        result = rows @ kernel
        result += bias  # in place: a new array costs more than the sum
        return activation(result).reshape(*windows.shape[:3], filters)  # [B, H', W', filters]

    return convolve


def _bind_max_pooling2d(layer: Layer) -> Operation:
    """The largest number of each window, channel by channel."""
    size = tuple(layer["size"])
    return lambda inputs: _reduced(
        np.maximum, _windows(inputs[0], size, layer["strides"], layer["padding"], -math.inf)
    )


def _bind_average_pooling2d(layer: Layer) -> Operation:
    """The mean of each window, channel by channel, over those pixels that there are."""
    size = tuple(layer["size"])

    def total(images: FloatArray) -> FloatArray:
        return _reduced(np.add, _windows(images, size, layer["strides"], layer["padding"], 0.0))

    return lambda inputs: total(inputs[0]) / total(np.ones_like(inputs[0][:1, :, :, :1]))


def _reduced(function: Any, windows: FloatArray) -> FloatArray:
    """`function` over the pixels of each window, `[B, H', W', C]`.

    Place by place of the window, since NumPy is slow over two short last axes.
    """
    places = [windows[..., i, j] for i in range(windows.shape[-2]) for j in range(windows.shape[-1])]
    result: FloatArray = functools.reduce(function, places)
    return result
