"""The layers of the Q-network in Keras: noisy, hidden and output layers, and the torsos."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor, layers

from distdqn.config.config import LearningOptions, resolved
from distdqn.networks.checks import check_torso, is_channel_first
from distdqn.networks.numpy_policy import quantile_midpoints
from distdqn.types import ObservationPart

COSINES = 64  # `n` of the implicit head: Dabney et al. (2018), section 4, arXiv:1806.06923
MASKED = 1e9  # how far the Q-value of an action that is not allowed lies below; float32 holds it exactly


class NoisyDense(layers.Layer):  # type: ignore[misc]
    """A dense layer whose weights are means plus learned amounts of factorised noise.

    `y = activation(x @ (kernel + kernel_sigma * e_in e_out^T) + bias + bias_sigma * e_out)`

    `resample` draws the noise `e_in`, `e_out`; it starts at zero, the mean network. Means start uniformly
    within `1 / sqrt(inputs)`, deviations at `sigma / sqrt(inputs)`.

    Source: Fortunato et al. (2018), equations 9 to 11 and section 3.2, arXiv:1706.10295.
    """

    def __init__(self, units: int, activation: str, sigma: float, seed: int) -> None:
        super().__init__()
        self.units, self.sigma, self.seed = units, sigma, seed
        self.activation = keras.activations.get(activation)

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Makes the variables for inputs `[B, input_shape[-1]]`."""
        inputs = input_shape[-1]
        bound = inputs**-0.5
        means = [keras.initializers.RandomUniform(-bound, bound, seed=self.seed + i) for i in (0, 1)]
        amount = keras.initializers.Constant(self.sigma * bound)
        matrix, vector = (inputs, self.units), (self.units,)
        self.kernel = self.add_weight(matrix, means[0], name="kernel")
        self.bias = self.add_weight(vector, means[1], name="bias")
        self.kernel_sigma = self.add_weight(matrix, amount, name="kernel_sigma")
        self.bias_sigma = self.add_weight(vector, amount, name="bias_sigma")
        self.noise_in = self.add_weight((inputs,), "zeros", trainable=False, name="noise_in")
        self.noise_out = self.add_weight(vector, "zeros", trainable=False, name="noise_out")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Outputs `[B, ..., units]` of `inputs` `[B, ..., F]` with the current noise."""
        noise = self.noise_in[:, None] * self.noise_out[None, :]  # [F, units]
        bias = self.bias + self.bias_sigma * self.noise_out
        kernel = self.kernel + self.kernel_sigma * noise
        return self.activation(tf.tensordot(inputs, kernel, 1) + bias)

    def resample(self, seed: tf.Tensor) -> None:
        """Draws `e_in` `[F]` and `e_out` `[units]` by `seed`, two numbers: `sign(e) * sqrt(|e|)`, `e` normal.

        Source: Fortunato et al. (2018), section 3, option (b), arXiv:1706.10295.
        """
        for position, noise in enumerate((self.noise_in, self.noise_out)):
            normal = tf.random.stateless_normal(noise.shape, seed + tf.constant([0, position]))
            noise.assign(tf.sign(normal) * tf.sqrt(tf.abs(normal)))


class QuantileEmbedding(layers.Layer):  # type: ignore[misc]
    """Features `[B, F]` times an embedding of each quantile fraction, `[B, K, F]`.

    The fractions are those of `at_fractions`, and outside of it the `atoms` midpoints `(k + 0.5) / atoms`.
    So a network acts deterministically, where the paper draws fractions for acting, too.

    Source: Dabney et al. (2018), "Implicit Quantile Networks", equation 4, arXiv:1806.06923.
    """

    def __init__(self, atoms: int, seed: int) -> None:
        super().__init__()
        self.atoms, self.seed = atoms, seed
        self.fractions: tf.Tensor | None = None

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Makes the variables for inputs `[B, input_shape[-1]]`."""
        features = input_shape[-1]
        glorot = keras.initializers.GlorotUniform(seed=self.seed)
        self.kernel = self.add_weight((COSINES, features), glorot, name="kernel")
        self.bias = self.add_weight((features,), "zeros", name="bias")

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """The products `[B, K, F]` of `features` `[B, F]`."""
        fractions = self.fractions
        if fractions is None:
            fractions = tf.constant(quantile_midpoints(self.atoms)[None])  # [1, K]
        return features[:, None, :] * cosine_embedding(fractions, self.kernel, self.bias)

    def compute_output_spec(self, features: KerasTensor) -> KerasTensor:
        """Shape and dtype of what `call` returns, for any number of fractions."""
        return KerasTensor((features.shape[0], None, features.shape[1]), "float32")

    def get_config(self) -> dict[str, Any]:
        """What the NumPy policy needs to know."""
        return {**super().get_config(), "atoms": self.atoms}


