"""Implicit quantile networks: formulas against slow twins, fractions that are drawn, and what they learn."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from learning.loops import make_batches, make_update_loop
from toy_networks import make_options, make_spec

from distdqn.learning.heads import ImplicitHead, make_head
from distdqn.learning.losses import quantile_huber_loss
from distdqn.networks.layers import COSINES, at_fractions, cosine_embedding
from distdqn.networks.numpy_policy import midpoint_embedding, quantile_midpoints
from distdqn.networks.q_network import make_networks
from distdqn.types import Transitions

SPEC, ACTIONS, BATCH = make_spec((3,), 4), 4, 8
IMPLICIT: dict[str, Any] = {"head": "implicit", "atoms": 5, "tau_samples": 6, "target_tau_samples": 7}


def slow_embedding(tau: float, kernel: np.ndarray, bias: np.ndarray) -> list[float]:
    """Equation 4 for one fraction, feature by feature and cosine by cosine."""
    features = []
    for j in range(len(bias)):
        total = float(bias[j])
        for i in range(len(kernel)):
            total += math.cos(math.pi * i * tau) * float(kernel[i, j])
        features.append(max(0.0, total))
    return features


def slow_loss(quantiles: np.ndarray, target: np.ndarray, fractions: np.ndarray) -> float:
    """Equation 3 for one item, pair by pair."""
    total = 0.0
    for quantile, tau in zip(quantiles, fractions, strict=True):
        for sample in target:
            error = sample - quantile
            huber = 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5
            total += abs(tau - (1.0 if error < 0 else 0.0)) * huber / len(target)
    return total


def slow_quantiles(arrays: list[np.ndarray], observation: np.ndarray, tau: float) -> np.ndarray:
    """The quantile at `tau` of each action, of a network with hidden layers of 7 and 5 units."""
    first, first_bias, kernel, bias, second, second_bias, last, last_bias = arrays
    features = np.maximum(observation @ first + first_bias, 0.0) * slow_embedding(tau, kernel, bias)
    return np.maximum(features @ second + second_bias, 0.0) @ last + last_bias


def build(seed: int, **changes: Any) -> Any:
    """The network with random weights, biases too."""
    network = make_networks(make_options(hidden_sizes=(7, 5), **IMPLICIT | changes), SPEC, seed)[0]
    generator = np.random.default_rng(seed)
    network.set_weights([generator.normal(0.0, 0.5, array.shape) for array in network.get_weights()])
    return network


@pytest.mark.parametrize("seed", range(5))
def test_loss_at_drawn_fractions_agrees_with_pair_by_pair_loops(seed: int) -> None:
    generator = np.random.default_rng(seed)
    quantiles, target = generator.normal(0, 2, (4, 5)), generator.normal(0, 2, (4, 3))
    fractions = generator.random((4, 5))
    expected = [slow_loss(*item) for item in zip(quantiles, target, fractions, strict=True)]

    found = quantile_huber_loss(*(tf.constant(each, tf.float32) for each in (quantiles, target, fractions)))

    assert found.numpy() == pytest.approx(expected, rel=1e-5)


def test_loss_at_midpoints_is_that_of_fixed_quantiles() -> None:
    quantiles, target = (tf.random.stateless_normal((4, 5), [seed, 0]) for seed in (1, 2))
    fractions = tf.tile(quantile_midpoints(5)[None], [4, 1])

    found = quantile_huber_loss(quantiles, target, fractions).numpy()

    np.testing.assert_allclose(found, quantile_huber_loss(quantiles, target).numpy(), rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_cosine_embedding_agrees_with_loops_over_features_and_cosines(seed: int) -> None:
    generator = np.random.default_rng(seed)
    kernel = generator.normal(size=(COSINES, 3)).astype(np.float32)
    bias = generator.normal(size=3).astype(np.float32)
    fractions = generator.random((2, 4), np.float32)
    expected = [[slow_embedding(float(tau), kernel, bias) for tau in row] for row in fractions]

    found = cosine_embedding(tf.constant(fractions), tf.constant(kernel), tf.constant(bias)).numpy()

    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_embedding_of_the_midpoints_agrees_with_loops_in_numpy_too() -> None:
    generator = np.random.default_rng(1)
    kernel, bias = generator.normal(size=(COSINES, 3)).astype(np.float32), np.float32([0.5, -0.5, 0.0])

    found = midpoint_embedding(4, [kernel, bias])

    assert quantile_midpoints(4).tolist() == [0.125, 0.375, 0.625, 0.875]
    expected = [slow_embedding(tau, kernel, bias) for tau in (0.125, 0.375, 0.625, 0.875)]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_network_multiplies_the_embedding_into_what_the_last_hidden_layer_sees() -> None:
    network = build(1)
    observation = np.float32([[0.5, -1.0, 2.0], [1.0, 0.2, 0.3]])
    fractions = np.float32([[0.1, 0.9, 0.4], [0.0, 1.0, 0.5]])
    arrays = [array.astype(np.float64) for array in network.get_weights()]

    with at_fractions(network, tf.constant(fractions)):
        drawn = network(observation).numpy()
    fixed = network(observation).numpy()

    for b in range(2):
        for taus, found in ((fractions[b], drawn[b]), (quantile_midpoints(5), fixed[b])):
            expected = [slow_quantiles(arrays, observation[b], float(tau)) for tau in taus]
            np.testing.assert_allclose(found.T, expected, atol=1e-4)


@pytest.mark.parametrize("double", [True, False], ids=["double", "plain"])
def test_fractions_are_drawn_by_seed_alone_and_apart_for_each_use(double: bool) -> None:
    head = make_head(make_options(**IMPLICIT, double=double))
    first, same, other = (head.draw_fractions(1000, tf.constant(seed)) for seed in ([3, 1], [3, 1], [3, 2]))

    counts = {name: drawn.shape[1] for name, drawn in first.items()}
    assert counts == {"fractions": 6, "target_fractions": 7 + (0 if double else 5), "policy_fractions": 5}
    columns = [drawn[:, i].numpy() for drawn in (*first.values(), *other.values()) for i in range(5)]
    assert np.abs(np.corrcoef(columns) - np.eye(len(columns))).max() < 0.15
    for name, drawn in first.items():
        np.testing.assert_array_equal(drawn, same[name])
        assert drawn.numpy().mean() == pytest.approx(0.5, abs=0.02)
        assert 0.0 <= drawn.numpy().min() < 0.01 < 0.99 < drawn.numpy().max() <= 1.0


@pytest.fixture
def _eagerly() -> Iterator[None]:
    """Runs updates operation by operation: XLA draws other numbers from the same seeds."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("_eagerly")
