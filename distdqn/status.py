"""`python -m distdqn.status RUN`: what a run is doing, from the files of its folder alone."""

import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from distdqn.config.command_line import Command, print_mistakes
from distdqn.config.model import Options, Text
from distdqn.errors import ConfigError, DistdqnError, restoring
from distdqn.reporting.console import Panel
from distdqn.reporting.run_directory import read_status

_ALIVE = ("starting", "running", "saving")


class StatusOptions(Options):
    """The run to look at."""

    run: Text
    """Folder of the run, on any machine that sees it."""
    json_: bool = False
    """Print one line of JSON: the content of `status.json`, and the last line of metrics."""


_COMMAND = Command(
    "distdqn status RUN [--json]", "Show what a run is doing.", StatusOptions, positional="run"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the state of a run, its progress and its roles; returns the exit code."""
    try:
        options = _COMMAND.read(arguments)
        folder = Path(options.run)
        status = _read_status(folder)
        lines = read_metrics(folder)
        if options.json_:
            print(json.dumps({**status, "metrics": lines[-1] if lines else None}))
            return 0
        with restoring(str(folder)):
            _show(folder, status, lines)
    except DistdqnError as error:
        return print_mistakes(error)
    return 0


def _read_status(folder: Path) -> dict[str, Any]:
    """What `status.json` holds; `killed` is the state of a run whose process is gone."""
    found = read_status(folder)
    if found is None:
        raise ConfigError(f"`run`: {folder} holds no run (name the folder that the run writes to).")
    with restoring(f"{folder / 'status.json'}"):
        status: dict[str, Any] = json.loads((folder / "status.json").read_bytes())
    return status | {"state": found.state}


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` with an evaluation, and the last one; a half-written line is left out."""
    kept, last = [], b""
    with restoring(f"{folder / 'metrics.jsonl'}"), (folder / "metrics.jsonl").open("rb") as file:
        for last in filter(lambda line: line.endswith(b"\n"), file):
            if b'"eval_return_mean": null' not in last:  # parsing all takes seconds for a run of days
                kept.append(last)
        if last and kept[-1:] != [last]:
            kept.append(last)
        return [json.loads(line) for line in kept]


def _show(folder: Path, status: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """Prints the state, since when, the newest metrics, and the roles of a run that is alive."""
    run: dict[str, Any] = json.loads((folder / "run.json").read_bytes())["resolved_options"]
    state, written_at, is_alive = status["state"], status["written_at"], status["state"] in _ALIVE
    since = (folder / "run.json").stat().st_mtime if is_alive else written_at
    if is_alive:
        words = f"{state} since {_moment(since)}, last sign of life {time.time() - written_at:.0f} s ago"
    else:
        words = f"{'killed after' if state == 'killed' else f'ended ({state}) at'} {_moment(since)}"
    console = Console(highlight=False)
    console.print(f"{run['env']}  {run['mode']}  {folder}\n{words}", markup=False, soft_wrap=True)
    now = 0.0
    panel = Panel(run["max_env_steps"], run["max_seconds"], run["target_return"], clock=lambda: now)
    for line in lines:
        now = line["wall_seconds"]
        panel.add(line)
    panel.roles = status["roles"] if is_alive else []
    console.print(panel.render() if lines else "It has written no metrics yet.")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")


if __name__ == "__main__":
    sys.exit(main())
