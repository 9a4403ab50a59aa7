"""From a Keras model to the list of layers that actors evaluate with NumPy."""

from typing import Any

from distdqn.networks.numpy_layers import ACTIVATIONS
from distdqn.types import Layer

# Same kind by the same name, whatever the settings.
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


def layers_from_model(model: Any) -> list[Layer]:
    """The functional Keras `model` as the list of layers that `Policy` evaluates.

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


def _inner(layer: Any) -> Any:
    """The layer itself, or what a wrapper that acts in training only wraps."""
    return layer.layer if type(layer).__name__ == "SpectralNormalization" else layer


def _input_names(name: str, inbound_nodes: list[Any]) -> list[str]:
    """Names of the layers whose outputs a serialized layer takes."""
    if len(inbound_nodes) > 1:
        raise ValueError(f"Layer `{name}` is used {len(inbound_nodes)} times, unknown to the NumPy policy.")
    names: list[str] = []

    def visit(value: Any) -> None:
        if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
            names.append(value["config"]["keras_history"][0])
        elif isinstance(value, dict):
            for inner in value.values():
                visit(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                visit(inner)
        elif value not in (None, False):  # `training=True`, a constant to add
            raise ValueError(f"Layer `{name}` is called with `{value}`, unknown to the NumPy policy.")

    visit(inbound_nodes)
    return names


def _settings(layer: Any) -> dict[str, Any]:
    """Kind and settings of one Keras layer."""
    kind = type(layer).__name__
    unknown = ValueError(f"Layer `{layer.name}` ({kind}) is unknown to the NumPy policy.")
    is_ours = type(layer).__module__.split(".")[0] == "distdqn"
    # A class of somebody else's may have the name of a known one, and so have the
    # operations of `keras.ops`.
    if not is_ours and not type(layer).__module__.startswith("keras.src.layers."):
        raise unknown
    layer, kind = _inner(layer), type(_inner(layer)).__name__
    if getattr(layer, "compute_dtype", "float32") not in ("float32", "uint8"):
        raise unknown
    config = layer.get_config()
    activation = config.get("activation", "linear")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"Activation `{activation}` of layer `{layer.name}` is unknown to the NumPy policy.")
    if kind in _KINDS:
        return {"kind": _KINDS[kind]}
    settings = _image_settings(kind, config) or _plain_settings(kind, config)
    if settings is None:
        raise unknown
    return settings


def _plain_settings(kind: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """Kind and settings of a layer by its Keras class and config; None if unknown."""
    match kind:
        case "Reshape":
            return {"kind": "reshape", "shape": list(config["target_shape"])}
        case "Permute":
            return {"kind": "permute", "axes": [0, *config["dims"]]}
        case "GlobalAveragePooling1D" if not config["keepdims"]:
            return {"kind": "mean_over_steps"}
        case "Concatenate":
            return {"kind": "concatenate", "axis": config["axis"]}
        case "Softmax" if config["axis"] == -1:
            return {"kind": "activation", "activation": "softmax"}
        case "ReLU" if not (config["max_value"] or config["negative_slope"] or config["threshold"]):
            return {"kind": "activation", "activation": "relu"}
        case "ReLU" if config["max_value"] is None and not config["threshold"]:
            return {"kind": "leaky_relu", "slope": float(config["negative_slope"])}
        case "LeakyReLU":
            return {"kind": "leaky_relu", "slope": float(config["negative_slope"])}
        case "ELU" if config["alpha"] == 1.0:
            return {"kind": "activation", "activation": "elu"}
        case "Rescaling" if isinstance(config["scale"], int | float):
            return {"kind": "rescaling"} | {name: float(config[name]) for name in ("scale", "offset")}
        case "Activation":
            return {"kind": "activation", "activation": config["activation"]}
        case "Dense":
            return {"kind": "dense", "activation": config["activation"]}
        case "NoisyDense":
            return {"kind": "noisy_dense", "activation": config["activation"]}
        case "LayerNormalization" if config["axis"] in (-1, [-1]) and not config.get("rms_scaling"):
            return {"kind": "layer_normalization"} | {k: config[k] for k in ("epsilon", "center", "scale")}
        case "BatchNormalization" if config["axis"] == -1 and not config.get("renorm"):
            return {"kind": "batch_normalization"} | {k: config[k] for k in ("epsilon", "center", "scale")}
    return None


def _image_settings(kind: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """The same for layers over images, channels last."""
    if config.get("data_format", "channels_last") != "channels_last":
        return None
    match kind:
        case "Conv2D" if config["groups"] == 1 and set(config["dilation_rate"]) == {1}:
            settings = {"kind": "conv2d", "activation": config["activation"]}
        case "MaxPooling2D" | "AveragePooling2D":
            settings = {"kind": "max_pooling2d" if kind == "MaxPooling2D" else "average_pooling2d"}
            settings["size"] = list(config["pool_size"])
        case "GlobalAveragePooling2D" | "GlobalMaxPooling2D" if not config["keepdims"]:
            return {"kind": "global_average2d" if kind == "GlobalAveragePooling2D" else "global_maximum2d"}
        case _:
            return None
    return settings | {"strides": list(config["strides"]), "padding": config["padding"]}
