"""A Keras network in actors: as layers for the NumPy policy or, if NumPy cannot evaluate it, in Keras."""

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from typing_extensions import override

from distdqn.config.config import LearningOptions, SharedOptions
from distdqn.config.model import function_name
from distdqn.errors import ConfigError, one_line
from distdqn.networks.layers import NoisyDense, QuantileEmbedding, Unpack
from distdqn.networks.numpy_policy import ACTIVATIONS, NumpyPolicy, Policy, factorised_noise
from distdqn.networks.q_network import make_networks
from distdqn.types import AnyArray, EnvironmentSpec, FloatArray, Layer, PolicyWeights

_TOLERANCE = 1e-5  # times the largest Q-value, or times 1; rounding in float32 stays below it

# By Keras class: the kind of the layer in `numpy_policy`, and the settings that both share.
_LAYERS: dict[str, tuple[str, ...]] = {
    "InputLayer": ("input",),
    "Unpack": ("unpack", "part"),
    "Flatten": ("flatten",),
    "Reshape": ("reshape", "target_shape"),
    "Permute": ("permute", "dims"),
    "Rescaling": ("rescaling", "scale", "offset"),
    "Dense": ("dense", "activation"),
    "NoisyDense": ("noisy_dense", "activation"),
    "QuantileEmbedding": ("quantile_embedding", "atoms"),
    "Activation": ("activation", "activation"),
    "Softmax": ("softmax",),
    "ELU": ("elu",),
    "ReLU": ("leaky_relu", "negative_slope"),
    "LeakyReLU": ("leaky_relu", "negative_slope"),
    "LayerNormalization": ("layer_normalization", "epsilon", "center", "scale"),
    "BatchNormalization": ("batch_normalization", "epsilon", "center", "scale"),
    "Conv2D": ("conv2d", "activation", "strides", "padding"),
    "MaxPooling2D": ("max_pooling2d", "pool_size", "strides", "padding"),
    "AveragePooling2D": ("average_pooling2d", "pool_size", "strides", "padding"),
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
# By kind: a Keras class that evaluates it from its mean weights.
KERAS_CLASSES = {kind: keras_class for keras_class, (kind, *_) in _LAYERS.items()} | {"noisy_dense": "Dense"}
# Settings that the arrays show, or that act in training only.
_IRRELEVANT = re.compile(
    "name|trainable|dtype|batch_shape|units|filters|kernel_size|use_bias|momentum|renorm_momentum|seed|rate|sigma"
    "|stddev|noise_shape|.*_initializer|.*_regularizer|.*_constraint"
)
# All other settings must be None, False, or one of these.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "data_format": ("channels_last",),
    "axis": (-1, [-1]),
    "groups": (1,),
    "dilation_rate": ((1, 1),),
    "alpha": (1.0,),
    "threshold": (0.0,),
}
# Kinds that compute with bytes as with other numbers; where others do, sums of bytes wrap around.
_TAKE_BYTES = ("unpack", "flatten", "reshape", "permute", "rescaling", "identity", "dense", "concatenate")


def policy_layers(
    options: LearningOptions, spec: EnvironmentSpec, q_network: keras.Model
) -> tuple[list[Layer], str | None]:
    """The value of `PolicyWeights.layers` for a network, and None.

    If NumPy cannot evaluate it, those of `keras_layers` and a line for the user.
    """
    observation = np.zeros((2, *spec.observation_shape), spec.observation_dtype)
    try:
        translated = layers_from_model(q_network)
        if (reason := difference(translated, q_network, observation)) is None:
            return translated, None
    except ValueError as error:
        reason = str(error).removesuffix(".")
    return keras_layers(options, spec, reason)


def keras_layers(options: LearningOptions, spec: EnvironmentSpec, reason: str) -> tuple[list[Layer], str]:
    """One layer of the kind `keras`, which says how to build the network, and a line for the user."""
    names = LearningOptions.model_fields.keys() - SharedOptions.model_fields.keys()
    chosen = {name: getattr(options, name) for name in sorted(names)}
    if callable(options.network):
        chosen["network"] = name = function_name(options.network)
        if "__main__:" in name or "<" in name:  # of a notebook, a lambda, or inside a function
            raise ConfigError(
                f"`network`: {reason}, and actors cannot import `{name}` (move it to a module)."
            )
    notice = f"{reason}: actors evaluate this network with Keras, which is slower."
    return [{"kind": "keras", "options": chosen, "spec": asdict(spec)}], notice


