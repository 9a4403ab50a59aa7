"""A run's metrics as Ray's own: on the metrics port of the node where the run was started."""

from typing import Any

from ray.util.metrics import Gauge


class RayMetrics:
    """Exports every number of a line of `metrics.jsonl` as a gauge `distdqn_<name>`.

    Counters are gauges, too: a learner that is restored from a checkpoint sets some of them back.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Gauge] = {}

    def show(self, line: dict[str, Any]) -> None:
        """Exports a line; a value that is not a number leaves its gauge as it is."""
        for name, value in line.items():
            if isinstance(value, int | float):
                self._gauge(name).set(float(value), {"run": self._run})

    def _gauge(self, name: str) -> Gauge:
        if name not in self._gauges:
            text = f"{name.replace('_', ' ')}, as in metrics.jsonl"
            self._gauges[name] = Gauge(f"distdqn_{name}", text, tag_keys=("run",))
        return self._gauges[name]
