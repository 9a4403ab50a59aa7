"""The noisy dense layer in Keras: exploration that is learned, where it is needed."""

import functools
from typing import Any

Tensor = Any  # TensorFlow ships no types


def signed_root(values: Tensor) -> Tensor:
    """`sign(v) * sqrt(|v|)` of each of `[C]`.

    Source: Fortunato et al. (2018), section 3, option (b), arXiv:1706.10295.
    """
    import tensorflow as tf

    return tf.sign(values) * tf.sqrt(tf.abs(values))


@functools.cache
def noisy_dense_layer() -> type[Any]:
    """The Keras layer class `NoisyDense`, made when it is first asked for.

    A dense layer whose weights are means plus learned amounts of factorised noise:

    `y = activation(x @ (kernel + kernel_sigma * e_in e_out^T) + bias + bias_sigma * e_out)`

    The noise `e_in`, `e_out` are variables that `resample` draws anew: signed roots of
    normal numbers. They start at zero, which is the mean network. Means start uniformly
    within `1 / sqrt(inputs)`, deviations at `sigma / sqrt(inputs)`.

    Source: Fortunato et al. (2018), equations 9 to 11 and section 3.2, arXiv:1706.10295.
    """
    import keras
    import tensorflow as tf

    class NoisyDense(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self, units: int, activation: str, sigma: float, seed: int, **options: Any) -> None:
            super().__init__(**options)
            self.units, self.sigma, self.seed = units, sigma, seed
            self.activation = keras.activations.get(activation)

        def build(self, input_shape: tuple[int, ...]) -> None:
            inputs = input_shape[-1]
            reach = inputs**-0.5
            means = [keras.initializers.RandomUniform(-reach, reach, seed=self.seed + i) for i in (0, 1)]
            amount = keras.initializers.Constant(self.sigma * reach)
            matrix, vector = (inputs, self.units), (self.units,)
            self.kernel = self.add_weight(shape=matrix, initializer=means[0], name="kernel")
            self.bias = self.add_weight(shape=vector, initializer=means[1], name="bias")
            self.kernel_sigma = self.add_weight(shape=matrix, initializer=amount, name="kernel_sigma")
            self.bias_sigma = self.add_weight(shape=vector, initializer=amount, name="bias_sigma")
            still: dict[str, Any] = {"initializer": "zeros", "trainable": False}
            self.noise_in = self.add_weight(shape=(inputs,), name="noise_in", **still)
            self.noise_out = self.add_weight(shape=vector, name="noise_out", **still)

        def call(self, inputs: Tensor) -> Tensor:
            noise = self.noise_in[:, None] * self.noise_out[None, :]  # [inputs, units]
            bias = self.bias + self.bias_sigma * self.noise_out
            return self.activation(inputs @ (self.kernel + self.kernel_sigma * noise) + bias)

        def resample(self, seed: Tensor) -> None:
            for position, noise in enumerate((self.noise_in, self.noise_out)):
                drawn = tf.random.stateless_normal(noise.shape, seed + tf.constant([0, position]))
                noise.assign(signed_root(drawn))

    return NoisyDense
