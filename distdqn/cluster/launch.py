"""The roles of a run on a Ray cluster, from connecting to it to ending every process."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.util.metrics import Gauge

from distdqn.cluster.connection import connected
from distdqn.cluster.control import Control
from distdqn.cluster.ray_backend import RayBackend
from distdqn.config.config import Config
from distdqn.distributed.actor_pool import initial_actors
from distdqn.distributed.calls import Calls
from distdqn.errors import ClusterError
from distdqn.training import builders
from distdqn.training.backend import Parts
from distdqn.types import EnvironmentSpec


@dataclass(frozen=True)
class Launch:
    """A connected cluster on which the roles of a run can start."""

    calls: Calls  # to the roles
    actors: int  # to start with
    sink: Callable[[dict[str, Any]], None]  # receives every line of metrics


@contextlib.contextmanager
def launched(
    config: Config, spec: EnvironmentSpec, folder: Path, tell: Callable[[str], None]
) -> Iterator[Launch]:
    """Connects to Ray; at the end every process of the run is gone.

    Args:
        config: resolved.
        spec: of the environment.
        folder: of the run.
        tell: told which Ray is joined, and why.
    """

    def make_parts(role: str, index: int, restarts: int) -> Parts:
        if role == "control":
            return Control, ()
        return builders.role_parts(config, spec, role, index, restarts)

    others = config.replay_shards + 2  # replay, the learner and the evaluator
    machine = initial_actors(config, (os.cpu_count() or 1) - others)
    with connected(config.address, machine + others, not config.learner_gpus, tell) as cluster:
        backend = RayBackend(cluster, folder, make_parts, config)
        calls = Calls(backend, config)
        try:
            capacity = backend.capacity().actors - others if cluster.cpus_per_role else machine
            yield Launch(calls, initial_actors(config, capacity), _RayMetrics(folder.resolve().name).export)
        finally:
            with contextlib.suppress(ClusterError):  # it is gone, and the request with it
                backend.request_resources([])
            calls.end_all()
            backend.close()


class _RayMetrics:
    """Exports a run's metrics on the metrics port of the node where the run was started."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Gauge] = {}

    def export(self, line: dict[str, Any]) -> None:
        """Exports every number of a line of `metrics.jsonl` as a gauge `distdqn_<name>`.

        Counters are gauges, too: a learner that is restored from a checkpoint sets some of them back.
        """
        for name, value in line.items():
            if isinstance(value, int | float):
                if name not in self._gauges:
                    text = f"{name.replace('_', ' ')}, as in metrics.jsonl"
                    self._gauges[name] = Gauge(f"distdqn_{name}", text, tag_keys=("run",))
                self._gauges[name].set(float(value), {"run": self._run})
