"""What a network's outputs mean: a value for each action, or a distribution of returns.

A head turns outputs into Q-values, and batches into a loss and a TD error. Outputs are
`[B, A]` for the value head and `[B, A, K]` for the others.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from distdqn.learning import losses
from distdqn.types import FloatArray

Tensor = Any  # TensorFlow ships no types


class Head(Protocol):
    """The meaning of a network's outputs."""

    def q_values(self, outputs: Tensor) -> Tensor:
        """Q-values `[B, A]` from `outputs` `[B, A]` or `[B, A, K]`."""
        ...

    def target(self, reward: Tensor, discount: Tensor, chosen: Tensor) -> Tensor:
        """What the online network should say of the actions taken, `[B]` or `[B, K]`.

        Args:
            reward: `[B]` float32, n-step return.
            discount: `[B]` float32 in [0, 1]; see `Transitions.discount`.
            chosen: `[B]` or `[B, K]`, the target network's outputs of the next actions.
        """
        ...

    def soft_target(
        self, reward: Tensor, discount: Tensor, outputs: Tensor, probability: Tensor, bonus: Tensor
    ) -> Tensor:
        """The same with the next action drawn by `probability`, and `bonus` added to its value.

        Args:
            reward: `[B]` float32.
            discount: `[B]` float32 in [0, 1].
            outputs: `[B, A]` or `[B, A, K]`, the target network's, of the next observation.
            probability: `[B, A]` float32, of each next action.
            bonus: `[B, A]` float32, in units of reward.
        """
        ...

    def loss(self, taken: Tensor, target: Tensor, importance_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Loss `[]` and TD error `[B]` of a batch.

        Args:
            taken: `[B]` or `[B, K]`, the online network's outputs of the actions taken.
            target: `[B]` or `[B, K]`, of `target` or `soft_target`.
            importance_weight: `[B]` float32.
        """
        ...


@dataclass(frozen=True)
class ValueHead:
    """One number for each action: its value. `loss_name` is `huber` or `squared`."""

    loss_name: str

    def q_values(self, outputs: Tensor) -> Tensor:
        """The outputs themselves, `[B, A]`."""
        return outputs

    def target(self, reward: Tensor, discount: Tensor, chosen: Tensor) -> Tensor:
        """See `Head.target`: returns `[B]`."""
        return losses.td_target(reward, discount, chosen)

    def soft_target(
        self, reward: Tensor, discount: Tensor, outputs: Tensor, probability: Tensor, bonus: Tensor
    ) -> Tensor:
        """See `Head.soft_target`: returns `[B]`."""
        import tensorflow as tf

        return losses.td_target(reward, discount, tf.reduce_sum(probability * (outputs + bonus), axis=1))

    def loss(self, taken: Tensor, target: Tensor, importance_weight: Tensor) -> tuple[Tensor, Tensor]:
        """See `Head.loss`: Huber or squared loss of the TD error `[B]`."""
        function = {"huber": losses.huber_loss, "squared": losses.squared_loss}[self.loss_name]
        td_error = target - taken  # [B]
        return function(td_error, importance_weight), td_error


@dataclass(frozen=True)
class QuantileHead:
    """`K` quantiles of the return for each action (QR-DQN); the Q-value is their mean."""

    def q_values(self, outputs: Tensor) -> Tensor:
        """Means `[B, A]` of the quantiles `[B, A, K]`."""
        import tensorflow as tf

        return tf.reduce_mean(outputs, axis=-1)  # [B, A]

    def target(self, reward: Tensor, discount: Tensor, chosen: Tensor) -> Tensor:
        """See `Head.target`: quantiles `[B, K]`."""
        return losses.td_target(reward[:, None], discount[:, None], chosen)

    def soft_target(
        self, reward: Tensor, discount: Tensor, outputs: Tensor, probability: Tensor, bonus: Tensor
    ) -> Tensor:
        """See `Head.soft_target`: quantiles `[B, K]`, averaged over the next actions."""
        import tensorflow as tf

        mixed = tf.reduce_sum(probability[:, :, None] * (outputs + bonus[:, :, None]), axis=1)  # [B, K]
        return self.target(reward, discount, mixed)

    def loss(self, taken: Tensor, target: Tensor, importance_weight: Tensor) -> tuple[Tensor, Tensor]:
        """See `Head.loss`: quantile Huber loss between all pairs of quantiles `[B, K]`."""
        import tensorflow as tf

        td_error = tf.reduce_mean(target, axis=1) - tf.reduce_mean(taken, axis=1)  # [B]
        return losses.quantile_huber_loss(taken, target, importance_weight), td_error


@dataclass(frozen=True)
class CategoricalHead:
    """Logits over `K` fixed returns for each action (C51); the Q-value is the mean return.

    Attributes:
        v_min: the smallest return of the support.
        v_max: the largest.
        atoms: how many there are, evenly spaced.
    """

    v_min: float
    v_max: float
    atoms: int

    @property
    def support(self) -> FloatArray:
        """The returns `[K]`."""
        return np.linspace(self.v_min, self.v_max, self.atoms, dtype=np.float32)

    def q_values(self, outputs: Tensor) -> Tensor:
        """Mean returns `[B, A]` under logits `[B, A, K]`."""
        import tensorflow as tf

        return tf.linalg.matvec(tf.nn.softmax(outputs, axis=-1), self.support)  # [B, A]

    def target(self, reward: Tensor, discount: Tensor, chosen: Tensor) -> Tensor:
        """See `Head.target`: probabilities `[B, K]`."""
        import tensorflow as tf

        return losses.categorical_projection(self.support, reward, discount, tf.nn.softmax(chosen, axis=-1))

    def soft_target(
        self, reward: Tensor, discount: Tensor, outputs: Tensor, probability: Tensor, bonus: Tensor
    ) -> Tensor:
        """See `Head.soft_target`: probabilities `[B, K]`, a mixture over the next actions."""
        mixture = 0.0
        for action in range(outputs.shape[1]):
            shifted = reward + discount * bonus[:, action]  # [B]
            mixture += probability[:, action, None] * self.target(shifted, discount, outputs[:, action])
        return mixture  # [B, K]

    def loss(self, taken: Tensor, target: Tensor, importance_weight: Tensor) -> tuple[Tensor, Tensor]:
        """See `Head.loss`: cross-entropy to the projected target distribution `[B, K]`."""
        import tensorflow as tf

        mean = tf.linalg.matvec(tf.nn.softmax(taken, axis=-1), self.support)  # [B]
        td_error = tf.linalg.matvec(target, self.support) - mean  # [B]
        return losses.cross_entropy_loss(taken, target, importance_weight), td_error
