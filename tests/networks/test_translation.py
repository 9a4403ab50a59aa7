"""Every translated kind of layer with every option: NumPy evaluates it as Keras does, or refuses it."""

import keras
import numpy as np
import pytest
from keras import Input, Model, layers

from distdqn.networks.keras_policy import _LAYERS, _function, layers_from_model
from distdqn.networks.numpy_policy import NumpyPolicy
from distdqn.types import PolicyWeights

FORMATS = ({}, {"data_format": "channels_first"})
KEPT = ({}, {"keepdims": True})
POOLS = [
    {"pool_size": 2, "strides": strides, "padding": padding, **data_format}
    for strides in (None, 1, 3)
    for padding in ("valid", "same")
    for data_format in FORMATS
]
ACTIVATIONS = (None, "relu", "relu6", "gelu", "softmax", "leaky_relu", "hard_sigmoid", "swish", "mish")
# By layer, the settings to try; those that act in training only are left out.
SETTINGS = {
    "Flatten": FORMATS,
    "Reshape": [{"target_shape": shape} for shape in ((-1,), (3, -1), (-1, 2, 1))],
    "Permute": [{"dims": dims} for dims in ((1, 2), (2, 1), (3, 1, 2), (1, 2, 3))],
    "Rescaling": [
        {"scale": scale, "offset": offset}
        for scale in (2, 0.5, [0.5] * 3, np.float32(0.5))
        for offset in (0, -1.5, [0.1, 0.2, 0.3], np.ones(3))
    ],
    "Dense": [{"units": 3, "activation": name} for name in ACTIVATIONS]
    + [{"units": 2, "use_bias": False, "activation": "relu"}],
    "Activation": [{"activation": name} for name in ACTIVATIONS[1:]],
    "Softmax": [{"axis": axis} for axis in (-1, 1, 2, [-1], (1, 2))],
    "ELU": [{"alpha": alpha} for alpha in (1.0, 0.0, 0.5)],
    "ReLU": [
        {"max_value": most, "negative_slope": slope, "threshold": threshold}
        for most in (None, 0, 0.5)
        for slope in (0, 0.3)
        for threshold in (0, 0.2)
    ],
    "LeakyReLU": [{"negative_slope": slope} for slope in (0.0, 0.3, 1.0)],
    "LayerNormalization": [
        {"axis": axis, "center": center, "scale": scale}
        for axis in (-1, 1, [1, 2])
        for center in (True, False)
        for scale in (True, False)
    ]
    + [{"epsilon": 0.5}],
    "BatchNormalization": [
        {"axis": axis, "center": center, "scale": scale}
        for axis in (-1, 1)
        for center in (True, False)
        for scale in (True, False)
    ],
    "Conv2D": [
        {"filters": 2, "kernel_size": size, **other}
        for size in (1, (2, 3))
        for other in (
            *({"strides": 2}, {"strides": (1, 2), "padding": "same"}, {"padding": "same", "use_bias": False}),
            *({"dilation_rate": 2, "padding": "same"}, {"dilation_rate": (2, 1)}, {"activation": "softmax"}),
        )
    ]
    + [{"filters": 3, "kernel_size": 2, "groups": 3}],
    "MaxPooling2D": POOLS,
    "AveragePooling2D": POOLS,
    "GlobalAveragePooling1D": [{**kept, **order} for kept in KEPT for order in FORMATS],
    "GlobalAveragePooling2D": [{**kept, **order} for kept in KEPT for order in FORMATS],
    "GlobalMaxPooling2D": [{**kept, **order} for kept in KEPT for order in FORMATS],
    "Dropout": [{"rate": 0.5}],
    "SpatialDropout1D": [{"rate": 0.5}],
    "SpatialDropout2D": [{"rate": 0.5, **order} for order in FORMATS],
    "GaussianNoise": [{"stddev": 0.5}],
}
MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
SHAPES = ((3,), (2, 3), (4, 3), (4, 5, 3))
# One alone, and as many as each axis is long.
BATCHES = (1, 2, 3, 4, 5)


