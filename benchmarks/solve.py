"""Measures how fast and how reliably the default run solves its environment.

Runs `python -m distdqn.run` once for every seed and number of actors, interleaved so that a drift of
the machine's speed affects all alike, and prints a table.

    python benchmarks/solve.py --seeds 100-109 --actors 1 2 4 8

Options that this program does not know go to every run. Use an idle machine.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Runs every combination and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", default="100-109", help="first-last (default: 100-109)")
    parser.add_argument("--actors", type=int, nargs="+", default=[4], help="numbers of actors (default: 4)")
    options, passed_on = parser.parse_known_args()
    first, last = (int(text) for text in options.seeds.split("-"))
    results: dict[int, list[dict[str, Any]]] = {actors: [] for actors in options.actors}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, last + 1):
            for actors in options.actors:
                summary = run(Path(folder) / f"{actors}-{seed}", seed, actors, passed_on)
                results[actors].append(summary)
                print(
                    f"seed {seed}  actors {actors}  solved {summary['solved']}  "
                    f"train {summary['train_seconds'] or float('nan'):.1f} s  "
                    f"command {summary['command_seconds']:.1f} s  env steps {summary['env_steps']:,}",
                    flush=True,
                )
    print(table(results))


def run(run_dir: Path, seed: int, actors: int, passed_on: list[str]) -> dict[str, Any]:
    """Runs one command; returns its summary and its duration in seconds."""
    command = [sys.executable, "-m", "distdqn.run", "--actors", str(actors), "--seed", str(seed)]
    begin = time.monotonic()
    outcome = subprocess.run(
        [*command, "--run-dir", str(run_dir), *passed_on], capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - begin
    if outcome.returncode not in (0, 8):
        sys.exit(f"{' '.join(command)} ended with {outcome.returncode}:\n{outcome.stderr}")
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return {**summary, "command_seconds": seconds}


def table(results: dict[int, list[dict[str, Any]]]) -> str:
    """Median and range for each number of actors, as Markdown."""
    rows = [
        "| actors | solved | train seconds | command seconds | env steps | learner steps |",
        "|---|---|---|---|---|---|",
    ]
    for actors, summaries in results.items():
        solved = [summary for summary in summaries if summary["solved"]]
        cells = [
            spread([s[key] for s in solved], digits)
            for key, digits in (
                ("train_seconds", 1),
                ("command_seconds", 1),
                ("env_steps", 0),
                ("learner_steps", 0),
            )
        ]
        rows.append(f"| {actors} | {len(solved)} of {len(summaries)} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def spread(values: list[float], digits: int) -> str:
    """`median (minimum to maximum)`."""
    if not values:
        return "-"
    middle, minimum, maximum = (
        f"{v:,.{digits}f}" for v in (statistics.median(values), min(values), max(values))
    )
    return f"{middle} ({minimum} to {maximum})"


if __name__ == "__main__":
    main()