def difference(translated: list[Layer], q_network: keras.Model, observation: AnyArray) -> str | None:
    """How the NumPy policy of `translated` layers fails or differs by more than rounding, or None.

    Sets the noise of `q_network` to zero. Of observations `[B, *observation_shape]`, the first is also
    evaluated alone.
    """
    for noise in _noise(q_network):
        noise.assign(tf.zeros_like(noise))
    policy = NumpyPolicy(PolicyWeights(translated, q_network.get_weights(), (0, 0), 0))
    function = _function(q_network)
    for batch in (observation[:1], observation):
        try:
            found = policy.q_values(batch)
        except Exception as error:
            return f"NumPy cannot evaluate this network ({type(error).__name__}: {one_line(error)})"
        with tf.device("CPU:0"):  # GPUs round the factors of a product to fewer bits
            expected = function(tf.constant(batch.astype(q_network.inputs[0].dtype))).numpy()  # [B, A]
        bound = _TOLERANCE * max(1.0, float(np.abs(expected).max()))
        if found.shape != expected.shape or not np.allclose(found, expected, 0.0, bound, equal_nan=True):
            return "NumPy evaluates this network differently from Keras"
    return None


@functools.lru_cache(maxsize=1)
def _function(model: keras.Model) -> Any:
    """`model` as a TensorFlow function of observations `[B, *observation_shape]` of any number."""
    signature = tf.TensorSpec((None, *model.input_shape[1:]), model.inputs[0].dtype)
    return tf.function(lambda observation: model(observation, training=False), input_signature=[signature])


def _noise(model: keras.Model) -> list[Any]:
    """The variables that hold the noise of noisy layers."""
    noisy = [layer for layer in model.layers if isinstance(layer, NoisyDense)]
    return [noise for layer in noisy for noise in (layer.noise_in, layer.noise_out)]


def layers_from_model(model: keras.Model) -> list[Layer]:
    """The functional Keras `model` as the list of layers that `NumpyPolicy` evaluates.

    Array positions refer to `model.get_weights()`. `ValueError` if a layer, its activation or any of its
    settings is unknown to the NumPy policy.
    """
    return _translate(model, {id(variable): i for i, variable in enumerate(model.weights)})


def _translate(
    model: keras.Model, position: dict[int, int], prefix: str = "", arguments: Sequence[str] = ()
) -> list[Layer]:
    """The layers of a functional `model`, which may be a layer of another one.

    `position` is that of each variable, by its id. `arguments` are the names of the layers that `model` is
    called with, none for the whole network.
    """
    is_inner = [hasattr(layer, "operations") for layer in model.operations]  # a model, too
    settings = [
        {"kind": "identity"} if inner else _settings(layer)
        for layer, inner in zip(model.operations, is_inner, strict=True)
    ]
    nodes = {entry["name"]: entry["inbound_nodes"] for entry in model.get_config()["layers"]}
    translated: list[Layer] = []
    for layer, is_model, of_kind in zip(model.operations, is_inner, settings, strict=True):
        name = prefix + layer.name
        inputs = [prefix + each for each in _input_names(layer.name, of_kind["kind"], nodes[layer.name])]
        if is_model:
            translated += _translate(layer, position, f"{name}/", inputs)
            inputs = [f"{name}/{layer.outputs[0]._keras_history.operation.name}"]
        elif of_kind["kind"] == "input" and arguments:
            own = [tensor._keras_history.operation for tensor in model.inputs]
            of_kind["kind"], inputs = "identity", [arguments[own.index(layer)]]
        arrays = [] if is_model else [position[id(variable)] for variable in _inner(layer).weights]
        translated.append({"name": name, "inputs": inputs, "arrays": arrays, **of_kind})
    return translated


def _inner(layer: layers.Layer) -> layers.Layer:
    """The layer itself, or the one inside a wrapper that acts in training only."""
    return layer.layer if isinstance(layer, layers.SpectralNormalization) else layer


