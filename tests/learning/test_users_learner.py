"""The learner with the user's own network, and the policies that actors make of it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from learning.learners import build_learner
from toy_networks import make_options, make_spec

from distdqn.errors import ConfigError
from distdqn.learning.learner import Learner
from distdqn.networks import keras_policy
from distdqn.networks.keras_policy import KerasPolicy
from distdqn.networks.numpy_policy import NumpyPolicy, Policy, load_policy, make_policy, policy_bytes
from distdqn.types import EnvironmentSpec, PolicyWeights, SampledBatches, Transitions

UPDATES, BATCH_SIZE = 2, 4
VECTOR = make_spec((4,), 3)
IMAGE = make_spec((6, 6, 2), 3, "uint8", 255.0)
OBSERVATION = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)


def make_learner(function: str, spec: EnvironmentSpec = VECTOR, **changes: Any) -> Learner:
    """Four inputs, three actions, a network of `toy_user_networks`."""
    options: dict[str, Any] = {"network": f"toy_user_networks:{function}"}
    options |= {"batch_size": BATCH_SIZE, "updates_per_call": UPDATES}
    options |= {"learning_rate": 0.01, "target_update_period": 2}
    return Learner(make_options(**(options | changes)), spec)


def make_batches(shape: tuple[int, ...] = (4,), dtype: Any = np.float32) -> SampledBatches:
    """Random transitions `[U, B]`."""
    generator = np.random.default_rng(0)
    lead = (UPDATES, BATCH_SIZE)
    pair = generator.integers(256, size=(2, *lead, *shape)).astype(dtype)
    reward = generator.normal(size=lead).astype(np.float32)
    action = generator.integers(3, size=lead).astype(np.int32)
    transitions = Transitions(pair[0], action, reward, np.full(lead, 0.9, np.float32), pair[1])
    return SampledBatches(transitions, np.arange(8).reshape(lead), np.ones(lead, np.float32))


def learn(learner: Learner, batches: SampledBatches) -> PolicyWeights:
    """The weights after one call."""
    _, weights, _ = learner.learn(batches, publish=True)
    assert weights is not None
    return weights


@pytest.fixture(scope="module")
def subclassed() -> Learner:
    """A learner whose network only Keras can evaluate."""
    return make_learner("subclassed")


def assert_policy_equals_network(policy: Policy, learner: Learner, observation: Any) -> None:
    expected = learner._q_network(observation).numpy()
    found = policy.q_values(observation)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", ["sequence", "open_sequence"])
def test_sequence_of_known_layers_is_evaluated_with_numpy(function: str) -> None:
    learner = make_learner(function)

    assert learner.compile() is None
    weights = learn(learner, make_batches())

    policy = make_policy(weights)
    assert isinstance(policy, NumpyPolicy)
    assert_policy_equals_network(policy, learner, OBSERVATION)


def test_image_network_of_the_user_learns_from_bytes_and_is_evaluated_with_numpy() -> None:
    learner = make_learner("image", IMAGE)
    first = learner.publish()
    batches = make_batches((6, 6, 2), np.uint8)

    weights = learn(learner, batches)

    policy = make_policy(weights)
    assert isinstance(policy, NumpyPolicy)
    assert_policy_equals_network(policy, learner, batches.transitions.observation[0])
    for new, old in zip(weights.arrays, first.arrays, strict=True):
        assert np.any(new != old)  # the statistics of the batches too


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("subclassed", r"Layer `\w+` \(Subclassed\) is unknown to the NumPy policy"),
        ("with_operations", r"Layer `\w+` \(TrueDivide\) is unknown to the NumPy policy"),
        ("with_shared_layer", r"Layer `\w+` is used 2 times, unknown to the NumPy policy"),
    ],
)
def test_network_that_numpy_cannot_evaluate_is_evaluated_with_keras_and_the_notice_says_why(
    function: str, reason: str
) -> None:
    learner = make_learner(function)

    notice = learner.compile() or ""
    weights = learn(learner, make_batches())

    assert re.fullmatch(reason + ": actors evaluate this network with Keras, which is slower.", notice)
    policy = make_policy(weights)
    assert isinstance(policy, KerasPolicy)
    assert_policy_equals_network(policy, learner, OBSERVATION)


def test_distributional_network_of_the_user_publishes_its_q_values() -> None:
    learner = make_learner("quantiles", head="quantile", atoms=3)

    weights = learn(learner, make_batches())

    assert_policy_equals_network(make_policy(weights), learner, OBSERVATION)


def test_both_networks_start_with_the_same_weights_even_if_the_function_heeds_no_seed() -> None:
    learner = make_learner("unseeded")

    online, target = learner._loop.online.get_weights(), learner._loop.target.get_weights()

    assert all(np.array_equal(a, b) for a, b in zip(online, target, strict=True))
    assert online[0].any()


def test_function_that_returns_the_same_model_again_is_refused() -> None:
    with pytest.raises(ConfigError, match="`toy_user_networks:cached` must make new layers each time"):
        make_learner("cached")


def test_saved_policy_of_a_keras_network_acts_like_the_published_one(
    subclassed: Learner, tmp_path: Path
) -> None:
    weights = subclassed.publish()

    (tmp_path / "policy.npz").write_bytes(policy_bytes(weights))
    loaded = load_policy(tmp_path / "policy.npz")

    assert loaded.layers == json.loads(json.dumps(weights.layers))
    policy = make_policy(loaded)
    assert isinstance(policy, KerasPolicy)
    assert_policy_equals_network(policy, subclassed, OBSERVATION)


def test_policies_of_one_network_keep_their_own_weights_in_turns(subclassed: Learner) -> None:
    weights = subclassed.publish()
    doubled = PolicyWeights(weights.layers, [2 * array for array in weights.arrays], (0, 9), 0)
    policies = [make_policy(weights), make_policy(doubled)]

    values = [policies[i].q_values(OBSERVATION) for i in (0, 1, 0, 1)]

    np.testing.assert_array_equal(values[0], values[2])
    np.testing.assert_array_equal(values[1], values[3])
    assert not np.allclose(values[0], values[1])


def test_network_is_built_once_for_all_versions_of_its_weights(subclassed: Learner) -> None:
    keras_policy._network.cache_clear()

    for batch in (1, 5, 7):
        make_policy(subclassed.publish()).q_values(np.zeros((batch, 4)))

    assert keras_policy._network.cache_info().misses == 1
    network = KerasPolicy(subclassed.publish())._network
    assert network._function.experimental_get_tracing_count() == 1


def test_keras_policy_takes_any_dtype_and_draws_no_noise(subclassed: Learner) -> None:
    policy = make_policy(subclassed.publish())
    observation = np.array([[3, 2, 0, 1]])
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state

    policy.resample(generator)

    assert generator.bit_generator.state == before
    assert_policy_equals_network(policy, subclassed, observation.astype(np.float32))
    np.testing.assert_array_equal(
        policy.q_values(observation), policy.q_values(observation.astype(np.float32))
    )


def test_keras_policy_refuses_observations_of_another_shape(subclassed: Learner) -> None:
    with pytest.raises(ValueError, match=r"must have the shape \(4,\), not \(5,\)"):
        make_policy(subclassed.publish()).q_values(np.zeros((2, 5)))


def test_policy_of_a_network_that_is_gone_says_so(subclassed: Learner) -> None:
    (entry,) = subclassed.publish().layers
    options = entry["options"] | {"network": "no_such_module:f"}

    with pytest.raises(ConfigError, match="`network`: cannot import `no_such_module`"):
        make_policy(PolicyWeights([entry | {"options": options}], [], (0, 1), 0))


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
def test_exported_network_of_the_user_has_the_values_of_its_policy(tmp_path: Path) -> None:
    learner = make_learner("image", IMAGE)
    images = make_batches((6, 6, 2), np.uint8)
    weights = learn(learner, images)
    path = tmp_path / "policy.keras"

    path.write_bytes(learner.export(weights))

    observation = images.transitions.observation[0]
    opened = np.asarray(keras.saving.load_model(path)(observation))
    np.testing.assert_allclose(opened, make_policy(weights).q_values(observation), rtol=1e-4, atol=1e-5)


def test_fault_46_policy_whose_network_has_changed_since_is_refused() -> None:
    weights = build_learner(network="toy_user_networks:with_shared_layer").publish()
    wider = [*weights.arrays[:-1], np.zeros(9, np.float32)]

    with pytest.raises(ConfigError, match=r"makes another network .* \(restore its code\)"):
        KerasPolicy(replace(weights, arrays=wider)).q_values(np.zeros((1, 2), np.float32))
