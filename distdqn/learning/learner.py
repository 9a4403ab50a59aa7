"""The learner: trains the Q-network on sampled batches, with TensorFlow."""

import contextlib
import itertools
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distdqn.config.config import LearningOptions, resolved
from distdqn.errors import CheckpointError, ConfigError, ConsecutiveFailures, Diverged, restoring
from distdqn.networks.numpy_policy import weights_from_learner
from distdqn.networks.tensorflow_setup import gpu_notice, import_tensorflow, without_stderr
from distdqn.replay.shards import merge, split_update
from distdqn.seeding import make_integer_seed
from distdqn.types import (
    AnyArray,
    BoolArray,
    EnvironmentSpec,
    LearnReport,
    PolicyWeights,
    PriorityUpdate,
    SampledBatches,
    SampledRows,
    ShardAssignment,
)

_MAX_CONSECUTIVE = 10  # skipped updates
_BFLOAT16 = (
    "The learner computes convolutions in bfloat16, which is faster here (or give `--precision float32`)."
)


class Learner:
    """Trains the Q-network on sampled batches, and publishes its weights.

    Weights stay finite: an update that would change that is skipped, and ten consecutive skipped updates
    end the run. `options` are resolved. `generation` counts the restarts before this one, and is the first
    number of the weights versions. `ConfigError` if the network cannot be built.
    """

    def __init__(self, options: LearningOptions, spec: EnvironmentSpec, generation: int = 0) -> None:
        import_tensorflow(options.learner_threads, options.learner_gpus > 0)
        # These import TensorFlow at the top: not before its setup, and never in a process without a learner.
        from distdqn.learning.update import UpdateLoop
        from distdqn.networks.keras_policy import policy_layers
        from distdqn.networks.precision import choose_precision, set_precision
        from distdqn.networks.q_network import make_networks

        self._options, self._spec = options, spec
        network_seed = make_integer_seed(options.seed, "network")
        online, self._q_network = make_networks(options, spec, network_seed)
        target, _ = make_networks(options, spec, network_seed)
        if {id(weight) for weight in online.weights} & {id(weight) for weight in target.weights}:
            raise ConfigError(f"`network`: `{options.network}` must make new layers each time it is called.")
        target.set_weights(online.get_weights())  # a user's network may ignore the seed
        self._layers, self._notice = policy_layers(options, spec, self._q_network)
        self._precision: str = options.precision
        if self._precision == "auto":
            self._precision = choose_precision(online, resolved(options.batch_size))
            if self._precision != "float32":
                self._notice = " ".join(filter(None, [self._notice, _BFLOAT16]))
        if self._precision != "float32":  # else layers of the user's keep their own
            set_precision(online, self._precision)
            set_precision(target, self._precision)
        # NumPy's copy of the network, until it is compared on real observations.
        self._unchecked = None if self._uses_keras else self._layers
        noise_seed = make_integer_seed(options.seed, "network", 1)
        self._loop = UpdateLoop(online, target, options, noise_seed, spec.mask)
        self._weights_version = (generation, 0)
        self._learner_steps = 0
        self._skipped = ConsecutiveFailures(_MAX_CONSECUTIVE)
        self._first_skipped: str | None = None  # the tensor that caused the first of those

    def compile(self) -> str | None:
        """Compiles the update loop ahead of the first batches.

        Returns a line about what is slower than it could be: updates without XLA or GPU, actors with Keras.
        """
        with without_stderr():
            notice = self._loop.compile(self._options.updates_per_call, resolved(self._options.batch_size))
            notices = [self._notice, notice, gpu_notice() if self._options.learner_gpus else None]
        return " ".join(filter(None, notices)) or None

    def learn(
        self, batches: SampledBatches, publish: bool, learning_rate: float | None = None
    ) -> tuple[LearnReport, PolicyWeights | None, PriorityUpdate | None]:
        """Makes one update for each of the `U` batches.

        Args:
            batches: `[U, B]` transitions.
            publish: return the weights after the last update as a new version; so does the first call if
                it finds that actors need Keras.
            learning_rate: from this call on; None means the same as before.

        Returns:
            The report; the weights, if published; and new priorities, if replay is prioritized: `|td_error|`,
            or 0 where the update was skipped.

        Raises:
            Diverged: ten consecutive updates were skipped; none of them changed the weights.
        """
        begin = time.perf_counter()
        updates = len(batches.transitions)
        used_keras, notice = self._uses_keras, self._check_copy(batches.transitions.observation)
        result = self._loop.run(
            batches.transitions, self._learner_steps, batches.importance_weight, learning_rate
        )
        self._learner_steps += updates
        self._check_not_diverged(result.is_finite, result.first_not_finite)
        weights = self.publish() if publish or self._uses_keras != used_keras else None
        report = LearnReport(
            updates=updates,
            learner_steps=self._learner_steps,
            loss=result.loss,
            q_mean=result.q_mean,
            gradient_norm=result.gradient_norm,
            seconds=time.perf_counter() - begin,
            weights_version=weights.weights_version if weights else None,
            not_finite=updates - int(np.count_nonzero(result.is_finite)),
            first_not_finite=result.first_not_finite,
            notice=notice,
            td_error=result.td_error[-1],
            q_values=result.q_values[-1],
        )
        if self._options.sampler != "prioritized":
            return report, weights, None
        return report, weights, PriorityUpdate(batches.item_id, np.abs(result.td_error))

    def learn_from_shards(
        self, assignment: ShardAssignment, publish: bool, learning_rate: float | None, *parts: SampledRows
    ) -> tuple[LearnReport, PolicyWeights | None, *tuple[PriorityUpdate | None, ...]]:
        """Merges `parts`, `[C]` transitions each, to batches `[U, B]` for `learn`.

        The parts are those of the shards that `assignment` draws from, in their order, and so are the new
        priorities.
        """
        report, weights, update = self.learn(merge(assignment, parts), publish, learning_rate)
        updates = [None for _ in parts] if update is None else split_update(assignment, update)
        return report, weights, *updates

    def _check_copy(self, observation: AnyArray) -> str | None:
        """Lets actors use Keras if NumPy evaluates the network differently; returns a line for the user.

        Only the first call compares both, on the first of `observation` `[U, B, *observation_shape]`: one
        alone, and as many as there are actions.
        """
        if self._unchecked is None:
            return None
        from distdqn.networks.keras_policy import difference, keras_layers
        from distdqn.networks.precision import in_float32

        flat = observation.reshape(-1, *self._spec.observation_shape)
        is_exact = self._precision == "float32"
        with contextlib.nullcontext() if is_exact else in_float32(self._q_network):
            reason = difference(self._unchecked, self._q_network, flat[: max(2, self._spec.actions)])
        self._unchecked = None
        if reason is None:
            return None
        self._layers, notice = keras_layers(self._options, self._spec, reason)
        return notice

    @property
    def _uses_keras(self) -> bool:
        return str(self._layers[0]["kind"]) == "keras"

    def _check_not_diverged(self, is_finite: BoolArray, first_not_finite: str | None) -> None:
        """Counts consecutive skipped updates; `is_finite` `[U]` is False for those of this call."""
        if is_finite[0] or not self._skipped.count:
            self._first_skipped = first_not_finite
        for is_applied in is_finite.tolist():
            if is_applied:
                self._skipped.reset()
            elif self._skipped.add():
                raise Diverged(
                    "Training diverged: NaN or infinity in ten consecutive updates, first in the "
                    f"{self._first_skipped} (lower `learning_rate`, set `max_gradient_norm`, or check "
                    "whether the environment's numbers are far too large)."
                )

    def publish(self) -> PolicyWeights:
        """The online network's weights as a new version; `Diverged` if they are not finite."""
        arrays = [np.asarray(array) for array in self._q_network.get_weights()]
        for path, array in zip((weight.path for weight in self._q_network.weights), arrays, strict=True):
            if not np.isfinite(array).all():
                raise Diverged(
                    f"Training diverged: the weights `{path}` are not finite (lower `learning_rate`)."
                )
        generation, version = self._weights_version
        self._weights_version = (generation, version + 1)
        return PolicyWeights(self._layers, arrays, self._weights_version, self._learner_steps)

    def export(self, weights: PolicyWeights) -> bytes:
        """`weights` as a `.keras` file, which plain Keras opens."""
        return export_network(self._options, self._spec, weights)

    def get_state(self) -> dict[str, Any]:
        """The state for a checkpoint: arrays `[...]`, numbers and text in dictionaries and lists."""
        online, weights = self._loop.online.variables, self._q_network.weights
        own = {id(variable) for variable in online}
        others = [variable for variable in weights if id(variable) not in own]  # constants of the head
        position = {id(variable): i for i, variable in enumerate([*online, *others])}
        policy = {  # how the arrays of the online network become `PolicyWeights`
            "layers": self._layers,
            "positions": [position[id(variable)] for variable in weights],
            "other_arrays": [variable.numpy() for variable in others],
        }
        return {
            "networks": self._loop.get_state(),
            "policy": policy,
            "learner_steps": self._learner_steps,
            "weights_version": list(self._weights_version),
            "consecutive_skipped": self._skipped.count,
            "first_skipped": self._first_skipped,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the result of `get_state`, to the bit.

        A learner of a newer generation than the checkpoint's counts versions from 1, so that none is given
        twice where learning continued after the checkpoint. Otherwise versions follow the checkpoint's.
        Arrays `[...]` may be read-only; they are copied. `CheckpointError`, before any change, if the state
        belongs to a learner with another network.
        """
        from distdqn.networks.keras_policy import keras_layers

        with restoring("The learner of the checkpoint"):
            saved, own = weights_from_learner(state), weights_from_learner(self.get_state())
            if saved.layers[0]["kind"] == "keras" and not self._uses_keras:  # NumPy's copy was found wrong
                own = replace(own, layers=keras_layers(self._options, self._spec, "")[0])
            then, now = _layer_lines(saved), _layer_lines(own)
            if then != now:
                title = "The checkpoint is of a run with another network (give its, or start a new run)."
                pairs = itertools.zip_longest(then, now, fillvalue="none")
                rows = [f"  {before} / {after}" for before, after in pairs if before != after]
                raise CheckpointError([f"{title} Layer: checkpoint / now", *rows])
            self._loop.set_state(state["networks"])
            self._learner_steps = int(state["learner_steps"])
            saved_generation, saved_version = map(int, state["weights_version"])
            generation = self._weights_version[0]
            is_newer = generation > saved_generation
            self._weights_version = (generation, 0) if is_newer else (saved_generation, saved_version)
            self._layers = own.layers
            self._skipped.count = int(state["consecutive_skipped"])
            self._first_skipped = state["first_skipped"]


def _layer_lines(weights: PolicyWeights) -> list[str]:
    """What must not change between two runs of a network: a line for each layer."""
    lines = []
    for layer in weights.layers:
        shapes = [weights.arrays[i].shape for i in layer.get("arrays", range(len(weights.arrays)))]
        parts = [layer["kind"], layer.get("activation", ""), *("x".join(map(str, shape)) for shape in shapes)]
        lines.append(" ".join(filter(None, parts)))
    return lines


def export_network(options: LearningOptions, spec: EnvironmentSpec, weights: PolicyWeights) -> bytes:
    """Published `weights` as a `.keras` file, which plain Keras opens; imports TensorFlow in this process."""
    import_tensorflow(options.learner_threads)
    from distdqn.networks.q_network import plain_q_network

    network = plain_q_network(options, spec, weights.arrays)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.keras"
        network.save(path)
        return path.read_bytes()
