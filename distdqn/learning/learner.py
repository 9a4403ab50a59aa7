"""The learner: the one process with TensorFlow, which turns batches into better weights."""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distdqn.learning import losses
from distdqn.networks import layers_from_model, make_q_network
from distdqn.policy import PolicyWeights
from distdqn.seeding import make_integer_seed
from distdqn.transition import SampledBatches

Tensor = Any  # TensorFlow ships no types


@dataclass(frozen=True)
class LearnReport:
    """What the learner says of one call.

    Attributes:
        updates: gradient updates in this call.
        learner_steps: gradient updates in all.
        loss: mean over the updates.
        q_mean: mean Q-value of the actions in the batches.
        gradient_norm: mean global norm, before clipping.
        seconds: time inside the call.
        weights_version: of the weights published with it, or None.
    """

    updates: int
    learner_steps: int
    loss: float
    q_mean: float
    gradient_norm: float
    seconds: float
    weights_version: tuple[int, int] | None


class Learner:
    """Holds online and target network and the optimizer; one call makes `U` updates.

    One update: for a batch, `td_error = target - q(observation)[action]` with the target
    of `losses`, a step of Adam on its loss, and every `target_update_period` updates the
    target network moves towards the online one.
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        actions: int,
        hidden_sizes: Sequence[int],
        layer_norm: bool,
        batch_size: int,
        updates_per_call: int,
        learning_rate: float,
        adam_epsilon: float,
        max_gradient_norm: float | None,
        loss: str,
        double: bool,
        target_update_period: int,
        target_update_rate: float,
        threads: int,
        seed: int,
        epoch: int,
    ) -> None:
        tf, keras = _import_tensorflow(threads)
        self._network_arguments = (observation_shape, actions, tuple(hidden_sizes), layer_norm)
        self._seed = make_integer_seed(seed, "network")
        self._online = make_q_network(*self._network_arguments, seed=self._seed)
        self._target = make_q_network(*self._network_arguments, seed=self._seed)
        self._layers = layers_from_model(self._online)
        self._optimizer = keras.optimizers.Adam(learning_rate, epsilon=adam_epsilon)
        self._optimizer.build(self._online.trainable_variables)
        self._max_gradient_norm = max_gradient_norm
        self._loss = losses.huber_loss if loss == "huber" else losses.squared_loss
        self._double = double
        self._target_update = (target_update_period, target_update_rate)
        self._shape = (updates_per_call, batch_size)
        self._weights_version = (epoch, 0)
        self._learner_steps = 0
        self._updates = tf.function(self._make_updates, jit_compile=True, autograph=False)

    def compile(self) -> str | None:
        """Compiles the update loop ahead of the first batches.

        Called by: the supervisor, once, at the start. Waits for: nothing. After a
        restart: called again.

        Returns:
            None, or one line that says why it runs without XLA.
        """
        import tensorflow as tf

        observation_shape = self._network_arguments[0]
        columns = self._columns(
            observation=np.zeros((*self._shape, *observation_shape), np.float32),
            action=np.zeros(self._shape, np.int32),
            reward=np.zeros(self._shape, np.float32),
            discount=np.zeros(self._shape, np.float32),
            next_observation=np.zeros((*self._shape, *observation_shape), np.float32),
        )
        try:
            self._updates(columns, tf.constant(0), tf.constant(0, tf.int64))  # no updates: only compiles
        except (tf.errors.OpError, NotImplementedError) as error:
            self._updates = tf.function(self._make_updates, autograph=False)
            self._updates(columns, tf.constant(0), tf.constant(0, tf.int64))
            reason = " ".join(str(error).split())[:200]
            return f"XLA cannot compile this network; the learner goes on without it, slower ({reason})."
        return None

    def learn(self, batches: SampledBatches, publish: bool) -> tuple[LearnReport, PolicyWeights | None]:
        """Makes one update for each of the `U` batches.

        Called by: the supervisor, one or two calls ahead. Waits for: its batches. After a
        restart: goes on from the initial weights under a new epoch.

        Args:
            batches: `[U, B]` transitions.
            publish: return the weights after the last update as a new version.
        """
        import tensorflow as tf

        begin = time.perf_counter()
        updates = len(batches.item_id)
        columns = self._columns(**batches.transitions.columns())
        totals = self._updates(columns, tf.constant(updates), tf.constant(self._learner_steps, tf.int64))
        loss, q_mean, gradient_norm = (totals.numpy() / updates).tolist()
        self._learner_steps += updates
        weights = self.publish() if publish else None
        report = LearnReport(
            updates=updates,
            learner_steps=self._learner_steps,
            loss=loss,
            q_mean=q_mean,
            gradient_norm=gradient_norm,
            seconds=time.perf_counter() - begin,
            weights_version=weights.weights_version if weights else None,
        )
        return report, weights

    def publish(self) -> PolicyWeights:
        """The online network's weights as a new version.

        Called by: the supervisor, at the start and the end. Waits for: nothing. After a
        restart: versions go on in a new epoch.
        """
        epoch, version = self._weights_version
        self._weights_version = (epoch, version + 1)
        return PolicyWeights(
            layers=self._layers,
            arrays=[np.asarray(array) for array in self._online.get_weights()],
            weights_version=self._weights_version,
            learner_steps=self._learner_steps,
        )

    def export(self, weights: PolicyWeights) -> bytes:
        """`weights` as a `.keras` file, which plain Keras opens.

        Called by: the supervisor, at the end. Waits for: nothing. After a restart: works
        at once.
        """
        network = make_q_network(*self._network_arguments, seed=self._seed)
        network.set_weights(weights.arrays)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.keras"
            network.save(path)
            return path.read_bytes()

    def _columns(self, **columns: Any) -> dict[str, Tensor]:
        """Columns `[U, B, ...]` as tensors of fixed dtypes, so that nothing is traced twice."""
        import tensorflow as tf

        return {
            name: tf.convert_to_tensor(column, tf.int32 if name == "action" else tf.float32)
            for name, column in columns.items()
        }

    def _make_updates(self, columns: dict[str, Tensor], updates: Tensor, learner_steps: Tensor) -> Tensor:
        """Runs `updates` updates in one loop; returns the sums of what `_update` returns, `[3]`."""
        import tensorflow as tf

        def body(u: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
            batch = {name: column[u] for name, column in columns.items()}  # [B, ...]
            return u + 1, totals + self._update(batch, learner_steps + tf.cast(u, tf.int64))

        most = columns["action"].shape[0]
        start = (tf.constant(0), tf.zeros(3))
        return tf.while_loop(lambda u, _: u < updates, body, start, maximum_iterations=most)[1]

    def _update(self, batch: dict[str, Tensor], learner_steps: Tensor) -> Tensor:
        """One update from one batch `[B, ...]`; returns loss, mean Q-value, gradient norm `[3]`."""
        import tensorflow as tf

        target = self._td_target(batch)  # [B]
        with tf.GradientTape() as tape:
            q_values = self._online(batch["observation"])  # [B, A]
            q_taken = tf.gather(q_values, batch["action"], batch_dims=1)  # [B]
            loss = self._loss(target - q_taken)
        variables = self._online.trainable_variables
        gradients = tape.gradient(loss, variables)
        norm = tf.linalg.global_norm(gradients)
        if self._max_gradient_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self._max_gradient_norm, use_norm=norm)
        self._optimizer.apply(gradients, variables)
        period, rate = self._target_update
        due = tf.equal((learner_steps + 1) % period, 0)
        for lagging, online in zip(self._target.variables, self._online.variables, strict=True):
            lagging.assign(tf.where(due, losses.moved_target(lagging, online, rate), lagging))
        return tf.stack([loss, tf.reduce_mean(q_taken), norm])

    def _td_target(self, batch: dict[str, Tensor]) -> Tensor:
        """What the Q-values of the actions taken should be, `[B]`."""
        reward, discount = batch["reward"], batch["discount"]
        next_q_target = self._target(batch["next_observation"])  # [B, A]
        if self._double:
            next_q_online = self._online(batch["next_observation"])  # [B, A]
            return losses.double_q_target(reward, discount, next_q_online, next_q_target)
        return losses.max_q_target(reward, discount, next_q_target)


def _import_tensorflow(threads: int) -> tuple[Any, Any]:
    """TensorFlow and Keras, with `threads` for its computations."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _without_stderr():
        import keras
        import tensorflow as tf

        tf.config.list_physical_devices()  # complains where there is no GPU
    # The pools are fixed at the process's first computation: in a process that has
    # computed before (a notebook's second run), they stay as they are.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf, keras


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Keeps TensorFlow's C++ chatter at import, which no log level silences, off the terminal."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
