"""Measures how long a run takes until it learns, and where the seconds go.

Runs `python -m distdqn.run` in pairs: with nothing compiled yet, and then with what the first run of the pair
has left in the cache folder. Prints the median second of each stage of `timeline` in `summary.json`.

    python benchmarks/start.py --pairs 5

Options that this program does not know go to every run. Use an idle machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

LIMITS = ("--max-env-steps", "6000", "--target-return", "none", "--quiet")  # enough to start learning
Timeline = dict[str, float]


def main() -> None:
    """Runs every pair and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="default: 5")
    options, passed_on = parser.parse_known_args()
    timelines: dict[str, list[Timeline]] = {"first run": [], "later run": []}
    for seed in range(100, 100 + options.pairs):
        with tempfile.TemporaryDirectory() as folder:
            for name, found in timelines.items():
                found.append(run(Path(folder), seed, name.replace(" ", "-"), passed_on))
                print(
                    f"seed {seed}  {name}  learns after {found[-1]['first learner call']:.1f} s", flush=True
                )
    print(table(timelines))


def run(folder: Path, seed: int, name: str, passed_on: Sequence[str]) -> Timeline:
    """Runs one command; returns the second at which each stage was reached."""
    place = ["--seed", str(seed), "--run-dir", str(folder / name)]
    command = [sys.executable, "-m", "distdqn.run", *place, *LIMITS, *passed_on]
    subprocess.run(command, env=os.environ | {"XDG_CACHE_HOME": str(folder)}, check=True)
    summary = json.loads((folder / name / "summary.json").read_text())
    timeline: Timeline = summary["timeline"]
    return timeline | {"all is over": summary["total_seconds"]}


def table(timelines: dict[str, list[Timeline]]) -> str:
    """Median seconds and range of each stage, as Markdown, in the order of the last column."""
    rows = [f"| reached after | {' | '.join(timelines)} |", "|---" * (1 + len(timelines)) + "|"]
    columns = list(timelines.values())
    stages = [each for each in columns[-1][0] if all(each in one for column in columns for one in column)]
    stages.sort(key=lambda stage: statistics.median(one[stage] for one in columns[-1]))
    for stage in stages:
        cells = []
        for column in columns:
            seconds = [one[stage] for one in column]
            cells.append(f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})")
        rows.append(f"| {stage} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
