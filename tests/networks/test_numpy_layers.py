"""Layers over images, activations and merges in NumPy, against Keras and against slow twins."""

import itertools

import keras
import numpy as np
import pytest
from keras import Input, Model, layers
from toy_networks import make_options, make_spec
from toy_policies import assert_policy_equals_keras, layer, make_weights, randomize

from distdqn.networks.numpy_policy import NumpyPolicy
from distdqn.networks.q_network import make_networks

HEADS = {
    "value": {},
    "quantile": {"atoms": 3},
    "implicit": {"atoms": 3},
    "categorical": {"atoms": 5, "v_min": -2.0, "v_max": 4.0},
}


@pytest.mark.parametrize("dueling", [False, True], ids=["single", "dueling"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("layout", ["first", "last", "none"])
@pytest.mark.parametrize(
    ("torso", "side"), [("dense", 5), ("small", 5), ("nature", 36), ("impala", 5), ("impala-wide", 9)]
)
def test_numpy_policy_equals_keras_on_images_of_every_layout(torso, side, layout, head, dueling):
    shape = {"first": (2, side, side + 1), "last": (side, side + 1, 2), "none": (side, side + 1)}[layout]
    is_bytes = layout != "last"
    options = make_options(torso=torso, head=head, dueling=dueling, layer_norm=dueling, **HEADS[head])
    spec = make_spec(shape, 3, "uint8", 255.0) if is_bytes else make_spec(shape, 3)
    generator = np.random.default_rng(0)
    outputs, q_network = make_networks(options, spec, 0)
    for variable in outputs.trainable_variables:
        reach = (3 / np.prod(variable.shape[:-1], dtype=int)) ** 0.5
        variable.assign(generator.uniform(-reach, reach, variable.shape))
    observation = generator.integers(256, size=(3, *shape)).astype(np.uint8)

    assert_policy_equals_keras(q_network, observation if is_bytes else observation / np.float32(255))


def padded_edges(pixels, window, stride):
    """Pixels that TensorFlow's padding `same` adds before and after."""
    missing = max((-(-pixels // stride) - 1) * stride + window - pixels, 0)
    return missing // 2, missing - missing // 2


def slow_windows(image, size, strides, padding):
    """Every window of an image `[H, W, C]` by the place of its result, pixel by pixel.

    Yields the place and the window's pixels `(row, column, channels)`, rows and columns
    within the window; pixels beyond the edge are left out.
    """
    height, width, _ = image.shape
    top = left = 0
    rows = [(height - size[0]) // strides[0] + 1, (width - size[1]) // strides[1] + 1]
    if padding == "same":
        top, left = padded_edges(height, size[0], strides[0])[0], padded_edges(width, size[1], strides[1])[0]
        rows = [-(-height // strides[0]), -(-width // strides[1])]
    for row, column in itertools.product(range(rows[0]), range(rows[1])):
        pixels = []
        for i, j in itertools.product(range(size[0]), range(size[1])):
            y, x = row * strides[0] + i - top, column * strides[1] + j - left
            if 0 <= y < height and 0 <= x < width:
                pixels.append((i, j, image[y, x]))
        yield (row, column), pixels


def slow_images(images, size, strides, padding, function):
    """`function` of each window's pixels, as `[B, H', W', ...]`."""
    results = []
    for image in images:
        found = {place: function(pixels) for place, pixels in slow_windows(image, size, strides, padding)}
        rows, columns = (max(places) + 1 for places in zip(*found, strict=True))
        results.append([[found[row, column] for column in range(columns)] for row in range(rows)])
    return np.array(results)


# Windows smaller than, as large as and larger than their stride; odd pixels at the end.
GEOMETRY = [
    ((5, 6), (3, 3), (1, 1)),
    ((5, 6), (2, 3), (2, 1)),
    ((7, 4), (3, 3), (2, 2)),
    ((6, 5), (2, 2), (2, 2)),
    ((5, 7), (1, 2), (3, 3)),
    ((4, 4), (4, 4), (1, 2)),
]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("shape", "size", "strides"), GEOMETRY, ids=str)
def test_convolution_agrees_with_the_slow_twin_and_with_keras(shape, size, strides, padding):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(2, *shape, 3)).astype(np.float32)
    inputs = keras.Input((*shape, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(4, size, strides, padding, activation="relu")(inputs))
    randomize(model, generator)
    kernel, bias = model.get_weights()
    settings = {"strides": list(strides), "padding": padding, "activation": "relu"}
    weights = make_weights(
        layer("x", "input"), layer("c", "conv2d", "x", arrays=[0, 1], **settings), arrays=(kernel, bias)
    )

    found = NumpyPolicy(weights).q_values(images)

    def value(pixels):
        return np.maximum(sum(pixel @ kernel[i, j] for i, j, pixel in pixels) + bias, 0.0)

    np.testing.assert_allclose(found, slow_images(images, size, strides, padding, value), atol=1e-5)
    assert_policy_equals_keras(model, images)


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("shape", "size", "strides"), GEOMETRY, ids=str)
def test_pooling_agrees_with_the_slow_twin_and_with_keras(shape, size, strides, padding, kind):
    images = np.random.default_rng(0).normal(-3, 1, size=(2, *shape, 3)).astype(np.float32)  # mostly below 0
    of_kind = keras.layers.MaxPooling2D if kind == "max" else keras.layers.AveragePooling2D
    inputs = keras.Input((*shape, 3))
    settings = {"pool_size": list(size), "strides": list(strides), "padding": padding}
    weights = make_weights(layer("x", "input"), layer("p", f"{kind}_pooling2d", "x", **settings))

    found = NumpyPolicy(weights).q_values(images)

    def value(pixels):
        return (np.max if kind == "max" else np.mean)([pixel for _, _, pixel in pixels], axis=0)

    np.testing.assert_allclose(found, slow_images(images, size, strides, padding, value), atol=1e-6)
    assert_policy_equals_keras(keras.Model(inputs, of_kind(size, strides, padding)(inputs)), images)


def test_convolution_multiplies_adds_and_cuts_off_by_hand():
    settings = {"strides": [1, 1], "padding": "valid", "activation": "relu"}
    kernel = np.array([[1, 10], [100, -1]]).reshape(2, 2, 1, 1)
    weights = make_weights(
        layer("x", "input"), layer("c", "conv2d", "x", arrays=[0, 1], **settings), arrays=(kernel, [5])
    )
    image = np.array([[1, 2, 3], [0, 1, 900]]).reshape(1, 2, 3, 1)

    found = NumpyPolicy(weights).q_values(image)

    # 1 * 1 + 10 * 2 + 100 * 0 - 1 * 1 + 5 and 1 * 2 + 10 * 3 + 100 * 1 - 1 * 900 + 5, below 0
    assert found.tolist() == [[[[1 + 20 + 0 - 1 + 5], [0]]]]


def made_layer(name):
    return {
        "relu": lambda: layers.ReLU(),
        "relu-slope": lambda: layers.ReLU(negative_slope=0.1),
        "leaky-relu": lambda: layers.LeakyReLU(negative_slope=0.4),
        "elu": lambda: layers.ELU(),
        "softmax": lambda: layers.Softmax(),
        "rescaling": lambda: layers.Rescaling(0.3, offset=-1.5),
        "dropout": lambda: layers.Dropout(0.5),
        "noise": lambda: layers.GaussianNoise(0.9),
        "reshape": lambda: layers.Reshape((-1, 2, 3)),
        "dense-on-images": lambda: layers.Dense(5, "tanh"),
        "no-bias": lambda: layers.Conv2D(5, 2, use_bias=False),
        "mean": lambda: layers.GlobalAveragePooling2D(),
        "largest": lambda: layers.GlobalMaxPooling2D(),
        "batches": lambda: layers.BatchNormalization(epsilon=0.1),
        "batches-plain": lambda: layers.BatchNormalization(center=False, scale=False),
        "batches-scale": lambda: layers.BatchNormalization(center=False),
        "batches-center": lambda: layers.BatchNormalization(scale=False),
    }[name]()


@pytest.mark.parametrize(
    "name",
    [
        *("relu", "relu-slope", "leaky-relu", "elu", "softmax", "rescaling", "dropout", "noise", "reshape"),
        *("dense-on-images", "no-bias", "mean", "largest"),
        *("batches", "batches-plain", "batches-scale", "batches-center"),
    ],
)
def test_numpy_layer_equals_its_keras_layer(name):
    generator = np.random.default_rng(0)
    inputs = Input((4, 4, 3))
    model = Model(inputs, made_layer(name)(inputs))
    model.set_weights([generator.uniform(0.2, 3, array.shape) for array in model.get_weights()])

    assert_policy_equals_keras(model, generator.normal(0, 2, (3, 4, 4, 3)).astype(np.float32))


@pytest.mark.parametrize(
    "name", ["linear", "relu", "tanh", "sigmoid", "silu", "elu", "gelu", "leaky_relu", "softmax"]
)
@pytest.mark.parametrize("spread", [1.0, 30.0], ids=["near", "far"])
def test_activation_equals_that_of_keras(name, spread):
    inputs = Input((40,))
    observation = np.linspace(-3 * spread, 3 * spread, 200, dtype=np.float32).reshape(5, 40)

    assert_policy_equals_keras(Model(inputs, layers.Activation(name)(inputs)), observation)


@pytest.mark.parametrize(
    "name", ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "second-axis"]
)
def test_merge_equals_that_of_keras(name):
    generator = np.random.default_rng(0)
    inputs = Input((4, 3))
    parts = [layers.Dense(3)(inputs) for _ in range(2 if name == "Subtract" else 3)]
    merge = layers.Concatenate(axis=1) if name == "second-axis" else getattr(layers, name)()
    model = Model(inputs, merge(parts))
    randomize(model, generator)

    assert_policy_equals_keras(model, generator.normal(size=(5, 4, 3)))