def _input_names(name: str, kind: str, inbound_nodes: list[Any]) -> list[str]:
    """Names of the layers whose outputs are the inputs of the serialized layer `name`."""
    if len(inbound_nodes) > 1:
        raise ValueError(f"Layer `{name}` is used {len(inbound_nodes)} times, unknown to the NumPy policy.")
    names: list[str] = []

    def visit(value: Any) -> None:
        if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
            if (dtype := value["config"]["dtype"]) != "float32" and kind not in _TAKE_BYTES:
                raise ValueError(f"Layer `{name}` takes `{dtype}`, unknown to the NumPy policy.")
            names.append(value["config"]["keras_history"][0])
        elif isinstance(value, dict | list | tuple):
            for inner in [value[key] for key in sorted(value)] if isinstance(value, dict) else value:
                visit(inner)
        elif value is not None and value is not False:  # `training=True`, a constant to add
            raise ValueError(f"Layer `{name}` is called with `{value}`, unknown to the NumPy policy.")

    visit(inbound_nodes)
    return names


def _settings(layer: layers.Layer) -> dict[str, Any]:
    """Kind and settings of one Keras layer."""
    inner = _inner(layer)
    keras_class, settings = type(inner).__name__, None
    # Layers of others, and operations of `keras.ops`, may have the name of a known layer.
    is_known = type(inner) in (NoisyDense, QuantileEmbedding, Unpack, getattr(layers, keras_class, None))
    dtypes = ("float32", "uint8") if keras_class == "InputLayer" else ("float32",)
    if is_known and inner.compute_dtype in dtypes:
        config = {"data_format": getattr(inner, "data_format", None)} | inner.get_config()
        settings = _settings_from_config(keras_class, config)
    if settings is None:
        raise ValueError(f"Layer `{layer.name}` ({type(layer).__name__}) is unknown to the NumPy policy.")
    activation, function = settings.get("activation", "linear"), getattr(inner, "activation", None)
    is_known = str(activation) in ACTIVATIONS
    # A function of the user's may have the name of a known one.
    if not is_known or function not in (None, keras.activations.get(activation)):
        raise ValueError(f"Activation `{activation}` of layer `{inner.name}` is unknown to the NumPy policy.")
    return settings


def _settings_from_config(keras_class: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """Kind and settings of a layer by its Keras class and config; None if the NumPy policy has none."""
    if keras_class not in _LAYERS:
        return None
    kind, *names = _LAYERS[keras_class]
    for name in config.keys() - set(names):
        value = config[name]
        is_off = value is None or value is False or value in _NEUTRAL.get(name, ())
        if not is_off and not _IRRELEVANT.fullmatch(name):
            return None
    settings = {name: config[name] for name in names}
    if kind == "rescaling" and not all(isinstance(value, int | float) for value in settings.values()):
        return None  # a scale for each channel
    if kind in ("softmax", "elu"):
        return {"kind": "activation", "activation": kind}
    if settings.get("negative_slope") == 0.0:
        return {"kind": "activation", "activation": "relu"}
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    return {"kind": kind, **settings}


class KerasPolicy(Policy):
    """The Q-network in Keras.

    The model is built once in a process and shared by all policies of that network: a policy sets its own
    weights before it evaluates.
    """

    def __init__(self, weights: PolicyWeights) -> None:
        self._network = _network(json.dumps(weights.layers[0], sort_keys=True))
        pairs = zip(weights.arrays, self._network.is_noise, strict=True)
        self._arrays = [np.zeros_like(array) if is_noise else array for array, is_noise in pairs]

    @override
    def resample(self, generator: np.random.Generator) -> None:
        for i in np.flatnonzero(self._network.is_noise):
            self._arrays = [*self._arrays]  # another list, so that the network takes it
            self._arrays[i] = factorised_noise(generator, self._arrays[i].shape)

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
        noise = {id(variable) for variable in _noise(self._model)}
        self.is_noise = [id(variable) in noise for variable in self._model.weights]
        self._function = _function(self._model)

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
    return _Network(LearningOptions(**settings["options"]), EnvironmentSpec.from_json(settings["spec"]))
