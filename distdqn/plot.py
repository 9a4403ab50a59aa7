"""`python -m distdqn.plot`: the learning curves of runs, or what a network does, as pictures."""

import contextlib
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np

from distdqn.config.command_line import command
from distdqn.config.model import Options, Text, listed
from distdqn.errors import ConfigError, collecting
from distdqn.reporting.plots import Axis, RecordedRun, draw_policy, draw_runs, read_run

_ENVIRONMENTS, _STEPS, _POINTS = 8, 300, 120  # to find what is visited; along each dimension


class PlotOptions(Options):
    """What to draw, and where."""

    runs: Annotated[tuple[Text, ...], listed("folders of runs")]
    """Folders of runs, or folders that hold some. Runs whose options differ in the seed alone become one
    line: their interquartile mean, and its bootstrap interval."""
    x: Axis = "steps"
    """Draw over env steps or over time."""
    output: Annotated[tuple[Text, ...], listed("files")] = ()
    """File to write, as in `curve.png` or `curve.svg`; repeat it for several; none means `plot.png` in the
    run's folder, or in this folder for several runs."""
    policy: bool = False
    """Draw the greedy action and the largest Q-value over two dimensions of observations instead."""
    dimensions: Annotated[tuple[int, ...], listed("two numbers like `2,3`")] | None = None
    """These dimensions, from 0; others stay at their median in greedy episodes; none means the two that
    change the Q-values most."""


@command("distdqn plot RUN_DIR ... [OPTION VALUE ...]", PlotOptions, positional="runs")
def main(options: PlotOptions) -> None:
    """Draw the learning curves of runs, or the policy of a run."""
    mistakes: list[str] = []
    runs: list[RecordedRun] = []
    for folder in map(Path, options.runs):
        inner = sorted(file.parent for file in folder.glob("*/metrics.jsonl"))
        for each in inner if inner and not (folder / "metrics.jsonl").exists() else [folder]:
            with collecting(mistakes):
                runs.append(read_run(each))
    if mistakes or not runs:
        raise ConfigError(mistakes or "`runs` is missing (name the folder of a run).")
    if options.policy and len(runs) > 1:
        raise ConfigError("`policy` draws one run (name one folder of a run).")
    name = "policy.png" if options.policy else "plot.png"
    files = [Path(file) for file in options.output] or [(runs[0].folder if len(runs) == 1 else Path()) / name]
    if options.policy:
        _draw_policy(runs[0].folder, files, options.dimensions)
    else:
        draw_runs(runs, files, options.x)
    print(*files, sep="\n")


def _draw_policy(folder: Path, files: Sequence[Path], dimensions: tuple[int, ...] | None) -> None:
    """Draws the best network of a run around what it visits greedily."""
    from distdqn.acting.exploration import greedy_actions
    from distdqn.environments.vector import FaultLog, VectorEnvironment
    from distdqn.loading import PolicyOptions, find_policy
    from distdqn.networks.numpy_policy import make_policy
    from distdqn.seeding import make_generator, make_integer_seed

    weights, source, spec = find_policy(PolicyOptions(run_dir=str(folder)))
    size = spec.observation_shape[0]
    if len(spec.observation_shape) > 1 or spec.parts or size < 2 or spec.is_discrete:
        raise ConfigError(f"`policy` needs observations of two numbers or more: `{spec.name}` has others.")
    if dimensions and (len({*dimensions}) != 2 or not {*dimensions} <= {*range(size)}):
        raise ConfigError(f"`dimensions` must be two different numbers from 0 to {size - 1}, as in `0,1`.")
    policy, generator = make_policy(weights), make_generator(0, "evaluation", 0)
    seeds = (make_integer_seed(0, "evaluation", attempt) for attempt in itertools.count())
    with contextlib.closing(VectorEnvironment(source, _ENVIRONMENTS, seeds, FaultLog(source, 1))) as vector:
        steps = vector.empty_steps(_STEPS)
        for row in range(_STEPS):
            vector.step(greedy_actions(policy.q_values(vector.observation), generator), steps, row)
    visited = steps.observation.reshape(-1, size).astype(np.float32)  # [N, D]
    low, high = visited.min(axis=0), visited.max(axis=0)
    margin = 0.1 * (high - low) + 1e-6
    places = np.linspace(low - margin, high + margin, _POINTS, axis=1)  # [D, P]
    lines = np.tile(np.median(visited, axis=0), (size, _POINTS, 1))  # [D, P, D]
    lines[np.arange(size), :, np.arange(size)] = places
    effects = [np.ptp(policy.q_values(line), axis=0).sum() for line in lines]
    x, y = dimensions or sorted(np.argsort(effects)[-2:].tolist())
    grid = np.tile(lines[x], (_POINTS, 1, 1))  # [P, P, D]
    grid[:, :, y] = places[y][:, None]
    q_values = policy.q_values(grid.reshape(-1, size)).reshape(_POINTS, _POINTS, -1)
    draw_policy(files, (places[x], places[y]), q_values, visited[:, [x, y]], (x, y))


if __name__ == "__main__":
    sys.exit(main())
