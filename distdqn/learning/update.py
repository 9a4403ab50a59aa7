"""The update: networks, optimizer, and `U` updates in one compiled loop."""

import contextlib
import functools
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor
from typing_extensions import override

from distdqn.config.config import LearningOptions
from distdqn.errors import one_line
from distdqn.learning import losses
from distdqn.learning.heads import make_head
from distdqn.networks.layers import MASKED, NoisyDense, at_fractions, read_part
from distdqn.networks.rescaling import unscale
from distdqn.networks.tensorflow_setup import forget_compiled
from distdqn.types import AnyArray, BoolArray, FloatArray, ObservationPart, Transitions

# Of a file in XLA's cache that is damaged or gone.
_CACHE_ERRORS = (
    tf.errors.DataLossError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
    tf.errors.PermissionDeniedError,
)


class UpdateResult(NamedTuple):
    """The result of `UpdateLoop.run`. Means are over the updates that were applied, 0 if none was."""

    loss: float  # mean, importance weights applied
    q_mean: float  # mean Q-value of the actions taken
    gradient_norm: float  # mean global norm before clipping
    td_error: FloatArray  # [U, B], target minus prediction, before its update; 0 where that was skipped
    q_values: FloatArray  # [U, B], of the actions taken, before the update
    is_finite: BoolArray  # [U], False where the update was skipped
    first_not_finite: str | None  # the tensor that caused the first skipped update


