import json
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from toy_environments import global_random_state
from toy_networks import make_options, make_q_network, make_spec

from distdqn.networks.keras_policy import layers_from_model
from distdqn.networks.q_network import make_networks, plain_q_network

# Keras 3.15 saves TensorFlow variables with `np.array(variable)`, which NumPy 2 warns about.
keras_saves = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


def make(shape=(4,), actions=2, hidden_sizes=(8, 8), layer_norm=True, seed=0):
    return make_q_network(shape, actions, hidden_sizes, layer_norm, seed)


def weights_equal(first, second):
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    return [np.array_equal(a, b) for a, b in pairs if a.any()]  # biases all start at zero


def test_network_has_a_hidden_layer_for_each_size_and_one_q_value_for_each_action():
    shapes = [array.shape for array in make((4,), 3, (5, 6), False).get_weights()]

    assert shapes == [(4, 5), (5,), (5, 6), (6,), (6, 3), (3,)]


def test_dueling_q_values_are_the_value_plus_centred_advantages():
    model = make_q_network((2,), 3, (5,), False, 0, dueling=True)
    observation = np.array([[0.3, -1.2], [2.0, 0.1]], np.float32)
    kernel, bias = 0, 1
    layers = [layer for layer in model.layers if layer.weights]
    hidden = [layer.get_weights() for layer in layers if layer.units == 5]
    outputs = {layer.units: layer for layer in layers if layer.units != 5}

    def stream(units):
        source = outputs[units].input._keras_history.operation.get_weights()
        features = np.maximum(observation @ source[kernel] + source[bias], 0.0)
        return features @ outputs[units].get_weights()[kernel] + outputs[units].get_weights()[bias]

    assert len(hidden) == 2
    advantage = stream(3)
    expected = stream(1) + advantage - advantage.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(model(observation).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
@pytest.mark.parametrize("head", ["value", "quantile"])
def test_dueling_q_values_of_an_observation_do_not_depend_on_its_batch(head, batch):
    options = make_options(dueling=True, head=head, atoms=3)
    model = make_networks(options, make_spec((2,), 3), 0)[0]  # 3 actions, 3 atoms
    observation = np.random.default_rng(0).normal(size=(batch, 2)).astype(np.float32)

    singly = [model(observation[i : i + 1]).numpy()[0] for i in range(batch)]

    np.testing.assert_allclose(model(observation).numpy(), singly, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("actions", [1, 2])
def test_network_keeps_its_axes_with_one_observation(actions):
    assert make(actions=actions)(np.zeros((1, 4), np.float32)).shape == (1, actions)


@pytest.mark.parametrize("shape", [(), (2, 3), (4, 4, 2)], ids=str)
def test_network_flattens_observations_that_are_no_vectors(shape):
    model = make(shape)

    assert model.get_weights()[0].shape == (int(np.prod(shape)), 8)
    assert model(np.zeros((5, *shape), np.float32)).shape == (5, 2)


def kinds(model):
    return [entry["kind"] for entry in layers_from_model(model)]


def test_layer_norm_stands_between_each_hidden_layer_and_its_relu():
    hidden = ["dense", "layer_normalization", "activation"]

    assert kinds(make(layer_norm=True)) == ["input", *hidden, *hidden, "dense"]
    assert kinds(make(layer_norm=False)) == ["input", "dense", "dense", "dense"]


def test_last_layer_has_no_activation_so_that_q_values_may_be_negative():
    layers = layers_from_model(make(layer_norm=False))

    assert [entry["activation"] for entry in layers[1:]] == ["relu", "relu", "linear"]


@pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "layer-norm"])
def test_same_seed_gives_the_same_weights(layer_norm):
    same = weights_equal(make(layer_norm=layer_norm, seed=3), make(layer_norm=layer_norm, seed=3))

    assert len(same) >= 3
    assert all(same)


@pytest.mark.parametrize("seed", [0, 1, 2**30 - 1])
def test_another_seed_gives_other_weights_in_every_layer(seed):
    same = weights_equal(make(layer_norm=False, seed=seed), make(layer_norm=False, seed=seed + 1))

    assert len(same) == 3
    assert not any(same)


def test_layers_of_one_network_start_with_different_weights():
    first, _, second, *_ = make((8,), hidden_sizes=(8, 8), layer_norm=False).get_weights()

    assert first.shape == second.shape
    assert not np.isclose(first, second).any()


def test_initial_weights_ignore_and_leave_the_global_random_state():
    before = global_random_state()
    first = make()
    assert global_random_state() == before

    keras.random.uniform((3,))
    assert all(weights_equal(first, make()))


def test_initial_kernels_are_glorot_uniform_and_biases_zero():
    kernel, bias, *_ = make((100,), hidden_sizes=(200,), layer_norm=False).get_weights()

    limit = (6 / (100 + 200)) ** 0.5
    assert np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / 3**0.5, rel=0.02)  # of a uniform distribution
    assert not bias.any()


@keras_saves
@pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "layer-norm"])
@pytest.mark.parametrize("shape", [(4,), (2, 3)], ids=str)
def test_saved_network_is_made_of_standard_keras_layers_alone(tmp_path, shape, layer_norm):
    make(shape, layer_norm=layer_norm).save(tmp_path / "network.keras")

    with zipfile.ZipFile(tmp_path / "network.keras") as archive:
        config = json.loads(archive.read("config.json"))

    modules = []

    def visit(value):
        if isinstance(value, dict):
            if "class_name" in value and "module" in value:
                modules.append((value["module"] or "keras", value.get("registered_name")))
            value = list(value.values())
        if isinstance(value, list):
            for inner in value:
                visit(inner)

    visit(config)
    assert len(modules) > 5
    assert all(module.split(".")[0] == "keras" for module, _ in modules)
    assert all(registered in (None, "Functional") for _, registered in modules)


