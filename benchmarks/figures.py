"""Draws the pictures of docs/results.md. The only module that imports matplotlib, and only when it draws."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from experiments import (
    ACROBOT_DEFAULT,
    BREAKOUT,
    CARTPOLE,
    CARTPOLE_DEFAULT,
    MINATAR,
    RANDOM,
    SECTIONS,
    ZOO_DQN,
    ZOO_QR_DQN,
    Row,
)
from measured import Run, bootstrap_interval, curves, interquartile_mean

# From the palette of Okabe and Ito, which colour-blind readers can distinguish.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.fontsize": 9,
}
DPI = 110

Results = Mapping[Row, Sequence[Run]]


def draw(results: Results, docs: Path) -> list[Path]:
    """Draws everything that has runs as PNG files in `docs`; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context(STYLE):
        drawn = [_overview(results, docs / "results.png")]
        for default in (CARTPOLE_DEFAULT, ACROBOT_DEFAULT):
            rows = [row for row in SECTIONS["presets"] if row.task == default.task]
            drawn.append(_presets(results, rows, docs / f"results-{default.task.env}.png"))
    return [path for path in drawn if path]


def _overview(results: Results, path: Path) -> Path | None:
    """One panel for each section but the presets."""
    from matplotlib import pyplot

    wanted = [
        (_draw_stability, [CARTPOLE_DEFAULT]),
        (_draw_acrobot, [ACROBOT_DEFAULT]),
        (_draw_minatar, [row for pair in MINATAR for row in pair]),
        (_draw_ablation, SECTIONS["ablation"][1:]),
    ]
    panels = [function for function, rows in wanted if any(results.get(row) for row in rows)]
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(5.5 * columns, 4.0 * lines), layout="constrained", squeeze=False
    )
    for function, own in zip(panels, axes.flat, strict=False):
        function(own, results)
    for own in axes.flat[len(panels) :]:
        own.set_axis_off()
    return _save(figure, path)


def _draw_stability(axes: Any, results: Results) -> None:
    runs = results[CARTPOLE_DEFAULT]
    _draw_curve(axes, runs, BLUE, "default, median", own_lines=True)
    goal, thousands = CARTPOLE.goal, CARTPOLE.env_steps / 1000
    axes.axhline(goal, color=GREY, linestyle="--", linewidth=1.2, label=f"goal {goal:g}")
    axes.axvspan(thousands / 2, thousands, color=GREY, alpha=0.12, linewidth=0, zorder=0, label="late")
    _label(axes, f"Stability: CartPole-v1, default options, {_seeds(runs)}", CARTPOLE.env_steps)
    axes.set_ylim(0, 515)
    axes.legend(loc="lower right")


def _draw_acrobot(axes: Any, results: Results) -> None:
    runs = results[ACROBOT_DEFAULT]
    _draw_curve(axes, runs, BLUE, "default, median", own_lines=True)
    for value, style, name in ((ZOO_DQN, "--", "rl-zoo3 DQN"), (ZOO_QR_DQN, ":", "rl-zoo3 QR-DQN")):
        axes.axhline(value, color=ORANGE, linestyle=style, linewidth=1.6, label=f"{name} {value:g}")
    lowest = -200  # a larger range would merge the two lines
    _label(axes, f"Acrobot-v1, default options, {_seeds(runs)}", ACROBOT_DEFAULT.task.env_steps)
    axes.set_ylim(lowest, -50)
    axes.set_ylabel(f"greedy return (not shown below {lowest})")
    axes.legend(loc="lower right")


def _draw_minatar(axes: Any, results: Results) -> None:
    for pair, color in zip(MINATAR, (BLUE, ORANGE), strict=True):
        for row, style in zip(pair, ("-", "--"), strict=True):
            if runs := results.get(row):
                _draw_curve(axes, runs, color, row.label, style)
    if runs := results.get(RANDOM):
        value = float(np.median([run.final for run in runs]))
        axes.axhline(value, color=GREY, linestyle=":", linewidth=1.6, label=f"random {value:.1f}")
    _label(axes, f"Images: {BREAKOUT.env}", BREAKOUT.env_steps)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left")


