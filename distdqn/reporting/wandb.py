"""Weights & Biases."""

import os
import uuid
from typing import Any

import wandb
from typing_extensions import override

from distdqn.reporting.callbacks import Callback, RunInfo
from distdqn.reporting.loggers import kept_id, scalars, tag


class WandbLogger(Callback):
    """Logs scalars by env steps, options and summary to the project `distdqn`, or to `WANDB_PROJECT`."""

    @override
    def on_start(self, run: RunInfo) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "distdqn"),
            name=run.run_dir.resolve().name,
            id=kept_id(run.run_dir, "wandb", lambda: uuid.uuid4().hex),
            resume="allow",
            dir=str(run.run_dir),
            config=run.config.to_json(),
            settings=wandb.Settings(console="off"),  # else it wraps the standard streams
        )
        # Steps of its own must not fall, and those of a resumed run do.
        self._run.define_metric("*", step_metric=tag("env_steps"))

    @override
    def on_report(self, metrics: dict[str, Any]) -> None:
        self._run.log(scalars(metrics))

    @override
    def on_end(self, summary: dict[str, Any]) -> None:
        self._run.summary.update(summary)
        self._run.finish(exit_code=int(summary["reason"] == "failed"))
