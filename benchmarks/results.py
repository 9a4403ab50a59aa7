"""Makes the runs of docs/results.md, and writes the page from the runs.

    python benchmarks/results.py run --output FOLDER [--only stability,acrobot] [--seeds 100-104] [--jobs 1]
    python benchmarks/results.py report --input FOLDER --docs docs

`run` trains with `python -m distdqn.run`, one process per run. It skips complete runs, so it can be
interrupted and called again. `report` needs matplotlib. benchmarks/experiments.py has the rows.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from experiments import EPISODES, FIRST_SEED, SECTIONS, SEEDS, Row
from measured import is_complete, is_trained, other_options, read_runs
from report import write_report

import distdqn
from distdqn.environments.registry import inspect_environment
from distdqn.environments.vector import FaultLog, VectorEnvironment
from distdqn.seeding import make_generator, make_integer_seed

Task = tuple[Row, int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command of the command line."""
    options = _parser().parse_args(arguments)
    if options.command == "run":
        make_runs(options.output, plan(options.only, options.seeds), options.jobs)
    elif options.command == "report":
        for path in write_report(options.input, options.docs):
            print(path)
    else:
        print(json.dumps(play_at_random(options.env, options.episodes, options.seed)))


def plan(sections: Sequence[str], seeds: Sequence[int] | None) -> list[Task]:
    """Every run of some sections once; the first seed of every row comes before the second of any.

    Args:
        sections: their names.
        seeds: of every row; None means the default number of its section.
    """
    tasks = dict.fromkeys(
        (row, seed)
        for name in sections
        for row in SECTIONS[name]
        for seed in (range(FIRST_SEED, FIRST_SEED + SEEDS[name]) if seeds is None else seeds)
    )
    return sorted(tasks, key=lambda task: task[1])


def make_runs(folder: Path, tasks: Sequence[Task], jobs: int) -> None:
    """Makes the runs that are not complete, `jobs` at a time."""
    _refuse_other_options(folder, tasks)
    left = [(row, seed) for row, seed in tasks if not is_complete(run_dir_of(folder, row, seed), row)]
    print(f"{len(tasks) - len(left)} of {len(tasks)} runs are complete.", flush=True)
    pace, failures = Pace(), []
    for row in dict.fromkeys(row for row, _ in tasks):
        for run in read_runs(folder, row)[0]:
            pace.add(row, run.seconds)
    pool = ThreadPoolExecutor(jobs)
    try:
        futures = {pool.submit(make_run, folder, row, seed, jobs): (row, seed) for row, seed in left}
        for future in as_completed(futures):
            row, seed = futures[future]
            left.remove((row, seed))
            final, seconds, mistake = future.result()
            if mistake:
                failures.append(mistake)
            else:
                pace.add(row, seconds)
            print(
                f"{len(tasks) - len(left)} of {len(tasks)}  {row.folder}  seed {seed}  "
                f"{'FAILED' if mistake else f'final {final:.1f}'}  {seconds:.1f} s  {pace.left(left, jobs)}",
                flush=True,
            )
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        sys.exit("Interrupted. The same command continues from here.")
    pool.shutdown()
    if failures:
        sys.exit("\n\n".join(failures))


def _refuse_other_options(folder: Path, tasks: Sequence[Task]) -> None:
    """Ends the program if trained runs have other options than their row."""
    stale = []
    for row, seed in tasks:
        run_dir = run_dir_of(folder, row, seed)
        if is_trained(run_dir, row) and (names := other_options(run_dir, row)):
            stale.append(f"{run_dir} ({', '.join(names)})")
    if stale:
        lines = "\n".join(stale)
        sys.exit(f"Made with other options than now (remove them, or choose another folder):\n{lines}")


def make_run(folder: Path, row: Row, seed: int, jobs: int) -> tuple[float, float, str]:
    """Trains unless that is complete, and evaluates the final weights.

    Returns:
        The mean return of the final weights, the seconds, and the error message or an empty one.
    """
    run_dir, begin = run_dir_of(folder, row, seed), time.monotonic()
    # `python -m` searches there first, so a run imports the same package as this program.
    origin = Path(distdqn.__file__).resolve().parents[1]
    try:
        if not is_trained(run_dir, row):
            shutil.rmtree(run_dir, ignore_errors=True)
            _, cpu_seconds = _python(row.train_command(seed, str(run_dir)), origin)
            _write_json(run_dir / "cost.json", {"cpu_seconds": cpu_seconds})
        if row.options is None:
            run_dir.mkdir(parents=True, exist_ok=True)
            evaluation = play_at_random(row.task.env, EPISODES, seed)
        else:
            text, _ = _python(row.evaluate_command(seed, str(run_dir)), origin)
            evaluation = json.loads(text)
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, error.cmd))
        mistake = (
            f"{row.folder} seed {seed}: {command} ended with {error.returncode}:\n{error.stderr[-2000:]}"
        )
        return float("nan"), time.monotonic() - begin, mistake
    _write_json(run_dir / "machine.json", {**machine(row.task.env), "jobs": jobs})
    _write_json(run_dir / "final_evaluation.json", evaluation)
    return float(evaluation["mean"]), time.monotonic() - begin, ""


