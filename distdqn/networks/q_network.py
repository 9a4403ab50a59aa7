"""The Keras Q-network.

Keras is imported where it is used: only the learner's process loads it.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distdqn.networks.custom_network import build_user_network, make_observation_space
from distdqn.networks.noisy import noisy_dense_layer
from distdqn.networks.torsos import torso_features
from distdqn.types import FloatArray

Tensor = Any  # Keras ships no types


@dataclass(frozen=True)
class NetworkPlan:
    """All that decides a Q-network's shape and its initial weights, but for their seed.

    Attributes:
        observation_shape: shape of one observation.
        actions: number of actions `A`.
        hidden_sizes: units of each hidden layer, each followed by ReLU.
        layer_norm: normalize each hidden layer before its ReLU (Gallici et al. 2024,
            arXiv:2407.04811); convolutions stay as they are.
        dueling: `output = value + advantage - mean_a advantage`, the last hidden layer once
            for each of the two (Wang et al. 2016, equation 9, arXiv:1511.06581); under a
            distributional head once for each of the `K` outputs.
        head: `value`, `quantile` or `categorical`.
        atoms: number of outputs `K` for each action, under a distributional head.
        v_min: smallest return of the categorical head.
        v_max: largest return of the categorical head.
        noisy_sigma: initial amount of noise of noisy dense layers; None means plain ones.
        observation_dtype: `float32`, or `uint8` for images.
        observation_low: smallest number of an observation.
        observation_high: largest; the network divides uint8 observations by it.
        torso: what looks at images before the hidden layers; see `torso_features`.
        spectral_norm: divide each convolution's kernel by its largest singular value
            before each update, so that none stretches its input (Gogianu et al. 2021,
            arXiv:2105.05246; Clark et al. 2024, arXiv:2411.03820). Keras's layer scales
            the stored kernel, where the papers differentiate through the division.
        output_init_scale: the last layer's kernel starts uniformly within plus and
            minus this; None means Glorot, as elsewhere.
        output_bias: where the last layer's bias starts; of a dueling network, the value's.
        network: the user's own network, `module:function`, in place of all of the above
            that decides layers or initial weights; None means ours.
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
    observation_dtype: str = "float32"
    observation_low: float = 0.0
    observation_high: float = 1.0
    torso: str = "dense"
    spectral_norm: bool = False
    output_init_scale: float | None = None
    output_bias: float = 0.0
    network: str | None = None

    @property
    def output_shape(self) -> tuple[int, ...]:
        """`(A,)`, or `(A, K)` under a distributional head."""
        return (self.actions,) if self.head == "value" else (self.actions, self.atoms)


def make_networks(plan: NetworkPlan, seed: int) -> tuple[Any, Any]:
    """The network twice: with the head's outputs, and with Q-values.

    The second shares the layers of the first and adds those that turn the outputs into
    Q-values. But for noisy layers both are made of standard Keras layers alone, so a saved
    copy opens without this package; for those, see `plain_q_network`.

    Args:
        plan: the shape.
        seed: of the initial weights (Glorot uniform kernels, zero biases).

    Returns:
        Keras models from observations `[B, *observation_shape]` to outputs `[B, A]` or
        `[B, A, K]`, and to Q-values `[B, A]`. Under the value head they are one.

    Raises:
        ConfigError: the torso does not suit the observations, or the user's network is not
            to be had or of the wrong shape.
    """
    import keras

    if plan.network is None:
        network = _own_network(plan, seed)
    else:
        space = make_observation_space(
            plan.observation_shape, plan.observation_dtype, plan.observation_low, plan.observation_high
        )
        network = build_user_network(plan.network, space, plan.output_shape, seed)
    if plan.head == "value":
        return network, network
    return network, keras.Model(network.inputs[0], _q_values(plan, network.outputs[0]), name="q_values")


def _own_network(plan: NetworkPlan, seed: int) -> Any:
    """Torso, hidden layers and head, from observations to outputs `[B, A]` or `[B, A, K]`."""
    import keras

    make = _LayerMaker(plan, seed)
    inputs = features = keras.Input(plan.observation_shape, dtype=plan.observation_dtype, name="observation")
    if plan.observation_dtype == "uint8":
        # With a scale of 1 too, for the conversion to float32.
        features = keras.layers.Rescaling(1.0 / plan.observation_high)(features)
    features = torso_features(plan.torso, plan.observation_shape, features, make.convolution)  # [B, F]
    for units in plan.hidden_sizes[:-1] if plan.dueling else plan.hidden_sizes:
        features = make.hidden(features, units)
    outputs = _dueling_outputs(plan, make, features) if plan.dueling else _outputs(plan, make, features)
    return keras.Model(inputs, outputs, name="q_network")


