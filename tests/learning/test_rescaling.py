"""Values on the scale of R2D2: the functions, the target of every head, first priorities."""

import math

import numpy as np
import pytest
import tensorflow as tf

from distdqn.acting.actor import td_errors
from distdqn.learning.heads import CategoricalHead, Head, QuantileHead, ValueHead
from distdqn.networks.rescaling import rescale, unscale
from distdqn.types import AnyArray, FloatArray, Transitions

EPSILON = 1e-3
VALUES = (-2e5, -300.0, -1.0, -1e-4, 0.0, 1e-4, 0.5, 7.0, 1234.0, 3e5)
REWARD = np.float32([1.5, -40.0, 1000.0])
DISCOUNT = np.float32([0.9, 0.0, 0.97])


def slow_rescale(x: float) -> float:
    return math.copysign(math.sqrt(abs(x) + 1.0) - 1.0, x) + EPSILON * x


def slow_unscale(x: float) -> float:
    root = (math.sqrt(1.0 + 4.0 * EPSILON * (abs(x) + 1.0 + EPSILON)) - 1.0) / (2.0 * EPSILON)
    return math.copysign(root**2 - 1.0, x)


@pytest.mark.parametrize("value", VALUES)
def test_rescaling_and_its_inverse_agree_with_the_papers_formulas(value: float) -> None:
    array = np.float32([value])
    assert rescale(array).dtype == unscale(array).dtype == np.float32
    assert rescale(array)[0] == pytest.approx(slow_rescale(value), rel=1e-6)
    assert unscale(array)[0] == pytest.approx(slow_unscale(value), rel=1e-5)
    assert unscale(rescale(array))[0] == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(rescale(tf.constant(array)).numpy(), rescale(array), rtol=1e-6)
    np.testing.assert_allclose(unscale(tf.constant(array)).numpy(), unscale(array), rtol=1e-6)


def slow_target(reward: float, discount: float, value: float) -> float:
    return slow_rescale(reward + discount * slow_unscale(value))


@pytest.mark.parametrize("head", [ValueHead("huber", rescaled=True), QuantileHead(rescaled=True)])
def test_target_is_made_on_the_scale_of_returns(head: Head) -> None:
    shape = (3,) if isinstance(head, ValueHead) else (3, 4)
    chosen = np.random.default_rng(0).normal(0, 20, shape).astype(np.float32)
    found = head.target(tf.constant(REWARD), tf.constant(DISCOUNT), tf.constant(chosen)).numpy()
    for item in np.ndindex(shape):
        expected = slow_target(float(REWARD[item[0]]), float(DISCOUNT[item[0]]), float(chosen[item]))
        assert found[item] == pytest.approx(expected, rel=1e-4)


def test_support_of_the_categorical_head_holds_rescaled_returns() -> None:
    head = CategoricalHead(-40.0, 40.0, 801, rescaled=True)
    logits = np.random.default_rng(1).normal(size=(3, 801)).astype(np.float32)
    target = head.target(tf.constant(REWARD), tf.constant(DISCOUNT), tf.constant(logits)).numpy()
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for i in range(3):
        moved = [slow_target(float(REWARD[i]), float(DISCOUNT[i]), float(z)) for z in head.support]
        assert target[i] @ head.support == pytest.approx(
            probability[i] @ np.clip(moved, -40.0, 40.0), rel=1e-3
        )


@pytest.mark.parametrize("head", [ValueHead("huber", rescaled=True), QuantileHead(rescaled=True)])
def test_soft_target_of_one_certain_action_is_that_of_this_action(head: Head) -> None:
    shape = (3, 2) if isinstance(head, ValueHead) else (3, 2, 4)
    outputs = tf.random.stateless_normal(shape, [1, 2], stddev=5.0)
    probability, bonus = tf.constant([[0.0, 1.0]] * 3), tf.zeros((3, 2))
    found = head.soft_target(tf.constant(REWARD), tf.constant(DISCOUNT), outputs, probability, bonus)
    expected = head.target(tf.constant(REWARD), tf.constant(DISCOUNT), outputs[:, 1])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


class _Policy:
    def q_values(self, observation: AnyArray) -> FloatArray:
        return np.asarray(observation, np.float32)


def test_first_priorities_are_errors_of_rescaled_values() -> None:
    before, after = np.float32([[3.0, -5.0]]), np.float32([[11.0, 12.0]])
    transitions = Transitions(before, np.array([1]), np.float32([100.0]), np.float32([0.5]), after)
    (found,) = td_errors(_Policy(), transitions, rescaled=True)  # type: ignore[arg-type]
    assert found == pytest.approx(slow_target(100.0, 0.5, 12.0) + 5.0, rel=1e-5)