def cosine_embedding(fractions: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """`relu(sum_i cos(pi * i * tau) * kernel_i + bias)`, `[B, K, F]`.

    Args:
        fractions: `[B, K]`, each `tau` in [0, 1].
        kernel: `[n, F]`, for `i` from 0 to `n - 1`.
        bias: `[F]`.

    Source: Dabney et al. (2018), equation 4, arXiv:1806.06923.
    """
    angles = np.float32(np.pi) * np.arange(kernel.shape[0], dtype=np.float32)  # [n]
    cosines = tf.cos(angles * fractions[:, :, None])  # [B, K, n]
    # As one product of matrices: the gradient of a product for each item takes `B` times the memory.
    return tf.nn.relu(tf.tensordot(cosines, kernel, 1) + bias)


def fixed_embedding(shape: tuple[int, int]) -> layers.Layer:
    """A standard layer whose weights of this shape, `(K, F)`, multiply features `[B, F]` to `[B, K, F]`."""
    return layers.EinsumDense("bf,kf->bkf", output_shape=shape)


@contextmanager
def at_fractions(network: keras.Model, fractions: tf.Tensor | None) -> Iterator[None]:
    """Lets an implicit `network` compute quantiles at `fractions` `[B, K]` inside; None means midpoints."""
    embeddings = [layer for layer in network.layers if isinstance(layer, QuantileEmbedding)]
    for layer in embeddings:
        layer.fractions = fractions
    try:
        yield
    finally:
        for layer in embeddings:
            layer.fractions = None


class Unpack(layers.Layer):  # type: ignore[misc]
    """One part of packed observations `[B, N]`: `[B, *shape]`, uint8 of an image, else float32."""

    def __init__(self, part: ObservationPart) -> None:
        super().__init__()
        self.part = part

    def call(self, packed: tf.Tensor) -> tf.Tensor:
        """The part of `packed` `[B, N]`."""
        return read_part(self.part, packed)

    def compute_output_spec(self, packed: KerasTensor) -> KerasTensor:
        """Shape and dtype of what `call` returns."""
        is_image = self.part.kind == "image"
        return KerasTensor((packed.shape[0], *self.part.shape), "uint8" if is_image else "float32")

    def get_config(self) -> dict[str, Any]:
        """What the NumPy policy needs to know."""
        return {**super().get_config(), "part": asdict(self.part)}


def read_part(part: ObservationPart, packed: tf.Tensor) -> tf.Tensor:
    """`part.read` of packed observations `[B, N]` in TensorFlow, `[B, *part.shape]`."""
    values = packed[:, part.begin : part.end]
    if packed.dtype == tf.uint8 and part.kind != "image":
        values = tf.bitcast(tf.reshape(values, (-1, (part.end - part.begin) // 4, 4)), tf.float32)
    return tf.reshape(values, (-1, *part.shape))


def masked_q_values(q_values: KerasTensor, mask: KerasTensor) -> KerasTensor:
    """Q-values `[B, A]`, lowered by a billion where `mask` `[B, A]` is 0, and else the same to the bit."""
    return layers.Add()([q_values, layers.Rescaling(MASKED, -MASKED)(mask)])


class LayerFactory:
    """Makes and applies the layers that resolved options name, each with weights from its own seed.

    If `plain`, it makes dense layers in place of noisy ones, and no spectral normalization.
    """

    def __init__(self, options: LearningOptions, seed: int, plain: bool) -> None:
        self._options, self._plain = options, plain
        self._seeds = np.random.default_rng(seed)

    def hidden(self, features: KerasTensor, units: int) -> KerasTensor:
        """A hidden layer `[B, units]` with ReLU and, as an option, layer normalization before it.

        Source: Gallici et al. (2024), arXiv:2407.04811.
        """
        if not self._options.layer_norm:
            return self._dense(units, "relu")(features)
        normalized = layers.LayerNormalization()(self._dense(units, "linear")(features))
        return layers.Activation("relu")(normalized)

    def output(self, features: KerasTensor, units: int, bias: float) -> KerasTensor:
        """An output layer `[B, units]` whose bias starts at `bias`."""
        layer = self._dense(units, "linear")
        outputs = layer(features)
        if (scale := self._options.output_init_scale) is not None:
            uniform = keras.initializers.RandomUniform(-scale, scale, seed=int(self._seeds.integers(2**31)))
            layer.kernel.assign(uniform(layer.kernel.shape))
        if bias != 0.0:
            layer.bias.assign(np.full(units, bias, np.float32))
        return outputs

    def quantile_embedding(self, features: KerasTensor) -> KerasTensor:
        """Features `[B, F]` for each of `K` quantile fractions, `[B, K, F]`."""
        atoms = resolved(self._options.atoms)
        if self._plain:
            return fixed_embedding((atoms, features.shape[-1]))(features)
        return QuantileEmbedding(atoms, int(self._seeds.integers(2**31)))(features)

    def convolution(
        self,
        features: KerasTensor,
        filters: int,
        size: int,
        stride: int = 1,
        padding: str = "same",
        activation: str | None = None,
    ) -> KerasTensor:
        """A convolution from `[B, H, W, C]` to `[B, H', W', filters]`.

        Spectral normalization divides the kernel by its largest singular value before each update. Keras
        scales the stored kernel, where the papers differentiate through the division.

        Source: Gogianu et al. (2021), arXiv:2105.05246; Clark et al. (2024), arXiv:2411.03820.
        """
        layer = layers.Conv2D(
            filters, size, stride, padding, activation=activation, kernel_initializer=self._glorot()
        )
        if self._plain or not self._options.spectral_norm:
            return layer(features)
        wrapper = layers.SpectralNormalization(layer)
        result = wrapper(features)
        # Keras draws this start of the power iteration from the global state.
        wrapper.vector_u.assign(self._seeds.standard_normal((1, filters), np.float32))
        return result

    def _dense(self, units: int, activation: str) -> layers.Layer:
        if self._options.noisy and not self._plain:
            return NoisyDense(units, activation, self._options.noisy_sigma, int(self._seeds.integers(2**30)))
        return layers.Dense(units, activation, kernel_initializer=self._glorot())

    def _glorot(self) -> keras.initializers.Initializer:
        return keras.initializers.GlorotUniform(seed=int(self._seeds.integers(2**31)))


def torso_features(
    torso: str, shape: tuple[int, ...], images: KerasTensor, factory: LayerFactory
) -> KerasTensor:
    """Features `[B, F]` of images `[B, *shape]` float32; `ConfigError` if they do not fit the torso.

    - `dense`: the numbers themselves.
    - `small`: one convolution (Young and Tian 2019, section 3.1, arXiv:1903.03176) with 64 filters: with
      the paper's 16, dense layers are nearly as good on MinAtar's Breakout.
    - `nature`: three convolutions (Mnih et al. 2015, "Model architecture").
    - `impala`: fifteen, in residual blocks (Espeholt et al. 2018, figure 3, arXiv:1802.01561).
    - `impala-wide`: the same with twice the filters, and max pooling at the end (Clark et al. 2024,
      arXiv:2411.03820). Of 84 x 84 pixels it leaves 6 x 6, by the windows of the paper's adaptive pooling.
    """
    check_torso(torso, shape)
    if torso == "dense":
        return images if len(shape) == 1 else layers.Flatten()(images)  # [B, F]
    features = images
    if len(shape) == 2:
        features = layers.Reshape((*shape, 1))(images)
    elif is_channel_first(shape):  # on a CPU, TensorFlow convolves channels that are last, and no others
        features = layers.Permute((2, 3, 1))(images)
    match torso:  # features are [B, H, W, C]
        case "small":
            features = factory.convolution(features, 64, 3, padding="valid", activation="relu")
        case "nature":
            for filters, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
                features = factory.convolution(features, filters, size, stride, "valid", "relu")
        case "impala" | "impala-wide":
            width = 2 if torso == "impala-wide" else 1
            for filters in (16, 32, 32):
                features = _impala_section(features, filters * width, factory)
            features = layers.Activation("relu")(features)
            if torso == "impala-wide":
                features = layers.MaxPooling2D(3, 2, "same")(features)
    return layers.Flatten()(features)  # [B, F]


def _impala_section(features: KerasTensor, filters: int, factory: LayerFactory) -> KerasTensor:
    """A convolution, max pooling with stride 2, and two residual blocks, `[B, H/2, W/2, filters]`."""
    features = factory.convolution(features, filters, 3)
    features = layers.MaxPooling2D(3, 2, "same")(features)
    for _ in range(2):
        change = factory.convolution(layers.Activation("relu")(features), filters, 3)
        change = factory.convolution(layers.Activation("relu")(change), filters, 3)
        features = layers.Add()([features, change])
    return features
