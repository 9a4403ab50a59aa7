"""What a run shows while it works, on a terminal and elsewhere."""

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console as RichConsole
from rich.live import Live
from rich.text import Text

_PLAIN_SECONDS = 3.0  # between two lines where there is no terminal


class Console:
    """One refreshed block on a terminal; a plain line every few seconds elsewhere."""

    def __init__(
        self,
        max_env_steps: int,
        target_return: float | None,
        quiet: bool = False,
        rich_console: RichConsole | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_env_steps = max_env_steps
        self._target_return = target_return
        self._rich = rich_console or RichConsole(quiet=quiet, highlight=False, soft_wrap=True)
        self._clock = clock
        self._live: Live | None = None
        self._evaluated: tuple[float, float] | None = None  # newest, best
        self._last_line = float("-inf")

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        self._rich.print(text, markup=False)

    def progress(self, line: dict[str, Any]) -> None:
        """Shows one report."""
        if line["eval_return_mean"] is not None:
            newest = line["eval_return_mean"]
            self._evaluated = (newest, max(newest, self._evaluated[1]) if self._evaluated else newest)
        if self._rich.is_terminal:
            if self._live is None:
                self._live = Live(console=self._rich, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(Text("\n".join(self._lines(line))), refresh=True)
        elif self._clock() - self._last_line >= _PLAIN_SECONDS:
            self._last_line = self._clock()
            self._rich.print(" | ".join(text.strip() for text in self._lines(line)), markup=False)

    def close(self) -> None:
        """Ends the refreshed block, so that what follows is printed below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _lines(self, line: dict[str, Any]) -> list[str]:
        """A report in four short lines."""
        goal = "none" if self._target_return is None else f"{self._target_return:g}"
        evaluated = (
            "evaluation -"
            if self._evaluated is None
            else "evaluation {:.1f}  best {:.1f}".format(*self._evaluated)
        )
        share = line["env_steps"] / self._max_env_steps
        return [
            f" {line['wall_seconds']:.0f} s  {share:.0%} of {count(self._max_env_steps)} env steps: "
            f"{count(line['env_steps'])}  learner steps {count(line['learner_steps'])}  "
            f"episodes {count(line['episodes'])}",
            f" return    train {number(line['train_return_mean'])}  {evaluated}  goal {goal}",
            f" speed     env steps/s {count(line['env_steps_per_second'])}  learner steps/s "
            f"{count(line['learner_steps_per_second'])}  "
            f"samples per insert {number(line['samples_per_insert'])}",
            f" learning  epsilon {line['epsilon']:.2f}  loss {number(line['loss'], 4)}  "
            f"Q {number(line['q_mean'])}  {who_waits(line)}",
        ]


def who_waits(line: dict[str, Any]) -> str:
    """Which side waited for the other during a report's period, in words."""
    if not line["learner_steps"]:
        return "learning has not started"
    actors, learner = line["actors_wait_fraction"], line["learner_wait_fraction"]
    if max(actors, learner) < 0.05:
        return "nobody waits"
    if actors >= learner:
        return f"actors wait for the learner {actors:.0%}"
    return f"learner waits for actors {learner:.0%}"


def number(value: float | None, digits: int = 1) -> str:
    """A number with fixed digits, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def count(value: float) -> str:
    """A count in two or three digits: `812`, `7.6 k`, `31 k`, `1.2 M`."""
    for factor, unit in ((1e6, " M"), (1e3, " k")):
        scaled = value / factor
        if scaled >= 0.9995:  # what would be rounded up to 1,000 of the unit below
            return f"{scaled:.1f}{unit}" if scaled < 9.95 else f"{scaled:.0f}{unit}"
    return f"{value:.0f}"
