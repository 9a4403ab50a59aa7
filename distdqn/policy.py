"""Acting without TensorFlow: a Q-network evaluated with NumPy from its layers and arrays."""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distdqn.transition import AnyArray, FloatArray

Layer = dict[str, Any]
_Operation = Callable[[list[FloatArray]], FloatArray]

_ACTIVATIONS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
}


@dataclass(frozen=True)
class PolicyWeights:
    """One published version of the Q-network: all that is needed to act.

    Attributes:
        layers: the network as a list of layers in the order of evaluation, each with
            `name`, `kind`, `inputs` (names), `arrays` (positions in `arrays`) and the
            settings of its kind.
        arrays: the weights, float32.
        weights_version: `(epoch, version)`. The epoch counts the learner's lives, so a
            version published after a restart is newer than any from before it.
        learner_steps: gradient updates behind these weights.
    """

    layers: list[Layer]
    arrays: list[FloatArray] = field(repr=False)
    weights_version: tuple[int, int]
    learner_steps: int


class Policy:
    """The Q-network in NumPy: `q_values = f(observation; arrays)`.

    Layers are bound to arrays once, when weights arrive; evaluating is then a plain walk
    over the layers.
    """

    def __init__(self, weights: PolicyWeights) -> None:
        self._steps = [_bind_layer(layer, weights.arrays) for layer in weights.layers]
        self._names = [(layer["name"], layer["inputs"]) for layer in weights.layers]

    def resample(self, generator: np.random.Generator) -> None:
        """Draws new noise for the noisy layers; until then they are at their means."""
        for step in self._steps:
            if isinstance(step, _NoisyDense):
                step.resample(generator)

    def q_values(self, observation: AnyArray) -> FloatArray:
        """Q-values of each action.

        Args:
            observation: `[B, *observation_shape]`, any real dtype.

        Returns:
            `[B, A]` float32.
        """
        values: dict[str, FloatArray] = {}
        result = observation.astype(np.float32, copy=False)
        for (name, inputs), step in zip(self._names, self._steps, strict=True):
            result = step([values[i] for i in inputs] or [result])
            values[name] = result
        return result


def save_policy(path: Path, weights: PolicyWeights) -> None:
    """Writes weights and layers to `path` as `.npz`; nothing in it needs unpickling."""
    about = {
        "layers": weights.layers,
        "weights_version": weights.weights_version,
        "learner_steps": weights.learner_steps,
    }
    columns = {f"array_{i}": array for i, array in enumerate(weights.arrays)}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, about=np.array(json.dumps(about)), **columns)


def load_policy(path: Path) -> PolicyWeights:
    """Reads what `save_policy` wrote."""
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        arrays = [file[f"array_{i}"] for i in range(len(file.files) - 1)]
    epoch, version = about["weights_version"]
    return PolicyWeights(about["layers"], arrays, (epoch, version), about["learner_steps"])


def _bind_layer(layer: Layer, arrays: Sequence[FloatArray]) -> _Operation:
    """The layer as a function of its inputs, with its arrays filled in."""
    own = [arrays[i] for i in layer["arrays"]]
    match layer["kind"]:
        case "input":
            return lambda inputs: inputs[0]
        case "flatten":
            return lambda inputs: inputs[0].reshape(len(inputs[0]), -1)  # [B, features]
        case "reshape":
            shape = layer["shape"]
            return lambda inputs: inputs[0].reshape(len(inputs[0]), *shape)  # [B, *shape]
        case "mean_over_steps":
            return lambda inputs: inputs[0].mean(axis=1)  # [B, features]
        case "permute":
            axes = layer["axes"]
            return lambda inputs: inputs[0].transpose(axes)
        case "softmax":
            return lambda inputs: _softmax(inputs[0])
        case "add":
            return lambda inputs: functools.reduce(np.add, inputs)
        case "subtract":
            return lambda inputs: inputs[0] - inputs[1]
        case "activation":
            activation = _activation(layer)
            return lambda inputs: activation(inputs[0])
        case "dense":
            return _bind_dense(own, _activation(layer))
        case "noisy_dense":
            return _NoisyDense(own, _activation(layer))
        case "layer_normalization":
            return _bind_layer_normalization(own, layer)
        case kind:
            raise ValueError(f"Layer kind `{kind}` is unknown to the NumPy policy.")


def _softmax(logits: FloatArray) -> FloatArray:
    """Probabilities `[..., K]` from logits `[..., K]`."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: FloatArray = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def _activation(layer: Layer) -> Callable[[FloatArray], FloatArray]:
    """The layer's activation function."""
    name = layer["activation"]
    if name not in _ACTIVATIONS:
        raise ValueError(f"Activation `{name}` of layer `{layer['name']}` is unknown to the NumPy policy.")
    return _ACTIVATIONS[name]


def _bind_dense(arrays: list[FloatArray], activation: Callable[[FloatArray], FloatArray]) -> _Operation:
    """`activation(x @ kernel + bias)`, the bias optional."""
    kernel = arrays[0]  # [features, units]
    bias = arrays[1] if len(arrays) > 1 else np.float32(0.0)
    return lambda inputs: activation(inputs[0] @ kernel + bias)


class _NoisyDense:
    """The layer of `distdqn.noisy` in NumPy."""

    def __init__(self, arrays: list[FloatArray], activation: Callable[[FloatArray], FloatArray]) -> None:
        self._kernel, self._bias, self._kernel_sigma, self._bias_sigma = arrays[:4]
        self._activation = activation
        self._noisy_kernel, self._noisy_bias = self._kernel, self._bias

    def resample(self, generator: np.random.Generator) -> None:
        inputs, units = self._kernel.shape
        noise_in = _signed_root(generator.standard_normal((inputs,), np.float32))
        noise_out = _signed_root(generator.standard_normal((units,), np.float32))
        self._noisy_kernel = self._kernel + self._kernel_sigma * np.outer(noise_in, noise_out)
        self._noisy_bias = self._bias + self._bias_sigma * noise_out

    def __call__(self, inputs: list[FloatArray]) -> FloatArray:
        return self._activation(inputs[0] @ self._noisy_kernel + self._noisy_bias)


def _signed_root(values: FloatArray) -> FloatArray:
    """`sign(v) * sqrt(|v|)` of each of `[C]`."""
    roots: FloatArray = np.sign(values) * np.sqrt(np.abs(values))
    return roots


def _bind_layer_normalization(arrays: list[FloatArray], layer: Layer) -> _Operation:
    """`(x - mean) / sqrt(variance + epsilon) * scale + offset` over the last axis."""
    remaining = list(arrays)
    scale = remaining.pop(0) if layer["scale"] else np.float32(1.0)
    offset = remaining.pop(0) if layer["center"] else np.float32(0.0)
    epsilon = np.float32(layer["epsilon"])

    def normalize(inputs: list[FloatArray]) -> FloatArray:
        centred = inputs[0] - inputs[0].mean(axis=-1, keepdims=True)
        variance = np.mean(np.square(centred), axis=-1, keepdims=True)
        result: FloatArray = centred / np.sqrt(variance + epsilon) * scale + offset
        return result

    return normalize
