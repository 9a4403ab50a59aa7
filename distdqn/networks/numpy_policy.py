"""Policies: a Q-network evaluated with NumPy from its layers and arrays, without TensorFlow."""

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from typing_extensions import override

from distdqn.networks.numpy_layers import NoisyDense, bind_layer
from distdqn.networks.tensorflow_setup import import_tensorflow
from distdqn.types import AnyArray, FloatArray, PolicyWeights

# Numbers in the observations that are evaluated together: the outputs of convolutions are many times larger
# and should stay in the processor's cache.
_MAX_NUMBERS = 2**17


class Policy(Protocol):
    """A Q-network with fixed weights."""

    def resample(self, generator: np.random.Generator) -> None:
        """Draws new noise for noisy layers; before the first call they use their means."""
        ...

    def q_values(self, observation: AnyArray) -> FloatArray:
        """Q-values of each action.

        Args:
            observation: `[B, *observation_shape]`, any real dtype.

        Returns:
            `[B, A]` float32.
        """
        ...


def make_policy(weights: PolicyWeights) -> Policy:
    """The policy that can evaluate these weights.

    Raises:
        ConfigError: they belong to the user's own network, which cannot be built here.
    """
    if [layer["kind"] for layer in weights.layers] != ["keras"]:
        return NumpyPolicy(weights)
    import_tensorflow(threads=1)
    from distdqn.networks.keras_policy import KerasPolicy

    return KerasPolicy(weights)


class NumpyPolicy(Policy):
    """The Q-network in NumPy: layers are bound to their arrays once, and evaluated one after the other."""

    def __init__(self, weights: PolicyWeights) -> None:
        self._steps = [bind_layer(layer, weights.arrays) for layer in weights.layers]
        self._names = [(layer["name"], layer["inputs"]) for layer in weights.layers]

    @override
    def resample(self, generator: np.random.Generator) -> None:
        for step in self._steps:
            if isinstance(step, NoisyDense):
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
        result = observation.astype(np.float32, copy=False)
        for (name, inputs), step in zip(self._names, self._steps, strict=True):
            result = step([values[i] for i in inputs] or [result])
            values[name] = result
        return result


def tree_from_weights(weights: PolicyWeights) -> dict[str, Any]:
    """The weights as a tree for a checkpoint."""
    return vars(weights) | {"weights_version": list(weights.weights_version)}


def weights_from_tree(tree: dict[str, Any]) -> PolicyWeights:
    """The weights that `tree_from_weights` made a tree of."""
    generation, version = tree["weights_version"]
    return PolicyWeights(**tree | {"weights_version": (generation, version)})


def save_policy(path: Path, weights: PolicyWeights) -> None:
    """Writes weights and layers to `path` as `.npz` without pickles."""
    about = tree_from_weights(weights)
    columns = {f"array_{i}": array for i, array in enumerate(about.pop("arrays"))}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, about=np.array(json.dumps(about)), **columns)


def load_policy(path: Path) -> PolicyWeights:
    """Reads what `save_policy` wrote."""
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        arrays = [file[f"array_{i}"] for i in range(len(file.files) - 1)]
        return weights_from_tree(json.loads(str(file["about"])) | {"arrays": arrays})
