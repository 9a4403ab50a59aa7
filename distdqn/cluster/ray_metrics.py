"""A run's numbers where Ray's own are: on the metrics port of the node it was started on."""

from typing import Any

from ray.util.metrics import Gauge


class RayMetrics:
    """Shows every number of a line of `metrics.jsonl` as a gauge called `distdqn_...`.

    Gauges alone, also for counters: a learner that is restored from a checkpoint sets some back.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Gauge] = {}

    def show(self, line: dict[str, Any]) -> None:
        """Takes in a line; what it has no number for keeps the one it had."""
        for name, value in line.items():
            if isinstance(value, int | float):
                self._gauge(name).set(float(value), {"run": self._run})

    def _gauge(self, name: str) -> Gauge:
        if name not in self._gauges:
            text = f"{name.replace('_', ' ')}, as in metrics.jsonl"
            self._gauges[name] = Gauge(f"distdqn_{name}", text, tag_keys=("run",))
        return self._gauges[name]
