"""Measures how the env steps/s of a run grow with its actors, in an environment that waits in each step.

The environment is CartPole-v1 that sleeps for 5 ms in a step and never terminates before step 500. Prints
env steps/s over the last `--seconds` of each run, their share of that many times the rate of one actor, and
how long the last regular evaluation took.

    python benchmarks/scaling.py --actors 1 16 32

Options that this program does not know go to every run. Use an idle machine.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gymnasium.envs.classic_control import CartPoleEnv

STEP_SECONDS = 0.005
_START_SECONDS, _SECONDS_PER_ACTOR = 30.0, 1.0  # until a run acts with all its actors, at most
# Learning must not be what limits the run.
LIMITS = ("--envs-per-actor", "4", "--samples-per-insert", "4", "--eval-period", "256")
LIMITS += ("--max-episode-steps", "500", "--max-env-steps", "1000000000", "--quiet")


class Waiting(CartPoleEnv):
    """Sleeps in each step, as if it waited for a simulator; only time ends its episodes."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Waits, then steps."""
        time.sleep(STEP_SECONDS)
        observation, _, terminated, truncated, info = super().step(action)
        if terminated:
            self.state, self.steps_beyond_terminated = (0.0, 0.0, 0.0, 0.0), None
        return observation, 1.0, False, truncated, info


def main() -> None:
    """Runs each number of actors and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 16, 32], help="default: 1 16 32")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured in each run (default: 20)")
    options, passed_on = parser.parse_known_args()
    rates: dict[int, float] = {}
    print("| actors | env steps/s | share of linear | evaluation of 20 episodes |\n|---|---|---|---|")
    for actors in options.actors:
        with tempfile.TemporaryDirectory() as folder:
            lines = run(Path(folder), actors, options.seconds, passed_on)
        rates[actors] = rate(lines, options.seconds)
        first = min(rates)
        share = rates[actors] / actors / (rates[first] / first)
        evaluated = [each["eval_seconds"] for each in lines if each.get("eval_seconds")]
        shown = f"{evaluated[-1]:.1f} s" if evaluated else "none"
        print(f"| {actors} | {rates[actors]:,.0f} | {share:.0%} | {shown} |", flush=True)


def run(folder: Path, actors: int, seconds: float, passed_on: Sequence[str]) -> list[dict[str, Any]]:
    """Runs one command; returns its lines of metrics."""
    limit = _START_SECONDS + _SECONDS_PER_ACTOR * actors + seconds / 0.75  # a quarter may be kept for the end
    given = [
        "--env",
        f"{Path(__file__).stem}:Waiting",
        "--actors",
        str(actors),
        "--max-seconds",
        f"{limit:g}",
    ]
    command = [
        sys.executable,
        "-m",
        "distdqn.run",
        *given,
        "--run-dir",
        str(folder / "run"),
        *LIMITS,
        *passed_on,
    ]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=True)
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def rate(lines: Sequence[dict[str, Any]], seconds: float) -> float:
    """Env steps/s over the last `seconds` in which there were new ones."""
    pairs = itertools.pairwise(lines)
    acting = [each for before, each in pairs if each["env_steps"] > before["env_steps"]]
    last = acting[-1]
    first = next(each for each in acting if each["wall_seconds"] >= last["wall_seconds"] - seconds)
    steps: float = last["env_steps"] - first["env_steps"]
    return steps / (last["wall_seconds"] - first["wall_seconds"])


if __name__ == "__main__":
    main()
