"""Policies: a Q-network evaluated with NumPy from its layers and arrays, without TensorFlow."""

import functools
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from typing_extensions import override

from distdqn.errors import ConfigError, one_line
from distdqn.networks.tensorflow_setup import import_tensorflow
from distdqn.types import AnyArray, FloatArray, Layer, ObservationPart, PolicyWeights

# Numbers in the observations that are evaluated together: the outputs of convolutions are many times larger
# and should stay in the processor's cache.
_MAX_NUMBERS = 2**17

FORMAT = 1  # of the file of a policy

_Operation = Callable[[list[FloatArray]], FloatArray]  # a layer's outputs from its inputs


class Policy(Protocol):
    """A Q-network with fixed weights."""

    def resample(self, generator: np.random.Generator) -> None:
        """Draws new noise for noisy layers; before the first call they use their means."""
        ...

    def q_values(self, observation: AnyArray) -> FloatArray:
        """Q-values `[B, A]` float32 of observations `[B, *observation_shape]` of any real dtype."""
        ...


def make_policy(weights: PolicyWeights) -> Policy:
    """The policy for these weights; `ConfigError` if the user's own network cannot be built here."""
    if [layer["kind"] for layer in weights.layers] != ["keras"]:
        return NumpyPolicy(weights)
    import_tensorflow(threads=1)
    from distdqn.networks.keras_policy import KerasPolicy

    return KerasPolicy(weights)


class NumpyPolicy(Policy):
    """The Q-network in NumPy, its layers bound to their arrays once; `ValueError` if one is unknown."""

    def __init__(self, weights: PolicyWeights) -> None:
        self._steps = [_bind_layer(layer, weights.arrays) for layer in weights.layers]
        self._names = [(layer["name"], layer["inputs"]) for layer in weights.layers]
        self._takes_bytes = any(layer["kind"] == "unpack" for layer in weights.layers)

    @override
    def resample(self, generator: np.random.Generator) -> None:
        for step in self._steps:
            if isinstance(step, _NoisyDense):
                step.resample(generator)

    @override
    def q_values(self, observation: AnyArray) -> FloatArray:
        size = max(1, _MAX_NUMBERS // max(1, observation[:1].size))
        if len(observation) <= size:
            return self._evaluate(observation)
        starts = range(0, len(observation), size)
        return np.concatenate([self._evaluate(observation[i : i + size]) for i in starts])

    def _evaluate(self, observation: AnyArray) -> FloatArray:
        values: dict[str, FloatArray] = {}
        # Packed observations hold bytes until `unpack` reads them.
        result: Any = observation if self._takes_bytes else observation.astype(np.float32, copy=False)
        for (name, inputs), step in zip(self._names, self._steps, strict=True):
            result = step([values[i] for i in inputs] or [result])
            values[name] = result
        q_values: FloatArray = result
        return q_values


def tree_from_weights(weights: PolicyWeights) -> dict[str, Any]:
    """The weights as a tree for a checkpoint."""
    return vars(weights) | {"weights_version": list(weights.weights_version)}


def weights_from_tree(tree: dict[str, Any]) -> PolicyWeights:
    """The inverse of `tree_from_weights`; `LookupError`, `TypeError` or `ValueError` if it is none."""
    if not all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for array in tree["arrays"]):
        raise TypeError("`arrays` holds something else than numbers.")
    generation, version = map(int, tree["weights_version"])
    weights = {**tree, "weights_version": (generation, version), "learner_steps": int(tree["learner_steps"])}
    return PolicyWeights(**weights)


def weights_from_learner(state: dict[str, Any]) -> PolicyWeights:
    """The weights in the state of a learner, see `Learner.get_state`."""
    policy = state["policy"]
    arrays = [*state["networks"]["online"], *policy["other_arrays"]]
    tree = {"layers": policy["layers"], "arrays": [arrays[i] for i in policy["positions"]]}
    return weights_from_tree(tree | {name: state[name] for name in ("weights_version", "learner_steps")})