def _outputs(plan: NetworkPlan, make: "_LayerMaker", features: Tensor) -> Tensor:
    """Outputs `[B, A]` or `[B, A, K]` of one last layer."""
    import keras

    outputs = make.output(features, int(np.prod(plan.output_shape)), plan.output_bias)
    return outputs if plan.head == "value" else keras.layers.Reshape(plan.output_shape)(outputs)


def _dueling_outputs(plan: NetworkPlan, make: "_LayerMaker", features: Tensor) -> Tensor:
    """Outputs `[B, A]` or `[B, A, K]` of a stream for the value and one for the advantages."""
    import keras

    actions, atoms = plan.actions, plan.atoms if plan.head != "value" else 1
    value = make.output(make.hidden(features, plan.hidden_sizes[-1]), atoms, plan.output_bias)
    advantage = make.output(make.hidden(features, plan.hidden_sizes[-1]), actions * atoms, bias=0.0)
    value = keras.layers.Reshape((1, atoms))(value)  # [B, 1, K]
    advantage = keras.layers.Reshape((actions, atoms))(advantage)  # [B, A, K]
    mean = keras.layers.GlobalAveragePooling1D()(advantage)  # [B, K]
    mean = keras.layers.Reshape((1, atoms))(mean)  # [B, 1, K]
    # The value first: Keras takes a second `[B, 1, 1]` for a bias of `A` actions where B = A.
    outputs = keras.layers.Add()([value, keras.layers.Subtract()([advantage, mean])])  # [B, A, K]
    return keras.layers.Reshape((actions,))(outputs) if plan.head == "value" else outputs


class _LayerMaker:
    """Makes layers as the plan says and applies them, each with weights from its own seed."""

    def __init__(self, plan: NetworkPlan, seed: int) -> None:
        self._plan = plan
        self._seeds = np.random.default_rng(seed)

    def _glorot(self) -> Any:
        import keras

        return keras.initializers.GlorotUniform(seed=int(self._seeds.integers(2**31)))

    def _dense(self, units: int, activation: str) -> Any:
        import keras

        if self._plan.noisy_sigma is not None:
            seed = int(self._seeds.integers(2**30))
            return noisy_dense_layer()(units, activation, self._plan.noisy_sigma, seed)
        return keras.layers.Dense(units, activation, kernel_initializer=self._glorot())

    def hidden(self, features: Tensor, units: int) -> Tensor:
        """A hidden layer and its ReLU, `[B, units]`."""
        import keras

        if not self._plan.layer_norm:
            return self._dense(units, "relu")(features)
        normalized = keras.layers.LayerNormalization()(self._dense(units, "linear")(features))
        return keras.layers.Activation("relu")(normalized)

    def output(self, features: Tensor, units: int, bias: float) -> Tensor:
        """A last layer `[B, units]`."""
        import keras

        layer = self._dense(units, "linear")
        outputs = layer(features)
        if (reach := self._plan.output_init_scale) is not None:
            uniform = keras.initializers.RandomUniform(-reach, reach, seed=int(self._seeds.integers(2**31)))
            layer.kernel.assign(uniform(layer.kernel.shape))
        if bias != 0.0:
            layer.bias.assign(np.full(units, bias, np.float32))
        return outputs

    def convolution(
        self,
        features: Tensor,
        filters: int,
        size: int,
        stride: int = 1,
        padding: str = "same",
        activation: str | None = None,
    ) -> Tensor:
        """See `Convolution`."""
        import keras

        layer = keras.layers.Conv2D(
            filters, size, stride, padding, activation=activation, kernel_initializer=self._glorot()
        )
        if not self._plan.spectral_norm:
            return layer(features)
        wrapper = keras.layers.SpectralNormalization(layer)
        result = wrapper(features)
        # Keras draws this start of the search for the singular value from the global state.
        wrapper.vector_u.assign(self._seeds.standard_normal((1, filters), np.float32))
        return result


def plain_q_network(plan: NetworkPlan, arrays: list[FloatArray]) -> Any:
    """The network with Q-values as a Keras model of standard layers, noise left out.

    Layers that only training needs are left out too: dividing kernels by their singular
    value. The user's own network stays as it is.

    Args:
        plan: the shape of the network that `arrays` are of.
        arrays: its weights, as published.

    Returns:
        A Keras model from observations `[B, *observation_shape]` to Q-values `[B, A]`.
    """
    _, source = make_networks(plan, seed=0)
    source.set_weights(arrays)
    if plan.network is not None:
        return source
    _, plain = make_networks(replace(plan, noisy_sigma=None, spectral_norm=False), seed=0)
    for layer, plain_layer in zip(source.layers, plain.layers, strict=True):
        inner = getattr(layer, "layer", layer)  # of the wrapper that normalizes
        plain_layer.set_weights(inner.get_weights()[: len(plain_layer.weights)])  # means come first
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
