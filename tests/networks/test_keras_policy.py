import json

import keras
import numpy as np
import pytest
from keras import Input, Model, layers
from toy_networks import make_options, make_q_network, make_spec

from distdqn.networks.keras_policy import layers_from_model
from distdqn.networks.q_network import make_networks


def test_layers_name_their_inputs_and_their_arrays():
    model = make_q_network((2, 2), 2, (8,), True, 0)
    layers = layers_from_model(model)
    names = [entry["name"] for entry in layers]

    assert [entry["inputs"] for entry in layers] == [[], *([name] for name in names[:-1])]
    assert [entry["arrays"] for entry in layers] == [[], [], [0, 1], [2, 3], [], [4, 5]]
    assert len(model.get_weights()) == 6


@pytest.mark.parametrize("torso", ["dense", "small", "impala"])
def test_layers_travel_as_json(torso):
    options = make_options(torso=torso, dueling=True, layer_norm=True)
    layers = layers_from_model(make_networks(options, make_spec((2, 5, 5), 3), 0)[0])

    assert json.loads(json.dumps(layers)) == layers


def test_spectral_normalization_is_translated_to_the_convolution_within():
    options = make_options(torso="small", spectral_norm=True)
    model = make_networks(options, make_spec((5, 5, 2), 3), 0)[0]

    convolution = layers_from_model(model)[1]

    assert convolution["kind"] == "conv2d"
    shapes = [model.get_weights()[i].shape for i in convolution["arrays"]]
    assert shapes == [(3, 3, 2, 64), (64,)]  # and not the vector that only training needs


class Dense(layers.Layer):
    """A user's layer by the name of a known one."""

    def call(self, inputs):
        return 2 * inputs


IMAGE, STEPS = (6, 6, 2), (4, 3)
UNKNOWN = {
    "conv1d": (STEPS, lambda: layers.Conv1D(2, 1)),
    "namesake": (STEPS, Dense),
    "other-axis": (STEPS, lambda: layers.LayerNormalization(axis=1)),
    "batches-of-other-axis": (STEPS, lambda: layers.BatchNormalization(axis=1)),
    "softmax-axis": (STEPS, lambda: layers.Softmax(axis=1)),
    "relu6": (STEPS, lambda: layers.ReLU(6.0)),
    "elu-alpha": (STEPS, lambda: layers.ELU(0.5)),
    "prelu": (STEPS, layers.PReLU),
    "half-precision": (STEPS, lambda: layers.Dense(2, dtype="mixed_float16")),
    "keeps-axis": (IMAGE, lambda: layers.GlobalAveragePooling2D(keepdims=True)),
    "dilation": (IMAGE, lambda: layers.Conv2D(2, 2, dilation_rate=2)),
    "groups": (IMAGE, lambda: layers.Conv2D(2, 2, groups=2)),
    "channels-first": (IMAGE, lambda: layers.MaxPooling2D(2, data_format="channels_first")),
    "channels-first-mean": (STEPS, lambda: layers.GlobalAveragePooling1D(data_format="channels_first")),
    "channels-first-flat": (IMAGE, lambda: layers.Flatten(data_format="channels_first")),
    "scale-by-channel": (IMAGE, lambda: layers.Rescaling([1.0, 2.0])),
    "network": (STEPS, lambda: keras.Sequential([layers.Dense(2)])),
}


@pytest.mark.parametrize(("shape", "make_layer"), UNKNOWN.values(), ids=UNKNOWN)
def test_layer_unknown_to_the_numpy_policy_raises_and_is_named(shape, make_layer):
    inputs, layer = Input(shape), make_layer()
    outputs = layer(inputs)

    with pytest.raises(
        ValueError, match=rf"`{layer.name}` \({type(layer).__name__}\) is unknown to the NumPy"
    ):
        layers_from_model(Model(inputs, outputs))


@pytest.mark.parametrize("kind", ["Dense", "Activation", "function"])
def test_activation_unknown_to_the_numpy_policy_raises_and_is_named(kind):
    def own_function(x):
        return x

    inputs = Input((4,))
    made = {
        "Dense": lambda: layers.Dense(2, "mish"),
        "Activation": lambda: layers.Activation("mish"),
        "function": lambda: layers.Dense(2, own_function),
    }[kind]()

    with pytest.raises(ValueError, match="own_function" if kind == "function" else "mish"):
        layers_from_model(Model(inputs, made(inputs)))


def test_operation_that_is_no_layer_raises_and_is_named():
    inputs = Input((4,))

    with pytest.raises(ValueError, match=r"`true_divide\w*` \(TrueDivide\) is unknown"):
        layers_from_model(Model(inputs, layers.Dense(2)(inputs / 3.0)))


def test_layer_that_is_used_twice_raises_and_is_named():
    inputs, dense = Input((4,)), layers.Dense(4, name="both")

    with pytest.raises(ValueError, match="`both` is used 2 times"):
        layers_from_model(Model(inputs, dense(dense(inputs))))


def test_layer_that_acts_as_in_training_raises_and_is_named():
    inputs, drop = Input((4,)), layers.Dropout(0.5, name="drop")
    at_rest = Model(inputs, drop(inputs, training=False))
    training = Model(inputs, drop(inputs, training=True))

    assert [layer["kind"] for layer in layers_from_model(at_rest)] == ["input", "identity"]
    with pytest.raises(ValueError, match="`drop` is called with `True`"):
        layers_from_model(training)


def test_layers_that_another_model_shares_are_translated():
    inputs = Input((4,))
    hidden = layers.Dense(3)(inputs)
    model, larger = Model(inputs, hidden), Model(inputs, layers.Dense(2)(hidden))

    assert [len(layers_from_model(network)) for network in (model, larger)] == [2, 3]
    assert np.shape(larger.get_weights()[2]) == (3, 2)
