"""`python -m distdqn.run`: train."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before NumPy is imported: its thread pools get their sizes then.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from distdqn.config.command_line import RunOnly, config_yaml, flag, parse_run, print_mistakes, prints_run_help
from distdqn.config.config import Config, EnvironmentOptions
from distdqn.config.model import InvalidOptions
from distdqn.errors import GOAL_MISSED, INTERRUPTED, TERMINATED, ConfigError, DistdqnError

_IMPORTED, _MAX_IMPORT_SECONDS = time.monotonic(), 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as the command line says; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_standard_streams()
    try:
        if prints_run_help(arguments):
            return 0
        config, asked = parse_run(arguments, _mistakes_around)
        if asked.print_config:
            print(config_yaml(config), end="")
            return 0
        if asked.seeds is not None:
            return _run_seeds(config, asked)
        # NumPy and Gymnasium take half a second to import, and help is given without them.
        from distdqn.reporting.run_directory import finite
        from distdqn.runner import train

        quiet = asked.quiet or asked.json_
        summary = train(config, quiet=quiet, verbose=asked.verbose, started=_process_start())
        if asked.json_:
            print(json.dumps(finite(summary)))
        if asked.debug:
            for stage, seconds in summary["timeline"].items():
                print(f"{seconds:8.2f} s  {stage}", file=sys.stderr)
    except DistdqnError as error:
        if "--debug" in arguments:
            raise
        return print_mistakes(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    ends = {"interrupted": INTERRUPTED, "terminated": TERMINATED}
    return ends.get(summary["reason"], GOAL_MISSED if summary["solved"] is False else 0)


def _run_seeds(config: Config, asked: RunOnly) -> int:
    """Runs each seed in a process and a folder of its own, except those that are done, and plots all.

    Returns the largest exit code; after one that is no result, no further seed runs.
    """
    from distdqn.reporting.run_directory import holds_run, make_default_folder, unusable

    folder, text = Path(config.run_dir or "runs"), config_yaml(config)
    try:
        if config.run_dir is None:
            folder = make_default_folder(f"{config.recorded_env()[0]}-seeds")
        folder.mkdir(parents=True, exist_ok=True)
        options = folder / "config.yaml"
        has_runs = options.exists() and any(map(holds_run, folder.glob("seed-*")))
        if has_runs and options.read_text() != text:
            raise ConfigError(f"`run_dir`: {folder} holds seeds of other options (choose another folder).")
        options.write_text(text)
    except OSError as error:
        raise unusable(folder, error) from error
    codes = [0]
    first, _, last = str(asked.seeds).partition("-")
    for seed in range(int(first), int(last) + 1):
        run_dir = folder / f"seed-{seed}"
        if (run_dir / "summary.json").exists():
            continue
        own = ["--config", str(options), "--seed", str(seed), "--run-dir", str(run_dir)]
        shown = [flag(name) for name in ("quiet", "verbose", "json_", "debug") if getattr(asked, name)]
        codes.append(subprocess.call([sys.executable, "-m", "distdqn.run", *own, *shown]))  # noqa: S603
        if codes[-1] not in (0, GOAL_MISSED):
            return codes[-1]
    plot = ["-m", "distdqn.plot", str(folder), "--output", str(folder / "plot.png")]
    codes.append(subprocess.call([sys.executable, *plot]))  # noqa: S603
    return max(codes)


def _open_standard_streams() -> None:
    """Opens the standard streams that are closed, so that no other file takes their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))


def _mistakes_around(values: dict[str, Any]) -> list[str]:
    """Mistakes in the environment, the network and the folder that options name."""
    from distdqn.training.resolve import check_surroundings

    env = {name: values[name] for name in EnvironmentOptions.model_fields if name in values}
    try:
        options = EnvironmentOptions(**env)
    except InvalidOptions as error:
        options = EnvironmentOptions(**{name: env[name] for name in env.keys() - error.single.keys()})
    names = {name: value for name, value in values.items() if isinstance(value, str)}
    folder, network = names.get("run_dir"), names.get("network")
    try:
        check_surroundings(options, folder, network, "resume" in names)
    except DistdqnError as error:
        return error.mistakes
    return []


def _process_start() -> float:
    """When this process started, on the clock of `time.monotonic`."""
    try:
        # Linux: field 22 of this file counts clock ticks since the machine started.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return _IMPORTED
    started = time.monotonic() - age
    # A shell that becomes this program leaves it its own age.
    return started if _IMPORTED - started < _MAX_IMPORT_SECONDS else _IMPORTED


if __name__ == "__main__":
    sys.exit(main())