def _draw_ablation(axes: Any, results: Results) -> None:
    rows = [row for row in SECTIONS["ablation"] if results.get(row)]
    _draw_finals(axes, [(row.label, results[row]) for row in rows])
    axes.axvline(CARTPOLE.goal, color=GREY, linestyle="--", linewidth=1.2)
    axes.set_xlim(0, 515)
    axes.set_title("Ablation on CartPole-v1: final weights", loc="left")


def _presets(results: Results, rows: Sequence[Row], path: Path) -> Path | None:
    """One panel per preset, and one that compares their final returns."""
    from matplotlib import pyplot

    measured = [row for row in rows if results.get(row)]
    if not measured:
        return None
    task = rows[0].task
    columns, lines = 4, -(-(len(measured) + 1) // 4)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(12.0, 2.9 * lines), layout="constrained", squeeze=False
    )
    returns = np.concatenate([run.eval_returns for row in measured for run in results[row]])
    room = 0.04 * (returns.max() - returns.min()) + 1.0
    for position, (row, own) in enumerate(zip(measured, axes.flat, strict=False)):
        _draw_curve(own, results[row], BLUE)
        own.axhline(task.goal, color=GREY, linestyle="--", linewidth=1.2)
        _label(own, row.label, task.env_steps)
        own.set_ylabel("greedy return" if position % columns == 0 else "")
        own.set_ylim(returns.min() - room, returns.max() + room)
    last = axes.flat[len(measured)]
    _draw_finals(last, [(row.label, results[row]) for row in measured])
    last.axvline(task.goal, color=GREY, linestyle="--", linewidth=1.2)
    last.set_title("all: final weights", loc="left")
    for own in axes.flat[len(measured) + 1 :]:
        own.set_axis_off()
    figure.suptitle(f"{task.env}: median and range over seeds; dashed: the goal, {task.goal:g}")
    return _save(figure, path)


def _draw_curve(
    axes: Any, runs: Sequence[Run], color: str, label: str = "", style: str = "-", own_lines: bool = False
) -> None:
    """Median over the seeds, a band from minimum to maximum, and optionally a line per seed."""
    env_steps, returns = curves(runs)  # [T], [runs, T]
    thousands = env_steps / 1000
    axes.fill_between(
        thousands, returns.min(axis=0), returns.max(axis=0), color=color, alpha=0.13, linewidth=0
    )
    if own_lines:
        axes.plot(thousands, returns.T, color=color, alpha=0.3, linewidth=0.7)
    axes.plot(thousands, np.median(returns, axis=0), style, color=color, linewidth=2.0, label=label)


def _draw_finals(axes: Any, groups: Sequence[tuple[str, Sequence[Run]]]) -> None:
    """A dot per seed, and the interquartile mean with its bootstrap interval."""
    for position, (_, runs) in enumerate(groups):
        finals = np.array([run.final for run in runs])  # [runs]
        low, high = bootstrap_interval(finals)
        axes.plot(
            [low, high], [position, position], color=BLUE, linewidth=5, alpha=0.35, solid_capstyle="butt"
        )
        axes.plot(finals, np.full(len(finals), position), "o", color=BLUE, markersize=4.5, alpha=0.6, mew=0)
        axes.plot(interquartile_mean(finals), position, "|", color="black", markersize=13, mew=2.2)
    axes.set_yticks(range(len(groups)), [label for label, _ in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("final return\ndots: seeds, line and bar: IQM")


def _label(axes: Any, title: str, env_steps: int) -> None:
    axes.set_title(title, loc="left")
    axes.set_xlabel("env steps (thousands)")
    axes.set_ylabel("greedy return")
    axes.set_xlim(0, env_steps / 1000)


def _seeds(runs: Sequence[Run]) -> str:
    return "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
    return path
