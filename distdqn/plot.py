"""`python -m distdqn.plot`: the learning curves of runs, or what a network does, as pictures."""

import contextlib
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator

from distdqn.config.command_line import Command, print_mistakes
from distdqn.config.model import Options, Text, listed
from distdqn.config.validation import check_file
from distdqn.errors import ConfigError, DistdqnError, collecting
from distdqn.reporting.plots import RecordedRun, draw_policy, draw_runs, read_run

_EPISODES, _POINTS = 5, 120  # to find what is visited; along each dimension


def _check_files(files: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(check_file(".png", ".svg"), files))


class PlotOptions(Options):
    """What to draw, and where."""

    runs: Annotated[tuple[Text, ...], listed("folders of runs")]
    """Folders of runs, or folders that hold folders of runs. Runs whose options differ in the seed alone are
    drawn as one line."""
    x: Literal["steps", "time"] = "steps"
    """Draw over env steps or over time."""
    output: Annotated[tuple[Text, ...], listed("files"), AfterValidator(_check_files)] = ()
    """File to write, a `.png` or `.svg`; repeat it for several; none means `plot.png` in the run's folder, or
    in this folder for several runs."""
    policy: bool = False
    """Draw the greedy action and the largest Q-value over two dimensions of the observations instead."""
    dimensions: Annotated[tuple[int, ...], listed("two numbers like `2,3`")] | None = None
    """The two dimensions, from 0; others stay at their median in greedy episodes; none means the two that
    change the Q-values most."""


_COMMAND = Command(
    "distdqn plot RUN... [OPTION VALUE ...]",
    "Draw the learning curves of runs, or the policy of a run.",
    PlotOptions,
    positional="runs",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the files that it writes; returns the exit code."""
    try:
        for file in plot(_COMMAND.read(arguments)):
            print(file)
    except DistdqnError as error:
        return print_mistakes(error)
    return 0


def plot(options: PlotOptions) -> list[Path]:
    """Draws what the options say; returns the files that it wrote.

    Raises:
        ConfigError: a folder holds no run, the network cannot be drawn, or a file cannot be written.
        CheckpointError: the network is damaged.
    """
    mistakes: list[str] = []
    runs: list[RecordedRun] = []
    for folder in itertools.chain.from_iterable(map(_run_folders, map(Path, options.runs))):
        with collecting(mistakes):
            runs.append(read_run(folder))
    if mistakes or not runs:
        raise ConfigError(mistakes or "`runs` is missing (name the folder of a run).")
    home = runs[0].folder if len(runs) == 1 else Path()
    name = "policy.png" if options.policy else "plot.png"
    files = [Path(file) for file in options.output] or [home / name]
    try:
        if options.policy:
            _draw_policy(runs[0].folder, files, options.dimensions)
        else:
            draw_runs(runs, files, options.x)
    except OSError as error:
        raise ConfigError(f"`output`: {error.filename} cannot be written: {error.strerror}.") from error
    return files


def _run_folders(folder: Path) -> list[Path]:
    """The folder itself, or those in it that hold runs."""
    inner = sorted(file.parent for file in folder.glob("*/metrics.jsonl"))
    return [folder] if (folder / "metrics.jsonl").exists() or not inner else inner


def _draw_policy(folder: Path, files: Sequence[Path], dimensions: tuple[int, ...] | None) -> None:
    """Draws the best network of a run around what its greedy episodes visit."""
    from distdqn.acting.player import play_episode
    from distdqn.environments.vector import FaultLog, VectorEnvironment
    from distdqn.loading import find_policy
    from distdqn.networks.numpy_policy import make_policy
    from distdqn.seeding import make_generator, make_integer_seed

    weights, source, spec = find_policy(str(folder), {}, False, None)
    (size, *others) = spec.observation_shape
    if others or spec.parts or size < 2:
        raise ConfigError(
            f"`policy` needs observations of at least two numbers, not {spec.observation_shape}."
        )
    if dimensions and (len({*dimensions}) != 2 or not {*dimensions} <= {*range(size)}):
        raise ConfigError(f"`dimensions` must be two different numbers from 0 to {size - 1}, as in `0,1`.")
    policy, generator = make_policy(weights), make_generator(0, "evaluation", 0)
    seeds = (make_integer_seed(0, "evaluation", episode) for episode in itertools.count())
    with contextlib.closing(VectorEnvironment(source, 1, seeds, FaultLog(source, 1))) as environments:
        visited = []
        for _ in range(_EPISODES):
            visited += [step.observation for step in play_episode(environments, spec, policy, generator)]
            environments.restart(seeds)
    seen = np.stack(visited).astype(np.float32)  # [N, D]
    low, high = np.percentile(seen, [0.5, 99.5], axis=0)
    low, high = low - 0.25 * (high - low) - 1e-6, high + 0.25 * (high - low) + 1e-6
    lines = np.repeat(np.median(seen, axis=0)[None, None], size, axis=0).repeat(_POINTS, axis=1)  # [D, P, D]
    places = np.linspace(low, high, _POINTS).T  # [D, P]
    lines[np.arange(size), :, np.arange(size)] = places
    if dimensions is None:
        effects = [np.ptp(policy.q_values(line.astype(np.float32)), axis=0).sum() for line in lines]
        dimensions = tuple(sorted(np.argsort(effects)[-2:].tolist()))
    first, second = dimensions
    grid = np.repeat(lines[first][None], _POINTS, axis=0)  # [P, P, D]
    grid[:, :, second] = places[second][:, None]
    q_values = policy.q_values(grid.reshape(-1, size).astype(np.float32)).reshape(_POINTS, _POINTS, -1)
    draw_policy(files, (places[first], places[second]), q_values, seen[:, [first, second]], (first, second))


if __name__ == "__main__":
    sys.exit(main())
