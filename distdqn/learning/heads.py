"""Heads: the meaning of a network's outputs, a value for each action or a distribution of returns.

Outputs are `[B, A]` for the value head and `[B, A, K]` for the others.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import tensorflow as tf
from tensorflow import Tensor
from typing_extensions import override

from distdqn.config.config import LearningOptions, resolved
from distdqn.learning import losses
from distdqn.networks.rescaling import rescale, unscale
from distdqn.types import FloatArray


@dataclass(frozen=True)
class Head(Protocol):
    """Turns outputs into Q-values, and batches into targets, losses and TD errors."""

    rescaled: bool = field(default=False, kw_only=True)  # outputs, and returns of a support: see `rescaling`

    def q_values(self, outputs: Tensor) -> Tensor:
        """Q-values `[B, A]` of `outputs` `[B, A]` or `[B, A, K]`."""
        ...

    def target(self, reward: Tensor, discount: Tensor, chosen: Tensor) -> Tensor:
        """The target for the outputs of the actions taken, `[B]` or `[B, K]`.

        `reward` and `discount` `[B]` are as in `Transitions`, and `chosen` `[B]` or `[B, K]` are the target
        network's outputs of the next actions.
        """
        ...

    def soft_target(
        self, reward: Tensor, discount: Tensor, outputs: Tensor, probability: Tensor, bonus: Tensor
    ) -> Tensor:
        """The mean target, `[B]` or `[B, K]`, over random next actions whose values are raised by `bonus`.

        `outputs` `[B, A]` or `[B, A, K]` are the target network's, `probability` `[B, A]` is that of each
        next action, and `bonus` `[B, A]` is in units of reward.
        """
        if outputs.shape.rank == 3:
            probability, bonus = probability[:, :, None], bonus[:, :, None]  # [B, A, 1]
        values = unscale(outputs) if self.rescaled else outputs
        mixed = tf.reduce_sum(probability * (values + bonus), axis=1)  # [B] or [B, K]
        return self.target(reward, discount, rescale(mixed) if self.rescaled else mixed)

    def loss(self, taken: Tensor, target: Tensor, fractions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss `[B]` and TD error `[B]` of each item of a batch.

        `taken` `[B]` or `[B, K]` are the online network's outputs of the actions taken, `[B, K]` at the
        `fractions` `[B, K]` under the implicit head.
        """
        ...

    def draw_fractions(self, batch_size: int, seed: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """The quantile fractions `[B, K]` of one update by `seed`, two numbers; none but the implicit head's.

        `fractions` are those of the prediction, `target_fractions` of the target network's next outputs,
        and `policy_fractions` of other outputs that are only averaged.
        """
        return {}

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The target network's next `outputs` `[B, A, ...]`: what makes the target, and what chooses."""
        return outputs, outputs


def make_head(options: LearningOptions) -> Head:
    """The head that `options`, resolved, name."""
    rescaled = options.value_rescaling
    match options.head:
        case "quantile":
            return QuantileHead(rescaled=rescaled)
        case "implicit":
            counts = (options.tau_samples, options.target_tau_samples, resolved(options.atoms))
            return ImplicitHead(*counts, options.double, rescaled=rescaled)
        case "categorical":
            support = (options.v_min, options.v_max, resolved(options.atoms))
            return CategoricalHead(*support, rescaled=rescaled)
        case _:
            return ValueHead(options.loss, rescaled=rescaled)


@dataclass(frozen=True)
class ValueHead(Head):
    """One output for each action: its Q-value."""

    loss_name: str  # `huber` or `squared`

    @override
    def q_values(self, outputs: Tensor) -> Tensor:
        return outputs

    @override
    def target(self, reward: Tensor, discount: Tensor, chosen: Tensor) -> Tensor:
        return losses.td_target(reward, discount, chosen, self.rescaled)

    @override
    def loss(self, taken: Tensor, target: Tensor, fractions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        function = {"huber": losses.huber_loss, "squared": losses.squared_loss}[self.loss_name]
        td_error = target - taken  # [B]
        return function(td_error), td_error


@dataclass(frozen=True)
class QuantileHead(Head):
    """`K` quantiles of the return for each action (QR-DQN). The Q-value is their mean."""

    @override
    def q_values(self, outputs: Tensor) -> Tensor:
        return tf.reduce_mean(outputs, axis=-1)  # [B, A]

    @override
    def target(self, reward: Tensor, discount: Tensor, chosen: Tensor) -> Tensor:
        return losses.td_target(reward[:, None], discount[:, None], chosen, self.rescaled)  # [B, K]

    @override
    def loss(self, taken: Tensor, target: Tensor, fractions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        td_error = tf.reduce_mean(target, axis=1) - tf.reduce_mean(taken, axis=1)  # [B]
        return losses.quantile_huber_loss(taken, target, fractions), td_error


@dataclass(frozen=True)
class ImplicitHead(QuantileHead):
    """Quantiles of the return at fractions that are drawn for each item and update (IQN).

    The networks are evaluated as in Dabney et al. (2018), equations 2 and 3, arXiv:1806.06923.
    """

    samples: int  # `N`, of the prediction
    target_samples: int  # `N'`, of the target
    policy_samples: int  # `K`, whose mean chooses the next action
    is_double: bool  # else the target network chooses, in the pass that values

    @override
    def draw_fractions(self, batch_size: int, seed: Tensor) -> dict[str, Tensor]:
        both = self.target_samples + (0 if self.is_double else self.policy_samples)
        counts = {"": self.samples, "target_": both, "policy_": self.policy_samples}
        return {
            f"{use}fractions": tf.random.stateless_uniform((batch_size, count), seed - tf.constant([i, 0]))
            for i, (use, count) in enumerate(counts.items())
        }

    @override
    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        return outputs[..., : self.target_samples], outputs[..., self.target_samples :]


@dataclass(frozen=True)
class CategoricalHead(Head):
    """Logits over `K` fixed returns for each action (C51). The Q-value is the mean return."""

    v_min: float  # smallest return of the support
    v_max: float  # largest
    atoms: int  # `K`, evenly spaced

    @property
    def support(self) -> FloatArray:
        """The returns `[K]`."""
        return np.linspace(self.v_min, self.v_max, self.atoms, dtype=np.float32)

    @override
    def q_values(self, outputs: Tensor) -> Tensor:
        return tf.linalg.matvec(tf.nn.softmax(outputs, axis=-1), self.support)  # [B, A]

    @override
    def target(self, reward: Tensor, discount: Tensor, chosen: Tensor) -> Tensor:
        targets = losses.td_target(reward[:, None], discount[:, None], self.support, self.rescaled)  # [B, K]
        return losses.categorical_projection(self.support, targets, tf.nn.softmax(chosen, axis=-1))

    @override
    def soft_target(
        self, reward: Tensor, discount: Tensor, outputs: Tensor, probability: Tensor, bonus: Tensor
    ) -> Tensor:
        mixture = 0.0
        for action in range(outputs.shape[1]):
            shifted = reward + discount * bonus[:, action]  # [B]
            mixture += probability[:, action, None] * self.target(shifted, discount, outputs[:, action])
        return mixture  # [B, K]

    @override
    def loss(self, taken: Tensor, target: Tensor, fractions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean = tf.linalg.matvec(tf.nn.softmax(taken, axis=-1), self.support)  # [B]
        td_error = tf.linalg.matvec(target, self.support) - mean  # [B]
        return losses.cross_entropy_loss(taken, target), td_error
