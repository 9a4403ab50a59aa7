"""The progress of a run, on a terminal and elsewhere."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.live import Live
from rich.text import Text
from typing_extensions import override

_PLAIN_SECONDS = 3.0  # between two lines without a terminal


class Output(RichConsole):
    """Raises where `rich` ends the process."""

    @override
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Console:
    """A refreshed block on a terminal; a plain line every few seconds elsewhere; silent once nobody reads."""

    def __init__(
        self,
        max_env_steps: int,
        target_return: float | None,
        quiet: bool = False,
        rich_console: RichConsole | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_env_steps = max_env_steps
        self._goal = "none" if target_return is None else f"{target_return:g}"
        self._rich = rich_console or Output(quiet=quiet, highlight=False, soft_wrap=True)
        self._clock = clock
        self._live: Live | None = None
        self._evaluated: tuple[float, float] | None = None  # newest, best
        self._last_line = float("-inf")  # when it was printed

    def note(self, text: str) -> None:
        """Prints a message above the refreshed block."""
        with self._while_read():
            self._rich.print(text, markup=False)

    def progress(self, line: dict[str, Any]) -> None:
        """Shows a line of metrics."""
        newest = line["eval_return_mean"]
        if newest is not None:
            self._evaluated = (newest, max(newest, self._evaluated[1]) if self._evaluated else newest)
        with self._while_read():
            if self._rich.is_terminal:
                if self._live is None:
                    self._live = Live(console=self._rich, auto_refresh=False, transient=True)
                    self._live.start()
                self._live.update(Text("\n".join(self._lines(line))), refresh=True)
            elif self._clock() - self._last_line >= _PLAIN_SECONDS:
                self._last_line = self._clock()
                self._rich.print(" | ".join(text.strip() for text in self._lines(line)), markup=False)

    def close(self) -> None:
        """Removes the refreshed block."""
        live, self._live = self._live, None
        with self._while_read():
            if live is not None:
                live.stop()

    @contextlib.contextmanager
    def _while_read(self) -> Iterator[None]:
        """Is silent from when the reader, the terminal or the room on a disk is gone."""
        try:
            yield
        except (OSError, ValueError):  # ValueError: a closed file
            self._rich.quiet = True
            # Python writes what is left in the buffer once more at the end of the process.
            with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("wb") as null:
                os.dup2(null.fileno(), self._rich.file.fileno())

    def _lines(self, line: dict[str, Any]) -> list[str]:
        """A line of metrics as four lines of text."""
        evaluated = "-" if self._evaluated is None else "{:.1f}  best {:.1f}".format(*self._evaluated)
        return [
            f" {line['wall_seconds']:.0f} s  {line['env_steps'] / self._max_env_steps:.0%} "
            f"of {count(self._max_env_steps)} env steps: {count(line['env_steps'])}  "
            f"learner steps {count(line['learner_steps'])}  episodes {count(line['episodes'])}",
            f" return    train {number(line['train_return_mean'])}  evaluation {evaluated}  "
            f"goal {self._goal}",
            f" speed     env steps/s {count(line['env_steps_per_second'])}  "
            f"learner steps/s {count(line['learner_steps_per_second'])}  "
            f"samples per insert {number(line['samples_per_insert'])}",
            f" learning  epsilon {line['epsilon']:.2f}  loss {number(line['loss'], 4)}  "
            f"Q {number(line['q_mean'])}  {describe_waits(line)}",
        ]


def describe_waits(line: dict[str, Any]) -> str:
    """Which side waited for the other since the last line of metrics."""
    if not line["learner_steps"]:
        return "learning has not started"
    actors, learner = line["actors_wait_fraction"], line["learner_wait_fraction"]
    if max(actors, learner) < 0.05:
        return "no waits"
    if actors >= learner:
        return f"actors wait for the learner {actors:.0%}"
    return f"learner waits for actors {learner:.0%}"


def number(value: float | None, digits: int = 1) -> str:
    """A number with fixed digits, or a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def count(value: float) -> str:
    """A count in at most three digits: `812`, `7.6 k`, `31 k`, `1.2 M`."""
    for factor, unit in ((1e6, " M"), (1e3, " k")):
        scaled = value / factor
        if scaled >= 0.9995:  # smaller ones round to at most 999 of the next unit
            return f"{scaled:.1f}{unit}" if scaled < 9.95 else f"{scaled:.0f}{unit}"
    return f"{value:.0f}"
