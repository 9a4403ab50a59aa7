"""The policy in Keras, for networks that the NumPy policy cannot evaluate."""

import functools
import json
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from distdqn.config.config import LearningOptions
from distdqn.networks.keras_to_numpy import layers_from_model
from distdqn.networks.numpy_policy import Policy
from distdqn.networks.q_network import make_networks
from distdqn.types import AnyArray, EnvironmentSpec, FloatArray, Layer, PolicyWeights

# Options that decide the shape of the user's own network and of the layers behind it.
_OPTIONS = ("network", "head", "atoms", "v_min", "v_max")


def policy_layers(
    options: LearningOptions, spec: EnvironmentSpec, q_network: keras.Model
) -> tuple[list[Layer], str | None]:
    """The value of `PolicyWeights.layers` for a network.

    Returns:
        Its layers; or, for a user's network that NumPy cannot evaluate, one layer of the kind `keras` that
        says how to build it, and a line for the user that says why.

    Raises:
        ValueError: NumPy cannot evaluate a network of this package.
    """
    try:
        return layers_from_model(q_network), None
    except ValueError as error:
        if options.network is None:
            raise
        reason = str(error).removesuffix(".")
        notice = f"{reason}: actors evaluate this network with Keras, which is slower."
        chosen = {name: getattr(options, name) for name in _OPTIONS}
        return [{"kind": "keras", "options": chosen, "spec": asdict(spec)}], notice


class KerasPolicy(Policy):
    """The Q-network in Keras.

    The model is built once in a process and shared by all policies of that network: a policy sets its own
    weights before it evaluates.
    """

    def __init__(self, weights: PolicyWeights) -> None:
        self._arrays = weights.arrays
        self._network = _network(json.dumps(weights.layers[0], sort_keys=True))

    @override
    def resample(self, generator: np.random.Generator) -> None:
        """Does nothing: these networks have no noisy layers."""

    @override
    def q_values(self, observation: AnyArray) -> FloatArray:
        return self._network.q_values(self._arrays, observation)


class _Network:
    """A compiled Keras model and the arrays that are its weights now."""

    def __init__(self, options: LearningOptions, spec: EnvironmentSpec) -> None:
        _, self._model = make_networks(options, spec, seed=0)
        self._shape = spec.observation_shape
        self._dtype = np.dtype(self._model.inputs[0].dtype)
        self._arrays: list[FloatArray] | None = None
        self._function = tf.function(
            lambda observation: self._model(observation, training=False),
            input_signature=[tf.TensorSpec((None, *self._shape), self._dtype)],
        )

    def q_values(self, arrays: list[FloatArray], observation: AnyArray) -> FloatArray:
        if observation.shape[1:] != self._shape:
            raise ValueError(f"Observations must have the shape {self._shape}, not {observation.shape[1:]}.")
        if self._arrays is not arrays:
            self._model.set_weights(arrays)
            self._arrays = arrays
        q_values: FloatArray = self._function(tf.constant(observation.astype(self._dtype))).numpy()
        return q_values


@functools.lru_cache(maxsize=2)
def _network(layer: str) -> _Network:
    """The network of a layer of the kind `keras`, given in JSON."""
    settings: dict[str, Any] = json.loads(layer)
    shape = tuple(settings["spec"]["observation_shape"])
    spec = EnvironmentSpec(**settings["spec"] | {"observation_shape": shape})
    return _Network(LearningOptions(**settings["options"]), spec)
