"""The Keras Q-network, and its translation to the layers that actors evaluate.

Keras is imported where it is used: only the learner's process loads it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from distdqn.policy import Layer

_KNOWN_ACTIVATIONS = ("linear", "relu", "tanh")


def make_q_network(
    observation_shape: tuple[int, ...],
    actions: int,
    hidden_sizes: Sequence[int],
    layer_norm: bool,
    seed: int,
    dueling: bool = False,
) -> Any:
    """A multilayer perceptron from observations `[B, *observation_shape]` to Q-values `[B, A]`.

    Made of standard Keras layers alone, so a saved copy opens without this package.

    Args:
        observation_shape: shape of one observation.
        actions: number of actions `A`.
        hidden_sizes: units of each hidden layer, each followed by ReLU.
        layer_norm: normalize each hidden layer before its ReLU (Gallici et al. 2024,
            arXiv:2407.04811).
        seed: of the initial weights (Glorot uniform kernels, zero biases).
        dueling: `Q = value + advantage - mean_a advantage`, the last hidden layer once for
            each of the two (Wang et al. 2016, equation 9, arXiv:1511.06581).
    """
    import keras

    seeds = np.random.default_rng(seed)

    def dense(units: int, activation: str | None, features: Any) -> Any:
        initializer = keras.initializers.GlorotUniform(seed=int(seeds.integers(2**31)))
        return keras.layers.Dense(units, activation, kernel_initializer=initializer)(features)

    def hidden(units: int, features: Any) -> Any:
        if not layer_norm:
            return dense(units, "relu", features)
        normalized = keras.layers.LayerNormalization()(dense(units, None, features))
        return keras.layers.Activation("relu")(normalized)

    inputs = features = keras.Input(observation_shape, name="observation")
    if len(observation_shape) != 1:
        features = keras.layers.Flatten()(features)  # [B, features]
    shared = hidden_sizes[:-1] if dueling else hidden_sizes
    for units in shared:
        features = hidden(units, features)
    if dueling:
        value = dense(1, None, hidden(hidden_sizes[-1], features))  # [B, 1]
        advantage = dense(actions, None, hidden(hidden_sizes[-1], features))  # [B, A]
        each = keras.layers.Reshape((actions, 1))(advantage)  # [B, A, 1]
        mean = keras.layers.GlobalAveragePooling1D()(each)  # [B, 1]
        centred = keras.layers.Subtract()([advantage, mean])  # [B, A]
        outputs = keras.layers.Add()([centred, value])  # [B, A]
    else:
        outputs = dense(actions, None, features)  # [B, A]
    return keras.Model(inputs, outputs, name="q_network")


def layers_from_model(model: Any) -> list[Layer]:
    """The functional Keras `model` as the list of layers that `Policy` evaluates.

    Array positions refer to `model.get_weights()`.

    Raises:
        ValueError: a layer or activation is unknown to the NumPy policy.
    """
    position = {id(variable): i for i, variable in enumerate(model.weights)}
    inbound = {entry["name"]: entry["inbound_nodes"] for entry in model.get_config()["layers"]}
    return [
        {
            "name": layer.name,
            "inputs": _input_names(inbound[layer.name]),
            "arrays": [position[id(variable)] for variable in layer.weights],
            **_settings(layer),
        }
        for layer in model.layers
    ]


def _input_names(inbound_nodes: list[Any]) -> list[str]:
    """Names of the layers whose outputs a serialized layer takes."""
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

    visit(inbound_nodes)
    return names


def _settings(layer: Any) -> dict[str, Any]:
    """Kind and settings of one Keras layer."""
    config = layer.get_config()
    activation = config.get("activation", "linear")
    if activation not in _KNOWN_ACTIVATIONS:
        raise ValueError(f"Activation `{activation}` of layer `{layer.name}` is unknown to the NumPy policy.")
    match type(layer).__name__:
        case "InputLayer":
            return {"kind": "input"}
        case "Flatten":
            return {"kind": "flatten"}
        case "Reshape":
            return {"kind": "reshape", "shape": list(config["target_shape"])}
        case "GlobalAveragePooling1D" if not config["keepdims"]:
            return {"kind": "mean_over_steps"}
        case "Add":
            return {"kind": "add"}
        case "Subtract":
            return {"kind": "subtract"}
        case "Activation":
            return {"kind": "activation", "activation": activation}
        case "Dense":
            return {"kind": "dense", "activation": activation}
        case "LayerNormalization" if config["axis"] in (-1, [-1]) and not config.get("rms_scaling"):
            return {"kind": "layer_normalization"} | {k: config[k] for k in ("epsilon", "center", "scale")}
        case kind:
            raise ValueError(f"Layer `{layer.name}` ({kind}) is unknown to the NumPy policy.")
