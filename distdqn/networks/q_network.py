"""The Q-network in Keras: torso, hidden layers and head, or the user's own network."""

import keras
import numpy as np
from keras import KerasTensor, layers

from distdqn.config.config import LearningOptions, resolved
from distdqn.networks.custom_network import build_custom_network
from distdqn.networks.layers import LayerFactory, torso_features
from distdqn.types import EnvironmentSpec, FloatArray


def make_networks(
    options: LearningOptions, spec: EnvironmentSpec, seed: int, plain: bool = False
) -> tuple[keras.Model, keras.Model]:
    """Keras models with shared layers, from observations `[B, *observation_shape]` to outputs and Q-values.

    Outputs are `[B, A]` or `[B, A, K]`, Q-values `[B, A]`. Under the value head both are the same model.

    Args:
        options: resolved.
        spec: of the environment.
        seed: of the initial weights: Glorot uniform kernels, zero biases.
        plain: leave out noise and spectral normalization.

    Raises:
        ConfigError: the torso does not fit the observations, or the user's network fails or does not fit.
    """
    if options.network is None:
        network = _build_network(options, spec, LayerFactory(options, seed, plain))
    else:
        network = build_custom_network(options.network, spec, _output_shape(options, spec), seed)
    if options.head == "value":
        return network, network
    return network, keras.Model(network.inputs[0], _q_values(options, network.outputs[0]), name="q_values")


def plain_q_network(options: LearningOptions, spec: EnvironmentSpec, arrays: list[FloatArray]) -> keras.Model:
    """A model of standard Keras layers from observations `[B, *observation_shape]` to Q-values `[B, A]`.

    It has no noise and no spectral normalization, which act in training only. A user's own network is
    returned unchanged.

    Args:
        options: resolved, of the network that `arrays` belong to.
        spec: of the environment.
        arrays: the published weights, `[...]` each.
    """
    _, source = make_networks(options, spec, seed=0)
    source.set_weights(arrays)
    if options.network is not None:
        return source
    _, plain = make_networks(options, spec, seed=0, plain=True)
    for layer, plain_layer in zip(source.layers, plain.layers, strict=True):
        inner = getattr(layer, "layer", layer)  # of the wrapper that normalizes
        plain_layer.set_weights(inner.get_weights()[: len(plain_layer.weights)])  # means come first
    return plain


def _output_shape(options: LearningOptions, spec: EnvironmentSpec) -> tuple[int, ...]:
    """Shape of the outputs of one observation, `(A,)` or `(A, K)`."""
    return (spec.actions,) if options.head == "value" else (spec.actions, resolved(options.atoms))


def _build_network(options: LearningOptions, spec: EnvironmentSpec, factory: LayerFactory) -> keras.Model:
    """Torso, hidden layers and head, from observations to outputs `[B, A]` or `[B, A, K]`."""
    inputs = keras.Input(spec.observation_shape, dtype=spec.observation_dtype, name="observation")
    features = inputs
    if spec.is_image:  # even with a scale of 1, for the conversion to float32
        features = layers.Rescaling(1.0 / spec.image_high)(features)
    features = torso_features(options.torso, spec.observation_shape, features, factory)  # [B, F]
    for units in options.hidden_sizes[:-1] if options.dueling else options.hidden_sizes:
        features = factory.hidden(features, units)
    shape = _output_shape(options, spec)
    if options.dueling:
        outputs = _dueling_outputs(options, spec.actions, factory, features)  # [B, A, K]
    else:
        outputs = factory.output(features, int(np.prod(shape)), options.output_bias)
    if outputs.shape[1:] != shape:
        outputs = layers.Reshape(shape)(outputs)
    return keras.Model(inputs, outputs, name="q_network")


def _dueling_outputs(
    options: LearningOptions, actions: int, factory: LayerFactory, features: KerasTensor
) -> KerasTensor:
    """Outputs `[B, A, K]`: `value + advantage - mean_a advantage`, for each atom.

    Each of the two streams has a last hidden layer of its own. The value head has one atom.

    Source: Wang et al. (2016), equation 9, arXiv:1511.06581.
    """
    units = options.hidden_sizes[-1]
    atoms = 1 if options.head == "value" else resolved(options.atoms)
    value = factory.output(factory.hidden(features, units), atoms, options.output_bias)
    advantage = factory.output(factory.hidden(features, units), actions * atoms, bias=0.0)
    value = layers.Reshape((1, atoms))(value)  # [B, 1, K]
    advantage = layers.Reshape((actions, atoms))(advantage)  # [B, A, K]
    mean = layers.GlobalAveragePooling1D()(advantage)  # [B, K]
    mean = layers.Reshape((1, atoms))(mean)  # [B, 1, K]
    # The value first: Keras takes a second `[B, 1, 1]` for a bias of `A` actions where B = A.
    return layers.Add()([value, layers.Subtract()([advantage, mean])])  # [B, A, K]


def _q_values(options: LearningOptions, outputs: KerasTensor) -> KerasTensor:
    """Q-values `[B, A]` from a distributional head's outputs `[B, A, K]`."""
    if options.head == "quantile":
        quantiles = layers.Permute((2, 1))(outputs)  # [B, K, A]
        return layers.GlobalAveragePooling1D()(quantiles)  # [B, A]
    probabilities = layers.Softmax()(outputs)  # [B, A, K]
    expectation = layers.Dense(1, use_bias=False, trainable=False, name="support")
    means = expectation(probabilities)  # [B, A, 1]
    support = np.linspace(options.v_min, options.v_max, resolved(options.atoms), dtype=np.float32)
    expectation.set_weights([support[:, None]])
    return layers.Reshape(means.shape[1:-1])(means)
