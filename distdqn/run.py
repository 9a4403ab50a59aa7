"""`python -m distdqn.run`: train."""

import os
import sys
from collections.abc import Sequence
import time
from pathlib import Path
from distdqn.config.command_line import UnknownOptions, parse_run_options, print_mistakes
from distdqn.config.config import Config
from distdqn.errors import GOAL_MISSED, INTERRUPTED, TERMINATED, ConfigError, DistdqnError
from distdqn.runner import check_surroundings, train


# Before NumPy is imported: its thread pools are sized when they are loaded.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

_IMPORTED = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as the command line says; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        config = _config(arguments)
        summary = train(config, started=_process_start())
    except DistdqnError as error:
        if "--debug" in arguments:
            raise
        return print_mistakes(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    ends = {"interrupted": INTERRUPTED, "terminated": TERMINATED}
    return ends.get(summary["reason"], GOAL_MISSED if summary["solved"] is False else 0)


def _config(arguments: Sequence[str]) -> Config:
    """The config, or every mistake in it and in the environment and folder it names.

    Raises:
        ConfigError: lists them all.
    """
    mistakes: list[str] = []
    texts: dict[str, str] = {}
    try:
        texts, _ = parse_run_options(arguments)
    except UnknownOptions as error:
        mistakes += error.mistakes
        texts = error.texts
    try:
        config = Config.from_text(texts)
        if not mistakes:
            return config
    except ConfigError as error:
        mistakes += error.mistakes
    try:
        check_surroundings(
            texts.get("env", "CartPole-v1"), texts.get("run_dir"), texts.get("network"), "resume" in texts
        )
    except DistdqnError as error:
        mistakes += error.mistakes
    raise ConfigError(mistakes)


def _process_start() -> float:
    """When this process started, on the clock of `time.monotonic`."""
    try:
        # Linux: field 22 of this file counts clock ticks since the machine started.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return _IMPORTED
    return time.monotonic() - age


if __name__ == "__main__":
    sys.exit(main())
