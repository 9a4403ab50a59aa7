"""Each formula against numbers worked out by hand and against a slow twin of its equation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from distdqn.learning.losses import gather_greedy, huber_loss, polyak_update, squared_loss, td_target

SEEDS = range(5)


def max_q_target(reward: Any, discount: Any, next_q_target: Any) -> Any:
    """The target of DQN: one network chooses and values."""
    return td_target(reward, discount, gather_greedy(next_q_target, next_q_target))


def double_q_target(reward: Any, discount: Any, next_q_online: Any, next_q_target: Any) -> Any:
    """The target of double DQN: the online network chooses, the target network values."""
    return td_target(reward, discount, gather_greedy(next_q_target, next_q_online))


def random_case(seed: int) -> dict[str, np.ndarray]:
    """Rewards, discounts and the Q-values of two networks."""
    generator = np.random.default_rng(seed)
    batch, actions = int(generator.integers(1, 9)), int(generator.integers(1, 6))
    return {
        "reward": generator.normal(size=batch).astype(np.float32),
        "discount": generator.choice([0.0, 0.9, 1.0], size=batch).astype(np.float32),
        "next_q_online": generator.normal(size=(batch, actions)).astype(np.float32),
        "next_q_target": generator.normal(size=(batch, actions)).astype(np.float32),
    }


def test_max_target_adds_the_discounted_best_value_by_hand() -> None:
    target = max_q_target(
        tf.constant([1.0, 1.0, -2.0]),
        tf.constant([0.5, 0.0, 1.0]),
        tf.constant([[2.0, 3.0], [5.0, 7.0], [-4.0, -6.0]]),
    )

    np.testing.assert_array_equal(target.numpy(), [1.0 + 0.5 * 3.0, 1.0 + 0.0, -2.0 - 4.0])


def test_double_target_values_the_choice_of_the_online_network_by_hand() -> None:
    target = double_q_target(
        tf.constant([1.0, 1.0, -2.0]),
        tf.constant([0.5, 0.0, 1.0]),
        tf.constant([[9.0, 8.0], [8.0, 9.0], [8.0, 9.0]]),  # chooses 0, 1, 1
        tf.constant([[2.0, 3.0], [5.0, 7.0], [-4.0, -6.0]]),
    )

    np.testing.assert_array_equal(target.numpy(), [1.0 + 0.5 * 2.0, 1.0 + 0.0, -2.0 - 6.0])


@pytest.mark.parametrize("seed", SEEDS)
def test_max_target_agrees_with_a_loop_over_the_batch(seed: int) -> None:
    case = random_case(seed)
    expected = [
        r + d * max(q)
        for r, d, q in zip(case["reward"], case["discount"], case["next_q_target"], strict=True)
    ]

    target = max_q_target(*(tf.constant(case[name]) for name in ("reward", "discount", "next_q_target")))

    assert target.dtype == tf.float32
    np.testing.assert_allclose(target.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_double_target_agrees_with_a_loop_over_the_batch(seed: int) -> None:
    case = random_case(seed)
    expected = []
    for r, d, online, target in zip(*case.values(), strict=True):
        best = max(range(len(online)), key=lambda a: online[a])
        expected.append(r + d * target[best])

    found = double_q_target(*(tf.constant(column) for column in case.values()))

    assert found.dtype == tf.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("target", [max_q_target, double_q_target])
def test_target_carries_no_gradient_to_any_argument(target: Callable[..., Any]) -> None:
    case = {name: tf.Variable(column) for name, column in random_case(1).items()}
    if target is max_q_target:
        del case["next_q_online"]
    with tf.GradientTape() as tape:
        loss = squared_loss(target(**case))

    assert tape.gradient(loss, list(case.values())) == [None] * len(case)


@pytest.mark.parametrize("actions", [1, 3])
def test_targets_keep_the_axis_of_a_batch_of_one(actions: int) -> None:
    one, q_values = tf.constant([1.0]), tf.ones((1, actions))

    assert max_q_target(one, one, q_values).shape == (1,)
    assert double_q_target(one, one, q_values, q_values).shape == (1,)


def test_huber_loss_is_squared_below_one_and_linear_above_by_hand() -> None:
    loss = huber_loss(tf.constant([0.5, -1.0, 3.0, -2.0]))

    assert loss.numpy() == pytest.approx([0.5 * 0.5**2, 0.5 * 1.0**2, 3.0 - 0.5, 2.0 - 0.5])


def test_squared_loss_is_half_the_square_by_hand() -> None:
    assert squared_loss(tf.constant([1.0, -3.0])).numpy() == pytest.approx([0.5 * 1.0, 0.5 * 9.0])


@pytest.mark.parametrize("seed", SEEDS)
def test_losses_agree_with_loops_over_the_batch(seed: int) -> None:
    td_error = (2.0 * np.random.default_rng(seed).normal(size=17)).astype(np.float32)
    huber = [0.5 * e * e if abs(e) <= 1.0 else abs(e) - 0.5 for e in td_error.tolist()]
    squared = [0.5 * e * e for e in td_error.tolist()]

    assert huber_loss(tf.constant(td_error)).numpy() == pytest.approx(huber, rel=1e-5)
    assert squared_loss(tf.constant(td_error)).numpy() == pytest.approx(squared, rel=1e-5)


def test_gradient_of_huber_loss_is_the_error_clipped_to_one() -> None:
    td_error = tf.Variable([0.5, -0.25, 3.0, -1e6, 0.0])
    with tf.GradientTape() as tape:
        loss = huber_loss(td_error)

    expected = np.array([0.5, -0.25, 1.0, -1.0, 0.0])
    np.testing.assert_allclose(tape.gradient(loss, td_error).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("loss", [huber_loss, squared_loss])
def test_loss_keeps_the_axis_of_a_batch_of_one(loss: Callable[[Any], Any]) -> None:
    assert loss(tf.constant([2.0])).shape == (1,)


def test_moved_target_goes_its_share_of_the_way_by_hand() -> None:
    target, online = tf.constant([1.0, -2.0]), tf.constant([3.0, 2.0])

    np.testing.assert_array_equal(
        polyak_update(target, online, 0.25).numpy(), [0.75 * 1.0 + 0.25 * 3.0, 0.75 * -2.0 + 0.25 * 2.0]
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_moved_target_copies_exactly_at_rate_one(seed: int) -> None:
    target, online = np.random.default_rng(seed).normal(size=(2, 4, 3)).astype(np.float32)

    moved = polyak_update(tf.constant(target), tf.constant(online), 1.0)

    np.testing.assert_array_equal(moved.numpy(), online)
