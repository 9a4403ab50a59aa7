"""MLflow."""

import os
from typing import Any

import mlflow
from typing_extensions import override

from distdqn.reporting.callbacks import Callback, RunInfo
from distdqn.reporting.loggers import kept_id, scalars

_ENDS = {"failed": "FAILED", "interrupted": "KILLED", "terminated": "KILLED"}


class MlflowLogger(Callback):
    """Logs scalars by env steps, options and files to `MLFLOW_TRACKING_URI`; the experiment is `distdqn`."""

    def __init__(self) -> None:
        self._client = mlflow.MlflowClient()  # raises an error if it cannot use that place

    @override
    def on_start(self, run: RunInfo) -> None:
        self._folder = run.run_dir
        self._id = kept_id(run.run_dir, "mlflow", lambda: self._create(run))
        self._client.update_run(self._id, "RUNNING")

    @override
    def on_report(self, metrics: dict[str, Any]) -> None:
        # Training does not wait for it.
        mlflow.log_metrics(scalars(metrics), metrics["env_steps"], synchronous=False, run_id=self._id)

    @override
    def on_end(self, summary: dict[str, Any]) -> None:
        mlflow.flush_async_logging()
        for name in ("config.json", "policy.npz"):
            if (path := self._folder / name).exists():
                self._client.log_artifact(self._id, str(path))
        self._client.set_terminated(self._id, _ENDS.get(summary["reason"], "FINISHED"))

    def _create(self, run: RunInfo) -> str:
        """The id of a new run; it gets its parameters here, as they must not change."""
        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "distdqn"))
        made = self._client.create_run(experiment.experiment_id, run_name=run.run_dir.resolve().name)
        mlflow.log_params(run.config.to_json(), run_id=made.info.run_id)
        return str(made.info.run_id)
