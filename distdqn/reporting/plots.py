"""Pictures of runs: learning curves of one or several, and a policy over two dimensions of observations."""

from __future__ import annotations

import contextlib
import functools
import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from distdqn.errors import ConfigError
from distdqn.reporting.run_directory import read_metrics
from distdqn.types import FloatArray, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OF_ONE_RUN = {"seed", "run_dir", "checkpoint_dir", "resume", "address"}  # may differ in a group
_MAX_DIFFERENCES = 3  # named in the label of a group; if there are more, a folder's name is clearer
_GRID_POINTS, _RESAMPLES = 120, 1000
_CONFIDENCE = 0.95
_LABEL_COLUMNS = 26
# Okabe and Ito's colours, safe for colour-blind readers; each has a line and a marker of its own.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555", "#E69F00")
_TRAINING = "#777777"
_LINES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)), (0, (6, 1, 1, 1, 1, 1)), (0, (8, 2)))
_MARKERS = "os^Dv"
_PANELS = {
    "train_return_mean": "training return",
    "loss": "loss",
    "env_steps_per_second": "env steps per second",
    "learner_steps_per_second": "learner steps per second",
    "actors_wait_fraction": "time that actors wait",
    "learner_wait_fraction": "time that the learner waits",
}
_TIME_UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))

Axis = Literal["steps", "time"]
Points = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class RecordedRun:
    """What the folder of a run says of its course."""

    folder: Path
    options: dict[str, Any]  # `config.json`
    goal: float | None
    lines: list[dict[str, Any]]  # `metrics.jsonl`

    def points(self, name: str, axis: Axis) -> Points:
        """The metric `name` where it was reported: `[N]` env steps or seconds, and `[N]` values."""
        along = "env_steps" if axis == "steps" else "wall_seconds"
        lines = [line for line in self.lines if line.get(name) is not None]
        if name.endswith("per_second"):  # lines of evaluations come right after others
            lines = [line for line in lines if line.get("eval_return_mean") is None]
        found = [(line[along], line[name]) for line in lines]
        x, y = np.array(found, np.float64).reshape(-1, 2).T
        return x, y


@dataclass(frozen=True)
class RunGroup:
    """Runs whose options differ in the seed alone."""

    label: str
    runs: list[RecordedRun]

    def curve(self, name: str, axis: Axis) -> tuple[Points, Points | None]:
        """The interquartile mean of a metric over the runs, and both ends of its bootstrap interval.

        Runs are interpolated at common points; one that ended earlier keeps its last value. A single run is
        returned as it is, without an interval.

        Source: Agarwal et al. (2021), arXiv:2108.13264.
        """
        found = [points for run in self.runs if len((points := run.points(name, axis))[0])]
        if len(found) < 2:
            return found[0] if found else (np.zeros(0), np.zeros(0)), None
        from scipy.stats import bootstrap, trim_mean

        grid = np.linspace(max(x[0] for x, _ in found), max(x[-1] for x, _ in found), _GRID_POINTS)
        values = np.stack([np.interp(grid, *points) for points in found])  # [runs, N]
        mean = functools.partial(trim_mean, proportiontocut=0.25)
        settings: dict[str, Any] = {"n_resamples": _RESAMPLES, "confidence_level": _CONFIDENCE}
        resampled = bootstrap((values,), mean, axis=0, method="percentile", rng=0, **settings)
        interval = resampled.confidence_interval
        return (grid, mean(values, axis=0)), (interval.low, interval.high)


def read_run(folder: Path) -> RecordedRun:
    """Reads the folder of a run that may still be running.

    Raises:
        ConfigError: it holds no line of metrics.
    """
    try:
        lines = read_metrics(folder)
    except OSError as error:
        why = f"{folder / 'metrics.jsonl'} cannot be read: {error.strerror} (name a run's folder)."
        raise ConfigError(f"`runs`: {why}") from error
    if not lines:
        raise ConfigError(f"`runs`: {folder} holds no metrics yet (wait for the first report).")
    options, resolved = _read_json(folder / "config.json"), _read_json(folder / "run.json")
    goal = resolved.get("resolved_options", {}).get("target_return")
    return RecordedRun(folder, options, goal if isinstance(goal, int | float) else None, lines)


def _read_json(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(path.read_bytes()))
    return {}