@pytest.mark.parametrize("kind", ["double", "plain", "munchausen"])
def test_td_error_is_that_of_means_over_the_fractions_of_this_update(kind: str) -> None:
    settings: dict[str, Any] = {"double": kind == "double", "munchausen": kind == "munchausen"}
    online, target, batches = build(1), build(2), make_batches(1, BATCH, seed=3)
    loop = make_update_loop(online, target, noise_seed=5, **IMPLICIT | settings)
    drawn = {name: each.numpy() for name, each in loop._head.draw_fractions(BATCH, [5 - 1, 9]).items()}
    weights = [[array.astype(np.float64) for array in each.get_weights()] for each in (online, target)]

    def mean(which: int, observation: np.ndarray, taus: np.ndarray) -> np.ndarray:
        return np.mean([slow_quantiles(weights[which], observation, tau) for tau in taus], axis=0)

    expected = []
    for b in range(BATCH):
        after, policy = batches.next_observation[0, b], drawn["policy_fractions"][b]
        values = mean(1, after, drawn["target_fractions"][b, :7])
        choice = (
            mean(0, after, policy) if kind == "double" else mean(1, after, drawn["target_fractions"][b, 7:])
        )
        reward, action = batches.reward[0, b], batches.action[0, b]
        if kind == "munchausen":
            log_policy = [0.03 * math.log(p) for p in softmax(mean(1, batches.observation[0, b], policy))]
            reward += 0.9 * max(-1.0, log_policy[action])
            shares = softmax(choice)
            value = sum(p * (q - 0.03 * math.log(p)) for p, q in zip(shares, values, strict=True) if p > 0)
        else:
            value = values[choice.argmax()]
        prediction = mean(0, batches.observation[0, b], drawn["fractions"][b])[action]
        expected.append(reward + batches.discount[0, b] * value - prediction)

    found = loop.run(batches, 9).td_error[0]

    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert isinstance(loop._head, ImplicitHead)


def softmax(q_values: np.ndarray) -> list[float]:
    """Probabilities at the temperature of 0.03."""
    powers = [math.exp((q - max(q_values)) / 0.03) for q in q_values]
    return [max(power / sum(powers), 1e-300) for power in powers]


def test_each_update_and_each_item_has_fractions_of_its_own() -> None:
    loop = make_update_loop(build(1), build(1), noise_seed=5, **IMPLICIT)
    batches = make_batches(2, 1, seed=3)
    same = Transitions(
        **{name: np.repeat(column[:1, :1], 4, 1) for name, column in batches.columns().items()}
    )

    errors = [loop.run(same, step, learning_rate=0.0).td_error[0] for step in (0, 1, 0)]

    assert len({*errors[0], *errors[1]}) == 8
    np.testing.assert_array_equal(errors[0], errors[2])


def test_quantiles_at_any_fraction_come_to_rest_at_those_of_the_rewards() -> None:
    online, target = (
        make_networks(make_options(hidden_sizes=(16, 16), **IMPLICIT), SPEC, seed)[0] for seed in (1, 2)
    )
    loop = make_update_loop(online, target, **IMPLICIT | {"learning_rate": 0.005, "adam_epsilon": 1e-8})
    generator, lead = np.random.default_rng(0), (50, 64)
    observation = np.ones((*lead, 3), np.float32)
    for call in range(24):
        reward = generator.normal(0.0, 20.0, lead).astype(np.float32)
        batches = Transitions(
            observation, np.ones(lead, np.int32), reward, np.zeros(lead, np.float32), observation
        )
        loop.run(batches, 50 * call, learning_rate=0.005 if call < 16 else 0.001)

    with at_fractions(online, tf.constant([[0.1, 0.3, 0.5, 0.7, 0.9]])):
        quantiles = online(observation[0, :1]).numpy()[0, 1]

    # Of the normal distribution with this deviation.
    np.testing.assert_allclose(quantiles, 20.0 * np.array([-1.28, -0.52, 0.0, 0.52, 1.28]), atol=3.0)
