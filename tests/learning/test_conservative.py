"""CQL's term against numbers worked out by hand and a slow twin; `test_masks` has the update with it."""

import math

import numpy as np
import pytest
import tensorflow as tf

from distdqn.learning.losses import conservative_loss


def slow_term(q_values: list[float], action: int) -> float:
    """`log sum_a exp q_values[a] - q_values[action]` of the allowed actions."""
    return math.log(sum(math.exp(q) for q in q_values)) - q_values[action]


def test_conservative_loss_is_what_a_softmax_policy_gains_by_hand() -> None:
    found = conservative_loss(tf.constant([[0.0, 0.0], [math.log(3.0), 0.0]]), tf.constant([1, 1]))

    np.testing.assert_allclose(found.numpy(), [math.log(1.0 + 1.0), math.log(3.0 + 1.0)], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_conservative_loss_agrees_with_a_loop_over_the_batch(seed: int) -> None:
    generator = np.random.default_rng(seed)
    q_values = generator.normal(0.0, 5.0, (7, 4)).astype(np.float32)
    action = generator.integers(4, size=7).astype(np.int32)

    found = conservative_loss(tf.constant(q_values), tf.constant(action)).numpy()

    expected = [slow_term(row.tolist(), int(taken)) for row, taken in zip(q_values, action, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert (found >= 0.0).all()
