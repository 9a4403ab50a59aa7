"""Acting with Keras, for networks that the NumPy policy cannot evaluate.

Keras is imported where it is used: with a network that NumPy can evaluate, an actor never
loads it.
"""

import dataclasses
import functools
import json
from typing import Any

import numpy as np

from distdqn.networks.keras_to_numpy import layers_from_model
from distdqn.networks.numpy_policy import Policy
from distdqn.networks.q_network import NetworkPlan, make_networks
from distdqn.networks.tensorflow_setup import import_tensorflow
from distdqn.types import AnyArray, FloatArray, Layer, PolicyWeights


def make_policy(weights: PolicyWeights) -> "Policy | KerasPolicy":
    """The policy that can evaluate these weights.

    Raises:
        ConfigError: it takes the user's own network, which is not to be had here.
    """
    is_keras = [layer["kind"] for layer in weights.layers] == ["keras"]
    return KerasPolicy(weights) if is_keras else Policy(weights)


def policy_layers(plan: NetworkPlan, q_network: Any) -> tuple[list[Layer], str | None]:
    """What `PolicyWeights.layers` says of a network.

    Returns:
        Its layers; or, where NumPy cannot evaluate them, the plan to build it again with
        Keras, and one line that says why.
    """
    try:
        return layers_from_model(q_network), None
    except ValueError as error:
        reason = str(error).removesuffix(".")
        notice = f"{reason}: actors evaluate this network with Keras, which is slower."
        return [{"kind": "keras", "plan": dataclasses.asdict(plan)}], notice


class KerasPolicy:
    """The Q-network in Keras, with the methods of `Policy`.

    The model is built once in a process. Policies take turns with it: whichever is asked
    first puts its own weights in.
    """

    def __init__(self, weights: PolicyWeights) -> None:
        self._arrays = weights.arrays
        self._network = _network(json.dumps(weights.layers[0]["plan"], sort_keys=True))

    def resample(self, generator: np.random.Generator) -> None:
        """Does nothing: these networks have no noise that is drawn anew."""

    def q_values(self, observation: AnyArray) -> FloatArray:
        """Q-values of each action.

        Args:
            observation: `[B, *observation_shape]`, any real dtype.

        Returns:
            `[B, A]` float32.
        """
        return self._network.q_values(self._arrays, observation)


class _Network:
    """A compiled Keras model and the arrays that are in it now."""

    def __init__(self, plan: NetworkPlan) -> None:
        import_tensorflow(threads=1)
        import tensorflow as tf

        _, self._model = make_networks(plan, seed=0)
        self._dtype = np.dtype(self._model.inputs[0].dtype)
        signature = tf.TensorSpec((None, *plan.observation_shape), self._dtype)
        self._function = tf.function(
            lambda observation: self._model(observation, training=False), input_signature=[signature]
        )
        self._shape = plan.observation_shape
        self._arrays: list[FloatArray] | None = None

    def q_values(self, arrays: list[FloatArray], observation: AnyArray) -> FloatArray:
        import tensorflow as tf

        if observation.shape[1:] != self._shape:
            raise ValueError(f"Observations must have the shape {self._shape}, not {observation.shape[1:]}.")
        if self._arrays is not arrays:
            self._model.set_weights(arrays)
            self._arrays = arrays
        q_values: FloatArray = self._function(tf.constant(observation.astype(self._dtype))).numpy()
        return q_values


@functools.lru_cache(maxsize=2)
def _network(plan: str) -> _Network:
    """The network of a plan in JSON."""
    settings: dict[str, Any] = json.loads(plan)
    for name in ("observation_shape", "hidden_sizes"):
        settings[name] = tuple(settings[name])
    return _Network(NetworkPlan(**settings))