def policy_bytes(weights: PolicyWeights) -> bytes:
    """Weights and layers as the content of an `.npz` file without pickles."""
    about = {"format": FORMAT, **tree_from_weights(weights)}
    columns = {f"array_{i}": array for i, array in enumerate(about.pop("arrays"))}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, about=np.array(json.dumps(about)), **columns)
    return file.getvalue()


def load_policy(path: Path) -> PolicyWeights:
    """Reads what `policy_bytes` made; `FileNotFoundError`, or `ConfigError` if it is no such file."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = [file[f"array_{i}"] for i in range(len(file.files) - 1)]
            about = json.loads(str(file["about"]))
        if (written := about.pop("format", FORMAT)) == FORMAT:
            return weights_from_tree(about | {"arrays": arrays})
    except FileNotFoundError:
        raise
    except Exception as error:  # `zipfile` raises many kinds
        raise ConfigError(f"{path} is damaged: {one_line(error)} (name another run).") from error
    raise ConfigError(f"{path} has format {written}, this release reads {FORMAT} (use that release).")


def describe_layers(weights: PolicyWeights) -> str:
    """The layers that have weights, each with the shape of its first array."""
    layers = [
        " ".join(filter(None, [layer["kind"], "x".join(map(str, weights.arrays[layer["arrays"][0]].shape))]))
        for layer in weights.layers
        if layer.get("arrays")
    ]
    return ", ".join(layers) or "evaluated with Keras"


def _bind_layer(layer: Layer, arrays: list[FloatArray]) -> _Operation:
    """The layer as a function of its inputs; `arrays` `[...]` are those of the whole network."""
    kind, activation = layer["kind"], layer.get("activation", "linear")
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"Activation `{activation}` of layer `{layer['name']}` is unknown to the NumPy policy."
        )
    if kind in _OPERATIONS:
        return _OPERATIONS[kind]
    if kind not in _BINDERS:
        raise ValueError(f"Layer kind `{kind}` is unknown to the NumPy policy.")
    return _BINDERS[kind](layer, [arrays[i] for i in layer["arrays"]])


def factorised_noise(generator: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """`sign(e) * sqrt(|e|)` `[...]` for normal numbers `e`; see `NoisyDense` in `distdqn.networks.layers`."""
    normal = generator.standard_normal(shape, np.float32)
    noise: FloatArray = np.sign(normal) * np.sqrt(np.abs(normal))
    return noise


def quantile_midpoints(count: int) -> FloatArray:
    """`(k + 0.5) / count` for `k` from 0: evenly spaced fractions `[count]` of the quantiles of a return."""
    return (np.arange(count, dtype=np.float32) + np.float32(0.5)) / np.float32(count)


def midpoint_embedding(atoms: int, arrays: list[FloatArray]) -> FloatArray:
    """`cosine_embedding` of `distdqn.networks.layers` for `atoms` midpoints, `[K, F]`.

    `arrays` are kernel `[n, F]` and bias `[F]`.
    """
    kernel, bias = arrays
    angles = np.float32(np.pi) * np.arange(len(kernel), dtype=np.float32)  # [n]
    cosines = np.cos(angles * quantile_midpoints(atoms)[:, None])  # [K, n]
    embedding: FloatArray = np.maximum(cosines @ kernel + bias, 0.0)
    return embedding


def _leaky_relu(x: FloatArray, slope: float = 0.2) -> FloatArray:
    return np.where(x > 0.0, x, np.float32(slope) * x)


def _sigmoid(x: FloatArray) -> FloatArray:
    # Unlike `1 / (1 + exp(-x))`, this never overflows.
    result: FloatArray = np.multiply(0.5, 1.0 + np.tanh(0.5 * x))
    return result


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


ACTIVATIONS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "elu": lambda x: np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0))),
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "softmax": _softmax,
}


def _bind_dense(layer: Layer, arrays: list[FloatArray]) -> _Operation:
    """`activation(x @ kernel + bias)`, the bias optional."""
    activation, kernel = ACTIVATIONS[layer["activation"]], arrays[0]  # [features, units]
    bias = arrays[1] if len(arrays) > 1 else np.float32(0.0)
    return lambda inputs: activation(inputs[0] @ kernel + bias)


class _NoisyDense:
    """The layer `NoisyDense` of `distdqn.networks.layers` in NumPy."""

    def __init__(self, layer: Layer, arrays: list[FloatArray]) -> None:
        self._kernel, self._bias, self._kernel_sigma, self._bias_sigma = arrays[:4]
        self._activation = ACTIVATIONS[layer["activation"]]
        self._noisy_kernel, self._noisy_bias = self._kernel, self._bias

    def resample(self, generator: np.random.Generator) -> None:
        """Draws new noise."""
        noise_in, noise_out = (factorised_noise(generator, (size,)) for size in self._kernel.shape)
        self._noisy_kernel = self._kernel + self._kernel_sigma * np.outer(noise_in, noise_out)
        self._noisy_bias = self._bias + self._bias_sigma * noise_out

    def __call__(self, inputs: list[FloatArray]) -> FloatArray:
        """Outputs `[B, units]` of `inputs[0]` `[B, features]`."""
        return self._activation(inputs[0] @ self._noisy_kernel + self._noisy_bias)


def _bind_quantile_embedding(layer: Layer, arrays: list[FloatArray]) -> _Operation:
    """The products `[B, K, F]` of features `[B, F]` and the embedding, which is computed once."""
    embedding = midpoint_embedding(layer["atoms"], arrays)
    return lambda inputs: inputs[0][:, None, :] * embedding


def _scale_and_offset(layer: Layer, arrays: list[FloatArray]) -> tuple[Any, Any]:
    """A normalization's scale and offset, each `[C]`, or 1 and 0 where it has none."""
    remaining = iter(arrays)
    scale = next(remaining) if layer["scale"] else np.float32(1.0)
    offset = next(remaining) if layer["center"] else np.float32(0.0)
    return scale, offset