OPENER = """
import sys
import keras
import numpy as np

model = keras.saving.load_model(sys.argv[1])
print(np.asarray(model(np.ones((1, 2, 3), np.float32))).tolist())
assert not any(name.startswith("distdqn") for name in sys.modules)
"""


@keras_saves
@pytest.mark.slow
def test_saved_network_opens_with_plain_keras_and_without_this_package(tmp_path):
    model = make((2, 3))
    model.save(tmp_path / "network.keras")

    outcome = subprocess.run(
        [sys.executable, "-c", OPENER, str(tmp_path / "network.keras")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert outcome.returncode == 0, outcome.stderr
    np.testing.assert_allclose(
        json.loads(outcome.stdout), np.asarray(model(np.ones((1, 2, 3), np.float32))), rtol=1e-5
    )


def output_weights(**changes):
    """Kernels and biases of the last layers, a value stream first."""
    model = make_networks(make_options(hidden_sizes=(50,), **changes), make_spec((40,), 30), 1)[0]
    layers = [layer for layer in model.layers if layer.weights]
    return [layer.get_weights()[:2] for layer in layers if layer.units != 50]


@pytest.mark.parametrize("noisy", [False, True], ids=["plain", "noisy"])
@pytest.mark.parametrize("dueling", [False, True], ids=["single", "dueling"])
def test_output_kernels_start_uniformly_within_their_scale_when_it_is_given(dueling, noisy):
    scaled = output_weights(output_init_scale=0.25, dueling=dueling, noisy=noisy)

    assert len(scaled) == 1 + dueling
    for kernel, _ in scaled:
        assert 0.85 * 0.25 < np.abs(kernel).max() <= 0.25
        assert abs(kernel.mean()) < 0.05
    if dueling:
        assert not np.isin(scaled[0][0], scaled[1][0]).any()


def test_hidden_layers_start_as_they_do_without_a_scale_of_the_output():
    options = [make_options(hidden_sizes=(5, 6), output_init_scale=scale) for scale in (None, 0.1)]
    plain, scaled = (make_networks(each, make_spec((4,), 3), 1)[0] for each in options)

    same = [np.array_equal(a, b) for a, b in zip(plain.get_weights(), scaled.get_weights(), strict=True)]
    assert same == [True, True, True, True, False, True]


@pytest.mark.parametrize("head", ["value", "quantile"])
@pytest.mark.parametrize("dueling", [False, True], ids=["single", "dueling"])
def test_output_bias_is_the_q_value_where_the_features_say_nothing(dueling, head):
    options = make_options(dueling=dueling, head=head, atoms=2, output_bias=-7.5)

    q_values = make_networks(options, make_spec((4,), 3), 1)[1](np.zeros((2, 4), np.float32)).numpy()

    np.testing.assert_allclose(q_values, np.full((2, 3), -7.5), rtol=1e-6)


SPECTRAL = make_options(torso="small", spectral_norm=True), make_spec((4, 4, 2), 3)


def test_spectral_normalization_starts_from_the_seed_alone():
    first = make_networks(*SPECTRAL, 1)[0].get_weights()
    keras.random.uniform((3,))
    same = make_networks(*SPECTRAL, 1)[0].get_weights()
    other = make_networks(*SPECTRAL, 2)[0].get_weights()

    assert [array.shape for array in first if array.shape[:1] == (1,)] == [(1, 64)]
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True) if a.any())


def test_plain_network_leaves_spectral_normalization_out_and_keeps_its_kernels():
    network = make_networks(*SPECTRAL, 1)[0]
    images = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32)
    network(images, training=True)  # normalizes

    plain = plain_q_network(*SPECTRAL, network.get_weights())

    assert len(plain.get_weights()) == len(network.get_weights()) - 1
    np.testing.assert_allclose(plain(images).numpy(), network(images).numpy(), rtol=1e-5)


def test_images_that_are_always_black_have_finite_q_values():
    spec = make_spec((10, 10, 1), 2, dtype="uint8", high=0.0)
    network, _ = make_networks(make_options(torso="small"), spec, seed=0)
    assert np.isfinite(network(np.zeros((1, 10, 10, 1), np.uint8))).all()


_SETTINGS = """
import json, sys
from distdqn.errors import DistdqnError
from distdqn.networks.tensorflow_setup import import_tensorflow
if sys.argv[1] == "imported":
    import keras
    keras.backend.backend = lambda: "jax"
try:
    import_tensorflow(1)
except DistdqnError as error:
    sys.exit(str(error))
import keras
print(json.dumps([keras.backend.backend(), keras.config.floatx(), keras.config.image_data_format()]))
"""


@pytest.mark.parametrize("when", ["set", pytest.param("imported", marks=pytest.mark.slow)])
def test_fault_45_settings_of_keras_from_outside_do_not_matter(tmp_path, when):
    settings = {"backend": "jax", "floatx": "float16", "image_data_format": "channels_first", "epsilon": 1e-7}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    backend = {"KERAS_BACKEND": "jax"} if when == "set" else {"KERAS_BACKEND": "tensorflow"}
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), **backend}
    command = [sys.executable, "-c", _SETTINGS, when]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if when == "set":
        assert json.loads(ended.stdout) == ["tensorflow", "float32", "channels_last"]
    else:
        assert ended.returncode == 1
        assert "the backend `jax` already" in ended.stderr
