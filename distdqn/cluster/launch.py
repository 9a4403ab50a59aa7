"""The roles of a run on a Ray cluster, from connecting to it to ending every process."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray.util.metrics import Gauge

from distdqn.cluster.connection import connected
from distdqn.cluster.ray_backend import RayBackend
from distdqn.distributed.actor_pool import initial_actors
from distdqn.training import builders
from distdqn.training.calls import Calls
from distdqn.training.limits import available_cpus
from distdqn.training.loop import Run
from distdqn.types import EnvironmentSpec

_TELL_SECONDS = 10.0  # until a line says that Ray is still starting


@contextlib.contextmanager
def launched(
    run: Run, spec: EnvironmentSpec, folder: Path, tell: Callable[[str], None]
) -> Iterator[tuple[Calls, int]]:
    """Connects to Ray, which gets the run's metrics, too; at the end every process of the run is gone.

    Yields calls to the roles, and the number of actors to start with. `tell` is told which Ray is joined, and
    why.
    """
    config = run.config
    evaluators = 1 if config.evaluators == "auto" else config.evaluators
    others = config.replay_shards + 1 + evaluators  # and the learner
    actors = initial_actors(config, available_cpus() - others)
    timer = threading.Timer(_TELL_SECONDS, run.metrics.note, ("Learning has not started: Ray is starting.",))
    timer.daemon = True
    timer.start()
    with contextlib.ExitStack() as stack:
        stack.callback(timer.cancel)
        hide_gpus = not config.learner_gpus
        cluster = stack.enter_context(connected(config.address, actors + others, hide_gpus, tell))
        timer.cancel()
        run.metrics.reach("Ray started")
        backend = RayBackend(cluster, folder, functools.partial(builders.role_parts, config, spec), config)
        try:
            if cluster.cpus_per_role:
                actors = initial_actors(config, backend.capacity().actors - others)
            run.metrics.callbacks.prepend(_RayMetrics(folder.resolve().name))
            yield Calls(backend, config), actors
        finally:
            backend.close()


class _RayMetrics:
    """Exports a run's metrics on the metrics port of the node where the run was started."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Gauge] = {}

    def on_report(self, line: dict[str, Any]) -> None:
        """Exports every number of a line of `metrics.jsonl` as a gauge `distdqn_<name>`.

        Counters are gauges, too: a learner that is restored from a checkpoint sets some of them back.
        """
        for name, value in line.items():
            if isinstance(value, int | float):
                if name not in self._gauges:
                    text = f"{name.replace('_', ' ')}, as in metrics.jsonl"
                    self._gauges[name] = Gauge(f"distdqn_{name}", text, tag_keys=("run",))
                self._gauges[name].set(float(value), {"run": self._run})
