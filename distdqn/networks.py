"""The Keras Q-network, and its translation to the layers that actors evaluate.

Keras is imported where it is used: only the learner's process loads it.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distdqn.noisy import noisy_dense_layer
from distdqn.policy import Layer
from distdqn.transition import FloatArray

_KNOWN_ACTIVATIONS = ("linear", "relu", "tanh")


@dataclass(frozen=True)
class NetworkPlan:
    """All that decides a Q-network's shape.

    Attributes:
        observation_shape: shape of one observation.
        actions: number of actions `A`.
        hidden_sizes: units of each hidden layer, each followed by ReLU.
        layer_norm: normalize each hidden layer before its ReLU (Gallici et al. 2024,
            arXiv:2407.04811).
        dueling: `output = value + advantage - mean_a advantage`, the last hidden layer once
            for each of the two (Wang et al. 2016, equation 9, arXiv:1511.06581); under a
            distributional head once for each of the `K` outputs.
        head: `value`, `quantile` or `categorical`.
        atoms: number of outputs `K` for each action, under a distributional head.
        v_min: smallest return of the categorical head.
        v_max: largest return of the categorical head.
        noisy_sigma: initial amount of noise of noisy dense layers; None means plain ones.
    """

    observation_shape: tuple[int, ...]
    actions: int
    hidden_sizes: tuple[int, ...]
    layer_norm: bool = False
    dueling: bool = False
    head: str = "value"
    atoms: int = 1
    v_min: float = 0.0
    v_max: float = 0.0
    noisy_sigma: float | None = None


def make_networks(plan: NetworkPlan, seed: int) -> tuple[Any, Any]:
    """A multilayer perceptron twice: with the head's outputs, and with Q-values.

    The second shares the layers of the first and adds those that turn the outputs into
    Q-values. But for noisy layers both are made of standard Keras layers alone, so a saved
    copy opens without this package; for those, see `plain_q_network`.

    Args:
        plan: the shape.
        seed: of the initial weights (Glorot uniform kernels, zero biases).

    Returns:
        Keras models from observations `[B, *observation_shape]` to outputs `[B, A]` or
        `[B, A, K]`, and to Q-values `[B, A]`. Under the value head they are one.
    """
    import keras

    seeds = np.random.default_rng(seed)

    def dense(units: int, activation: str | None, features: Any) -> Any:
        if plan.noisy_sigma is not None:
            layer = noisy_dense_layer()
            return layer(units, activation or "linear", plan.noisy_sigma, int(seeds.integers(2**30)))(
                features
            )
        initializer = keras.initializers.GlorotUniform(seed=int(seeds.integers(2**31)))
        return keras.layers.Dense(units, activation, kernel_initializer=initializer)(features)

    def hidden(units: int, features: Any) -> Any:
        if not plan.layer_norm:
            return dense(units, "relu", features)
        normalized = keras.layers.LayerNormalization()(dense(units, None, features))
        return keras.layers.Activation("relu")(normalized)

    actions, atoms = plan.actions, plan.atoms if plan.head != "value" else 1
    inputs = features = keras.Input(plan.observation_shape, name="observation")
    if len(plan.observation_shape) != 1:
        features = keras.layers.Flatten()(features)  # [B, features]
    for units in plan.hidden_sizes[:-1] if plan.dueling else plan.hidden_sizes:
        features = hidden(units, features)
    if plan.dueling:
        value = dense(atoms, None, hidden(plan.hidden_sizes[-1], features))
        advantage = dense(actions * atoms, None, hidden(plan.hidden_sizes[-1], features))
        value = keras.layers.Reshape((1, atoms))(value)  # [B, 1, K]
        advantage = keras.layers.Reshape((actions, atoms))(advantage)  # [B, A, K]
        mean = keras.layers.GlobalAveragePooling1D()(advantage)  # [B, K]
        mean = keras.layers.Reshape((1, atoms))(mean)  # [B, 1, K]
        outputs = keras.layers.Add()([keras.layers.Subtract()([advantage, mean]), value])  # [B, A, K]
        if plan.head == "value":
            outputs = keras.layers.Reshape((actions,))(outputs)  # [B, A]
    else:
        outputs = dense(actions * atoms, None, features)
        if plan.head != "value":
            outputs = keras.layers.Reshape((actions, atoms))(outputs)  # [B, A, K]
    network = keras.Model(inputs, outputs, name="q_network")
    if plan.head == "value":
        return network, network
    return network, keras.Model(inputs, _q_values(plan, outputs), name="q_values")


def plain_q_network(plan: NetworkPlan, arrays: list[FloatArray]) -> Any:
    """The network with Q-values as a Keras model of standard layers, noise left out.

    Args:
        plan: the shape of the network that `arrays` are of.
        arrays: its weights, as published.

    Returns:
        A Keras model from observations `[B, *observation_shape]` to Q-values `[B, A]`.
    """
    _, source = make_networks(plan, seed=0)
    source.set_weights(arrays)
    _, plain = make_networks(replace(plan, noisy_sigma=None), seed=0)
    for noisy, layer in zip(source.layers, plain.layers, strict=True):
        layer.set_weights(noisy.get_weights()[: len(layer.weights)])  # means come first
    return plain


def _q_values(plan: NetworkPlan, outputs: Any) -> Any:
    """Q-values `[B, A]` from a distributional head's outputs `[B, A, K]`."""
    import keras

    if plan.head == "quantile":
        quantiles = keras.layers.Permute((2, 1))(outputs)  # [B, K, A]
        return keras.layers.GlobalAveragePooling1D()(quantiles)  # [B, A]
    probabilities = keras.layers.Softmax()(outputs)  # [B, A, K]
    mean = keras.layers.Dense(1, use_bias=False, trainable=False, name="support")
    means = mean(probabilities)  # [B, A, 1]
    mean.set_weights([np.linspace(plan.v_min, plan.v_max, plan.atoms, dtype=np.float32)[:, None]])
    return keras.layers.Reshape((plan.actions,))(means)


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
        case "Permute":
            return {"kind": "permute", "axes": [0, *config["dims"]]}
        case "Softmax" if config["axis"] == -1:
            return {"kind": "softmax"}
        case "Add":
            return {"kind": "add"}
        case "Subtract":
            return {"kind": "subtract"}
        case "Activation":
            return {"kind": "activation", "activation": activation}
        case "Dense":
            return {"kind": "dense", "activation": activation}
        case "NoisyDense":
            return {"kind": "noisy_dense", "activation": activation}
        case "LayerNormalization" if config["axis"] in (-1, [-1]) and not config.get("rms_scaling"):
            return {"kind": "layer_normalization"} | {k: config[k] for k in ("epsilon", "center", "scale")}
        case kind:
            raise ValueError(f"Layer `{layer.name}` ({kind}) is unknown to the NumPy policy.")
