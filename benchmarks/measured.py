"""Results of runs, read from their folders, and statistics of them."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from experiments import EPISODES, Row

Array = npt.NDArray[np.float64]

NEVER = float("inf")


@dataclass(frozen=True)
class Run:
    """One complete run."""

    seed: int
    final: float  # mean greedy return of the final weights
    eval_env_steps: Array  # [N], env steps at each regular evaluation
    eval_returns: Array  # [N], mean return of each
    seconds: float = float("nan")  # CPU seconds of the training command; nan without training
    versions: dict[str, str] = field(default_factory=dict)  # of Python and packages
    machine: dict[str, Any] = field(default_factory=dict)

    def env_steps_to(self, goal: float) -> float:
        """Env steps until the first regular evaluation at `goal`, or `NEVER`."""
        reached = self.eval_env_steps[self.eval_returns >= goal]
        return float(reached[0]) if len(reached) else NEVER

    @property
    def mean_return(self) -> float:
        """Mean of all regular evaluations, or nan: how fast and how well the run learned."""
        return float(self.eval_returns.mean()) if len(self.eval_returns) else float("nan")

    @property
    def end_return(self) -> float:
        """Mean of the last fifth of the regular evaluations, or nan.

        Source: Machado et al. (2018), arXiv:1709.06009, who report the end of training, not the best.
        """
        count = math.ceil(len(self.eval_returns) / 5)
        return float(self.eval_returns[-count:].mean()) if count else float("nan")

    def late_returns(self, env_steps: float) -> Array:
        """Mean returns `[M]` of the regular evaluations from `env_steps` on."""
        return self.eval_returns[self.eval_env_steps >= env_steps]


def is_trained(run_dir: Path, row: Row) -> bool:
    """Whether training spent its budget and its cost is known."""
    if row.options is None:
        return True
    summary, end = _read(run_dir / "summary.json"), ("max_env_steps", row.task.env_steps)
    return (summary.get("reason"), summary.get("env_steps")) == end and (run_dir / "cost.json").exists()


def is_complete(run_dir: Path, row: Row) -> bool:
    """Whether a run is trained and its final weights are evaluated."""
    evaluation = _read(run_dir / "final_evaluation.json")
    return is_trained(run_dir, row) and evaluation.get("episodes") == EPISODES


def other_options(run_dir: Path, row: Row) -> list[str]:
    """Options that differ between a run and what its row is now."""
    config = _read(run_dir / "config.json")
    # A run older than an option used the default.
    return [name for name, value in row.settings().items() if config.get(name, value) != value]


def read_runs(folder: Path, row: Row) -> tuple[list[Run], dict[str, str]]:
    """The runs of a row by seed, and the reason for each folder that is left out."""
    runs, left_out = [], {}
    for seed in sorted(int(path.name) for path in (folder / row.folder).glob("*") if path.name.isdecimal()):
        run_dir, name = folder / row.folder / str(seed), f"{row.folder}/{seed}"
        if not is_complete(run_dir, row):
            left_out[name] = "not complete"
        elif names := other_options(run_dir, row):
            left_out[name] = f"made with other options ({', '.join(names)})"
        else:
            runs.append(_read_run(run_dir))
    return runs, left_out


def _read_run(run_dir: Path) -> Run:
    metrics = run_dir / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    evaluations = [line for line in lines if line["eval_return_mean"] is not None]
    return Run(
        seed=int(run_dir.name),
        final=_read(run_dir / "final_evaluation.json")["mean"],
        eval_env_steps=np.array([line["env_steps"] for line in evaluations], np.float64),
        eval_returns=np.array([line["eval_return_mean"] for line in evaluations], np.float64),
        seconds=_read(run_dir / "cost.json").get("cpu_seconds", float("nan")),
        versions=_read(run_dir / "run.json").get("versions", {}),
        machine=_read(run_dir / "machine.json"),
    )


def _read(path: Path) -> dict[str, Any]:
    """A JSON file; empty if it is missing or incomplete."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content


def interquartile_mean(values: Array) -> Array:
    """Mean of the middle half: `[..., N]` to `[...]`. A quarter, rounded down, is cut at each end."""
    cut = values.shape[-1] // 4
    middle: Array = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(axis=-1)
    return middle


def bootstrap_interval(
    values: Array, statistic: Callable[[Array], Array] = interquartile_mean, resamples: int = 10_000
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a statistic of `[N]` values.

    Source: Agarwal et al. (2021), arXiv:2108.13264, section 4.1, for a single task.
    """
    draws = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(statistic(values[draws]), (2.5, 97.5))
    return float(low), float(high)


def curves(runs: Sequence[Run], points: int = 200) -> tuple[Array, Array]:
    """Env steps `[points]` and the returns `[runs, points]` there, interpolated linearly."""
    first = max(run.eval_env_steps[0] for run in runs)
    last = min(run.eval_env_steps[-1] for run in runs)
    env_steps = np.linspace(first, last, points)
    returns = [np.interp(env_steps, run.eval_env_steps, run.eval_returns) for run in runs]
    return env_steps, np.stack(returns)


def number(value: float, digits: int = 1) -> str:
    """A number as text; `never` for infinity."""
    if value == NEVER:
        return "never"
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: no minus zero


def spread(values: Sequence[float], digits: int = 1) -> str:
    """`median (minimum to maximum)`."""
    if not values:
        return "-"
    middle, minimum, maximum = (
        number(value, digits) for value in (statistics.median(values), min(values), max(values))
    )
    return f"{middle} ({minimum} to {maximum})"
