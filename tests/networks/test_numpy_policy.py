import json
from pathlib import Path

import numpy as np
import pytest
from keras import Input, Model, layers
from toy_networks import make_q_network
from toy_policies import assert_policy_equals_keras, layer, make_weights, randomize

from distdqn.errors import ConfigError
from distdqn.networks.keras_policy import layers_from_model
from distdqn.networks.numpy_policy import NumpyPolicy, load_policy, policy_bytes
from distdqn.types import PolicyWeights

INPUT = layer("x", "input")
KERNEL = [[1, 0, 2], [0, -1, 1]]
BIAS = [0.5, 0, -3]
WEIGHTS = make_weights(
    INPUT, layer("q", "dense", "x", arrays=[0, 1], activation="linear"), arrays=(KERNEL, BIAS)
)


@pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "layer-norm"])
@pytest.mark.parametrize(
    ("hidden_sizes", "shape", "actions", "batch"),
    [
        ((2,), (4,), 2, 3),
        ((5,), (4,), 2, 64),
        ((24, 24), (4,), 2, 1),
        ((64, 64), (8,), 1, 7),
        ((128,), (6,), 1, 1),
        ((3, 50, 7), (1,), 5, 16),
        ((64, 32), (2, 3), 3, 5),
        ((32,), (4, 4, 2), 4, 1),
        ((16, 16), (), 2, 9),
    ],
    ids=str,
)
def test_numpy_policy_equals_keras_on_random_networks(hidden_sizes, shape, actions, batch, layer_norm):
    for seed in range(3):
        generator = np.random.default_rng(seed)
        model = make_q_network(shape, actions, hidden_sizes, layer_norm, seed)
        assert_policy_equals_keras(model, generator.normal(0, 2, (batch, *shape)).astype(np.float32))
        randomize(model, generator)
        assert_policy_equals_keras(model, generator.normal(0, 2, (batch, *shape)).astype(np.float32))


@pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "layer-norm"])
@pytest.mark.parametrize(
    ("hidden_sizes", "shape", "actions"), [((8,), (4,), 3), ((16, 8), (2, 3), 1)], ids=str
)
def test_numpy_policy_equals_keras_on_dueling_networks(hidden_sizes, shape, actions, layer_norm):
    generator = np.random.default_rng(0)
    model = make_q_network(shape, actions, hidden_sizes, layer_norm, 0, dueling=True)
    randomize(model, generator)

    for batch in (1, 5):
        assert_policy_equals_keras(model, generator.normal(0, 2, (batch, *shape)).astype(np.float32))


def make_variant(kind):
    """A network with the settings that `make_q_network` leaves at their defaults."""
    inputs = Input((5,))
    hidden = layers.Dense(7, "tanh")(inputs)
    match kind:
        case "no-bias":
            hidden = layers.Dense(6, "relu", use_bias=False)(hidden)
        case "tanh-layer":
            hidden = layers.Activation("tanh")(layers.Dense(6)(hidden))
        case "no-center":
            hidden = layers.LayerNormalization(center=False)(hidden)
        case "no-scale":
            hidden = layers.LayerNormalization(scale=False)(hidden)
        case "neither":
            hidden = layers.LayerNormalization(center=False, scale=False)(hidden)
        case "epsilon":
            hidden = layers.LayerNormalization(epsilon=0.5)(hidden)
    return Model(inputs, layers.Dense(3)(hidden))


@pytest.mark.parametrize("kind", ["no-bias", "tanh-layer", "no-center", "no-scale", "neither", "epsilon"])
def test_numpy_policy_equals_keras_when_layers_have_other_settings(kind):
    generator = np.random.default_rng(0)
    model = make_variant(kind)
    randomize(model, generator)

    assert_policy_equals_keras(model, generator.normal(size=(4, 5)))


@pytest.mark.parametrize("dtype", [np.float64, np.uint8, np.int64])
def test_numpy_policy_takes_observations_of_any_real_dtype(dtype):
    observation = np.array([[3, 2], [0, 1]], dtype)

    q_values = NumpyPolicy(WEIGHTS).q_values(observation)

    assert q_values.dtype == np.float32
    assert q_values.tolist() == [[3 + 0.5, -2, 6 + 2 - 3], [0.5, -1, 1 - 3]]


def test_dense_layer_multiplies_adds_and_cuts_off_by_hand():
    relu = layer("q", "dense", "x", arrays=[0, 1], activation="relu")

    q_values = NumpyPolicy(make_weights(INPUT, relu, arrays=(KERNEL, BIAS))).q_values(np.array([[3, 2]]))

    assert q_values.tolist() == [[3 + 0.5, 0, 6 + 2 - 3]]


def test_layer_normalization_centres_and_scales_by_hand():
    settings = {"epsilon": 0.0, "center": True, "scale": True}
    norm = layer("n", "layer_normalization", "x", arrays=[0, 1], **settings)
    weights = make_weights(INPUT, norm, arrays=([1, 2, 3], [10, 20, 30]))

    q_values = NumpyPolicy(weights).q_values(np.array([[0, 3, 6]]))

    deviation = ((9 + 0 + 9) / 3) ** 0.5
    np.testing.assert_allclose(q_values, [[-3 / deviation + 10, 20, 3 * 3 / deviation + 30]], rtol=1e-6)


def test_layer_takes_the_inputs_it_names_and_not_the_layer_before_it():
    q_layers = [layer(name, "dense", "x", arrays=[i], activation="linear") for i, name in enumerate("ab")]

    q_values = NumpyPolicy(make_weights(INPUT, *q_layers, arrays=([[2]], [[3]]))).q_values(np.array([[5]]))

    assert q_values.tolist() == [[3 * 5]]  # and not 3 * 2 * 5


