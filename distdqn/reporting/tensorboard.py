"""Event files for TensorBoard, written without TensorFlow."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary as summaries
from tensorboardX.event_file_writer import EventsWriter  # `SummaryWriter` blocks once a disk was full
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from typing_extensions import override

from distdqn.errors import one_line
from distdqn.reporting.callbacks import CUT_SHORT, Callback, RunInfo
from distdqn.reporting.loggers import env_steps_before, scalars
from distdqn.types import Evaluation, LearnReport

_GIF_SECONDS = 60.0


class TensorboardLogger(Callback):
    """Writes scalars, options, histograms at each evaluation and an episode to `RUN/tensorboard`."""

    @override
    def on_start(self, run: RunInfo) -> None:
        (folder := run.run_dir / "tensorboard").mkdir(exist_ok=True)
        self._run = run
        self._writer = EventsWriter(str(folder / "events"))
        before = env_steps_before(run.run_dir)
        self._env_steps = 0 if before is None else before + 1
        self._learned: dict[str, Any] = {}
        # TensorBoard hides what the folder has from this step on.
        self._write(session_log=SessionLog(status=SessionLog.START))
        rows = [f"| `{name}` | `{value}` |" for name, value in run.config.to_json().items()]
        self._write(summary=summaries.text("config", "\n".join(["| option | value |", "|---|---|", *rows])))

    @override
    def on_learn(self, report: LearnReport) -> None:
        self._learned = {"train/q_values": report.q_values, "train/td_errors": report.td_error}

    @override
    def on_report(self, metrics: dict[str, Any]) -> None:
        self._env_steps = metrics["env_steps"]
        for name, value in scalars(metrics).items():
            self._write(summary=summaries.scalar(name, value))
        self._writer.flush()

    @override
    def on_evaluation(self, evaluation: Evaluation) -> None:
        for name, values in {"eval/returns": evaluation.returns, **self._learned}.items():
            if (finite := np.asarray(values)[np.isfinite(values)]).size:
                self._write(summary=summaries.histogram(name, finite, bins=30))

    @override
    def on_end(self, summary: dict[str, Any]) -> None:
        if summary["eval_episodes"] and summary["reason"] not in CUT_SHORT:
            self._add_episode(self._run.run_dir / "tensorboard" / "episode.gif")
        self._writer.close()

    def _add_episode(self, file: Path) -> None:
        """Adds a GIF of the best network; its environment is drawn in a process of its own."""
        command = [sys.executable, "-m", "distdqn.play", str(self._run.run_dir), "--gif", str(file)]
        played = subprocess.run(command, capture_output=True, text=True, timeout=_GIF_SECONDS, check=False)  # noqa: S603
        if played.returncode:
            self._run.note(f"TensorBoard gets no episode: {one_line(ValueError(played.stderr[-300:]))}")
            return
        image = Summary.Image(encoded_image_string=file.read_bytes())
        self._write(summary=Summary(value=[Summary.Value(tag="eval/episode", image=image)]))

    def _write(self, **content: Any) -> None:
        self._writer.write_event(Event(step=self._env_steps, wall_time=time.time(), **content))
