"""Callbacks: what follows a run, and may end it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distdqn.config.config import Config
from distdqn.errors import one_line
from distdqn.types import EnvironmentSpec, Evaluation, LearnReport

CUT_SHORT = ("interrupted", "terminated", "failed")  # reasons of runs that end at once, without extras


@dataclass(frozen=True)
class RunInfo:
    """What callbacks learn of a run at its start."""

    run_dir: Path
    config: Config  # every option has a value, none is `auto`
    environment: EnvironmentSpec
    target_return: float | None  # None: no goal
    note: Callable[[str], None]  # shows the user a line


class Callback:
    """Follows a run in the process that started it.

    Training waits for every method, so each should be short. `on_report`, `on_evaluation` and `on_checkpoint`
    may return False: then training ends, what was learned is saved and evaluated, and `callback` is the
    reason of the run. An exception is shown and ends nothing; after one in `on_start`, no method is called. A
    class of another kind will do, too: methods that it lacks are skipped.
    """

    def on_start(self, run: RunInfo) -> None:
        """The run starts; so far there is its folder with `config.json` and `run.json`."""

    def on_status(self, status: dict[str, Any]) -> None:
        """`status.json` was written, about once a second."""

    def on_learn(self, report: LearnReport) -> None:
        """A call of the learner ended; this comes many times a second."""

    def on_report(self, metrics: dict[str, Any]) -> bool | None:
        """A line of metrics; docs/metrics.md says what it holds."""

    def on_evaluation(self, evaluation: Evaluation) -> bool | None:
        """An evaluation ended; `on_report` had its line of metrics before."""

    def on_checkpoint(self, number: int) -> bool | None:
        """A checkpoint is complete; `evaluate --checkpoint` takes its number."""

    def on_end(self, summary: dict[str, Any]) -> None:
        """The run is over, in order or not, and its files are written; `summary` as in `summary.json`."""


class Callbacks:
    """Calls the methods of several callbacks; `note` shows the user a line."""

    def __init__(self, callbacks: Sequence[Any], note: Callable[[str], None]) -> None:
        self.note = note
        self.asks_to_stop = False  # one of them does
        self._callbacks = list(callbacks)
        self._failed: set[str] = set()  # what was told

    def prepend(self, callback: Any) -> None:
        """Calls `callback`, too, before all others."""
        self._callbacks.insert(0, callback)

    def call(self, method: str, *arguments: Any) -> None:
        """Calls a method of each callback that has it, and shows each distinct error once."""
        for callback in [*self._callbacks]:
            try:
                if (function := getattr(callback, method, None)) and function(*arguments) is False:
                    self.asks_to_stop = True
            except Exception as error:
                if method == "on_start":
                    self._callbacks.remove(callback)
                name = f"{getattr(type(callback), '__name__', callback)}.{method}"
                told = f"The callback {name} failed: {type(error).__name__}: {one_line(error)}"
                if told not in self._failed:
                    self._failed.add(told)
                    self.note(f"{told} (training continues).")