@functools.cache
def _mean_weights(features: int) -> FloatArray:
    """`[features, 1]`, whose product with `[..., features]` is the mean; faster than `mean`."""
    return np.full((features, 1), 1.0 / features, np.float32)


def _bind_layer_normalization(layer: Layer, arrays: list[FloatArray]) -> _Operation:
    """`(x - mean) / sqrt(variance + epsilon) * scale + offset` over the last axis."""
    scale, offset = _scale_and_offset(layer, arrays)
    epsilon = np.float32(layer["epsilon"])

    def normalize(inputs: list[FloatArray]) -> FloatArray:
        x = inputs[0]
        mean_of = _mean_weights(x.shape[-1])
        result: FloatArray = x - x @ mean_of
        result /= np.sqrt((result * result) @ mean_of + epsilon)
        result *= scale
        result += offset
        return result

    return normalize


def _bind_batch_normalization(layer: Layer, arrays: list[FloatArray]) -> _Operation:
    """The same formula with the moving mean and variance of training, for each channel."""
    scale, offset = _scale_and_offset(layer, arrays)
    mean, variance = arrays[-2:]
    factor = scale / np.sqrt(variance + np.float32(layer["epsilon"]))  # [C]
    constant = offset - mean * factor  # [C]
    return lambda inputs: inputs[0] * factor + constant


