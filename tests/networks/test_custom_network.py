import re
import subprocess
import sys

import numpy as np
import pytest
from toy_networks import make_options, make_spec

from distdqn.errors import ConfigError
from distdqn.networks.checks import check_importable
from distdqn.networks.custom_network import make_observation_space
from distdqn.networks.q_network import make_networks, plain_q_network
from distdqn.types import EnvironmentSpec

SPEC = make_spec((4,), 3)


def options_of(function, **changes):
    return make_options(network=f"toy_user_networks:{function}", **changes)


def mistake_of(function, **changes):
    with pytest.raises(ConfigError) as caught:
        make_networks(options_of(function, **changes), SPEC, 0)
    (line,) = caught.value.mistakes
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", ["dense", "a:b:c", "a:", ":b", "a/b:c", "a:b.c", "a..b:c", "", "1a:b"])
def test_name_of_another_form_is_refused(name):
    with pytest.raises(ConfigError, match="is not of the form `module:function`"):
        check_importable(name)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("no_such_module:f", "no_such_module"),
        ("distdqn.no_such.deep:f", "distdqn.no_such"),
        ("json.decoder.deeper:f", "json.decoder.deeper"),
        ("__main__:f", "__main__"),
    ],
)
def test_module_that_cannot_be_found_is_refused_and_named(name, missing):
    with pytest.raises(ConfigError, match=f"cannot find the module `{missing}` of `{name}`"):
        check_importable(name)


def test_check_finds_modules_and_their_parents_without_importing_them(tmp_path, monkeypatch):
    (tmp_path / "loud_folder").mkdir()
    for name in ("loud.py", "loud_folder/__init__.py", "loud_folder/inner.py"):
        (tmp_path / name).write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    check_importable("loud:function")
    check_importable("loud_folder.inner:function")

    assert not any(name.startswith("loud") for name in sys.modules)


def test_checking_the_name_loads_neither_keras_nor_gymnasium():
    program = (
        "import sys\nfrom distdqn.networks.checks import check_importable\n"
        "check_importable('keras.src.models:Model')\n"
        "assert not {'keras', 'tensorflow', 'gymnasium'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("uint8", 0.0, 255.0), ("float32", -np.inf, np.inf), ("float32", -1.5, 2.0)]
)
def test_space_has_the_shape_dtype_and_bounds_of_the_observations(dtype, low, high):
    spec = EnvironmentSpec("toy", (2, 3), 4, None, dtype, low, high, None)

    space = make_observation_space(spec)

    assert (space.shape, space.dtype) == ((2, 3), np.dtype(dtype))
    assert (space.low.min(), space.high.max()) == (low, high)


@pytest.mark.parametrize("function", ["sequence", "open_sequence", "subclassed", "with_operations"])
def test_network_of_the_user_maps_observations_to_one_q_value_for_each_action(function):
    network, q_network = make_networks(options_of(function), SPEC, 0)

    assert network is q_network
    assert network(np.zeros((5, 4), np.float32)).shape == (5, 3)


def test_distributional_network_of_the_user_gets_q_values_on_top():
    network, q_network = make_networks(options_of("quantiles", head="quantile", atoms=3), SPEC, 0)
    observation = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)

    quantiles = network(observation).numpy()

    assert quantiles.shape == (5, 3, 3)
    np.testing.assert_allclose(q_network(observation).numpy(), quantiles.mean(axis=2), atol=1e-6)


@pytest.mark.parametrize("function", ["sequence", "open_sequence", "subclassed"])
def test_same_seed_gives_the_same_initial_weights_and_another_seed_others(function):
    networks = (make_networks(options_of(function), SPEC, seed)[0] for seed in (1, 1, 2))
    first, same, other = (network.get_weights() for network in networks)

    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True) if a.any())


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("too_many_outputs", r"one output of the shape \(3,\), not \[\(4,\)\]"),
        ("wrong_input", r"one input of the shape \(4,\), not \[\(7,\)\]"),
        ("two_inputs", r"one input of the shape \(4,\), not \[\(4,\), \(4,\)\]"),
        ("wrong_call", r"does not accept observations of the shape \(4,\): ValueError"),
        ("raising", "fails: ValueError: no network for 3 actions"),
        ("no_model", "must return a Keras model, not a `Dense`"),
        ("no_such_function", "`toy_user_networks` has no function `no_such_function`"),
        ("NUMBER", "has no function `NUMBER`"),
    ],
)
def test_network_that_does_not_suit_raises_in_one_line(function, said):
    assert re.search(said, mistake_of(function))


def test_head_with_several_atoms_expects_an_axis_of_that_length():
    assert "one output of the shape (3, 5), not [(3, 3)]" in mistake_of("quantiles", head="quantile", atoms=5)


def test_module_that_fails_to_import_raises_with_its_error(tmp_path, monkeypatch):
    (tmp_path / "broken_network.py").write_text("import no_such_thing")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ConfigError, match=r"cannot import `broken_network` .* named 'no_such_thing'"):
        make_networks(make_options(network="broken_network:f"), SPEC, 0)


def test_plain_network_of_the_user_is_the_network_with_the_weights_given():
    options = options_of("subclassed")
    network = make_networks(options, SPEC, 1)[0]
    observation = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)

    plain = plain_q_network(options, SPEC, network.get_weights())

    np.testing.assert_allclose(plain(observation).numpy(), network(observation).numpy(), rtol=1e-6)