def group_runs(runs: Iterable[RecordedRun]) -> list[RunGroup]:
    """Runs grouped by their options; a label names the options in which the groups differ."""
    groups: dict[str, list[RecordedRun]] = {}
    for run in runs:
        compared = {name: value for name, value in run.options.items() if name not in _OF_ONE_RUN}
        groups.setdefault(json.dumps(compared or str(run.folder), sort_keys=True), []).append(run)
    options = [each[0].options for each in groups.values()]
    names = sorted(set().union(*options) - _OF_ONE_RUN)
    differing = [name for name in names if any(each.get(name) != options[0].get(name) for each in options)]
    found = []
    for each in groups.values():
        told = [f"{name} {_text(each[0].options.get(name))}" for name in differing]
        label = ", ".join(told) if told and len(told) <= _MAX_DIFFERENCES else each[0].folder.resolve().name
        found.append(RunGroup(label, each))
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def draw_learning_curve(run_dir: Path) -> None:
    """Draws the returns of a run into its `learning_curve.png`.

    Raises:
        ConfigError: it holds no line of metrics.
        OSError: the file cannot be written.
    """
    draw_runs([read_run(run_dir)], [run_dir / "learning_curve.png"], has_panels=False)


def draw_runs(
    runs: Sequence[RecordedRun], files: Iterable[Path], axis: Axis = "steps", has_panels: bool = True
) -> None:
    """Draws returns over env steps or time, and, if `has_panels`, loss, rates and waits below.

    Raises:
        OSError: a file cannot be written.
    """
    groups = group_runs(runs)
    rows: list[Any] = [["returns"] * 3]
    names = list(_PANELS)
    if has_panels:
        rows += [names[:3], names[3:]]
    figure = _new_figure(9.5, 8.5 if has_panels else 4.2)
    axes = figure.subplot_mosaic(rows, height_ratios=[2.4, 1, 1][: len(rows)])
    last = max(run.lines[-1]["wall_seconds"] for run in runs)
    unit, size = next(each for each in _TIME_UNITS if last >= 3 * each[1] or each[1] == 1.0)
    unit, size = ("env steps", 1.0) if axis == "steps" else (unit, size)
    ends = []
    for place, group in enumerate(groups):
        look = {"color": _COLOURS[place % 6], "linestyle": _LINES[place % 6]}
        ends += _draw_returns(axes["returns"], group, axis, size, look, _MARKERS[place % 5], len(groups) == 1)
        for name in names if has_panels else []:
            (x, y), _ = group.curve(name, axis)
            axes[name].plot(x / size, y, linewidth=1.2, **look)
    for name, panel in axes.items():
        _finish_panel(panel, _PANELS.get(str(name), "return"), unit, is_small=name != "returns")
    for goal in {run.goal for run in runs if run.goal is not None}:
        axes["returns"].axhline(goal, color="black", linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
        ends.append((axes["returns"].get_xlim()[1], goal, f"goal {goal:g}", "black"))
    environments = sorted({str(run.options.get("env", "unknown environment")) for run in runs})
    axes["returns"].set_title(f"{', '.join(environments)}: {_explain(groups)}", fontsize=11, loc="left")
    _label_ends(axes["returns"], ends)
    for file in files:
        figure.savefig(file)


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _explain(groups: Sequence[RunGroup]) -> str:
    """What lines and bands are."""
    sizes = {len(group.runs) for group in groups}
    if sizes == {1}:
        return "evaluation, mean and standard deviation of its episodes"
    runs = f"{sizes.pop()} runs" if len(sizes) == 1 else "the runs"
    return f"evaluation, interquartile mean of {runs} and {_CONFIDENCE:.0%} bootstrap interval"


def _draw_returns(
    axes: Axes, group: RunGroup, axis: Axis, size: float, look: dict[str, Any], marker: str, is_only: bool
) -> list[tuple[float, float, str, str]]:
    """Draws a group's returns; gives position, label and colour of each end. `size` is the unit of `axis`."""
    (x, y), interval = group.curve("eval_return_mean", axis)
    if interval is None and len(x):
        spread = next(s for s in (run.points("eval_return_std", axis)[1] for run in group.runs) if len(s))
        interval = y - spread, y + spread
    if interval is not None:
        axes.fill_between(x / size, *interval, color=look["color"], alpha=0.18, linewidth=0)
    axes.plot(
        x / size, y, marker=marker, markersize=4.5, markevery=max(1, len(x) // 12), linewidth=1.8, **look
    )
    curves = [(x, y, "evaluation" if is_only else group.label, look["color"])]
    if is_only or not len(x):
        (x, y), _ = group.curve("train_return_mean", axis)
        axes.plot(x / size, y, color=_TRAINING, linestyle=(0, (4, 2)), linewidth=1.2)
        curves.append((x, y, "training, last 100 episodes" if is_only else group.label, _TRAINING))
    return [(x[-1] / size, y[-1], label, colour) for x, y, label, colour in curves if len(x)]


def _finish_panel(axes: Axes, title: str, unit: str, is_small: bool) -> None:
    from matplotlib.ticker import EngFormatter, PercentFormatter

    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.tick_params(labelsize=8 if is_small else 9)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if is_small:
        axes.set_title(title, fontsize=9, loc="left")
        if not any(len(line.get_xdata()) for line in axes.lines):  # type: ignore[arg-type]
            axes.text(0.5, 0.5, "nothing reported yet", transform=axes.transAxes, ha="center", fontsize=8)
        if title.startswith("time"):
            axes.set_ylim(-0.02, 1.02)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        else:
            axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    else:
        axes.set_ylabel(title)
    axes.set_xlabel(unit, fontsize=8 if is_small else 10)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes the label of each line to the right of its end, below each other where ends are close."""
    low, high = axes.get_ylim()
    ceiling, placed = np.inf, []
    for x, y, label, colour in sorted(ends, key=lambda end: -end[1]):
        text = textwrap.fill(label, _LABEL_COLUMNS)
        position = min((y - low) / (high - low), ceiling)
        ceiling = position - 0.055 * (1 + text.count("\n")) - 0.015
        placed.append((x, y, text, colour, position))
    lift = max(0.0, -(ceiling + 0.07))
    for x, y, text, colour, position in placed:
        axes.annotate(
            text,
            (x, y),
            (1.03, position + lift),
            textcoords="axes fraction",
            color=colour,
            fontsize=9,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.6, "color": colour, "alpha": 0.7},
        )


def draw_policy(
    files: Iterable[Path],
    values: tuple[FloatArray, FloatArray],
    q_values: FloatArray,
    visited: FloatArray,
    dimensions: tuple[int, int],
) -> None:
    """Draws the greedy action and the largest Q-value over two dimensions of observations.

    Args:
        files: to write.
        values: `[X]` and `[Y]`, along the two dimensions.
        q_values: `[Y, X, A]`.
        visited: `[N, 2]`, where greedy episodes were.
        dimensions: their numbers.

    Raises:
        OSError: a file cannot be written.
    """
    from matplotlib.patches import Patch

    figure = _new_figure(10, 4.4)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    actions: IntArray = q_values.argmax(axis=2)  # [Y, X]
    hatches = ("", "///", "\\\\\\", "...", "xxx", "ooo")
    shown = np.unique(actions).tolist()
    looks: dict[int, dict[str, Any]] = {
        action: {"facecolor": str(0.97 - 0.5 * place / max(1, len(shown) - 1)), "hatch": hatches[place % 6]}
        for place, action in enumerate(shown)
    }
    for action, look in looks.items():
        regions = left.contourf(*values, actions == action, levels=[0.5, 1.5], colors=[look["facecolor"]])
        regions.set(hatch=look["hatch"], edgecolor="#00000055")
    patches = [
        Patch(**look, edgecolor="#00000099", label=f"action {action}") for action, look in looks.items()
    ]
    figure.legend(handles=patches, loc="outside lower left", ncols=8, frameon=False, fontsize=9)
    left.set_title("greedy action", fontsize=11, loc="left")
    height = q_values.max(axis=2)  # [Y, X]
    figure.colorbar(right.contourf(*values, height, levels=14, cmap="cividis"), ax=right)
    if np.ptp(height) > 0:
        right.clabel(right.contour(*values, height, levels=6, colors="white", linewidths=0.8), fontsize=8)
    right.set_title("largest Q-value", fontsize=11, loc="left")
    for axes in (left, right):
        axes.plot(*visited.T, ".", color="black", markersize=1.5, alpha=0.35)
        axes.set(xlabel=f"observation[{dimensions[0]}]", ylabel=f"observation[{dimensions[1]}]")
    for file in files:
        figure.savefig(file)
