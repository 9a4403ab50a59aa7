"""`python -m distdqn.status RUN`: what a run is doing, from the files of its folder alone."""

import json
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from distdqn.config.command_line import command
from distdqn.config.model import Options, Text
from distdqn.errors import ConfigError, restoring
from distdqn.reporting.console import Panel
from distdqn.reporting.run_directory import read_status


class StatusOptions(Options):
    """The run to look at."""

    run: Text
    """Folder of the run."""
    json_: bool = False
    """Print `status.json` and the last line of metrics as one line of JSON."""


@command("distdqn status RUN", StatusOptions, positional="run")
def main(options: StatusOptions) -> None:
    """Show what a run is doing."""
    folder = Path(options.run)
    if (found := read_status(folder)) is None:
        raise ConfigError(f"`run`: {folder} holds no run (name the folder that the run writes to).")
    with restoring(str(folder)):
        status = json.loads((folder / "status.json").read_bytes()) | {"state": found.state}
        with (folder / "metrics.jsonl").open("rb") as file:  # its last line may be half written
            lines = [json.loads(line) for line in file if line.endswith(b"\n")]
        if options.json_:
            print(json.dumps({**status, "metrics": lines[-1] if lines else None}))
        else:
            _show(folder, status, lines)


def _show(folder: Path, status: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """Prints the state, since when, the newest metrics, and the roles of a run that is alive."""
    run = json.loads((folder / "run.json").read_bytes())["resolved_options"]
    since, seen = status["written_at"], ""
    if is_alive := status["state"] in ("starting", "running", "saving"):
        seen = f", last sign of life {time.time() - since:.0f} s ago"
        since = (folder / "run.json").stat().st_mtime
    words = f"{status['state']} since {datetime.fromtimestamp(since):%Y-%m-%d %H:%M:%S}{seen}"
    console = Console(highlight=False)
    console.print(f"{run['env']}  {run['mode']}  {folder}\n{words}", markup=False)
    now = 0.0
    budgets = (run["max_env_steps"], run["max_seconds"], run.get("max_learner_steps"))
    panel = Panel(*budgets, target_return=run["target_return"], clock=lambda: now)
    for line in lines:
        now = line["wall_seconds"]
        panel.add(line)
    panel.roles = status["roles"] if is_alive else []
    if not is_alive:
        panel.leave_out_time()
    console.print(panel.render() if lines else "It has written no metrics yet.")


if __name__ == "__main__":
    sys.exit(main())