def assert_is_evaluated_or_refused(model: Model, dtype: str) -> bool:
    """Whether NumPy evaluates the model, which has to be as Keras does for every size of batch."""
    try:
        translated = layers_from_model(model)
    except ValueError:
        return False
    generator = np.random.default_rng(0)
    # Variances among the weights are positive.
    model.set_weights([generator.uniform(0.1, 1.0, weight.shape) for weight in model.get_weights()])
    policy = NumpyPolicy(PolicyWeights(translated, model.get_weights(), (0, 0), 0))
    function = _function(model)
    for batch in BATCHES:
        observation = generator.normal(0.0, 100.0, (batch, *model.input_shape[1:]))
        observation = (np.abs(observation) if dtype == "uint8" else observation / 100).astype(dtype)
        expected = function(observation).numpy()
        found = policy.q_values(observation)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, 0.0, 1e-5 * max(1.0, np.abs(expected).max()))
    return True


def outcomes(name: str, settings: dict[str, object], dtype: str) -> set[bool]:
    """Whether NumPy evaluates the layer, for inputs of each rank that Keras takes."""
    found = set()
    for shape in SHAPES:
        inputs = Input(shape, dtype=dtype)
        try:
            model = Model(inputs, getattr(layers, name)(**settings)(inputs))
            if dtype == "uint8":
                _function(model)(np.ones((2, *shape), dtype))
        except Exception:  # Keras itself takes no such inputs
            continue
        found.add(assert_is_evaluated_or_refused(model, dtype))
    return found


def test_every_translated_layer_is_among_the_cases() -> None:
    tested_elsewhere = {"InputLayer", "Unpack", "NoisyDense", "QuantileEmbedding", "Concatenate"}

    assert set(SETTINGS) | set(MERGES) | tested_elsewhere == set(_LAYERS)


@pytest.mark.parametrize("name", SETTINGS)
def test_layer_with_every_option_is_evaluated_as_by_keras_or_refused(name: str) -> None:
    found = [outcomes(name, settings, "float32") for settings in SETTINGS[name]]

    assert all(found)
    assert any(True in each for each in found)


@pytest.mark.parametrize("name", SETTINGS)
def test_layer_of_bytes_is_evaluated_as_by_keras_or_refused(name: str) -> None:
    outcomes(name, SETTINGS[name][0], "uint8")


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize(
    ("first", "second"),
    [((4, 3), (3,)), ((3,), (4, 3)), ((3,), (1,)), ((4, 5, 3), (3,)), ((4, 5, 3), (5, 3)), ((4, 3), (1, 3))],
    ids=str,
)
def test_merge_of_unequal_shapes_is_that_of_keras_for_every_batch(
    name: str, first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    inputs = Input((60,))
    parts = [layers.Reshape(shape)(layers.Dense(int(np.prod(shape)))(inputs)) for shape in (first, second)]

    assert assert_is_evaluated_or_refused(Model(inputs, getattr(layers, name)()(parts)), "float32")


@pytest.mark.parametrize("name", [*MERGES, "Concatenate"])
def test_merge_of_bytes_is_that_of_keras_or_refused(name: str) -> None:
    inputs = Input((3,), dtype="uint8")

    assert_is_evaluated_or_refused(Model(inputs, getattr(layers, name)()([inputs, inputs])), "uint8")


@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_concatenation_along_any_axis_is_that_of_keras(axis: int) -> None:
    inputs = Input((4, 3))
    outputs = layers.Concatenate(axis)([inputs, layers.Dense(3)(inputs)])

    assert assert_is_evaluated_or_refused(Model(inputs, outputs), "float32")


def test_function_of_the_user_by_the_name_of_an_activation_is_refused() -> None:
    def relu(x: keras.KerasTensor) -> keras.KerasTensor:
        return 2.0 * x

    inputs = Input((3,))

    assert not assert_is_evaluated_or_refused(Model(inputs, layers.Dense(2, relu)(inputs)), "float32")
