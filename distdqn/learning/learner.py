"""The learner: the one process with TensorFlow, which turns batches into better weights."""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distdqn.learning.update import UpdateLoop
from distdqn.networks import NetworkPlan, layers_from_model, make_networks, plain_q_network
from distdqn.policy import PolicyWeights
from distdqn.seeding import make_integer_seed
from distdqn.transition import PriorityUpdate, SampledBatches


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
    """Turns sampled batches into better weights, and publishes them."""

    def __init__(
        self,
        plan: NetworkPlan,
        batch_size: int,
        updates_per_call: int,
        threads: int,
        prioritized: bool,
        seed: int,
        epoch: int,
        **update_arguments: Any,
    ) -> None:
        _import_tensorflow(threads)
        self._shape = (updates_per_call, batch_size)
        self._prioritized = prioritized
        self._plan = plan
        network_seed = make_integer_seed(seed, "network")
        online, self._q_network = make_networks(plan, network_seed)
        target, _ = make_networks(plan, network_seed)
        self._layers = layers_from_model(self._q_network)
        noise_seed = make_integer_seed(seed, "network", 1)
        self._loop = UpdateLoop(online, target, noise_seed=noise_seed, **update_arguments)
        self._weights_version = (epoch, 0)
        self._learner_steps = 0

    def compile(self) -> str | None:
        """Compiles the update loop ahead of the first batches.

        Called by: the supervisor, once, at the start. Waits for: nothing. After a
        restart: called again.

        Returns:
            None, or one line that says why it runs without XLA.
        """
        with _without_stderr():
            return self._loop.compile(*self._shape)

    def learn(
        self, batches: SampledBatches, publish: bool
    ) -> tuple[LearnReport, PolicyWeights | None, PriorityUpdate | None]:
        """Makes one update for each of the `U` batches.

        Called by: the supervisor, one or two calls ahead. Waits for: its batches. After a
        restart: goes on from the initial weights under a new epoch.

        Args:
            batches: `[U, B]` transitions.
            publish: return the weights after the last update as a new version.

        Returns:
            The report; the weights if asked for; and new priorities, `|td_error|`, if
            replay is prioritized.
        """
        begin = time.perf_counter()
        updates = len(batches.transitions)
        updated = self._loop.run(batches.transitions, self._learner_steps, batches.importance_weight)
        self._learner_steps += updates
        weights = self.publish() if publish else None
        report = LearnReport(
            updates=updates,
            learner_steps=self._learner_steps,
            loss=updated.loss,
            q_mean=updated.q_mean,
            gradient_norm=updated.gradient_norm,
            seconds=time.perf_counter() - begin,
            weights_version=weights.weights_version if weights else None,
        )
        priorities = PriorityUpdate(batches.item_id, np.abs(updated.td_error)) if self._prioritized else None
        return report, weights, priorities

    def publish(self) -> PolicyWeights:
        """The online network's weights as a new version.

        Called by: the supervisor, at the start and the end. Waits for: nothing. After a
        restart: versions go on in a new epoch.
        """
        epoch, version = self._weights_version
        self._weights_version = (epoch, version + 1)
        return PolicyWeights(
            layers=self._layers,
            arrays=[np.asarray(array) for array in self._q_network.get_weights()],
            weights_version=self._weights_version,
            learner_steps=self._learner_steps,
        )

    def export(self, weights: PolicyWeights) -> bytes:
        """`weights` as a `.keras` file, which plain Keras opens.

        Called by: the supervisor, at the end. Waits for: nothing. After a restart: works
        at once.
        """
        network = plain_q_network(self._plan, weights.arrays)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.keras"
            network.save(path)
            return path.read_bytes()


def _import_tensorflow(threads: int) -> None:
    """Loads TensorFlow and Keras, with `threads` for their computations."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _without_stderr():
        import keras  # noqa: F401
        import tensorflow as tf

        tf.config.list_physical_devices()  # complains where there is no GPU
    # The pools are fixed at the process's first computation: in a process that has
    # computed before (a notebook's second run), they stay as they are.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Keeps TensorFlow's C++ chatter, which no log level silences, off the terminal."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
