"""The Q-network in Keras: torso, hidden layers and head, or the user's own network."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers

from distdqn.config.config import LearningOptions, resolved
from distdqn.networks.checks import choose_torso
from distdqn.networks.custom_network import build_custom_network
from distdqn.networks.layers import LayerFactory, QuantileEmbedding, Unpack, masked_q_values, torso_features
from distdqn.networks.numpy_policy import midpoint_embedding
from distdqn.types import EnvironmentSpec, FloatArray, ObservationPart


def make_networks(
    options: LearningOptions, spec: EnvironmentSpec, seed: int, plain: bool = False
) -> tuple[keras.Model, keras.Model]:
    """Keras models with shared layers, from observations `[B, *observation_shape]` to outputs and Q-values.

    Outputs are `[B, A]` or `[B, A, K]`, Q-values `[B, A]`. Under the value head both are the same model,
    unless observations have masks, which lower the Q-values of actions that are not allowed. Under the
    implicit head, `K` is the number of fractions that `at_fractions` gives.

    `options` are resolved. `seed` is that of the initial weights: Glorot uniform kernels, zero biases. If
    `plain`, they have no noise and no spectral normalization, and take the parts of observations by name.

    `ConfigError` if the torso does not fit the observations, or the user's network fails or does not fit.
    """
    parts = spec.parts if plain or options.network else _joined(spec.parts)
    inputs, values = make_inputs(spec, parts, by_name=plain)
    if options.network is None:
        outputs = _build_outputs(options, spec, LayerFactory(options, seed, plain), parts, values)
    else:
        model = build_custom_network(options.network, spec, _output_shape(options, spec), seed)
        if parts:
            shown = {part.name: values[part.name] for part in parts if part.kind != "mask"}
            outputs = model(shown if len(shown) > 1 else next(iter(shown.values())))
        else:
            inputs, outputs = model.inputs[0], model.outputs[0]
    network = keras.Model(inputs, outputs, name="q_network")
    q_values = outputs if options.head == "value" else _q_values(options, outputs)
    if spec.mask is not None:
        q_values = masked_q_values(q_values, values[spec.mask.name])
    return network, network if q_values is outputs else keras.Model(inputs, q_values, name="q_values")


def _joined(parts: Sequence[ObservationPart]) -> list[ObservationPart]:
    """The parts of a packed observation, neighbouring vectors as one."""
    joined: list[ObservationPart] = []
    for part in parts:
        if joined and joined[-1].kind == part.kind == "vector":
            before = joined.pop()
            shape = (before.shape[0] + part.shape[0],)
            part = replace(before, shape=shape, end=part.end)
        joined.append(part)
    return joined


def make_inputs(
    spec: EnvironmentSpec, parts: Sequence[ObservationPart], by_name: bool
) -> tuple[Any, dict[str, KerasTensor]]:
    """Inputs of a model, and the values that they hold, `[B, ...]` by name.

    If `by_name`, each of `parts` has an input, else there is one for whole, perhaps packed, observations.
    """
    if parts and by_name:
        dtypes = {"image": "uint8"}
        inputs = {p.name: keras.Input(p.shape, dtype=dtypes.get(p.kind), name=p.name) for p in parts}
        return inputs, inputs
    packed = keras.Input(spec.observation_shape, dtype=spec.observation_dtype, name="observation")
    return packed, {part.name: Unpack(part)(packed) for part in parts} or {"observation": packed}


def plain_q_network(options: LearningOptions, spec: EnvironmentSpec, arrays: list[FloatArray]) -> keras.Model:
    """A model of standard Keras layers from observations `[B, *observation_shape]` to Q-values `[B, A]`.

    It has no noise and no spectral normalization, which act in training only, and one input for each part
    of an observation. A user's own layers are the same. `arrays` `[...]` are the published weights.
    """
    _, source = make_networks(options, spec, seed=0)
    source.set_weights(arrays)
    if options.network is not None and not spec.parts:
        return source
    _, plain = make_networks(options, spec, seed=0, plain=True)
    pairs = [[layer for layer in model.layers if layer.weights] for model in (source, plain)]
    for layer, plain_layer in zip(*pairs, strict=True):
        inner = getattr(layer, "layer", layer)  # of the wrapper that normalizes
        own = inner.get_weights()
        if isinstance(inner, QuantileEmbedding):
            own = [midpoint_embedding(inner.atoms, own)]
        plain_layer.set_weights(own[: len(plain_layer.weights)])  # means come first
    return plain


def _output_shape(options: LearningOptions, spec: EnvironmentSpec) -> tuple[int, ...]:
    """Shape of the outputs of one observation, `(A,)` or `(A, K)`."""
    return (spec.actions,) if options.head == "value" else (spec.actions, resolved(options.atoms))


def _build_outputs(
    options: LearningOptions,
    spec: EnvironmentSpec,
    factory: LayerFactory,
    parts: Sequence[ObservationPart],
    values: dict[str, KerasTensor],
) -> KerasTensor:
    """Torsos, hidden layers and head, from observations to outputs `[B, A]` or `[B, A, K]`.

    `values` `[B, ...]` are those of the parts, or of the whole `observation`, by name.
    """
    kind = "image" if spec.is_image else "array"
    lone = ObservationPart("observation", kind, spec.observation_shape, 0, 0, spec.image_high)
    columns = []
    for part in [part for part in parts or (lone,) if part.kind != "mask"]:
        features = values[part.name]
        if part.kind == "image":  # even with a scale of 1, for the conversion to float32
            features = layers.Rescaling(1.0 / part.high)(features)
        torso: str = options.torso
        if parts:
            torso = choose_torso(part.shape, part.kind == "image", torso)
        columns.append(torso_features(torso, part.shape, features, factory))  # [B, F]
    features = layers.Concatenate()(columns) if len(columns) > 1 else columns[0]
    for units in options.hidden_sizes[:-1]:
        features = factory.hidden(features, units)
    is_implicit = options.head == "implicit"
    if is_implicit:  # before the last hidden layer: Dabney et al. (2018), equation 4 and the text below it
        features = factory.quantile_embedding(features)  # [B, K, F]
    shape = _output_shape(options, spec)
    if options.dueling:
        outputs = _dueling_outputs(options, spec.actions, factory, features)  # [B, A, K]
    else:
        features = factory.hidden(features, options.hidden_sizes[-1])
        units = spec.actions if is_implicit else int(np.prod(shape))
        outputs = factory.output(features, units, options.output_bias)  # [B, ...] or [B, K, A]
        outputs = layers.Permute((2, 1))(outputs) if is_implicit else outputs
    if outputs.shape[1:] != shape and not is_implicit:
        outputs = layers.Reshape(shape)(outputs)
    return outputs


def _dueling_outputs(
    options: LearningOptions, actions: int, factory: LayerFactory, features: KerasTensor
) -> KerasTensor:
    """Outputs `[B, A, K]`: `value + advantage - mean_a advantage`, for each atom.

    Each of the two streams has a last hidden layer of its own. The value head has one atom. Features are
    `[B, F]`, and `[B, K, F]` under the implicit head.

    Source: Wang et al. (2016), equation 9, arXiv:1511.06581.
    """
    units = options.hidden_sizes[-1]
    is_implicit = options.head == "implicit"
    atoms = 1 if is_implicit or options.head == "value" else resolved(options.atoms)
    value = factory.output(factory.hidden(features, units), atoms, options.output_bias)
    advantage = factory.output(factory.hidden(features, units), actions * atoms, bias=0.0)
    value = layers.Reshape((1, -1))(value)  # [B, 1, K]
    by_action = layers.Permute((2, 1)) if is_implicit else layers.Reshape((actions, atoms))
    advantage = by_action(advantage)  # [B, A, K]
    mean = layers.GlobalAveragePooling1D()(advantage)  # [B, K]
    mean = layers.Reshape((1, -1))(mean)  # [B, 1, K]
    # The value first: Keras takes a second `[B, 1, 1]` for a bias of `A` actions where B = A.
    return layers.Add()([value, layers.Subtract()([advantage, mean])])  # [B, A, K]


def _q_values(options: LearningOptions, outputs: KerasTensor) -> KerasTensor:
    """Q-values `[B, A]` from a distributional head's outputs `[B, A, K]`."""
    if options.head in ("quantile", "implicit"):
        quantiles = layers.Permute((2, 1))(outputs)  # [B, K, A]
        return layers.GlobalAveragePooling1D()(quantiles)  # [B, A]
    probabilities = layers.Softmax()(outputs)  # [B, A, K]
    expectation = layers.Dense(1, use_bias=False, trainable=False, name="support")
    means = expectation(probabilities)  # [B, A, 1]
    support = np.linspace(options.v_min, options.v_max, resolved(options.atoms), dtype=np.float32)
    expectation.set_weights([support[:, None]])
    return layers.Reshape(means.shape[1:-1])(means)
