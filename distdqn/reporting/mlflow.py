"""MLflow."""

import os
import time
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from typing_extensions import override

from distdqn.reporting.callbacks import Callback, RunInfo
from distdqn.reporting.loggers import kept_id, scalars

_MAX_PARAMS = 100  # in one request
_MAX_CHARACTERS = 500  # of a parameter
_FILES = ("config.json", "run.json", "summary.json", "policy.npz")
_ENDS = {"failed": "FAILED", "interrupted": "KILLED", "terminated": "KILLED"}


class MlflowLogger(Callback):
    """Logs scalars over total env steps, options as parameters, and files of the run as artifacts.

    `MLFLOW_TRACKING_URI` says where. The experiment is `distdqn`, or `MLFLOW_EXPERIMENT_NAME`.

    Raises:
        MlflowException: the kind of place is not supported.
    """

    def __init__(self) -> None:
        self._client = MlflowClient()
        self._id: str | None = None
        self._folder = Path()

    @override
    def on_start(self, run: RunInfo) -> None:
        self._folder = run.run_dir
        self._id = kept_id(run.run_dir, "mlflow", lambda: self._create(run))
        self._client.update_run(self._id, "RUNNING")

    @override
    def on_report(self, metrics: dict[str, Any]) -> None:
        if self._id is not None:
            now, step = time.time_ns() // 10**6, metrics["env_steps"]
            numbers = [Metric(name, value, now, step) for name, value in scalars(metrics).items()]
            self._client.log_batch(self._id, numbers, synchronous=False)  # training does not wait for it

    @override
    def on_end(self, summary: dict[str, Any]) -> None:
        if self._id is not None:
            mlflow.flush_async_logging()
            for name in _FILES:
                if (path := self._folder / name).exists():
                    self._client.log_artifact(self._id, str(path))
            self._client.set_terminated(self._id, _ENDS.get(summary["reason"], "FINISHED"))

    def _create(self, run: RunInfo) -> str:
        """A new run with its parameters, which MLflow never lets change; returns its id."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "distdqn")
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        created = self._client.create_run(experiment, run_name=run.run_dir.resolve().name)
        options = run.config.to_json().items()
        params = [Param(key, str(value)[:_MAX_CHARACTERS]) for key, value in options]
        for first in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(created.info.run_id, params=params[first : first + _MAX_PARAMS])
        return str(created.info.run_id)
