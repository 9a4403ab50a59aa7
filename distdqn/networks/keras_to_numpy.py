"""From a Keras model to the list of layers that actors evaluate with NumPy."""

from typing import Any

import keras
from keras import layers

from distdqn.networks.layers import NoisyDense
from distdqn.networks.numpy_layers import ACTIVATIONS
from distdqn.types import Layer

# Layers without settings, by their Keras class.
_KINDS = {
    "InputLayer": "input",
    "Flatten": "flatten",
    "Add": "add",
    "Subtract": "subtract",
    "Multiply": "multiply",
    "Average": "average",
    "Maximum": "maximum",
    "Minimum": "minimum",
    # These act in training only.
    "Dropout": "identity",
    "SpatialDropout1D": "identity",
    "SpatialDropout2D": "identity",
    "GaussianNoise": "identity",
}
_POOLING = {
    "MaxPooling2D": "max_pooling2d",
    "AveragePooling2D": "average_pooling2d",
    "GlobalAveragePooling1D": "mean_over_steps",
    "GlobalAveragePooling2D": "global_average2d",
    "GlobalMaxPooling2D": "global_maximum2d",
}


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
    """Names of the layers whose outputs a serialized layer takes."""
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
    unknown = ValueError(f"Layer `{layer.name}` ({type(layer).__name__}) is unknown to the NumPy policy.")
    layer = _inner(layer)
    kind = type(layer).__name__
    # Layers of others, and operations of `keras.ops`, may have the name of a known layer.
    if type(layer) not in (NoisyDense, getattr(layers, kind, None)):
        raise unknown
    config = layer.get_config()
    if getattr(layer, "compute_dtype", "float32") not in ("float32", "uint8"):
        raise unknown
    if config.get("data_format", "channels_last") != "channels_last":
        raise unknown
    activation = config.get("activation", "linear")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"Activation `{activation}` of layer `{layer.name}` is unknown to the NumPy policy.")
    if kind in _KINDS:
        return {"kind": _KINDS[kind]}
    settings = _known_settings(kind, config)
    if settings is None:
        raise unknown
    return settings


def _known_settings(kind: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """Kind and settings of a layer by its Keras class and config; None if unknown."""

    def copied(own_kind: str, *names: str) -> dict[str, Any]:
        values = ((name, config[name]) for name in names)
        return {"kind": own_kind} | {k: list(v) if isinstance(v, tuple) else v for k, v in values}

    match kind:
        case "Activation" | "Dense" | "NoisyDense":
            kinds = {"Activation": "activation", "Dense": "dense", "NoisyDense": "noisy_dense"}
            return copied(kinds[kind], "activation")
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
        case "Concatenate":
            return copied("concatenate", "axis")
        case "Rescaling" if isinstance(config["scale"], int | float):
            return {"kind": "rescaling"} | {name: float(config[name]) for name in ("scale", "offset")}
        case "LayerNormalization" if config["axis"] in (-1, [-1]) and not config.get("rms_scaling"):
            return copied("layer_normalization", "epsilon", "center", "scale")
        case "BatchNormalization" if config["axis"] == -1 and not config.get("renorm"):
            return copied("batch_normalization", "epsilon", "center", "scale")
        case "Conv2D" if config["groups"] == 1 and set(config["dilation_rate"]) == {1}:
            return copied("conv2d", "activation", "strides", "padding")
        case "MaxPooling2D" | "AveragePooling2D":
            return copied(_POOLING[kind], "strides", "padding") | {"size": list(config["pool_size"])}
        case _ if kind in _POOLING and not config["keepdims"]:
            return {"kind": _POOLING[kind]}
    return None
