"""The progress of a run: a panel on a terminal and in a notebook, plain lines elsewhere."""

import contextlib
import html
import io
import itertools
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from distdqn.reporting.callbacks import Callback, RunInfo

_MIN_SECONDS, _MAX_SECONDS = 3.0, 300.0  # between two plain lines
_OF_AGE = 0.05  # of a run's age is between two plain lines
_MAX_ROWS = 4  # for roles of one kind
_RATE_LINES = 6  # of metrics; a rollout may take longer than the time between two
_CURVE_POINTS = 24
_BLOCKS = "▁▂▃▄▅▆▇█"
_STYLE = "font-family:monospace;line-height:1.2"


class Output(RichConsole):
    """Raises where `rich` ends the process."""

    @override
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Console(Callback):
    """A refreshed panel on a terminal and in a notebook; plain lines elsewhere; silent once nobody reads.

    It shows nothing if `quiet`, and if `verbose` a plain line for every line of metrics.
    """

    def __init__(
        self,
        quiet: bool = False,
        verbose: bool = False,
        rich_console: RichConsole | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rich = rich_console or Output(quiet=quiet, highlight=False)
        self._verbose = verbose
        self._clock = clock
        self._panel: Panel | None = None
        self._live: Live | None = None
        self._notebook: Any = None  # the handle of a notebook's display
        self._last_line = float("-inf")  # when it was printed

    def note(self, text: str) -> None:
        """Prints a message above the panel."""
        with self._while_read():
            self._rich.print(text, markup=False, soft_wrap=True)

    @override
    def on_start(self, run: RunInfo) -> None:
        config = run.config
        name = config.recorded_env()[0]
        self._is_named = "<" not in name and not name.startswith("__main__:")
        budgets = (config.max_env_steps, config.max_seconds, config.max_learner_steps)
        self._panel = Panel(*budgets, target_return=run.target_return, clock=self._clock)

    @override
    def on_status(self, status: dict[str, Any]) -> None:
        if self._panel is not None:
            self._panel.roles = status["roles"]
            self._refresh()

    @override
    def on_report(self, metrics: dict[str, Any]) -> None:
        if self._panel is None:
            return
        self._panel.add(metrics)
        if self._is_refreshed:
            self._refresh()
        else:
            wait = min(_MAX_SECONDS, max(_MIN_SECONDS, _OF_AGE * metrics["wall_seconds"]))
            if self._verbose or self._clock() - self._last_line >= wait:
                self._last_line = self._clock()
                self.note(self._panel.line())

    @override
    def on_end(self, summary: dict[str, Any]) -> None:
        self.close()
        if summary["reason"] != "failed" and summary["env_steps"]:
            self.note(closing_words(summary, self._is_named))

    def close(self) -> None:
        """Removes the panel."""
        live, self._live = self._live, None
        with self._while_read():
            if live is not None:
                live.stop()

    @property
    def _is_refreshed(self) -> bool:
        return (self._rich.is_terminal or self._rich.is_jupyter) and not self._verbose

    def _refresh(self) -> None:
        if self._panel is None or self._panel.metrics is None or not self._is_refreshed or self._rich.quiet:
            return
        with self._while_read():
            if self._rich.is_jupyter:
                self._show_in_notebook(self._panel)
                return
            if self._live is None:
                self._live = Live(console=self._rich, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(self._panel.render(), refresh=True)

    def _show_in_notebook(self, panel: "Panel") -> None:
        """Shows the panel and the curve of evaluations in place of what was shown before."""
        from IPython.display import HTML, display

        text = io.StringIO()
        RichConsole(file=text, width=100, force_jupyter=False, color_system=None).print(panel.render())
        shown = HTML(f"<pre style='{_STYLE}'>{html.escape(text.getvalue())}</pre>{panel.svg_curve()}")
        if self._notebook is None:
            self._notebook = display(shown, display_id=True)
        else:
            self._notebook.update(shown)

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


class Panel:
    """What a run is doing, from its lines of metrics and its roles; None is no limit and no goal."""

    def __init__(
        self,
        max_env_steps: int,
        max_seconds: float | None,
        max_learner_steps: int | None = None,
        target_return: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics: dict[str, Any] | None = None  # what lines told last; rates are those of some lines
        self._recent: deque[dict[str, Any]] = deque(maxlen=_RATE_LINES)
        self.evaluations: deque[tuple[int, float]] = deque(maxlen=1000)  # env steps, mean return
        self.roles: list[dict[str, Any]] = []  # as in `status.json`
        self.target_return = target_return
        self._best: float | None = None
        self._drawn, self._svg = (-1, 0.0), ""  # the last evaluation in the picture, and the picture
        self._max_env_steps, self._max_seconds = max_env_steps, max_seconds
        self._max_learner_steps = max_learner_steps
        self._bar = Progress(
            BarColumn(20),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("·"),
            TimeRemainingColumn(),
            TextColumn("left"),
            auto_refresh=False,
            get_time=clock,
        )
        self._task = self._bar.add_task("", total=1.0)

    def add(self, metrics: dict[str, Any]) -> None:
        """Adds a line of metrics."""
        self.metrics = dict.fromkeys(metrics) | (self.metrics or {})
        self.metrics |= {name: value for name, value in metrics.items() if value is not None}
        self._recent.append(metrics)
        seconds = metrics["wall_seconds"] - self._recent[0]["wall_seconds"]
        for name in ("env_steps", "learner_steps") if seconds > 0.0 else ():
            self.metrics[f"{name}_per_second"] = (metrics[name] - self._recent[0][name]) / seconds
        if (mean := metrics["eval_return_mean"]) is not None:
            self.evaluations.append((metrics["env_steps"], mean))
            self._best = mean if self._best is None else max(mean, self._best)
        name, most = "env_steps", self._max_env_steps
        if self._max_learner_steps is not None:
            name, most = "learner_steps", self._max_learner_steps
        steps = f"{count(metrics[name])} of {count(most)} {name.replace('_', ' ')}"
        self._bar.update(self._task, completed=self._fraction(metrics), description=steps)

    def leave_out_time(self) -> None:
        """Shows no time left, of a run that is over."""
        self._bar.columns = self._bar.columns[:3]

    def render(self) -> RenderableType:
        """The bar, returns, rates, and a row for each role."""
        line = self.metrics or {}
        grid = Table.grid(padding=(0, 2))
        goal = "none" if self.target_return is None else f"{self.target_return:g}"
        rows = {
            "return": f"train {number(line['train_return_mean'])}  {self._evaluated()}  goal {goal}  "
            f"{self._curve()}",
            "speed": f"{count(line['env_steps_per_second'])} env steps/s  "
            f"{count(line['learner_steps_per_second'])} learner steps/s  "
            f"samples per insert {number(line['samples_per_insert'])}",
            "learning": f"epsilon {line['epsilon']:.2f}  loss {number(line['loss'], 4)}  "
            f"Q {number(line['q_mean'])}  weights {number(line['weights_age_steps'], 0)} learner steps old",
            "time": f"{_busy(line)}{describe_waits(line)}",
        }
        for label, text in (*rows.items(), *_describe_roles(self.roles)):
            grid.add_row(Text(f" {label}", "bold"), Text(text))
        return Group(self._bar.get_renderable(), grid)

    def line(self) -> str:
        """The same in one line of at most 160 columns."""
        line = self.metrics or {}
        return (
            f"{line['wall_seconds']:.0f} s  {self._fraction(line):.0%}  {count(line['env_steps'])} env steps"
            f"  {count(line['learner_steps'])} learner steps  train {number(line['train_return_mean'])}  "
            f"{self._evaluated()}  {count(line['env_steps_per_second'])} env steps/s  "
            f"epsilon {line['epsilon']:.2f}  {describe_waits(line)}"
        )[:160]

    def _fraction(self, line: dict[str, Any]) -> float:
        """How much of the budget is spent: of steps or of time, whichever ends first."""
        seconds = 0.0 if self._max_seconds is None else line["wall_seconds"] / self._max_seconds
        learned = line["learner_steps"] / self._max_learner_steps if self._max_learner_steps else 0.0
        return float(min(1.0, max(seconds, learned, line["env_steps"] / self._max_env_steps)))

    def _evaluated(self) -> str:
        newest = self.evaluations[-1][1] if self.evaluations else None
        return f"evaluation {number(newest)}  best {number(self._best)}"

    def _curve(self) -> str:
        """The last evaluations as blocks, the highest for the best of them."""
        means = [mean for _, mean in self.evaluations][-_CURVE_POINTS:]
        low, high = min(means, default=0.0), max(means, default=0.0)
        places = [(mean - low) / (high - low) if high > low else 0.0 for mean in means]
        return "".join(_BLOCKS[round(place * (len(_BLOCKS) - 1))] for place in places)

    def svg_curve(self) -> str:
        """The evaluations as an SVG picture; nothing before the second one."""
        if len(self.evaluations) < 2 or self._drawn == self.evaluations[-1]:
            return self._svg
        from matplotlib.figure import Figure

        axes = (figure := Figure(figsize=(6.0, 2.2), layout="constrained")).subplots()
        axes.plot(*zip(*self.evaluations, strict=True), marker=".")
        if self.target_return is not None:
            axes.axhline(self.target_return, linestyle="--", color="0.5", label="goal")
            axes.legend()
        axes.set(xlabel="env steps", ylabel="mean return")
        figure.savefig(picture := io.StringIO(), format="svg")
        self._drawn, self._svg = self.evaluations[-1], picture.getvalue()
        return self._svg


def _busy(line: dict[str, Any]) -> str:
    """What actors and learner do with their time."""
    environment, network = line["actor_env_fraction"], line["actor_network_fraction"]
    words = ""
    if environment is not None and network is not None:
        words += f"actors: env {environment:.0%}, network {network:.0%}  "
    if line["seconds_per_update"] is not None:
        words += f"learner: {1e3 * line['seconds_per_update']:.2f} ms an update  "
    return words


def _describe_roles(roles: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Name and state of each role; many of one kind share a row."""
    for kind, members in itertools.groupby(roles, lambda role: str(role["role"]).partition("-")[0]):
        found = list(members)
        if len(found) <= _MAX_ROWS:
            for role in found:
                state = "starting" if role["pid"] is None else f"up on {role['host']}"
                yield role["role"], f"{state}  {_restarts(role['restarts'])}"
        else:
            up = sum(role["pid"] is not None for role in found)
            restarts = sum(role["restarts"] for role in found)
            yield f"{kind}s", f"{up} up, {len(found) - up} starting  {_restarts(restarts)}"


def _restarts(restarts: int) -> str:
    return "" if not restarts else "1 restart" if restarts == 1 else f"{restarts} restarts"


def closing_words(summary: dict[str, Any], is_named: bool = True) -> str:
    """The last lines of a run: the result, the files, and what to type next.

    Unless `is_named`, other commands cannot make the environment again.
    """
    outcome = {True: "Solved", False: "Not solved", None: "Finished"}[summary["solved"]]
    words = (
        f"{outcome} ({summary['reason']}): mean return {number(summary['eval_return_mean'])} over "
        f"{summary['eval_episodes'] or 0} greedy episodes, after {summary['env_steps']:,} env steps and "
        f"{summary['learner_steps']:,} learner steps, {summary['total_seconds']:.1f} s in all."
    )
    if summary["solved"] is False and summary["eval_episodes"]:
        words += (
            f"\nThe goal of {summary['target_return']:g} is reached when two standard errors below the mean "
            f"reach it; here they are {number(summary['eval_return_lower_bound'])}."
        )
    folder = summary["run_dir"]
    words += f"\nFiles: {folder}"
    if summary["eval_episodes"] and is_named:
        words += f"\nWatch it: distdqn play {folder}\nEvaluate it: distdqn evaluate {folder} --episodes 100"
    words += f"\nPlot it: distdqn plot {folder}"
    if summary["solved"] is not True and is_named:
        spent = {"max_env_steps": "env_steps", "max_episodes": "episodes", "max_seconds": "total_seconds"}
        spent["max_learner_steps"] = "learner_steps"
        words += f"\nTrain on: distdqn run --resume {folder}"
        if (counter := spent.get(summary["reason"])) is not None:
            words += f" --{summary['reason'].replace('_', '-')} {math.ceil(2 * summary[counter])}"
    return words


def describe_waits(line: dict[str, Any]) -> str:
    """Which side waited for the other since the last line of metrics."""
    if not line["learner_steps"]:
        return "learning has not started"
    actors, learner = line["actors_wait_fraction"], line["learner_wait_fraction"]
    if max(actors, learner) < 0.05:
        return "no waits"
    if actors >= learner:
        return f"actors wait {actors:.0%}"
    return f"learner waits {learner:.0%}"


def number(value: float | None, digits: int | None = None) -> str:
    """A number, without `digits` with one that shows small returns, too; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.{(1 if abs(value) >= 10 else 3) if digits is None else digits}f}"


def count(value: float) -> str:
    """A count in at most three digits: `812`, `7.6 k`, `31 k`, `1.2 M`."""
    for factor, unit in ((1e6, " M"), (1e3, " k")):
        scaled = value / factor
        if scaled >= 0.9995:  # smaller ones round to at most 999 of the next unit
            return f"{scaled:.1f}{unit}" if scaled < 9.95 else f"{scaled:.0f}{unit}"
    return f"{value:.0f}"
