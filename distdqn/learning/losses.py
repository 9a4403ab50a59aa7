"""The formulas of the update, each a pure function of tensors.

TensorFlow is imported by the caller's process only: these functions import it when used.
"""

from typing import Any

Tensor = Any  # TensorFlow ships no types


def max_q_target(reward: Tensor, discount: Tensor, next_q_target: Tensor) -> Tensor:
    """Return estimated from the next state under the target network's best action.

    `target = reward + discount * max_a next_q_target[a]`

    Args:
        reward: `[B]` float32, n-step return in units of reward.
        discount: `[B]` float32 in [0, 1]; see `Transitions.discount`.
        next_q_target: `[B, A]` float32, chooses and values the action.

    Returns:
        `[B]` float32. Carries no gradient.

    Source: Mnih et al. (2015), "Training algorithm for deep Q-networks".
    """
    import tensorflow as tf

    return tf.stop_gradient(reward + discount * tf.reduce_max(next_q_target, axis=1))


def double_q_target(reward: Tensor, discount: Tensor, next_q_online: Tensor, next_q_target: Tensor) -> Tensor:
    """Return estimated from the next state under the online network's favourite action.

    `target = reward + discount * next_q_target[argmax_a next_q_online[a]]`

    One network chooses and the other values, so noise that makes an action look good
    does not also raise its value.

    Args:
        reward: `[B]` float32, n-step return in units of reward.
        discount: `[B]` float32 in [0, 1]; see `Transitions.discount`.
        next_q_online: `[B, A]` float32, chooses the action.
        next_q_target: `[B, A]` float32, values it.

    Returns:
        `[B]` float32. Carries no gradient.

    Source: van Hasselt, Guez, Silver (2016), section "Double DQN", arXiv:1509.06461.
    """
    import tensorflow as tf

    favourite = tf.argmax(next_q_online, axis=1)  # [B]
    value = tf.gather(next_q_target, favourite, batch_dims=1)  # [B]
    return tf.stop_gradient(reward + discount * value)


def huber_loss(td_error: Tensor, importance_weight: Tensor = 1.0) -> Tensor:
    """Squared for small errors, linear for large ones, so one outlier cannot take over.

    `loss = mean(importance_weight * (0.5 * e^2 if |e| <= 1 else |e| - 0.5))`

    Args:
        td_error: `[B]` float32, target minus prediction.
        importance_weight: `[B]` float32, or 1 for all.

    Returns:
        `[]` float32.

    Source: Huber (1964); Mnih et al. (2015) clip the error's derivative to [-1, 1], which
    is this loss.
    """
    import tensorflow as tf

    size = tf.abs(td_error)
    return tf.reduce_mean(importance_weight * tf.where(size <= 1.0, 0.5 * tf.square(td_error), size - 0.5))


def squared_loss(td_error: Tensor, importance_weight: Tensor = 1.0) -> Tensor:
    """`loss = mean(importance_weight * 0.5 * e^2)`.

    Args:
        td_error: `[B]` float32, target minus prediction.
        importance_weight: `[B]` float32, or 1 for all.

    Returns:
        `[]` float32.

    Source: Watkins and Dayan (1992), whose update is its negative gradient.
    """
    import tensorflow as tf

    return tf.reduce_mean(importance_weight * 0.5 * tf.square(td_error))


def moved_target(target: Tensor, online: Tensor, rate: float) -> Tensor:
    """A target network's variable moved towards the online network's.

    `target' = (1 - rate) * target + rate * online`; a rate of 1 copies exactly.

    Args:
        target: `[...]` float32.
        online: `[...]` float32, of the same shape.
        rate: in (0, 1].

    Returns:
        `[...]` float32.

    Source: Lillicrap et al. (2016), algorithm 1, arXiv:1509.02971.
    """
    return (1.0 - rate) * target + rate * online
