"""Munchausen targets against loops written from the paper's equation."""

import numpy as np
import pytest
import tensorflow as tf
from learning.loops import make_batches, make_loop, make_update_loop
from toy_networks import make_q_network

from distdqn.learning.heads import CategoricalHead, QuantileHead, ValueHead
from distdqn.learning.losses import munchausen_bonus, soft_policy

TEMPERATURE, CLIP = 0.5, -1.0


def slow_log_policy(q_values: np.ndarray) -> np.ndarray:
    """`log softmax(q / temperature)` of one item."""
    powers = np.exp(q_values.astype(np.float64) / TEMPERATURE)
    return np.log(powers / powers.sum())


@pytest.mark.parametrize("seed", range(5))
def test_bonus_is_the_clipped_log_policy_of_the_action_taken(seed: int) -> None:
    generator = np.random.default_rng(seed)
    q_values = generator.normal(size=(6, 3)).astype(np.float32)
    action = generator.integers(3, size=6).astype(np.int32)
    expected = [max(CLIP, TEMPERATURE * slow_log_policy(q)[a]) for q, a in zip(q_values, action, strict=True)]

    found = munchausen_bonus(tf.constant(q_values), tf.constant(action), TEMPERATURE, CLIP)

    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_bonus_is_cut_off_for_an_unlikely_action_by_hand() -> None:
    bonus = munchausen_bonus(tf.constant([[0.0, 9.0]]), tf.constant([0]), 1.0, -2.0)

    assert bonus.numpy().tolist() == [-2.0]  # log pi is about -9


@pytest.mark.parametrize("seed", range(3))
def test_soft_target_agrees_with_a_loop_over_actions(seed: int) -> None:
    generator = np.random.default_rng(seed)
    q_values = generator.normal(size=(4, 3)).astype(np.float32)
    reward, discount = np.float32([1, 2, 3, 4]), np.float32([0.9, 0.0, 1.0, 0.5])
    expected = []
    for r, d, q in zip(reward, discount, q_values, strict=True):
        log_policy = slow_log_policy(q)
        soft = sum(np.exp(lp) * (value - TEMPERATURE * lp) for value, lp in zip(q, log_policy, strict=True))
        expected.append(r + d * soft)

    policy = soft_policy(tf.constant(q_values), TEMPERATURE)
    found = ValueHead("huber").soft_target(reward, discount, tf.constant(q_values), *policy)

    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_soft_targets_of_all_heads_have_the_same_mean() -> None:
    generator = np.random.default_rng(1)
    support = np.linspace(-20.0, 20.0, 201, dtype=np.float32)
    logits = generator.normal(size=(5, 3, 201)).astype(np.float32)
    categorical = CategoricalHead(-20.0, 20.0, 201)
    q_values = categorical.q_values(tf.constant(logits))
    quantiles = generator.normal(size=(5, 3, 8)).astype(np.float32)
    quantiles += (q_values.numpy() - quantiles.mean(axis=2))[:, :, None]
    reward, discount = np.full(5, 0.7, np.float32), np.full(5, 0.6, np.float32)
    policy = soft_policy(q_values, TEMPERATURE)

    value = ValueHead("huber").soft_target(reward, discount, q_values, *policy).numpy()
    mixed = categorical.soft_target(reward, discount, tf.constant(logits), *policy).numpy()
    spread = QuantileHead().soft_target(reward, discount, tf.constant(quantiles), *policy).numpy()

    np.testing.assert_allclose(mixed.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(mixed @ support, value, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(spread.mean(axis=1), value, rtol=1e-4, atol=1e-4)


def test_td_error_of_the_update_is_that_of_the_munchausen_target() -> None:
    online, target = (make_q_network((3,), 4, (5,), False, seed) for seed in (1, 2))
    settings = {"munchausen_scale": 0.9, "munchausen_temperature": TEMPERATURE, "munchausen_clip": CLIP}
    batches = make_batches(1, 8, seed=3)
    now, after = target(batches.observation[0]).numpy(), target(batches.next_observation[0]).numpy()
    taken = online(batches.observation[0]).numpy()
    expected = []
    for i, action in enumerate(batches.action[0]):
        bonus = max(CLIP, TEMPERATURE * slow_log_policy(now[i])[action])
        log_policy = slow_log_policy(after[i])
        soft = float(np.exp(log_policy) @ (after[i] - TEMPERATURE * log_policy))
        total = batches.reward[0, i] + 0.9 * bonus + batches.discount[0, i] * soft
        expected.append(total - taken[i, action])

    found = make_update_loop(online, target, munchausen=True, **settings).run(batches, 0).td_error[0]

    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found, make_loop(1).run(batches, 0).td_error[0])
