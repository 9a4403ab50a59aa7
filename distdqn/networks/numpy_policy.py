"""Acting without TensorFlow: a Q-network evaluated with NumPy from its layers and arrays."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from distdqn.networks.numpy_layers import NoisyDense, bind_layer
from distdqn.types import AnyArray, FloatArray, PolicyWeights

# Numbers in the observations that are evaluated at once: what convolutions make of them is
# many times larger, and should stay in the processor's cache.
_MAX_NUMBERS = 2**17


def tree_from_weights(weights: PolicyWeights) -> dict[str, Any]:
    """The weights as a tree for a checkpoint."""
    return {
        "layers": weights.layers,
        "arrays": list(weights.arrays),
        "weights_version": list(weights.weights_version),
        "learner_steps": weights.learner_steps,
    }


def weights_from_tree(tree: dict[str, Any]) -> PolicyWeights:
    """What `tree_from_weights` made a tree of."""
    generation, version = tree["weights_version"]
    return PolicyWeights(tree["layers"], tree["arrays"], (generation, version), tree["learner_steps"])


class Policy:
    """The Q-network in NumPy: `q_values = f(observation; arrays)`.

    Layers are bound to arrays once, when weights arrive; evaluating is then a plain walk
    over the layers.
    """

    def __init__(self, weights: PolicyWeights) -> None:
        self._steps = [bind_layer(layer, weights.arrays) for layer in weights.layers]
        self._names = [(layer["name"], layer["inputs"]) for layer in weights.layers]

    def resample(self, generator: np.random.Generator) -> None:
        """Draws new noise for the noisy layers; until then they are at their means."""
        for step in self._steps:
            if isinstance(step, NoisyDense):
                step.resample(generator)

    def q_values(self, observation: AnyArray) -> FloatArray:
        """Q-values of each action.

        Args:
            observation: `[B, *observation_shape]`, any real dtype.

        Returns:
            `[B, A]` float32.
        """
        at_once = max(1, _MAX_NUMBERS // max(1, observation[:1].size))
        if len(observation) <= at_once:
            return self._evaluate(observation)
        starts = range(0, len(observation), at_once)
        return np.concatenate([self._evaluate(observation[i : i + at_once]) for i in starts])

    def _evaluate(self, observation: AnyArray) -> FloatArray:
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
    generation, version = about["weights_version"]
    return PolicyWeights(about["layers"], arrays, (generation, version), about["learner_steps"])