def _windows(images: FloatArray, size: tuple[int, int], layer: Layer, fill: float = 0.0) -> FloatArray:
    """A view of every window of `size` pixels of images `[B, H, W, C]`: `[B, H', W', C, *size]`.

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


def _bind_conv2d(layer: Layer, arrays: list[FloatArray]) -> _Operation:
    """One matrix product of all windows, each a row, and the kernel."""
    height, width, _, filters = arrays[0].shape
    kernel = arrays[0].reshape(-1, filters)  # [height * width * C, filters]
    bias = arrays[1] if len(arrays) > 1 else np.float32(0.0)
    activation = ACTIVATIONS[layer["activation"]]

    def convolve(inputs: list[FloatArray]) -> FloatArray:
        windows = _windows(inputs[0], (height, width), layer)
        rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, len(kernel))  # [B * H' * W', ...]
        result = rows @ kernel
        result += bias  # in place: a new array costs more than the sum
        return activation(result).reshape(*windows.shape[:3], filters)  # [B, H', W', filters]

    return convolve


def _bind_max_pooling2d(layer: Layer, _: list[FloatArray]) -> _Operation:
    """The maximum of each window and channel."""
    size = tuple(layer["pool_size"])
    return lambda inputs: _reduce(np.maximum, _windows(inputs[0], size, layer, -math.inf))


def _bind_average_pooling2d(layer: Layer, _: list[FloatArray]) -> _Operation:
    """The mean of each window and channel, without missing pixels."""
    size = tuple(layer["pool_size"])

    def total(images: FloatArray) -> FloatArray:
        return _reduce(np.add, _windows(images, size, layer))

    return lambda inputs: total(inputs[0]) / total(np.ones_like(inputs[0][:1, :, :, :1]))


def _reduce(function: Any, windows: FloatArray) -> FloatArray:
    """`function` over the pixels of each window, `[B, H', W', C]`."""
    # Pixel by pixel of the window, since NumPy is slow over two short last axes.
    pixels = [windows[..., i, j] for i in range(windows.shape[-2]) for j in range(windows.shape[-1])]
    result: FloatArray = functools.reduce(function, pixels)
    return result


def _bind_unpack(layer: Layer, _: list[FloatArray]) -> _Operation:
    """One part of packed observations, as float32."""
    part = ObservationPart(**layer["part"])
    return lambda inputs: part.read(inputs[0]).astype(np.float32, copy=False)


def _merge(function: Any, inputs: list[FloatArray]) -> FloatArray:
    """`function` over all inputs `[B, ...]`, those of lower rank with axes of length 1 after the batch."""
    rank = max(x.ndim for x in inputs)
    same_rank = [x.reshape(len(x), *[1] * (rank - x.ndim), *x.shape[1:]) for x in inputs]
    result: FloatArray = functools.reduce(function, same_rank)
    return result


# By kind: layers without settings or arrays, and functions that bind a layer to its own arrays.
_OPERATIONS: dict[str, _Operation] = {
    "input": lambda inputs: inputs[0],
    "identity": lambda inputs: inputs[0],
    "flatten": lambda inputs: inputs[0].reshape(len(inputs[0]), math.prod(inputs[0].shape[1:])),  # [B, F]
    "mean_over_steps": lambda inputs: inputs[0].mean(axis=1),  # [B, F]
    "global_average2d": lambda inputs: inputs[0].mean(axis=(1, 2)),  # [B, C]
    "global_maximum2d": lambda inputs: inputs[0].max(axis=(1, 2)),  # [B, C]
    "add": lambda inputs: _merge(np.add, inputs),
    "subtract": lambda inputs: _merge(np.subtract, inputs),
    "multiply": lambda inputs: _merge(np.multiply, inputs),
    "average": lambda inputs: _merge(np.add, inputs) / np.float32(len(inputs)),
    "maximum": lambda inputs: _merge(np.maximum, inputs),
    "minimum": lambda inputs: _merge(np.minimum, inputs),
}
_BINDERS: dict[str, Callable[[Layer, list[FloatArray]], _Operation]] = {
    "reshape": lambda layer, _: lambda inputs: inputs[0].reshape(len(inputs[0]), *layer["target_shape"]),
    "permute": lambda layer, _: lambda inputs: inputs[0].transpose(0, *layer["dims"]),
    "concatenate": lambda layer, _: lambda inputs: np.concatenate(inputs, layer["axis"]),
    "leaky_relu": lambda layer, _: lambda inputs: _leaky_relu(inputs[0], layer["negative_slope"]),
    "rescaling": lambda layer, _: (
        lambda inputs: inputs[0] * np.float32(layer["scale"]) + np.float32(layer["offset"])
    ),
    "activation": lambda layer, _: lambda inputs: ACTIVATIONS[layer["activation"]](inputs[0]),
    "dense": _bind_dense,
    "noisy_dense": _NoisyDense,
    "quantile_embedding": _bind_quantile_embedding,
    "unpack": _bind_unpack,
    "layer_normalization": _bind_layer_normalization,
    "batch_normalization": _bind_batch_normalization,
    "conv2d": _bind_conv2d,
    "max_pooling2d": _bind_max_pooling2d,
    "average_pooling2d": _bind_average_pooling2d,
}
