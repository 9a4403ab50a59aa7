"""Pictures of runs: learning curves of one or several, and a policy over two dimensions of observations."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from distdqn.errors import ConfigError, one_line
from distdqn.reporting.callbacks import CUT_SHORT, Callback, RunInfo
from distdqn.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OF_ONE_RUN = {"seed", "run_dir", "checkpoint_dir", "resume", "address"}  # may differ in a group
_MAX_DIFFERENCES = 3  # that label a group; if there are more, the name of a folder does
_GRID_POINTS, _RATE_POINTS = 120, 30
_MAX_LINES, _NO_EVALUATION = 2000, b'"eval_return_mean": null'  # of metrics, besides those of evaluations
_GREY = "#777777"
# Okabe and Ito's colours, safe for colour-blind readers; each has a line and a marker of its own.
_LOOKS: tuple[Any, ...] = (
    ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000"),
    ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 2))),
    "os^DvP",
)
_RETURN = "eval_return_mean"
_PANELS = {
    "train_return_mean": "training return",
    "loss": "loss",
    "env_steps": "env steps per second",
    "learner_steps": "learner steps per second",
    "actors_wait_fraction": "actors wait (fraction of time)",
    "learner_wait_fraction": "learner waits (fraction of time)",
}

Axis = Literal["steps", "time"]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RecordedRun:
    """What the folder of a run says of its course."""

    folder: Path
    options: dict[str, Any]  # `config.json`
    goal: float | None
    lines: list[dict[str, Any]]  # `metrics.jsonl`

    def points(self, name: str, axis: Axis) -> tuple[Numbers, Numbers]:
        """Env steps or seconds `[N]` and a metric `[N]`, or the rate of a counter of steps."""
        along = "env_steps" if axis == "steps" else "wall_seconds"
        names = (along, "wall_seconds", name)
        found = [[line[each] for each in names] for line in self.lines if line.get(name) is not None]
        x, seconds, values = np.array(found, np.float64).reshape(-1, 3).T
        if name in ("env_steps", "learner_steps"):
            at = np.linspace(seconds[0], seconds[-1], min(len(seconds), _RATE_POINTS))
            return np.interp(at[1:], seconds, x), np.diff(np.interp(at, seconds, values)) / np.diff(at)
        return x, values


def read_run(folder: Path) -> RecordedRun:
    """Reads the folder of a run that may still be running; `ConfigError` if it holds no metrics."""
    lines, needed = [], {"env_steps", "wall_seconds"}
    with contextlib.suppress(OSError):
        texts = (folder / "metrics.jsonl").read_bytes().splitlines()
        for number, text in enumerate(texts):
            if number % (len(texts) // _MAX_LINES + 1) == 0 or _NO_EVALUATION not in text:
                with contextlib.suppress(ValueError):  # the last one may be half written
                    lines.append(json.loads(text))
    lines = [line for line in lines if isinstance(line, dict) and needed <= line.keys()]
    if not lines:
        raise ConfigError(f"`runs`: {folder} holds no metrics (name a run, or wait for its first report).")
    read: dict[str, dict[str, Any]] = {"config.json": {}, "run.json": {}}
    for name in read:
        with contextlib.suppress(OSError, ValueError, TypeError):
            read[name] = dict(json.loads((folder / name).read_bytes()))
    goal = read["run.json"].get("resolved_options", {}).get("target_return")
    return RecordedRun(folder, read["config.json"], goal, lines)


def group_runs(runs: Sequence[RecordedRun]) -> dict[str, list[RecordedRun]]:
    """Runs whose options differ in the seed alone, by a label: the options in which the groups differ."""
    names = sorted({name for run in runs for name in run.options} - _OF_ONE_RUN)
    differing = [name for name in names if len({json.dumps(run.options.get(name)) for run in runs}) > 1]
    groups: dict[str, list[RecordedRun]] = {}
    for run in runs:
        told = "\n".join(f"{name} {run.options.get(name)}" for name in differing)
        groups.setdefault(told, []).append(run)
    if len(groups) == 1:
        return {"evaluation": list(runs)}
    is_short = len(differing) <= _MAX_DIFFERENCES
    return groups if is_short else {str(group[0].folder): group for group in groups.values()}


def _curve(runs: Sequence[RecordedRun], name: str, axis: Axis) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """A metric `[N]` over `[N]` steps or seconds, and the lower and upper end `[N]` of its spread.

    For several runs, the interquartile mean and its 95 % bootstrap interval; a run that ended earlier keeps
    its last value. For a single one, the standard deviation of an evaluation's episodes.

    Source: Agarwal et al. (2021), arXiv:2108.13264.
    """
    found = [points for run in runs if len((points := run.points(name, axis))[0])]
    if len(found) > 1:
        from scipy.stats import bootstrap, trim_mean

        x = np.linspace(max(x[0] for x, _ in found), max(x[-1] for x, _ in found), _GRID_POINTS)
        values = np.stack([np.interp(x, *points) for points in found])  # [runs, N]
        mean = functools.partial(trim_mean, proportiontocut=0.25)
        resampled = bootstrap((values,), mean, axis=0, n_resamples=1000, method="percentile", rng=0)
        return x, mean(values, axis=0), *resampled.confidence_interval
    x, y = found[0] if found else (np.zeros(0), np.zeros(0))
    spreads = [run.points("eval_return_std", axis)[1] for run in runs if name == _RETURN]
    spread = next((each for each in spreads if len(each) == len(y)), np.zeros(len(y)))
    return x, y, y - spread, y + spread


class LearningCurve(Callback):
    """Draws the returns of a run into its `learning_curve.png`, unless a signal or an error ended it."""

    @override
    def on_start(self, run: RunInfo) -> None:
        self._run_dir = run.run_dir

    @override
    def on_end(self, summary: dict[str, Any]) -> None:
        if summary["learner_steps"] and summary["reason"] not in CUT_SHORT:
            draw_runs([read_run(self._run_dir)], [self._run_dir / "learning_curve.png"], has_panels=False)


def draw_runs(
    runs: Sequence[RecordedRun], files: Iterable[Path], axis: Axis = "steps", has_panels: bool = True
) -> Figure:
    """Draws returns over env steps or time into files, and, if `has_panels`, loss, rates and waits below.

    `ConfigError` if a file cannot be written.
    """
    groups, panels = group_runs(runs), list(_PANELS)
    rows: Any = [[_RETURN] * 3, panels[:3], panels[3:]][: 3 if has_panels else 1]
    figure = _new_figure(9.5, 8.5 if has_panels else 4.2)
    axes = figure.subplot_mosaic(rows, height_ratios=[2.4, 1, 1][: len(rows)])
    last = max(run.lines[-1]["wall_seconds"] for run in runs)
    unit, size = ("hours", 3600.0) if last > 7200 else ("minutes", 60.0) if last > 120 else ("seconds", 1.0)
    unit, size = (unit, size) if axis == "time" else ("env steps", 1.0)
    ends = []
    for (label, group), colour, line, marker in zip(groups.items(), *map(cycle, _LOOKS), strict=False):
        for name, panel in axes.items():
            x, y, low, high = _curve(group, str(name), axis)
            look = {"linestyle": line, "marker": marker, "markevery": max(1, len(x) // 12), "color": colour}
            panel.plot(x / size, y, markersize=4, **look)
            panel.fill_between(x / size, low, high, color=colour, alpha=0.18, linewidth=0)
            if name == _RETURN and len(x):
                ends.append((x[-1] / size, y[-1], label, colour))
    if len(groups) == 1:
        x, y, *_ = _curve(runs, "train_return_mean", axis)
        axes[_RETURN].plot(x / size, y, "--", color=_GREY)
        ends += [(x[-1] / size, y[-1], "training,\nlast 100 episodes", _GREY)] if len(x) else []
    for goal in {run.goal for run in runs} - {None}:
        axes[_RETURN].axhline(goal, color="black", linewidth=0.8, linestyle=":")
        look = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes[_RETURN].annotate(f"goal {goal:g}", (0.01, goal), xytext=(0, 3), **look)
    environments = ", ".join(sorted({str(run.options.get("env", "run")) for run in runs}))
    what = "mean and standard deviation of episodes"
    if len(runs) > len(groups):
        what = f"interquartile mean of runs and 95 % interval ({len(runs)} runs)"
    for name, panel in axes.items():
        _finish(panel, _PANELS.get(str(name), f"{environments}: evaluation, {what}"), unit)
    axes[_RETURN].set_ylabel("return")
    _label_ends(axes[_RETURN], ends)
    _save(figure, files)
    return figure


def _new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, which a notebook shows."""
    from matplotlib.figure import Figure  # not pyplot, which the notebook may be using

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            self.savefig(picture := io.BytesIO(), format="png")
            return picture.getvalue()

    return Shown((width, height), dpi=120, layout="constrained")