@pytest.mark.parametrize("batch", [0, 1, 5, 6])
def test_observations_evaluated_in_parts_have_the_values_of_all_at_once(batch, monkeypatch):
    observation = np.random.default_rng(0).normal(size=(batch, 2)).astype(np.float32)
    expected = NumpyPolicy(WEIGHTS).q_values(observation)
    evaluate, parts = NumpyPolicy._evaluate, []
    monkeypatch.setattr(
        NumpyPolicy, "_evaluate", lambda *given: parts.append(len(given[1])) or evaluate(*given)
    )
    monkeypatch.setattr("distdqn.networks.numpy_policy._MAX_NUMBERS", 5)  # two observations and a half

    found = NumpyPolicy(WEIGHTS).q_values(observation)

    assert parts == {0: [0], 1: [1], 5: [2, 2, 1], 6: [2, 2, 2]}[batch]
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (batch, 3)


def test_policy_leaves_the_observation_as_it_was():
    observation = np.array([[3, 2], [-1, -1]], np.float32)

    NumpyPolicy(make_weights(INPUT, layer("r", "activation", "x", activation="relu"))).q_values(observation)

    assert observation.tolist() == [[3, 2], [-1, -1]]


def test_policy_takes_weights_that_are_read_only():
    weights = make_weights(*WEIGHTS.layers, arrays=WEIGHTS.arrays)
    for array in weights.arrays:
        array.setflags(write=False)

    assert NumpyPolicy(weights).q_values(np.zeros((1, 2))).tolist() == [[0.5, 0, -3]]


def test_unknown_layer_kind_raises_and_is_named():
    with pytest.raises(ValueError, match="convolution"):
        NumpyPolicy(make_weights(INPUT, layer("c", "convolution", "x")))


@pytest.mark.parametrize("kind", ["dense", "activation"])
def test_unknown_activation_raises_and_is_named(kind):
    arrays = (KERNEL, BIAS) if kind == "dense" else ()
    wrong = layer("q", kind, "x", arrays=range(len(arrays)), activation="mish")

    with pytest.raises(ValueError, match="mish"):
        NumpyPolicy(make_weights(INPUT, wrong, arrays=arrays))


def test_saved_policy_comes_back_as_it_was(tmp_path):
    path = tmp_path / "policy.npz"
    path.write_bytes(policy_bytes(WEIGHTS))

    loaded = load_policy(path)

    assert loaded.layers == WEIGHTS.layers
    assert loaded.weights_version == (1, 2)
    assert isinstance(loaded.weights_version, tuple)
    assert loaded.learner_steps == 30
    assert len(loaded.arrays) == 2
    for array, expected in zip(loaded.arrays, WEIGHTS.arrays, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected)


def test_saved_policy_keeps_the_order_of_more_than_ten_arrays(tmp_path):
    weights = make_weights(INPUT, arrays=[[i] for i in range(12)])
    (tmp_path / "policy.npz").write_bytes(policy_bytes(weights))

    assert [array.tolist() for array in load_policy(tmp_path / "policy.npz").arrays] == [
        [i] for i in range(12)
    ]


@pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "layer-norm"])
def test_loaded_policy_acts_like_the_saved_one(tmp_path, layer_norm):
    model = make_q_network((2, 3), 4, (8, 8), layer_norm, 0)
    weights = PolicyWeights(layers_from_model(model), model.get_weights(), (0, 0), 0)
    observation = np.random.default_rng(0).normal(size=(5, 2, 3))

    (tmp_path / "policy.npz").write_bytes(policy_bytes(weights))
    loaded = NumpyPolicy(load_policy(tmp_path / "policy.npz"))

    np.testing.assert_array_equal(loaded.q_values(observation), NumpyPolicy(weights).q_values(observation))


class Trap:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return Path.mkdir, (Path(self._path),)


@pytest.mark.parametrize("member", ["array_0", "about"])
def test_loading_a_policy_never_unpickles(tmp_path, member):
    about = {"layers": [], "weights_version": [0, 0], "learner_steps": 0}
    members = {"about": np.array(json.dumps(about)), "array_0": np.zeros(1)}
    members[member] = np.array([Trap(tmp_path / "sprung")], dtype=object)
    np.savez(tmp_path / "policy.npz", **members)

    with pytest.raises(ConfigError, match="allow_pickle"):
        load_policy(tmp_path / "policy.npz")
    assert not (tmp_path / "sprung").exists()
    with np.load(tmp_path / "policy.npz", allow_pickle=True) as file:
        file[member]
    assert (tmp_path / "sprung").exists()  # the trap works


def test_fault_46_policy_of_another_format_is_refused_with_both_numbers(tmp_path):
    about = {"format": 2, "layers": [], "weights_version": [0, 0], "learner_steps": 0}
    np.savez(tmp_path / "policy.npz", about=np.array(json.dumps(about)))

    with pytest.raises(ConfigError, match="has format 2, this release reads 1"):
        load_policy(tmp_path / "policy.npz")


def test_saving_a_policy_never_pickles(tmp_path):
    weights = PolicyWeights([INPUT], [np.array([object()], dtype=object)], (0, 0), 0)

    with pytest.raises(ValueError, match=r"allow_pickle|[Oo]bject arrays"):
        (tmp_path / "policy.npz").write_bytes(policy_bytes(weights))


def test_weights_print_without_their_numbers():
    text = repr(make_weights(INPUT, arrays=[[123.5]]))

    assert "weights_version=(1, 2)" in text
    assert "123.5" not in text
