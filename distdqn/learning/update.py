"""The update itself: networks, optimizer, and `U` updates in one compiled loop."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from distdqn.learning import losses
from distdqn.learning.heads import Head
from distdqn.transition import FloatArray, Transitions

Tensor = Any  # TensorFlow ships no types


class Updated(NamedTuple):
    """What a call of `UpdateLoop.run` brought: means over its updates, and every TD error.

    Attributes:
        loss: of the batches, importance weights applied.
        q_mean: Q-value of the actions taken.
        gradient_norm: global, before clipping.
        td_error: `[U, B]` float32, target minus prediction, before its update.
    """

    loss: float
    q_mean: float
    gradient_norm: float
    td_error: FloatArray


@dataclass(frozen=True)
class Munchausen:
    """Settings of Munchausen DQN: the agent is paid for what it was sure of.

    `reward + scale * munchausen_bonus + discount * sum_a pi(a) * (q(a) - temperature * log pi(a))`

    With n-step returns the bonus is that of the window's first action.

    Attributes:
        scale: of the bonus, in [0, 1].
        temperature: of the softmax policy, in units of reward.
        least: where the bonus is cut off, at most 0.

    Source: Vieillard, Pietquin, Geist (2020), equation 2, arXiv:2007.14430.
    """

    scale: float
    temperature: float
    least: float


class UpdateLoop:
    """Online and target network and Adam, advanced by whole calls of `U` updates.

    One update: for a batch, the head's loss between what the online network says of the
    actions taken and what rewards and target network make of them, a step of Adam on it,
    and every `target_update_period` updates the target network moves towards the online one.

    Attributes:
        online: the trained Keras network.
        target: its lagging copy.
        optimizer: the Keras optimizer, with its slots.
    """

    def __init__(
        self,
        online: Any,
        target: Any,
        learning_rate: float,
        adam_epsilon: float,
        max_gradient_norm: float | None,
        head: Head,
        double: bool,
        munchausen: Munchausen | None,
        target_update_period: int,
        target_update_rate: float,
        noise_seed: int = 0,
    ) -> None:
        import keras
        import tensorflow as tf

        self.online, self.target = online, target
        self.optimizer = keras.optimizers.Adam(learning_rate, epsilon=adam_epsilon)
        self.optimizer.build(online.trainable_variables)
        self._max_gradient_norm = max_gradient_norm
        self._head = head
        self._munchausen = munchausen
        self._noise_seed = noise_seed
        self._noisy = [
            layer for net in (online, target) for layer in net.layers if hasattr(layer, "resample")
        ]
        self._double = double
        self._target_update = (target_update_period, target_update_rate)
        self._run = tf.function(self._loop, jit_compile=True, autograph=False)

    def compile(self, updates: int, batch_size: int) -> str | None:
        """Compiles the loop for `[updates, batch_size]` transitions, without an update.

        Returns:
            None, or one line that says why it runs without XLA.
        """
        import tensorflow as tf

        lead = (updates, batch_size)
        observation = np.zeros((*lead, *self.online.input_shape[1:]), np.float32)
        zeros = np.zeros(lead, np.float32)
        columns = _tensors(Transitions(observation, zeros.astype(np.int32), zeros, zeros, observation), None)
        nothing = (columns, tf.constant(0), tf.constant(0, tf.int64))
        try:
            self._run(*nothing)
        except (tf.errors.OpError, NotImplementedError) as error:
            self._run = tf.function(self._loop, autograph=False)
            self._run(*nothing)
            reason = " ".join(str(error).split())[:200]
            return f"XLA cannot compile this network; the learner goes on without it, slower ({reason})."
        return None

    def run(
        self, transitions: Transitions, learner_steps: int, importance_weight: FloatArray | None = None
    ) -> Updated:
        """Makes one update for each of the `U` batches.

        Args:
            transitions: `[U, B]` columns.
            learner_steps: updates made before.
            importance_weight: `[U, B]` float32; None means 1 for all.
        """
        import tensorflow as tf

        updates = len(transitions)
        begin = tf.constant(learner_steps, tf.int64)
        columns = _tensors(transitions, importance_weight)
        sums, td_error = self._run(columns, tf.constant(updates), begin)  # [3], [U, B]
        loss, q_mean, gradient_norm = (sums.numpy() / np.float32(updates)).tolist()
        return Updated(loss, q_mean, gradient_norm, td_error.numpy())

    def _loop(
        self, columns: dict[str, Tensor], updates: Tensor, learner_steps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Runs `updates` updates; returns the sums of their figures `[3]` and all TD errors `[U, B]`."""
        import tensorflow as tf

        def body(u: Tensor, sums: Tensor, td_errors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            batch = {name: column[u] for name, column in columns.items()}  # [B, ...]
            figures, td_error = self._update(batch, learner_steps + tf.cast(u, tf.int64))  # [3], [B]
            return u + 1, sums + figures, tf.tensor_scatter_nd_update(td_errors, [[u]], [td_error])

        shape = columns["action"].shape  # [U, B]
        start = (tf.constant(0), tf.zeros(3), tf.zeros(shape))
        _, sums, td_errors = tf.while_loop(
            lambda u, *_: u < updates, body, start, maximum_iterations=shape[0]
        )
        return sums, td_errors

    def _update(self, batch: dict[str, Tensor], learner_steps: Tensor) -> tuple[Tensor, Tensor]:
        """One update from one batch `[B, ...]`.

        Returns:
            Loss, mean Q-value and gradient norm as `[3]`, and the TD error `[B]`.
        """
        import tensorflow as tf

        self._resample_noise(learner_steps)
        target = self._td_target(batch)  # [B] or [B, K]
        with tf.GradientTape() as tape:
            outputs = self.online(batch["observation"])  # [B, A] or [B, A, K]
            taken = tf.gather(outputs, batch["action"], batch_dims=1)  # [B] or [B, K]
            loss, td_error = self._head.loss(taken, target, batch["importance_weight"])  # [], [B]
        variables = self.online.trainable_variables
        gradients = tape.gradient(loss, variables)
        norm = tf.linalg.global_norm(gradients)
        if self._max_gradient_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self._max_gradient_norm, use_norm=norm)
        self.optimizer.apply(gradients, variables)
        period, rate = self._target_update
        is_due = tf.equal((learner_steps + 1) % period, 0)
        pairs = zip(self.target.trainable_variables, self.online.trainable_variables, strict=True)
        for lagging, online in pairs:
            lagging.assign(tf.where(is_due, losses.moved_target(lagging, online, rate), lagging))
        q_taken = tf.gather(self._head.q_values(outputs), batch["action"], batch_dims=1)  # [B]
        return tf.stack([loss, tf.reduce_mean(q_taken), norm]), td_error

    def _resample_noise(self, learner_steps: Tensor) -> None:
        """New noise for every noisy layer of both networks, by seed, step and layer alone.

        Both uses of the online network in one update have the same noise, where Fortunato
        et al. draw it anew for the choice of the next action.
        """
        import tensorflow as tf

        for position, layer in enumerate(self._noisy):
            step = tf.cast(learner_steps % 2**31, tf.int32)
            layer.resample(tf.stack([self._noise_seed + position, 2 * step]))

    def _td_target(self, batch: dict[str, Tensor]) -> Tensor:
        """What the online network should say of the actions taken in `batch`, `[B]` or `[B, K]`."""
        reward, discount = batch["reward"], batch["discount"]
        outputs = self.target(batch["next_observation"])  # [B, A] or [B, A, K]
        if self._munchausen is None:
            chooser = self.online(batch["next_observation"]) if self._double else outputs
            chosen = losses.chosen_outputs(outputs, self._head.q_values(chooser))  # [B] or [B, K]
            return self._head.target(reward, discount, chosen)
        settings = self._munchausen
        q_before = self._head.q_values(self.target(batch["observation"]))  # [B, A]
        bonus = losses.munchausen_bonus(q_before, batch["action"], settings.temperature, settings.least)
        policy = losses.soft_policy(self._head.q_values(outputs), settings.temperature)  # [B, A], [B, A]
        return self._head.soft_target(reward + settings.scale * bonus, discount, outputs, *policy)


def _tensors(transitions: Transitions, importance_weight: FloatArray | None) -> dict[str, Tensor]:
    """Columns `[U, B, ...]` as tensors of fixed dtypes, so that the loop is traced once."""
    import tensorflow as tf

    weight = np.ones(transitions.action.shape, np.float32) if importance_weight is None else importance_weight
    columns = {**transitions.columns(), "importance_weight": weight}
    return {
        name: tf.convert_to_tensor(column, tf.int32 if name == "action" else tf.float32)
        for name, column in columns.items()
    }
