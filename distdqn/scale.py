"""`python -m distdqn.scale RUN --actors N`: change how many actors a run has while it goes on."""

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from distdqn.config.command_line import Parser, print_mistakes
from distdqn.errors import INTERRUPTED, ClusterError, ConfigError, DistdqnError
from distdqn.config.validation import mistake_in
from distdqn.config.option_types import Range, Unreadable


_MAX_ACTORS = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Has a run change its number of actors and waits until it has; returns the exit code."""
    try:
        options = _make_parser().parse_args(arguments)
        actors = _number(options.actors)
        ray = _find(Path(options.run), actors)
        # Ray takes a second to import, which mistakes need not wait for.
        from distdqn.cluster.control import scale

        say = functools.partial(print, flush=True)
        scale(ray["address"], ray["namespace"], ray["control"], actors, say)
    except DistdqnError as error:
        return print_mistakes(error)
    except KeyboardInterrupt:
        print("The run goes on changing its number of actors.", file=sys.stderr)
        return INTERRUPTED
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="distdqn scale",
        description="Change how many actors a run of mode `async` has while it goes on.",
        epilog="To be called on a machine of the run's Ray cluster that sees the run's folder. It waits, and "
        "says how far the run is, until it has that many actors.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("--actors", metavar="N", required=True, help="how many it is to have, at least 1")
    return parser


def _number(text: str) -> int:
    """How many actors are wanted.

    Raises:
        ConfigError: that is no number of actors.
    """
    try:
        actors: Any = int(text)
    except ValueError:
        actors = Unreadable(text)
    if (mistake := mistake_in("actors", int, Range(1, _MAX_ACTORS), actors)) is not None:
        raise ConfigError(mistake)
    return int(actors)


def _find(run: Path, actors: int) -> dict[str, str]:
    """Address, namespace and `control`, the process that takes commands, of a run.

    Raises:
        ConfigError: there is no run, or none that can have so many actors.
        ClusterError: it has not begun, or is over.
    """
    config, status = _read(run / "config.json"), _read(run / "status.json")
    if "mode" not in config or "state" not in status:
        raise ConfigError(f"{run} holds no run (name the folder that the run writes to).")
    if config["mode"] != "async":
        raise ConfigError(
            f"The run in {run} is of mode `{config['mode']}`, whose result depends on its number of actors: "
            "only runs of mode `async` can be scaled (wait for it, or start another)."
        )
    most = config.get("max_actors")
    if most is not None and actors > most:
        raise ConfigError(f"`actors` ({actors}) exceeds the run's `max_actors` ({most}): ask for fewer.")
    shards = config.get("replay_shards", 1)
    if actors < shards:
        raise ConfigError(
            f"`actors` ({actors}) is below the run's `replay_shards` ({shards}): some would get nothing."
        )
    if status["state"] not in ("starting", "running"):
        raise ClusterError(f"The run in {run} is over ({status['state']}): nothing was changed.")
    ray: dict[str, str] = status.get("ray") or {}
    if not ray.get("control"):
        raise ClusterError(f"The run in {run} is still starting (try again in some seconds).")
    return ray


def _read(path: Path) -> dict[str, Any]:
    """A file's JSON object; empty if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


if __name__ == "__main__":
    sys.exit(main())
