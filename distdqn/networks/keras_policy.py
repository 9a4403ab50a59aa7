"""A Keras network in actors: as layers for the NumPy policy or, if NumPy cannot evaluate it, in Keras."""

import functools
import json
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from typing_extensions import override

from distdqn.config.config import LearningOptions
from distdqn.errors import ConfigError, one_line
from distdqn.networks.layers import NoisyDense
from distdqn.networks.numpy_policy import ACTIVATIONS, Policy
from distdqn.networks.q_network import make_networks
from distdqn.types import AnyArray, EnvironmentSpec, FloatArray, Layer, PolicyWeights

# Options that decide the shape of the user's own network and of the layers behind it.
_OPTIONS = ("network", "head", "atoms", "v_min", "v_max")

# By Keras class: the kind of the layer in `numpy_policy`, and the settings that both share.
_LAYERS: dict[str, tuple[str, ...]] = {
    "InputLayer": ("input",),
    "Flatten": ("flatten",),
    "Dense": ("dense", "activation"),
    "NoisyDense": ("noisy_dense", "activation"),
    "Activation": ("activation", "activation"),
    "LayerNormalization": ("layer_normalization", "epsilon", "center", "scale"),
    "BatchNormalization": ("batch_normalization", "epsilon", "center", "scale"),
    "Conv2D": ("conv2d", "activation", "strides", "padding"),
    "MaxPooling2D": ("max_pooling2d", "strides", "padding"),
    "AveragePooling2D": ("average_pooling2d", "strides", "padding"),
    "GlobalAveragePooling1D": ("mean_over_steps",),
    "GlobalAveragePooling2D": ("global_average2d",),
    "GlobalMaxPooling2D": ("global_maximum2d",),
    "Concatenate": ("concatenate", "axis"),
    "Add": ("add",),
    "Subtract": ("subtract",),
    "Multiply": ("multiply",),
    "Average": ("average",),
    "Maximum": ("maximum",),
    "Minimum": ("minimum",),
    # These act in training only.
    "Dropout": ("identity",),
    "SpatialDropout1D": ("identity",),
    "SpatialDropout2D": ("identity",),
    "GaussianNoise": ("identity",),
}


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


def layers_from_model(model: keras.Model) -> list[Layer]:
    """The functional Keras `model` as the list of layers that `NumpyPolicy` evaluates.

    Array positions refer to `model.get_weights()`.

    Raises:
        ValueError: a layer, its activation or its settings are unknown to the NumPy policy.
    """
    settings = [_settings(operation) for operation in model.operations]
    position = {id(variable): i for i, variable in enumerate(model.weights)}
    nodes = {entry["name"]: entry["inbound_nodes"] for entry in model.get_config()["layers"]}
    return [
        {
            "name": layer.name,
            "inputs": _input_names(layer.name, nodes[layer.name]),
            "arrays": [position[id(variable)] for variable in _inner(layer).weights],
            **of_kind,
        }
        for layer, of_kind in zip(model.operations, settings, strict=True)
    ]


def _inner(layer: layers.Layer) -> layers.Layer:
    """The layer itself, or the one inside a wrapper that acts in training only."""
    return layer.layer if isinstance(layer, layers.SpectralNormalization) else layer


def _input_names(name: str, inbound_nodes: list[Any]) -> list[str]:
    """Names of the layers whose outputs are the inputs of the serialized layer `name`."""
    if len(inbound_nodes) > 1:
        raise ValueError(f"Layer `{name}` is used {len(inbound_nodes)} times, unknown to the NumPy policy.")
    names: list[str] = []

    def visit(value: Any) -> None:
        if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
            names.append(value["config"]["keras_history"][0])
        elif isinstance(value, dict | list | tuple):
            for inner in value.values() if isinstance(value, dict) else value:
                visit(inner)
        elif value not in (None, False):  # `training=True`, a constant to add
            raise ValueError(f"Layer `{name}` is called with `{value}`, unknown to the NumPy policy.")

    visit(inbound_nodes)
    return names


def _settings(layer: layers.Layer) -> dict[str, Any]:
    """Kind and settings of one Keras layer."""
    inner = _inner(layer)
    keras_class, settings = type(inner).__name__, None
    # Layers of others, and operations of `keras.ops`, may have the name of a known layer.
    is_known = type(inner) in (NoisyDense, getattr(layers, keras_class, None))
    if is_known and inner.compute_dtype in ("float32", "uint8"):
        settings = _settings_from_config(keras_class, inner.get_config())
    if settings is None:
        raise ValueError(f"Layer `{layer.name}` ({type(layer).__name__}) is unknown to the NumPy policy.")
    activation = settings.get("activation", "linear")
    if str(activation) not in ACTIVATIONS:  # a function of the user's is a dictionary here
        raise ValueError(f"Activation `{activation}` of layer `{inner.name}` is unknown to the NumPy policy.")
    return settings


def _settings_from_config(keras_class: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """Kind and settings of a layer by its Keras class and config; None if the NumPy policy has none."""
    if config.get("data_format", "channels_last") != "channels_last" or config.get("keepdims"):
        return None
    match keras_class:
        case "LayerNormalization" if config["axis"] not in (-1, [-1]) or config.get("rms_scaling"):
            return None
        case "BatchNormalization" if config["axis"] != -1 or config.get("renorm"):
            return None
        case "Conv2D" if config["groups"] != 1 or set(config["dilation_rate"]) != {1}:
            return None
        case "Softmax" if config["axis"] == -1:
            return {"kind": "activation", "activation": "softmax"}
        case "ELU" if config["alpha"] == 1.0:
            return {"kind": "activation", "activation": "elu"}
        case "ReLU" if not (config["max_value"] or config["negative_slope"] or config["threshold"]):
            return {"kind": "activation", "activation": "relu"}
        case "ReLU" if config["max_value"] is None and not config["threshold"]:
            return {"kind": "leaky_relu", "slope": float(config["negative_slope"])}
        case "LeakyReLU":
            return {"kind": "leaky_relu", "slope": float(config["negative_slope"])}
        case "Reshape":
            return {"kind": "reshape", "shape": list(config["target_shape"])}
        case "Permute":
            return {"kind": "permute", "axes": [0, *config["dims"]]}
        case "Rescaling" if isinstance(config["scale"], int | float):
            return {"kind": "rescaling"} | {name: float(config[name]) for name in ("scale", "offset")}
    if keras_class not in _LAYERS:
        return None
    kind, *names = _LAYERS[keras_class]
    settings = {"kind": kind, **{name: config[name] for name in names}}
    if "pool_size" in config:
        settings["size"] = config["pool_size"]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


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
        self._name = options.network
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
            try:
                self._model.set_weights(arrays)
            except ValueError as error:
                why = f"makes another network than the one of these weights: {one_line(error)}"
                raise ConfigError(f"`network`: `{self._name}` {why} (restore its code).") from error
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
