"""The learner: the one process with TensorFlow, which turns batches into better weights."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from distdqn.errors import ConfigError, Diverged
from distdqn.learning.update import Updated, UpdateLoop, path_not_finite
from distdqn.networks.keras_policy import policy_layers
from distdqn.networks.q_network import NetworkPlan, make_networks, plain_q_network
from distdqn.networks.tensorflow_setup import gpu_notice, import_tensorflow, without_stderr
from distdqn.replay.shards import merge, split_update
from distdqn.seeding import make_integer_seed
from distdqn.types import (
    LearnReport,
    PolicyWeights,
    PriorityUpdate,
    SampledBatches,
    SampledRows,
    ShardAssignment,
)

_MAX_CONSECUTIVE = 10  # updates that are skipped


class Learner:
    """Turns sampled batches into better weights, and publishes them.

    Its weights are always finite: updates that would change that are skipped, and ten of
    them running are a fault of the run.
    """

    def __init__(
        self,
        plan: NetworkPlan,
        batch_size: int,
        updates_per_call: int,
        threads: int,
        prioritized: bool,
        seed: int,
        generation: int,
        **update_arguments: Any,
    ) -> None:
        import_tensorflow(threads)
        self._shape = (updates_per_call, batch_size)
        self._prioritized = prioritized
        self._plan = plan
        network_seed = make_integer_seed(seed, "network")
        online, self._q_network = make_networks(plan, network_seed)
        target, _ = make_networks(plan, network_seed)
        if {id(weight) for weight in online.weights} & {id(weight) for weight in target.weights}:
            raise ConfigError(f"`network`: `{plan.network}` must make new layers each time it is called.")
        target.set_weights(online.get_weights())  # a user's network may not heed the seed
        self._layers, self._notice = policy_layers(plan, self._q_network)
        noise_seed = make_integer_seed(seed, "network", 1)
        self._loop = UpdateLoop(online, target, noise_seed=noise_seed, **update_arguments)
        self._weights_version = (generation, 0)
        self._learner_steps = 0
        self._skipped_running = 0
        self._first_skipped: str | None = None  # what caused the first of those

    def compile(self) -> str | None:
        """Compiles the update loop ahead of the first batches.

        Called by: the supervisor, once, at the start. Waits for: nothing. After a
        restart: called again.

        Returns:
            None, or one line that says what is slower than it could be: updates without
            XLA or without the GPU, or actors with Keras.
        """
        with without_stderr():
            notices = [self._notice, self._loop.compile(*self._shape), gpu_notice()]
        return " ".join(filter(None, notices)) or None

    def learn(
        self, batches: SampledBatches, publish: bool, learning_rate: float | None = None
    ) -> tuple[LearnReport, PolicyWeights | None, PriorityUpdate | None]:
        """Makes one update for each of the `U` batches.

        Called by: the supervisor, one or two calls ahead. Waits for: its batches. After a
        restart: goes on from the checkpoint that was put back, or from the initial weights.

        Args:
            batches: `[U, B]` transitions.
            publish: return the weights after the last update as a new version.
            learning_rate: of these updates and those after them; None means as before.

        Returns:
            The report; the weights if asked for; and new priorities, `|td_error|`, if
            replay is prioritized: 0 for the items of an update that was skipped.

        Raises:
            Diverged: ten updates running were skipped; the weights are those before them.
        """
        begin = time.perf_counter()
        updates = len(batches.transitions)
        updated = self._loop.run(
            batches.transitions, self._learner_steps, batches.importance_weight, learning_rate
        )
        self._learner_steps += updates
        self._check_not_diverged(updated)
        weights = self.publish() if publish else None
        report = LearnReport(
            updates=updates,
            learner_steps=self._learner_steps,
            loss=updated.loss,
            q_mean=updated.q_mean,
            gradient_norm=updated.gradient_norm,
            seconds=time.perf_counter() - begin,
            weights_version=weights.weights_version if weights else None,
            not_finite=updates - int(np.count_nonzero(updated.is_finite)),
            first_not_finite=updated.first_not_finite,
        )
        priorities = PriorityUpdate(batches.item_id, np.abs(updated.td_error)) if self._prioritized else None
        return report, weights, priorities

    def learn_from_shards(
        self, split: ShardAssignment, publish: bool, learning_rate: float | None, *parts: SampledRows
    ) -> tuple[LearnReport, PolicyWeights | None, *tuple[PriorityUpdate | None, ...]]:
        """See `learn`; of the batches every shard has drawn a part.

        Called by: the supervisor, in place of `learn` where there are several shards. Waits
        for: all parts. After a restart: as `learn`.

        Args:
            split: from which shard each draw of `[U, B]` is.
            publish: see `learn`.
            learning_rate: see `learn`.
            parts: of the shards that were drawn from, in their order; each `[C]` transitions.

        Returns:
            As `learn`, with new priorities for each of `parts`.

        Raises:
            Diverged: see `learn`.
        """
        report, weights, update = self.learn(merge(split, parts), publish, learning_rate)
        updates = [None for _ in parts] if update is None else split_update(split, update)
        return report, weights, *updates

    def _check_not_diverged(self, updated: Updated) -> None:
        """Counts the updates that were skipped without one between that was not."""
        if not (self._skipped_running and not updated.is_finite[0]):
            self._first_skipped = updated.first_not_finite
        for is_finite in updated.is_finite.tolist():
            self._skipped_running = 0 if is_finite else self._skipped_running + 1
            if self._skipped_running >= _MAX_CONSECUTIVE:
                raise Diverged(
                    f"{self._skipped_running} updates running met NaN or infinity, first in the "
                    f"{self._first_skipped} (lower `learning_rate`, set `max_gradient_norm`, or see "
                    "whether the environment's numbers are far too large)."
                )

    def publish(self) -> PolicyWeights:
        """The online network's weights as a new version.

        Called by: the supervisor, at the start and the end. Waits for: nothing. After a
        restart: versions go on in a new epoch.

        Raises:
            Diverged: they are not finite.
        """
        if (path := path_not_finite(self._q_network.weights)) is not None:
            raise Diverged(f"The weights `{path}` are not finite any more (lower `learning_rate`).")
        generation, version = self._weights_version
        self._weights_version = (generation, version + 1)
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

    def get_state(self) -> dict[str, Any]:
        """All that learning goes on from: arrays `[...]`, numbers and text in dictionaries and lists.

        Called by: the supervisor, for each checkpoint. Waits for: the call of `learn` under
        way. After a restart: works at once.
        """
        return {
            "networks": self._loop.get_state(),
            "learner_steps": self._learner_steps,
            "weights_version": list(self._weights_version),
            "skipped_running": self._skipped_running,
            "first_skipped": self._first_skipped,
        }

    def set_state(self, state: dict[str, Any], *, generation: int | None = None) -> None:
        """Goes on from what `get_state` returned, to the bit.

        A life that begins in a newer epoch than the checkpoint's begins to count versions
        anew, so that none is given twice where the last life went on after the checkpoint.
        Otherwise versions go on from the checkpoint's.

        Called by: the supervisor, at most once, before the first call of `learn`. Waits for:
        nothing. After a restart: called with the last checkpoint, if there is one.

        Args:
            state: arrays `[...]` may be read-only; they are copied.
            epoch: of this life; None means the one the learner was built with.

        Raises:
            ValueError: it is of a learner with another network; nothing was changed.
        """
        self._loop.set_state(state["networks"])
        self._learner_steps = state["learner_steps"]
        saved_epoch, saved_version = state["weights_version"]
        own_epoch = self._weights_version[0] if generation is None else generation
        is_newer = own_epoch > saved_epoch
        self._weights_version = (own_epoch, 0) if is_newer else (saved_epoch, saved_version)
        self._skipped_running = state["skipped_running"]
        self._first_skipped = state["first_skipped"]