def _save(figure: Figure, files: Iterable[Path]) -> None:
    for file in files:
        try:
            figure.savefig(file)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"`output` cannot be written: {one_line(error)} (name another file)."
            ) from error


def _finish(axes: Axes, title: str, unit: str) -> None:
    from matplotlib.ticker import EngFormatter

    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.tick_params(labelsize=8)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(unit, fontsize=9)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if "second" in title:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    if "fraction" in title:
        axes.set_ylim(-0.03, 1.03)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes labels to the right of the ends `(x, y, label, colour)` of lines, none over another."""
    (low, high), place = axes.get_ylim(), np.inf
    for x, y, label, colour in sorted(ends, key=lambda end: -end[1]):
        place = min((y - low) / (high - low), place)
        line = {"arrowstyle": "-", "linewidth": 0.6, "color": colour}
        text = axes.annotate(label, (x, y), (1.03, place), "data", "axes fraction", line, False)
        text.set(color=colour, fontsize=9, va="center")
        place -= 0.02 + 0.05 * len(label.splitlines())


def draw_policy(
    files: Iterable[Path],
    places: tuple[FloatArray, FloatArray],
    q_values: FloatArray,
    visited: FloatArray,
    dimensions: tuple[int, int],
) -> None:
    """Draws the greedy action and the largest Q-value over two `dimensions` of observations.

    `q_values` is `[Y, X, A]` at the `places` `[X]` and `[Y]`; `visited` `[N, 2]` is drawn as points.
    """
    figure = _new_figure(10, 4.4)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    actions, hatches = np.arange(q_values.shape[2] + 1), ["", "///", "...", "\\\\\\", "xxx", "ooo"]
    greys = [str(grey) for grey in np.linspace(0.95, 0.5, len(actions) - 1)]
    best, highest = q_values.argmax(axis=2), q_values.max(axis=2)  # [Y, X]
    regions = left.contourf(*places, best, actions - 0.5, colors=greys, hatches=hatches)
    figure.colorbar(regions, ax=left, ticks=actions, label="action")
    figure.colorbar(right.contourf(*places, highest, 14, cmap="cividis"), ax=right)
    x, y = dimensions
    for axes, title in ((left, "greedy action, others at their median"), (right, "largest Q-value")):
        axes.plot(*visited.T, ".", color="black", markersize=1.5, alpha=0.35)
        axes.set(xlabel=f"observation[{x}]", ylabel=f"observation[{y}]", title=title)
        axes.set(xlim=places[0][[0, -1]], ylim=places[1][[0, -1]])
    _save(figure, files)
