"""The update itself: networks, optimizer, and `U` updates in one compiled loop."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from distdqn.errors import one_line
from distdqn.learning import losses
from distdqn.learning.heads import Head
from distdqn.types import AnyArray, BoolArray, FloatArray, Transitions

Tensor = Any  # TensorFlow ships no types


class Updated(NamedTuple):
    """What a call of `UpdateLoop.run` brought: means over its updates, and every TD error.

    Attributes:
        loss: of the batches, importance weights applied. Like the other means, over the
            updates that were made; 0 if none was.
        q_mean: Q-value of the actions taken.
        gradient_norm: global, before clipping.
        td_error: `[U, B]` float32, target minus prediction, before its update; 0 where
            the update was skipped.
        is_finite: `[U]` bool, False where the update was skipped.
        first_not_finite: which tensor made the first of those so; None if there is none.
    """

    loss: float
    q_mean: float
    gradient_norm: float
    td_error: FloatArray
    is_finite: BoolArray
    first_not_finite: str | None


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
    Only the loss's forward pass is one of training: there, kernels and statistics that a
    layer keeps are brought up to date.

    Where batch, loss, gradient or those statistics hold NaN or infinity, the update is
    skipped: networks and optimizer stay as they are, to the bit.

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
        noise = {id(variable) for layer in self._noisy for variable in layer.non_trainable_variables}
        pairs = zip(target.non_trainable_weights, online.non_trainable_weights, strict=True)
        # Such as means of batches, copied whole; each network's noise is its own.
        self._statistics = [(lagging, own) for lagging, own in pairs if id(own) not in noise]
        self._observation_dtype = np.dtype(online.inputs[0].dtype)
        self._double = double
        self._target_update = (target_update_period, target_update_rate)
        # XLA is faster at dense layers and several times slower at convolutions, on a CPU.
        self._has_convolutions = any(len(weight.shape) == 4 for weight in online.trainable_weights)
        self._restored = self._what_to_restore()
        self._run = tf.function(self._loop, jit_compile=not self._has_convolutions, autograph=False)

    def compile(self, updates: int, batch_size: int) -> str | None:
        """Compiles the loop for `[updates, batch_size]` transitions, without an update.

        Returns:
            None, or one line that says why XLA could not compile it.
        """
        import tensorflow as tf

        lead = (updates, batch_size)
        observation = np.zeros((*lead, *self.online.input_shape[1:]), self._observation_dtype)
        zeros = np.zeros(lead, np.float32)
        columns = self._tensors(
            Transitions(observation, zeros.astype(np.int32), zeros, zeros, observation), None
        )
        nothing = (columns, tf.constant(0), tf.constant(0, tf.int64))
        try:
            self._run(*nothing)
        except (tf.errors.OpError, NotImplementedError) as error:
            self._run = tf.function(self._loop, autograph=False)
            self._run(*nothing)
            reason = one_line(error)[:200]
            return f"XLA cannot compile this network; the learner goes on without it, slower ({reason})."
        return None

    def run(
        self,
        transitions: Transitions,
        learner_steps: int,
        importance_weight: FloatArray | None = None,
        learning_rate: float | None = None,
    ) -> Updated:
        """Makes one update for each of the `U` batches.

        Args:
            transitions: `[U, B]` columns.
            learner_steps: updates made before.
            importance_weight: `[U, B]` float32; None means 1 for all.
            learning_rate: of these updates and those after them; None means as before.
        """
        import tensorflow as tf

        if learning_rate is not None:
            self.optimizer.learning_rate = learning_rate  # a variable, which the compiled loop reads
        updates = len(transitions)
        begin = tf.constant(learner_steps, tf.int64)
        columns = self._tensors(transitions, importance_weight)
        results = self._run(columns, tf.constant(updates), begin)
        step_metrics, half_squared_norms, td_error = (
            result.numpy() for result in results
        )  # [U, 4], [U, V], [U, B]
        is_finite = step_metrics[:, 0] == 1.0  # [U]
        means = step_metrics[is_finite, 1:].mean(axis=0) if is_finite.any() else np.zeros(3)
        loss, q_mean, gradient_norm = means.tolist()
        first = None
        if not is_finite.all():
            u = int(np.argmin(is_finite))
            inputs = {name: column[u].numpy() for name, column in columns.items()}
            first = self._first_not_finite(inputs, step_metrics[u, 1], half_squared_norms[u])
        return Updated(loss, q_mean, gradient_norm, td_error, is_finite, first)

    def get_state(self) -> dict[str, Any]:
        """Both networks' variables and the optimizer's, in lists of arrays `[...]`."""
        return {
            name: [np.asarray(variable.numpy()) for variable in variables]  # counters are arrays, too: []
            for name, variables in self._state().items()
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` returned, arrays `[...]`.

        Raises:
            ValueError: it is of other networks; nothing was changed.
        """
        pairs = []
        for name, variables in self._state().items():
            arrays = state[name]
            if len(arrays) != len(variables):
                raise ValueError(f"`{name}` has {len(arrays)} arrays for {len(variables)} variables.")
            for variable, array in zip(variables, arrays, strict=True):
                if array.shape != tuple(variable.shape):
                    shapes = f"{tuple(variable.shape)}, not {array.shape}"
                    raise ValueError(f"`{variable.path}` of `{name}` must have the shape {shapes}.")
                pairs.append((variable, array))
        for variable, array in pairs:
            variable.assign(array)

    def _state(self) -> dict[str, list[Any]]:
        """All variables that updates change or read, noise and counters of random numbers too."""
        return {
            "online": self.online.variables,
            "target": self.target.variables,
            "optimizer": self.optimizer.variables,
        }

    def _first_not_finite(
        self, inputs: dict[str, AnyArray], loss: float, half_squared_norms: FloatArray
    ) -> str:
        """What made an update not finite, in the order of its computation.

        Args:
            inputs: of the update, `[B, ...]`.
            loss: of the batch.
            half_squares: `[V]`, see `_update`.
        """
        for name in ("observation", "reward", "discount", "next_observation", "importance_weight"):
            if not np.isfinite(inputs[name]).all():
                return name
        if (path := path_not_finite([*self.online.variables, *self.target.variables])) is not None:
            return f"weights of `{path}`"
        if not np.isfinite(loss):
            return "loss"
        for variable, half_squared_norm in zip(
            self.online.trainable_variables, half_squared_norms, strict=True
        ):
            if not np.isfinite(half_squared_norm):
                return f"gradient of `{variable.path}`"
        return "norm of the gradient or the statistics of a layer"

    def _loop(
        self, columns: dict[str, Tensor], updates: Tensor, learner_steps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Runs `updates` updates; returns what each of them does, `[U, 4]`, `[U, V]` and `[U, B]`."""
        import tensorflow as tf

        # Once for all batches, which costs less than in the loop.
        columns = columns | {"is_finite": _all_finite([*columns.values()], kept_axes=1)}  # [U]

        def body(u: Tensor, *results: Tensor) -> tuple[Tensor, ...]:
            batch = {name: column[u] for name, column in columns.items()}  # [B, ...]
            new = self._update(batch, learner_steps + tf.cast(u, tf.int64))  # [4], [V], [B]
            pairs = zip(results, new, strict=True)
            return u + 1, *(tf.tensor_scatter_nd_update(all_, [[u]], [one]) for all_, one in pairs)

        length, batch_size = columns["action"].shape
        widths = (4, len(self.online.trainable_variables), batch_size)
        start = (tf.constant(0), *(tf.zeros((length, width)) for width in widths))
        _, *results = tf.while_loop(lambda u, *_: u < updates, body, start, maximum_iterations=length)
        return tuple(results)

    def _update(self, batch: dict[str, Tensor], learner_steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One update from one batch `[B, ...]`.

        Returns:
            Whether it was made, loss, mean Q-value and gradient norm as `[4]`; half the
            squared norm of each variable's gradient as `[V]`; and the TD error `[B]`.
        """
        import tensorflow as tf

        self._resample_noise(learner_steps)
        before = [tf.identity(variable.value) for variable in self._restored]
        target = self._td_target(batch)  # [B] or [B, K]
        with tf.GradientTape() as tape:
            outputs = self.online(batch["observation"], training=True)  # [B, A] or [B, A, K]
            taken = tf.gather(outputs, batch["action"], batch_dims=1)  # [B] or [B, K]
            loss, td_error = self._head.loss(taken, target, batch["importance_weight"])  # [], [B]
            regularized = loss + sum(self.online.losses)  # of a user's network
        variables = self.online.trainable_variables
        gradients = tape.gradient(regularized, variables, unconnected_gradients="zero")
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        half_squared_norms = tf.stack([tf.nn.l2_loss(gradient) for gradient in gradients])  # [V]
        norm = tf.sqrt(2.0 * tf.reduce_sum(half_squared_norms))
        statistics = [statistic.value for _, statistic in self._statistics]
        is_finite = batch["is_finite"] & _all_finite([loss, norm, *statistics])  # []
        if self._max_gradient_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self._max_gradient_norm, use_norm=norm)
        self._apply(gradients, is_finite, before)
        self._move_target(learner_steps, is_finite)
        q_taken = tf.gather(self._head.q_values(outputs), batch["action"], batch_dims=1)  # [B]
        step_metrics = tf.stack([tf.cast(is_finite, tf.float32), loss, tf.reduce_mean(q_taken), norm])
        return step_metrics, half_squared_norms, tf.where(is_finite, td_error, 0.0)

    def _what_to_restore(self) -> list[Any]:
        """Variables whose values from before an update are needed to skip it."""
        # The loss's forward pass may change these: statistics, kernels that a layer
        # normalizes, counters of random numbers.
        changed = [
            variable
            for layer in self.online.layers
            if layer.non_trainable_variables and not hasattr(layer, "resample")
            for variable in layer.variables
        ]
        if self._has_convolutions:
            return changed
        return [*changed, *self.online.trainable_variables, *self.optimizer.variables]

    def _apply(self, gradients: list[Tensor], is_finite: Tensor, before: list[Tensor]) -> None:
        """A step of Adam along `gradients`, or, unless `is_finite` `[]`, the values from `before`.

        On a CPU, XLA merges a choice between arrays into Adam's own pass over them (2 % of an
        update of 64 and 64 units), but copies arrays for a branch (8 %). Without XLA it is the
        other way round: a branch is nearly free, choices take a fifth of a small convolutional
        network's update.

        Args:
            gradients: each of its variable's `[shape]`.
            is_finite: `[]` bool.
            before: of the variables to restore, each `[shape]`.
        """
        import tensorflow as tf

        def apply() -> None:
            self.optimizer.apply(gradients, self.online.trainable_variables)

        def restore(choose: Callable[[Tensor, Tensor], Tensor]) -> None:
            for variable, value in zip(self._restored, before, strict=True):
                variable.assign(choose(variable.value, value))

        if self._has_convolutions:
            tf.cond(is_finite, apply, lambda: restore(lambda _, old: old))
        else:
            apply()
            restore(lambda new, old: tf.where(is_finite, new, old))

    def _move_target(self, learner_steps: Tensor, is_finite: Tensor) -> None:
        """Moves the target network if that is due after this update, which `is_finite` `[]`."""
        import tensorflow as tf

        period, rate = self._target_update
        is_due = is_finite & tf.equal((learner_steps + 1) % period, 0)
        pairs = zip(self.target.trainable_variables, self.online.trainable_variables, strict=True)
        for lagging, online in pairs:
            lagging.assign(tf.where(is_due, losses.polyak_update(lagging, online, rate), lagging))
        for lagging, online in self._statistics:
            lagging.assign(tf.where(is_due, online, lagging))

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
            chosen = losses.gather_greedy(outputs, self._head.q_values(chooser))  # [B] or [B, K]
            return self._head.target(reward, discount, chosen)
        settings = self._munchausen
        q_before = self._head.q_values(self.target(batch["observation"]))  # [B, A]
        bonus = losses.munchausen_bonus(q_before, batch["action"], settings.temperature, settings.least)
        policy = losses.soft_policy(self._head.q_values(outputs), settings.temperature)  # [B, A], [B, A]
        return self._head.soft_target(reward + settings.scale * bonus, discount, outputs, *policy)

    def _tensors(self, transitions: Transitions, importance_weight: FloatArray | None) -> dict[str, Tensor]:
        """Columns `[U, B, ...]` as tensors of fixed dtypes, so that the loop is traced once."""
        import tensorflow as tf

        shape = transitions.action.shape
        weight = np.ones(shape, np.float32) if importance_weight is None else importance_weight
        columns = {**transitions.columns(), "importance_weight": weight}
        dtypes = {"action": np.int32}
        dtypes |= dict.fromkeys(["observation", "next_observation"], self._observation_dtype)
        return {
            name: tf.convert_to_tensor(np.asarray(column, dtypes.get(name, np.float32)))
            for name, column in columns.items()
        }


def path_not_finite(variables: list[Any]) -> str | None:
    """Name of the first Keras variable with NaN or infinity in it, or None."""
    return next((v.path for v in variables if not np.isfinite(v.numpy()).all()), None)


def _all_finite(tensors: list[Tensor], kept_axes: int = 0) -> Tensor:
    """Whether all numbers of tensors `[...]` are finite, `[]` or for each of the first axes."""
    import tensorflow as tf

    floats = [tf.math.is_finite(tensor) for tensor in tensors if tensor.dtype.is_floating]
    each = [tf.reduce_all(finite, axis=range(kept_axes, len(finite.shape))) for finite in floats]
    return functools.reduce(tf.logical_and, each)
