"""`python -m distdqn.run`: train."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# Before NumPy is imported: its thread pools get their sizes then.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from distdqn.config.command_line import print_mistakes
from distdqn.config.config import Config
from distdqn.config.run_command import RunArguments, config_yaml, help_topic, parse_run, print_run_help
from distdqn.errors import GOAL_MISSED, INTERRUPTED, TERMINATED, ConfigError, DistdqnError

_IMPORTED = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as the command line says; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if (topic := help_topic(arguments)) is not None:
            print_run_help(topic)
            return 0
        given = parse_run(arguments)
        config = _config(given)
        if given.prints_config:
            print(config_yaml(config), end="")
            return 0
        # NumPy and Gymnasium take half a second to import, and help is given without them.
        from distdqn.runner import train

        summary = train(config, started=_process_start())
    except DistdqnError as error:
        if "--debug" in arguments:
            raise
        return print_mistakes(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    ends = {"interrupted": INTERRUPTED, "terminated": TERMINATED}
    return ends.get(summary["reason"], GOAL_MISSED if summary["solved"] is False else 0)


def _config(given: RunArguments) -> Config:
    """The options of the run.

    Raises:
        ConfigError: lists all mistakes, those in the environment and the folder that they name, too.
    """
    try:
        return given.config()
    except ConfigError as error:
        from distdqn.training.resolve import check_surroundings

        mistakes = error.mistakes
        names = {name: value for name, value in given.values.items() if isinstance(value, str)}
        try:
            check_surroundings(
                names.get("env", "CartPole-v1"), names.get("run_dir"), names.get("network"), "resume" in names
            )
        except DistdqnError as other:
            mistakes += other.mistakes
        raise ConfigError(mistakes) from None


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
