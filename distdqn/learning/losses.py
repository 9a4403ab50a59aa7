"""The formulas of the update, each a pure function of float32 tensors (actions are int32)."""

import tensorflow as tf
from tensorflow import Tensor

from distdqn.networks.numpy_policy import quantile_midpoints
from distdqn.networks.rescaling import bootstrap


def gather_greedy(outputs: Tensor, q_values: Tensor) -> Tensor:
    """`outputs[argmax_a q_values[a]]`, `[B]` or `[B, K]`.

    Args:
        outputs: `[B, A]` or `[B, A, K]`, the target network's.
        q_values: `[B, A]`: the target network's for DQN, the online network's for double DQN.

    Source: Mnih et al. (2015), "Training algorithm for deep Q-networks"; van Hasselt, Guez, Silver (2016),
    section "Double DQN", arXiv:1509.06461.
    """
    return tf.gather(outputs, tf.argmax(q_values, axis=1), batch_dims=1)


def td_target(reward: Tensor, discount: Tensor, chosen: Tensor, rescaled: bool = False) -> Tensor:
    """`reward + discount * chosen`, `[B]` or `[B, K]`, without gradient.

    Args:
        reward: `[B]` or `[B, 1]`, n-step return in units of reward.
        discount: of the same shape, in [0, 1]; see `Transitions.discount`.
        chosen: `[B]` or `[B, K]`, value or quantiles of the next action.
        rescaled: the target is `h(reward + discount * h^-1(chosen))`, with `h` from `networks.rescaling`.

    Source: Sutton and Barto (2018), equation 7.1; Kapturowski et al. (2019), section 2.3, if rescaled.
    """
    return tf.stop_gradient(bootstrap(reward, discount, chosen, rescaled))


def munchausen_bonus(q_values: Tensor, action: Tensor, temperature: float, clip: float) -> Tensor:
    """`clip_by_value(temperature * log pi(action), clip, 0)`, `[B]`, without gradient.

    With `pi = softmax(q_values / temperature)`.

    Args:
        q_values: `[B, A]`, the target network's, of the observation.
        action: `[B]`, taken there.
        temperature: above 0, in units of reward.
        clip: smallest bonus, at most 0, in units of reward.

    Source: Vieillard, Pietquin, Geist (2020), equation 2 and section 3.1, arXiv:2007.14430.
    """
    log_policy = temperature * tf.nn.log_softmax(q_values / temperature, axis=1)  # [B, A]
    taken = tf.gather(log_policy, action, batch_dims=1)  # [B]
    return tf.stop_gradient(tf.clip_by_value(taken, clip, 0.0))


def soft_policy(q_values: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """`pi = softmax(q_values / temperature)` and `-temperature * log pi`, all `[B, A]`.

    The temperature is above 0, in units of reward.

    Source: Vieillard, Pietquin, Geist (2020), equation 1, arXiv:2007.14430.
    """
    log_policy = tf.nn.log_softmax(q_values / temperature, axis=1)  # [B, A]
    return tf.exp(log_policy), -temperature * log_policy


def huber_loss(error: Tensor) -> Tensor:
    """`0.5 * e^2 if |e| <= 1 else |e| - 0.5` of each error `[...]`.

    Source: Huber (1964); the same as the clipped derivative of Mnih et al. (2015).
    """
    size = tf.abs(error)
    return tf.where(size <= 1.0, 0.5 * tf.square(error), size - 0.5)


def squared_loss(error: Tensor) -> Tensor:
    """`0.5 * e^2` of each error `[...]`.

    Source: Watkins and Dayan (1992), whose update is its negative gradient.
    """
    return 0.5 * tf.square(error)


def quantile_huber_loss(quantiles: Tensor, target: Tensor, fractions: Tensor | None = None) -> Tensor:
    """`sum_i mean_j |tau_i - 1{u_ij < 0}| * huber(u_ij)`, `[B]`.

    With `u_ij = target_j - quantiles_i`, of predicted quantiles `[B, K]` and samples of the target `[B, J]`.
    The `fractions` `[B, K]` are `tau`; None means `tau_i = (i + 0.5) / K`.

    Source: Dabney et al. (2018), equations 9 and 10 with kappa 1, arXiv:1710.10044; with drawn fractions,
    Dabney et al. (2018), equation 3, arXiv:1806.06923.
    """
    if fractions is None:
        fractions = quantile_midpoints(quantiles.shape[1])[None, :]  # [1, K]
    error = target[:, None, :] - quantiles[:, :, None]  # [B, K, J]
    side = tf.abs(fractions[:, :, None] - tf.cast(error < 0.0, tf.float32))  # [B, K, J]
    return tf.reduce_sum(tf.reduce_mean(side * huber_loss(error), axis=2), axis=1)


def categorical_projection(support: Tensor, targets: Tensor, chosen: Tensor) -> Tensor:
    """The distribution of `targets`, projected onto the support: `[B, K]`, without gradient.

    `target_i = sum_j clip(1 - |clip(targets_j) - z_i| / delta, 0, 1) * chosen_j`

    Args:
        support: `[K]`, evenly spaced returns `z`.
        targets: `[B, K]`, the `td_target` of each of them.
        chosen: `[B, K]`, probabilities of the next action's returns.

    Source: Bellemare, Dabney, Munos (2017), equation 7, arXiv:1707.06887.
    """
    support = tf.convert_to_tensor(support, tf.float32)
    delta = support[1] - support[0]
    shifted = tf.clip_by_value(targets, support[0], support[-1])  # [B, K]
    distance = tf.abs(shifted[:, None, :] - support[None, :, None]) / delta  # [B, K, K]
    share = tf.clip_by_value(1.0 - distance, 0.0, 1.0)
    return tf.stop_gradient(tf.linalg.matvec(share, chosen))  # [B, K]


def cross_entropy_loss(logits: Tensor, target: Tensor) -> Tensor:
    """`-sum_i target_i * log softmax(logits)_i`, `[B]`, of both `[B, K]`.

    Source: Bellemare, Dabney, Munos (2017), algorithm 1, arXiv:1707.06887.
    """
    return -tf.reduce_sum(target * tf.nn.log_softmax(logits, axis=-1), axis=-1)


def conservative_loss(q_values: Tensor, action: Tensor) -> Tensor:
    """`log sum_a exp q_values[a] - q_values[action]`, `[B]`, at least 0.

    It lowers the Q-values of actions that the data does not take, whose overestimates no data corrects.

    Args:
        q_values: `[B, A]`, the online network's, far below all others where an action is not allowed.
        action: `[B]`, that of the data.

    Source: Kumar, Zhou, Tucker, Levine (2020), equation 4, CQL(H), without its factor, arXiv:2006.04779.
    """
    return tf.reduce_logsumexp(q_values, axis=1) - tf.gather(q_values, action, batch_dims=1)


def polyak_update(target: Tensor, online: Tensor, rate: float) -> Tensor:
    """`(1 - rate) * target + rate * online`, all `[...]`; a rate of 1 copies exactly.

    Source: Lillicrap et al. (2016), algorithm 1, arXiv:1509.02971.
    """
    return (1.0 - rate) * target + rate * online
