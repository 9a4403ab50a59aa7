"""The console script `distdqn`: its commands are the modules of the same names."""

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path

from distdqn.config.model import did_you_mean

_COMMANDS = {
    "run": "train a distributed DQN",
    "evaluate": "play a run's best network greedily",
    "play": "watch a run's best network play, in a window or as a GIF",
    "record": "write episodes of a run's network as a dataset to learn from",
    "plot": "draw the learning curves of runs, or what a network does",
    "export": "write a run's network as a file for another runtime",
    "inspect": "show what is in the checkpoints of a run, and whether they are whole",
    "check": "look at an environment as a run will, and say what is odd or slow about it",
    "bench": "measure how fast a run is on this machine, and what limits it",
    "tune": "search options with Ray Tune",
    "status": "show what a run is doing",
    "scale": "change how many actors a run has while it trains",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hands the rest of the command line to the command named first; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    first = given[0] if given else ""
    if first in _COMMANDS:
        if not sys.flags.safe_path:  # as `python -m` does, so that `--env module:Name` finds its module
            sys.path.insert(0, str(Path.cwd()))
        return int(importlib.import_module(f"distdqn.{first}").main(given[1:]))
    if first == "--version":
        print(f"distdqn {importlib.metadata.version('distdqn')}")
        return 0
    is_asked = first in ("--help", "-h")
    if first and not is_asked:
        hint = did_you_mean(first, _COMMANDS)
        print(f"distdqn: error: Unknown command `{first}` ({hint}).", file=sys.stderr)
    lines = ["Usage: distdqn COMMAND [OPTION ...]", ""]
    lines += [f"  {name:10} {text}" for name, text in _COMMANDS.items()]
    lines += ["", "`distdqn COMMAND --help` lists the options of a command, `distdqn --version` the version."]
    print("\n".join(lines), file=sys.stdout if is_asked else sys.stderr)
    return 0 if is_asked else 2
