"""Event files for TensorBoard."""

import time
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from typing_extensions import override

from distdqn.reporting.callbacks import Callback, RunInfo
from distdqn.reporting.loggers import env_steps_before, scalars
from distdqn.types import AnyArray, Evaluation, LearnReport

_BINS = 30  # of a histogram; TensorBoard draws as many


class TensorBoardLogger(Callback):
    """Writes scalars, histograms at each evaluation, and the options as text into `RUN/tensorboard`.

    Steps are total env steps. A resumed run hides what was written after its checkpoint.
    """

    def __init__(self) -> None:
        # `SummaryWriter` would block training after its thread has met a full disk.
        self._writer: Any = None
        self._env_steps = 0
        self._learned: LearnReport | None = None  # the newest

    @override
    def on_start(self, run: RunInfo) -> None:
        folder = run.run_dir / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        before = env_steps_before(run.run_dir)
        self._env_steps = 0 if before is None else before + 1
        self._write(session_log=SessionLog(status=SessionLog.START))
        rows = (f"| `{name}` | `{value}` |" for name, value in run.config.to_json().items())
        self._write(summary.text("config", "\n".join(["| option | value |", "|---|---|", *rows])))
        self._writer.flush()

    @override
    def on_learn(self, report: LearnReport) -> None:
        self._learned = report

    @override
    def on_report(self, metrics: dict[str, Any]) -> None:
        self._env_steps = metrics["env_steps"]
        for name, value in scalars(metrics).items():
            self._write(summary.scalar(name, value))
        self._writer.flush()

    @override
    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._write_histogram("eval/returns", np.array(evaluation.returns))
        if self._learned is not None:
            self._write_histogram("train/q_values", self._learned.q_values)
            self._write_histogram("train/td_errors", self._learned.td_error)
        self._writer.flush()

    @override
    def on_end(self, summary: dict[str, Any]) -> None:
        self._writer.close()

    def _write_histogram(self, name: str, values: AnyArray | None) -> None:
        """Writes the distribution of the finite ones of `values` `[N]`."""
        if values is not None and (finite := values[np.isfinite(values)]).size:
            self._write(summary.histogram(name, finite, _BINS))

    def _write(self, content: Any = None, **others: Any) -> None:
        event = Event(summary=content, step=self._env_steps, wall_time=time.time(), **others)
        self._writer.write_event(event)
