"""Distributional losses and heads against slow twins, and in the real update."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from learning.loops import make_update_loop, update_eagerly
from toy_networks import make_options, make_spec

from distdqn.learning.heads import make_head
from distdqn.learning.losses import categorical_projection, cross_entropy_loss, quantile_huber_loss
from distdqn.networks.keras_policy import layers_from_model
from distdqn.networks.numpy_policy import NumpyPolicy
from distdqn.networks.q_network import make_networks
from distdqn.types import PolicyWeights, Transitions

SUPPORT = np.array([0.0, 1.0, 2.0], np.float32)
SPEC = make_spec((3,), 4)
HEADS: dict[str, dict[str, Any]] = {
    "value": {"head": "value", "loss": "huber"},
    "quantile": {"head": "quantile", "atoms": 7},
    "implicit": {"head": "implicit", "atoms": 7},
    "categorical": {"head": "categorical", "atoms": 11, "v_min": -2.0, "v_max": 3.0},
}


def slow_quantile_loss(quantiles: np.ndarray, target: np.ndarray) -> float:
    """One item, pair by pair."""
    total = 0.0
    for i, quantile in enumerate(quantiles):
        tau = (i + 0.5) / len(quantiles)
        for sample in target:
            error = sample - quantile
            huber = 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5
            total += abs(tau - (1.0 if error < 0 else 0.0)) * huber / len(target)
    return total


def slow_projection(support: np.ndarray, reward: float, discount: float, chosen: np.ndarray) -> np.ndarray:
    """One item by algorithm 1 of the paper: lower and upper neighbour of every atom."""
    target = np.zeros(len(support))
    delta = support[1] - support[0]
    for value, probability in zip(support, chosen, strict=True):
        place = (min(max(reward + discount * value, support[0]), support[-1]) - support[0]) / delta
        lower, upper = int(np.floor(place)), int(np.ceil(place))
        if lower == upper:
            target[lower] += probability
        else:
            target[lower] += probability * (upper - place)
            target[upper] += probability * (place - lower)
    return target


def test_quantile_loss_weighs_errors_by_their_side_by_hand() -> None:
    # One quantile, tau = 0.5; targets 2 above and 0.5 below: linear and quadratic.
    loss = quantile_huber_loss(tf.constant([[1.0]]), tf.constant([[3.0, 0.5]]))

    assert loss.numpy() == pytest.approx([0.5 * (0.5 * (2.0 - 0.5) + 0.5 * 0.5 * 0.5**2)])


@pytest.mark.parametrize("seed", range(5))
def test_quantile_loss_agrees_with_pair_by_pair_loops(seed: int) -> None:
    generator = np.random.default_rng(seed)
    quantiles = generator.normal(0, 2, (4, 5)).astype(np.float32)
    target = generator.normal(0, 2, (4, 3)).astype(np.float32)
    expected = [slow_quantile_loss(q, t) for q, t in zip(quantiles, target, strict=True)]

    found = quantile_huber_loss(tf.constant(quantiles), tf.constant(target))

    assert found.numpy() == pytest.approx(expected, rel=1e-5)


def test_quantiles_come_to_rest_at_the_quantiles_of_the_targets() -> None:
    generator = np.random.default_rng(0)
    target = tf.constant(generator.normal(0, 30, (1, 2_000)).astype(np.float32))
    quantiles = tf.Variable(tf.zeros((1, 5)))
    optimizer = tf.keras.optimizers.Adam(1.0)

    @tf.function
    def update() -> None:
        with tf.GradientTape() as tape:
            loss = quantile_huber_loss(quantiles, target)
        optimizer.apply_gradients([(tape.gradient(loss, quantiles), quantiles)])

    for step in range(600):
        optimizer.learning_rate = 1.0 if step < 300 else 0.1
        update()

    np.testing.assert_allclose(
        quantiles.numpy()[0], np.quantile(target.numpy(), [0.1, 0.3, 0.5, 0.7, 0.9]), atol=1.0
    )


def test_projection_splits_probability_between_neighbours_by_hand() -> None:
    # 0.25 + 0.5 * z = 0.25, 0.75, 1.25: shares 0.75/0.25 of atoms 0 and 1, and so on.
    found = categorical_projection(
        SUPPORT, tf.constant([0.25]), tf.constant([0.5]), tf.constant([[0.2, 0.3, 0.5]])
    )

    expected = [0.2 * 0.75 + 0.3 * 0.25, 0.2 * 0.25 + 0.3 * 0.75 + 0.5 * 0.75, 0.5 * 0.25]
    np.testing.assert_allclose(found.numpy(), [expected], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_projection_agrees_with_the_papers_algorithm(seed: int) -> None:
    generator = np.random.default_rng(seed)
    support = np.linspace(-3.0, 5.0, 9).astype(np.float32)
    chosen = generator.dirichlet(np.ones(9), size=6).astype(np.float32)
    reward = generator.normal(0, 4, 6).astype(np.float32)  # some beyond the support
    discount = generator.choice([0.0, 0.9, 1.0], size=6).astype(np.float32)

    found = categorical_projection(
        support, tf.constant(reward), tf.constant(discount), tf.constant(chosen)
    ).numpy()

    for item in range(6):
        expected = slow_projection(support, reward[item], discount[item], chosen[item])
        np.testing.assert_allclose(found[item], expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)


def test_cross_entropy_is_that_of_its_definition_by_hand() -> None:
    logits, target = np.log([[0.2, 0.8]]), [[0.25, 0.75]]

    loss = cross_entropy_loss(tf.constant(logits, tf.float32), tf.constant(target))

    assert loss.numpy() == pytest.approx([-(0.25 * np.log(0.2) + 0.75 * np.log(0.8))], rel=1e-5)


def randomized(seed: int, **options: Any) -> tuple[Any, Any]:
    """Networks with random trainable weights, biases too."""
    generator = np.random.default_rng(seed)
    outputs, q_values = make_networks(make_options(**options), SPEC, seed)
    for variable in outputs.trainable_variables:
        variable.assign(generator.normal(0, 0.7, variable.shape))
    return outputs, q_values


@pytest.mark.parametrize("dueling", [False, True], ids=["plain", "dueling"])
@pytest.mark.parametrize("name", HEADS)
def test_q_network_and_numpy_policy_equal_the_heads_q_values(name: str, dueling: bool) -> None:
    outputs, q_network = randomized(3, **HEADS[name], dueling=dueling, layer_norm=True)
    observation = np.random.default_rng(4).normal(size=(6, 3)).astype(np.float32)

    expected = make_head(make_options(**HEADS[name])).q_values(outputs(observation)).numpy()
    weights = PolicyWeights(layers_from_model(q_network), q_network.get_weights(), (0, 1), 0)

    assert expected.shape == (6, 4)
    np.testing.assert_allclose(q_network(observation).numpy(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(NumpyPolicy(weights).q_values(observation), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dueling", [False, True], ids=["plain", "dueling"])
@pytest.mark.parametrize("name", HEADS)
def test_every_trainable_weight_receives_a_gradient_under_every_head(name: str, dueling: bool) -> None:
    (online, _), (target, _) = (randomized(seed, **HEADS[name], dueling=dueling) for seed in (1, 2))
    loop = make_update_loop(online, target, **HEADS[name])
    generator = np.random.default_rng(5)
    lead = (1, 256)
    batches = Transitions(
        generator.normal(size=(*lead, 3)).astype(np.float32),
        generator.integers(4, size=lead).astype(np.int32),
        generator.normal(size=lead).astype(np.float32),
        np.full(lead, 0.9, np.float32),
        generator.normal(size=(*lead, 3)).astype(np.float32),
    )
    before = [variable.numpy().copy() for variable in online.trainable_variables]

    half = update_eagerly(loop, batches, importance_weight=np.full(lead, 0.5, np.float32))

    for variable, old in zip(online.trainable_variables, before, strict=True):
        assert np.all(variable.numpy() != old), variable.path
        variable.assign(old)
    assert update_eagerly(loop, batches) == pytest.approx(2 * half, rel=1e-4)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_learns_one_step_rewards_and_discounted_bootstraps(name: str) -> None:
    options = make_options(**HEADS[name])
    (online, q_network), (target, _) = (make_networks(options, SPEC, seed) for seed in (1, 2))
    loop = make_update_loop(online, target, **HEADS[name], target_update_period=20)
    # In state 1 every action ends the episode with a reward of 2; in state 0, action `a`
    # pays `a / 4` and leads to state 1, whose value is discounted by 0.5.
    states = np.eye(3, dtype=np.float32)
    generator = np.random.default_rng(6)
    for call in range(40):
        lead = (20, 32)
        first = generator.integers(2, size=lead)
        action = generator.integers(4, size=lead)
        reward = np.where(first == 0, action / 4, 2.0).astype(np.float32)
        discount = np.where(first == 0, 0.5, 0.0).astype(np.float32)
        batches = Transitions(
            states[first], action.astype(np.int32), reward, discount, states[np.ones(lead, int)]
        )
        loop.run(batches, 20 * call)

    q_values = q_network(states[:2]).numpy()

    np.testing.assert_allclose(q_values[1], 2.0, atol=0.1)
    np.testing.assert_allclose(q_values[0], [0 / 4 + 0.5 * 2, 1 / 4 + 1, 2 / 4 + 1, 3 / 4 + 1], atol=0.1)