class UpdateLoop:
    """Online network, target network and Adam, with a compiled loop of `U` updates a call.

    An update whose batch, loss, gradient or statistics hold NaN or infinity is skipped: networks and
    optimizer stay the same to the bit. Only the loss's forward pass runs in training mode. `options` are
    resolved. `mask` is the part of an observation that says which actions are allowed, if there is one.
    """

    def __init__(
        self,
        online: keras.Model,
        target: keras.Model,
        options: LearningOptions,
        noise_seed: int = 0,
        mask: ObservationPart | None = None,
    ) -> None:
        self.online, self.target = online, target
        # The rate of the schedule comes with every call.
        self.optimizer = FusedAdam(options.learning_rate, epsilon=options.adam_epsilon, name="adam")
        self.optimizer.build(online.trainable_variables)
        self._options = options
        self._head = make_head(options)
        self._noise_seed, self._mask = noise_seed, mask
        self._noisy = [
            layer for net in (online, target) for layer in net.layers if isinstance(layer, NoisyDense)
        ]
        noise = {id(variable) for layer in self._noisy for variable in layer.non_trainable_variables}
        pairs = zip(target.non_trainable_weights, online.non_trainable_weights, strict=True)
        # Moving means of batches, for example. The target network gets copies of them, but its own noise.
        self._statistics = [(lagging, own) for lagging, own in pairs if id(own) not in noise]
        self._observation_dtype = np.dtype(online.inputs[0].dtype)
        # On a CPU, XLA is faster with dense layers and several times slower with convolutions.
        self._has_convolutions = any(len(weight.shape) == 4 for weight in online.trainable_weights)
        self._restored = self._variables_to_restore()
        self._run = tf.function(self._loop, jit_compile=not self._has_convolutions, autograph=False)

    def compile(self, updates: int, batch_size: int) -> str | None:
        """Compiles the loop for `[updates, batch_size]` transitions; returns a line if XLA cannot."""
        lead = (updates, batch_size)
        observation = np.zeros((*lead, *self.online.input_shape[1:]), self._observation_dtype)
        zeros = np.zeros(lead, np.float32)
        batches = Transitions(observation, zeros.astype(np.int32), zeros, zeros, observation)
        no_updates = (self._tensors(batches, None), tf.constant(0), tf.constant(0, tf.int64))
        try:
            with contextlib.suppress(*_CACHE_ERRORS):
                self._run(*no_updates)
                return None
            forget_compiled()
            # The other function remembers that it could not be compiled.
            self._run = tf.function(self._loop, jit_compile=True, autograph=False)
            self._run(*no_updates)
        except (tf.errors.OpError, NotImplementedError) as error:
            self._run = tf.function(self._loop, autograph=False)
            self._run(*no_updates)
            reason = one_line(error)[:200]
            return f"XLA cannot compile this network, so the learner is slower without it ({reason})."
        return None

    def run(
        self,
        transitions: Transitions,
        learner_steps: int,
        importance_weight: FloatArray | None = None,
        learning_rate: float | None = None,
    ) -> UpdateResult:
        """Makes one update for each of the `U` batches `[U, B]`, after `learner_steps` earlier ones.

        None means an `importance_weight` `[U, B]` of 1 for all, and the same learning rate as before.
        """
        if learning_rate is not None:
            self.optimizer.learning_rate = learning_rate  # a variable, which the compiled loop reads
        columns = self._tensors(transitions, importance_weight)
        results = self._run(columns, tf.constant(len(transitions)), tf.constant(learner_steps, tf.int64))
        step_metrics, half_squared_norms, td_error, q_taken = (result.numpy() for result in results)
        is_finite = step_metrics[:, 0] == 1.0  # [U]
        means = step_metrics[is_finite, 1:].mean(axis=0) if is_finite.any() else np.zeros(3)
        loss, q_mean, gradient_norm = means.tolist()
        first = None
        if not is_finite.all():
            u = int(np.argmin(is_finite))
            batch = {name: column[u].numpy() for name, column in columns.items()}
            first = self._first_not_finite(batch, step_metrics[u, 1], half_squared_norms[u])
        return UpdateResult(loss, q_mean, gradient_norm, td_error, q_taken, is_finite, first)

    def get_state(self) -> dict[str, Any]:
        """All variables that updates read or change, in lists of arrays `[...]`, noise and seeds included."""
        # `numpy()` of a counter is a scalar, not an array.
        return {name: [np.asarray(v.numpy()) for v in variables] for name, variables in self._state().items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the result of `get_state`, arrays `[...]`; for other networks only a `ValueError`."""
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
        return {
            "online": self.online.variables,
            "target": self.target.variables,
            "optimizer": self.optimizer.variables,
        }

    def _tensors(self, transitions: Transitions, importance_weight: FloatArray | None) -> dict[str, Tensor]:
        """Columns `[U, B, ...]` as tensors of fixed dtypes, so that the loop is traced once."""
        shape = transitions.action.shape
        weight = np.ones(shape, np.float32) if importance_weight is None else importance_weight
        columns = {**transitions.columns(), "importance_weight": weight}
        dtypes = {"action": np.int32}
        dtypes |= dict.fromkeys(["observation", "next_observation"], self._observation_dtype)
        return {
            name: tf.convert_to_tensor(np.asarray(column, dtypes.get(name, np.float32)))
            for name, column in columns.items()
        }

    def _first_not_finite(
        self, batch: dict[str, AnyArray], loss: float, half_squared_norms: FloatArray
    ) -> str:
        """The first tensor that is not finite, in order of computation, in an update of `batch` `[B, ...]`.

        `half_squared_norms` `[V]`: see `_update`.
        """
        inputs = ("observation", "reward", "discount", "next_observation", "importance_weight")
        weights = (*self.online.variables, *self.target.variables)
        gradients = zip(self.online.trainable_variables, half_squared_norms, strict=True)
        tensors: list[tuple[str, Any]] = [
            *((name, batch[name]) for name in inputs),
            *((f"weights of `{variable.path}`", variable.numpy()) for variable in weights),
            ("loss", loss),
            *((f"gradient of `{variable.path}`", norm) for variable, norm in gradients),
        ]
        other = "norm of the gradient or the statistics of a layer"
        return next((name for name, tensor in tensors if not np.isfinite(tensor).all()), other)

    def _loop(self, columns: dict[str, Tensor], updates: Tensor, learner_steps: Tensor) -> tuple[Tensor, ...]:
        """Makes `updates` updates; returns results of `_update`: `[U, 4]`, `[U, V]`, `[U, B]`, `[U, B]`."""
        # Once for all batches, which costs less than in the loop.
        columns = columns | {"is_finite": _all_finite([*columns.values()], kept_axes=1)}  # [U]

        def body(u: Tensor, *results: Tensor) -> tuple[Tensor, ...]:
            batch = {name: column[u] for name, column in columns.items()}  # [B, ...]
            new = self._update(batch, learner_steps + tf.cast(u, tf.int64))  # [4], [V], [B], [B]
            pairs = zip(results, new, strict=True)
            return u + 1, *(tf.tensor_scatter_nd_update(all_, [[u]], [one]) for all_, one in pairs)

        length, batch_size = columns["action"].shape
        widths = (4, len(self.online.trainable_variables), batch_size, batch_size)
        start = (tf.constant(0), *(tf.zeros((length, width)) for width in widths))
        _, *results = tf.while_loop(lambda u, *_: u < updates, body, start, maximum_iterations=length)
        return tuple(results)

    def _update(self, batch: dict[str, Tensor], learner_steps: Tensor) -> tuple[Tensor, ...]:
        """One update from one batch `[B, ...]`.

        Returns:
            Whether it was applied, loss, mean Q-value and gradient norm as `[4]`; half the squared norm of
            each variable's gradient as `[V]`; TD errors `[B]`; and Q-values of the actions taken `[B]`.
        """
        step = tf.cast(learner_steps % 2**31, tf.int32)
        self._resample_noise(step)
        seed = tf.stack([self._noise_seed - 1, step])  # noisy layers count up from the seed of the noise
        batch = batch | self._head.draw_fractions(batch["action"].shape[0], seed)
        before = [tf.identity(variable.value) for variable in self._restored]
        target = self._td_target(batch)  # [B] or [B, K]
        with tf.GradientTape() as tape:
            with at_fractions(self.online, batch.get("fractions")):
                outputs = self.online(batch["observation"], training=True)  # [B, A] or [B, A, K]
            taken = tf.gather(outputs, batch["action"], batch_dims=1)  # [B] or [B, K]
            item_loss, td_error = self._head.loss(taken, target, batch.get("fractions"))  # [B], [B]
            if self._options.conservative_weight:
                q_values = self._q_values(outputs, batch["observation"])  # [B, A]
                conservative = losses.conservative_loss(q_values, batch["action"])  # [B]
                item_loss += self._options.conservative_weight * conservative
            loss = tf.reduce_mean(batch["importance_weight"] * item_loss)
            regularized = loss + sum(self.online.losses)  # of a user's network
        variables = self.online.trainable_variables
        gradients = tape.gradient(regularized, variables, unconnected_gradients="zero")
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        half_squared_norms = tf.stack([tf.nn.l2_loss(gradient) for gradient in gradients])  # [V]
        norm = tf.sqrt(2.0 * tf.reduce_sum(half_squared_norms))
        statistics = [statistic.value for _, statistic in self._statistics]
        is_finite = batch["is_finite"] & _all_finite([loss, norm, *statistics])  # []
        if self._options.max_gradient_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self._options.max_gradient_norm, use_norm=norm)
        self._apply(gradients, is_finite, before)
        self._update_target_network(learner_steps, is_finite)
        q_taken = tf.gather(self._head.q_values(outputs), batch["action"], batch_dims=1)  # [B]
        step_metrics = tf.stack([tf.cast(is_finite, tf.float32), loss, tf.reduce_mean(q_taken), norm])
        return step_metrics, half_squared_norms, tf.where(is_finite, td_error, 0.0), q_taken

    def _td_target(self, batch: dict[str, Tensor]) -> Tensor:
        """The target for the outputs of the actions in `batch`, `[B]` or `[B, K]`.

        Munchausen DQN has, with the bonus of the first action of the n-step window,
        `reward + scale * munchausen_bonus + discount * sum_a pi(a) * (q(a) - temperature * log pi(a))`

        Source: Vieillard, Pietquin, Geist (2020), equation 2, arXiv:2007.14430.
        """
        options, head = self._options, self._head
        reward, discount = batch["reward"], batch["discount"]
        observation, next_observation = batch["observation"], batch["next_observation"]
        policy_fractions = batch.get("policy_fractions")
        with at_fractions(self.target, batch.get("target_fractions")):
            outputs, chooser = head.split(self.target(next_observation))  # [B, A] or [B, A, K]
        if not options.munchausen:
            if options.double:
                with at_fractions(self.online, policy_fractions):
                    chooser = self.online(next_observation)
            chosen = losses.gather_greedy(outputs, self._q_values(chooser, next_observation))  # [B] or [B, K]
            return head.target(reward, discount, chosen)
        temperature = options.munchausen_temperature
        with at_fractions(self.target, policy_fractions):
            q_before = self._q_values(self.target(observation), observation)  # [B, A]
        bonus = losses.munchausen_bonus(q_before, batch["action"], temperature, options.munchausen_clip)
        q_after = self._q_values(chooser, next_observation)  # [B, A]
        policy = losses.soft_policy(q_after, temperature)  # [B, A], [B, A]
        return head.soft_target(reward + options.munchausen_scale * bonus, discount, outputs, *policy)

    def _q_values(self, outputs: Tensor, observation: Tensor) -> Tensor:
        """Q-values `[B, A]`, in units of return, of `outputs` `[B, A]` or `[B, A, K]`.

        They are lowered where an action is not allowed.
        """
        q_values = self._head.q_values(outputs)
        if self._head.rescaled:
            q_values = unscale(q_values)
        if self._mask is None:
            return q_values
        return q_values + MASKED * (read_part(self._mask, observation) - 1.0)

    def _variables_to_restore(self) -> list[Any]:
        """Variables whose values from before an update are needed to skip it."""
        # The loss's forward pass may change these: statistics, normalized kernels, counters of seeds.
        changed = [
            variable
            for layer in self.online.layers
            if layer.non_trainable_variables and not isinstance(layer, NoisyDense)
            for variable in layer.variables
        ]
        if self._has_convolutions:
            return changed
        return [*changed, *self.online.trainable_variables, *self.optimizer.variables]

    def _apply(self, gradients: list[Tensor], is_finite: Tensor, before: list[Tensor]) -> None:
        """Applies Adam with `gradients`, or, unless `is_finite` `[]`, restores the values from `before`.

        On a CPU, XLA merges a choice between arrays into Adam's own pass over them (2 % of an update of 64
        and 64 units), but copies arrays for a branch (8 %). Without XLA a branch is nearly free, and choices
        take a fifth of a small convolutional network's update.
        """

        def apply() -> None:
            self.optimizer.apply(gradients, self.online.trainable_variables)

        def restore() -> None:
            for variable, old in zip(self._restored, before, strict=True):
                variable.assign(old if self._has_convolutions else tf.where(is_finite, variable.value, old))

        if self._has_convolutions:
            tf.cond(is_finite, apply, restore)
        else:
            apply()
            restore()

    def _update_target_network(self, learner_steps: Tensor, is_finite: Tensor) -> None:
        """Updates the target network if its period ends with this update and `is_finite` `[]`."""
        is_due = is_finite & tf.equal((learner_steps + 1) % self._options.target_update_period, 0)
        rate = self._options.target_update_rate
        pairs = [*zip(self.target.trainable_variables, self.online.trainable_variables, strict=True)]

        def update() -> None:
            new = [(lagging, losses.polyak_update(lagging, online, rate)) for lagging, online in pairs]
            for lagging, value in [*new, *self._statistics]:
                lagging.assign(value if self._has_convolutions else tf.where(is_due, value, lagging))

        if self._has_convolutions:  # see `_apply`
            tf.cond(is_due, update, lambda: None)
        else:
            update()

    def _resample_noise(self, step: Tensor) -> None:
        """Draws noise for every noisy layer of both networks, by seed, step and layer alone.

        Both uses of the online network in one update have the same noise, where Fortunato et al. (2018) draw
        new noise for the choice of the next action.
        """
        for position, layer in enumerate(self._noisy):
            layer.resample(tf.stack([self._noise_seed + position, 2 * step]))


class FusedAdam(keras.optimizers.Adam):  # type: ignore[misc]
    """Adam with TensorFlow's kernel, which passes once over each variable where Keras makes ten passes."""

    @override
    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        position = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, tf.float32)
        beta_1, beta_2 = tf.constant(self.beta_1), tf.constant(self.beta_2)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[position].value.handle,
            v=self._velocities[position].value.handle,
            beta1_power=beta_1**step,
            beta2_power=beta_2**step,
            lr=learning_rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.constant(self.epsilon),
            grad=gradient,
        )


def _all_finite(tensors: list[Tensor], kept_axes: int = 0) -> Tensor:
    """Whether all numbers of tensors `[...]` are finite, `[]` or for each of the first axes."""
    floats = [tf.math.is_finite(tensor) for tensor in tensors if tensor.dtype.is_floating]
    each = [tf.reduce_all(finite, axis=range(kept_axes, len(finite.shape))) for finite in floats]
    return functools.reduce(tf.logical_and, each)
