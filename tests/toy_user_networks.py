"""Networks as users write them: `toy_user_networks:name`, some of them wrong."""

import keras
import numpy as np
from keras import layers


def sequence(space, actions):
    """Translated to NumPy."""
    return keras.Sequential([keras.Input(space.shape), layers.Dense(6, "silu"), layers.Dense(actions)])


def tanh(space, actions):
    """The layers of the smallest network of this package, with another activation."""
    return keras.Sequential([keras.Input(space.shape), layers.Dense(5, "tanh"), layers.Dense(actions)])


def open_sequence(_space, actions):
    """Learns its input's shape from the first observations."""
    return keras.Sequential([layers.Flatten(), layers.Dense(6, "relu"), layers.Dense(actions)])


def image(space, actions):
    """A bit of everything that NumPy can evaluate."""
    inputs = keras.Input(space.shape, dtype=space.dtype.name)
    scaled = layers.Rescaling(1.0 / float(space.high.max()), offset=-0.5)(inputs)
    left = layers.Conv2D(4, 3, padding="same", use_bias=False)(scaled)
    left = layers.ReLU()(layers.BatchNormalization()(left))
    right = layers.AveragePooling2D(3, 1, "same")(layers.Conv2D(4, 1, activation="elu")(scaled))
    both = layers.Concatenate()([layers.Multiply()([left, right]), left, right])
    pooled = [layers.GlobalAveragePooling2D()(both), layers.GlobalMaxPooling2D()(both)]
    features = layers.Dropout(0.2)(layers.Concatenate()(pooled))
    return keras.Model(inputs, layers.Dense(actions)(layers.LeakyReLU()(features)))


def quantiles(space, actions):
    """Three numbers for each action."""
    inputs = keras.Input(space.shape)
    outputs = layers.Reshape((actions, 3))(layers.Dense(3 * actions)(inputs))
    return keras.Model(inputs, outputs)


def regularized(space, actions):
    """One layer whose kernel is drawn to zero."""
    dense = layers.Dense(actions, kernel_regularizer=keras.regularizers.L2(0.5))
    return keras.Sequential([keras.Input(space.shape), dense])


def normalized(space, actions):
    """One layer whose inputs are normalized by statistics of the batches."""
    normalize = layers.BatchNormalization(momentum=0.5, center=False, scale=False)
    return keras.Sequential([keras.Input(space.shape), normalize, layers.Dense(actions)])


def by_name(space, actions):
    """A user's network that takes parts by name."""
    inputs = {name: keras.Input(box.shape, dtype=box.dtype.name, name=name) for name, box in space.items()}
    at = layers.Dense(4, "relu")(inputs["at"])
    image = layers.Flatten()(layers.Rescaling(1.0 / 255.0)(inputs["image"]))
    both = layers.Concatenate()([image, at, inputs["speed"]])
    return keras.Model(inputs, layers.Dense(actions)(both))


def with_operations(space, actions):
    """Divides by a plain number, which makes an operation and no layer."""
    inputs = keras.Input(space.shape)
    return keras.Model(inputs, layers.Dense(actions)(inputs / 3.0))


def with_shared_layer(space, actions):
    """Uses one layer twice."""
    inputs = keras.Input(space.shape)
    dense = layers.Dense(space.shape[0], "tanh")
    return keras.Model(inputs, layers.Dense(actions)(dense(dense(inputs))))


class Subclassed(keras.Model):
    """Its computation is Python code."""

    def __init__(self, actions):
        super().__init__()
        self.hidden, self.last = layers.Dense(5, "selu"), layers.Dense(actions)

    def call(self, inputs):
        return self.last(self.hidden(inputs))


def subclassed(_space, actions):
    return Subclassed(actions)


_MODEL = None


def cached(space, actions):
    """The same model each time."""
    global _MODEL
    _MODEL = _MODEL or sequence(space, actions)
    return _MODEL


def too_many_outputs(space, actions):
    return sequence(space, actions + 1)


def wrong_input(_space, actions):
    return keras.Sequential([keras.Input((7,)), layers.Dense(actions)])


def two_inputs(space, actions):
    inputs = [keras.Input(space.shape), keras.Input(space.shape)]
    return keras.Model(inputs, layers.Dense(actions)(layers.Add()(inputs)))


def wrong_call(_space, actions):
    return keras.Sequential([layers.Conv2D(1, 3), layers.Dense(actions)])


def raising(_space, actions):
    raise ValueError(f"no network for\n{actions} actions")


def no_model(_space, actions):
    return layers.Dense(actions)


NUMBER = 3


def unseeded(space, actions):
    """Starts from the clock and the like."""
    model = sequence(space, actions)
    model.set_weights([np.random.default_rng().normal(size=array.shape) for array in model.get_weights()])
    return model


def rounded(observation_space, actions):
    """A convolution in bfloat16."""
    inputs = keras.Input(observation_space.shape)
    features = keras.layers.Conv2D(2, 3, dtype="mixed_bfloat16")(inputs)
    outputs = keras.layers.Dense(actions, dtype="float32")(keras.layers.Flatten()(features))
    return keras.Model(inputs, outputs)
