"""From stored raw figures to Markdown."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats
from sides import TASKS, Figure, Task

Json = dict[str, Any]


def table(name: str, stored: Json) -> str:
    """Medians and ranges of both sides, and the ratio within each pair of runs."""
    task, runs = TASKS[name], stored["runs"]
    sides = ("distdqn", task.peer)
    titles = dict(zip(sides, ("distdqn", task.peer_title), strict=True))
    lines = [
        f"### {task.title.format(**stored['settings'])}",
        "",
        f"| | {titles['distdqn']} | {titles[task.peer]} | ratio |",
        "|---|---|---|---|",
    ]
    if task.needs_goal:
        lines.append(f"| solved | {' | '.join(solved(runs, side) for side in sides)} | |")
    for figure in task.figures:
        cells = [spread(values_of(task, runs, side, figure), figure) for side in sides]
        lines.append(f"| {figure.title} | {' | '.join(cells)} | {ratio(task, runs, figure)} |")
    lines += ["", *(f"{note}" for note in notes(task, stored, titles))]
    return "\n".join(lines).rstrip() + "\n"


def values_of(task: Task, runs: Sequence[Json], side: str, figure: Figure) -> dict[int, float]:
    """The values of one figure of one side by seed; where a goal is needed, of the runs that reached it."""
    found = {}
    for run in runs:
        figures = run.get("figures") or {}
        is_counted = figures.get("solved") if task.needs_goal else True
        if run["side"] == side and is_counted and figures.get(figure.name) is not None:
            found[int(run["seed"])] = float(figures[figure.name]) * figure.scale
    return found


def spread(values: dict[int, float], figure: Figure) -> str:
    """`median (minimum to maximum)`, empty without values."""
    if not values:
        return ""
    numbers = (statistics.median(values.values()), min(values.values()), max(values.values()))
    middle, least, most = (f"{number:,.{figure.digits}f}" for number in numbers)
    return f"{middle} ({least} to {most})"


def ratio(task: Task, runs: Sequence[Json], figure: Figure) -> str:
    """How many times better distdqn is within the pairs of one seed."""
    if figure.better is None:
        return ""
    own, other = (values_of(task, runs, side, figure) for side in ("distdqn", task.peer))
    pairs = [(own[seed], other[seed]) for seed in sorted(own.keys() & other.keys())]
    ratios = [(b / a if figure.better == "less" else a / b) for a, b in pairs if a > 0 and b > 0]
    if not ratios:
        return ""
    mean, low, high = interval(ratios)
    count = f"{len(ratios)} pair{'s' if len(ratios) > 1 else ''}"
    return f"{mean:.2f} [{low:.2f}, {high:.2f}], {count}" if len(ratios) > 1 else f"{mean:.2f}, {count}"


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of ratios `[N]` and its 95 % interval, from Student's t of their logarithms."""
    logarithms = np.log(np.array(ratios))
    mean, count = float(logarithms.mean()), len(ratios)
    if count < 2:
        return math.exp(mean), math.nan, math.nan
    half = float(stats.t.ppf(0.975, count - 1) * logarithms.std(ddof=1) / math.sqrt(count))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def solved(runs: Sequence[Json], side: str) -> str:
    """`9 of 10`, empty without runs."""
    found = [run["figures"]["solved"] for run in runs if run["side"] == side and run.get("figures")]
    return f"{sum(found)} of {len(found)}" if found else ""


def notes(task: Task, stored: Json, titles: dict[str, str]) -> list[str]:
    """Lines about the machine, the versions and what is missing."""
    machine = stored["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {stored['date']}, `{stored['command']}`.",
        "Medians, with the range in brackets. A ratio is the geometric mean over pairs of runs, with its"
        " 95 % interval; above 1, distdqn is better.",
    ]
    if task.needs_goal:
        lines.append("Times and steps are those of the runs that solved it.")
    for side, title in titles.items():
        if versions := stored["versions"].get(side):
            lines.append(f"{title}: {', '.join(f'{name} {number}' for name, number in versions.items())}.")
    if reason := stored.get("missing"):
        lines.append(f"{task.peer_title} could not be installed: {reason}")
    lines += [
        f"{titles[run['side']]}, seed {run['seed']}, failed: {run['error']}"
        for run in stored["runs"]
        if run.get("error")
    ]
    return [text for line in lines for text in (line, "")][:-1]