def play_at_random(env: str, episodes: int, seed: int) -> dict[str, Any]:
    """Returns of a random agent, in the form of `python -m distdqn.evaluate`."""
    actions = inspect_environment(env).actions
    generator = make_generator(seed, "evaluation", 0)
    seeds = itertools.count(make_integer_seed(seed, "evaluation", 0))
    vector = VectorEnvironment(env, 1, seeds, FaultLog(env, max_failures=1))
    steps = vector.empty_steps(1)
    returns: list[float] = []
    while len(returns) < episodes:
        ends = vector.step(generator.integers(actions, size=1), steps, 0) or []
        returns += [end.episode_return for end in ends]
    vector.close()
    return {
        "mean": float(np.mean(returns)),
        "standard_deviation": float(np.std(returns, ddof=1)) if episodes > 1 else 0.0,
        "minimum": min(returns),
        "maximum": max(returns),
        "episodes": episodes,
        "seed": seed,
    }


class Pace:
    """Expected durations of runs: those of the same row, else the same environment, else any."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._env_steps: defaultdict[str, int] = defaultdict(int)

    def add(self, row: Row, seconds: float) -> None:
        """Adds a complete run."""
        if row.options is None:
            return
        for kind in (row.folder, row.task.env, "any"):
            self._seconds[kind] += seconds
            self._env_steps[kind] += row.task.env_steps

    def left(self, tasks: Sequence[Task], jobs: int) -> str:
        """Remaining time for `tasks` as text."""
        if not self._env_steps["any"]:
            return "time left unknown"
        seconds = 0.0
        for row, _ in tasks:
            kind = next(k for k in (row.folder, row.task.env, "any") if self._env_steps[k])
            seconds += row.task.env_steps * self._seconds[kind] / self._env_steps[kind]
        minutes = round(seconds / jobs / 60)
        return f"{minutes // 60} h {minutes % 60:02} min left"


def run_dir_of(folder: Path, row: Row, seed: int) -> Path:
    """Folder of one run."""
    return folder.resolve() / row.folder / str(seed)


def machine(env: str) -> dict[str, Any]:
    """This machine, and the package of an environment that is not Gymnasium's own."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    package = env.partition("/")[0].lower() if "/" in env else None
    packages = {package: importlib.metadata.version(package)} if package else {}
    return {
        "cores": os.cpu_count(),
        "processor": processor,
        "system": platform.system(),
        "packages": packages,
    }


def _python(arguments: Sequence[str], cwd: Path) -> tuple[str, float]:
    """Output and CPU seconds of a Python command.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [sys.executable, *arguments]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=cwd, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)  # unlike `wait`, it returns the CPU time
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, output.read(), errors.read())
        return output.read(), usage.ru_utime + usage.ru_stime


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes in one step, because an existing file counts as complete."""
    aside = path.with_suffix(".aside")
    aside.write_text(json.dumps(value, indent=2) + "\n")
    aside.replace(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="make the missing runs")
    run.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder for the runs")
    run.add_argument(
        "--only",
        type=_sections,
        default=list(SECTIONS),
        metavar="NAME,...",
        help=f"of {', '.join(SECTIONS)} (default: all)",
    )
    run.add_argument("--seeds", type=_seeds, metavar="FIRST-LAST", help="default: 100 and the next")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at the same time (default: 1)")
    report = commands.add_parser("report", help="write the page and its pictures")
    report.add_argument("--input", type=Path, required=True, metavar="FOLDER", help="folder of the runs")
    report.add_argument("--docs", type=Path, default=Path("docs"), metavar="FOLDER", help="default: docs")
    random = commands.add_parser("random", help="play at random and print the returns")
    random.add_argument("env", metavar="ENV", help="Gymnasium id")
    random.add_argument("--episodes", type=int, default=EPISODES, metavar="N")
    random.add_argument("--seed", type=int, default=0, metavar="N")
    return parser


def _sections(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"no such section: {', '.join(sorted(unknown))}")
    return names


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    main()
