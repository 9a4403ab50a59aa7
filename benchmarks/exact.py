"""Trains on environments whose dynamics are known, and values the greedy policies exactly.

    python benchmarks/exact.py --env FrozenLake-v1 --seeds 100-104 --max-env-steps 50000

The value is the expected undiscounted return from `env.unwrapped.P`, over all first states and up to the time
limit of the environment, not the mean of a few episodes. Options that this program does not know go to every
run.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gymnasium
import numpy as np
import numpy.typing as npt

import distdqn


def main() -> None:
    """Runs every seed and prints the value of its best and its last network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", default="100-104", help="first-last (default: 100-104)")
    options, passed_on = parser.parse_known_args()
    first, last = (int(text) for text in options.seeds.split("-"))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, last + 1):
            run_dir = Path(folder) / str(seed)
            begin = time.monotonic()
            command = [sys.executable, "-m", "distdqn.run", "--seed", str(seed), "--run-dir", str(run_dir)]
            outcome = subprocess.run([*command, *passed_on], capture_output=True, text=True, check=False)
            if outcome.returncode not in (0, 8):
                sys.exit(f"{' '.join(command)} ended with {outcome.returncode}:\n{outcome.stderr}")
            found.append([value(run_dir, final) for final in (False, True)])
            seconds = time.monotonic() - begin
            print(
                f"seed {seed}: best {found[-1][0]:.3f}, last {found[-1][1]:.3f}, {seconds:.0f} s", flush=True
            )
    for name, values in zip(("best", "last"), zip(*found, strict=True), strict=True):
        print(f"{name}: mean {statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")


def value(run_dir: Path, final: bool) -> float:
    """Exact expected undiscounted return of a run's best network, or of its last."""
    policy = distdqn.load(run_dir, final=final)
    options = policy.environment
    env = gymnasium.make(options.env, options.max_episode_steps, **options.env_kwargs)
    states, game = np.arange(env.observation_space.n), env.unwrapped
    masks = None if policy.spec.mask is None else np.stack([game.action_mask(state) for state in states])
    actions = policy.act(states, masks)
    return expected_return(game.P, actions, game.initial_state_distrib, env.spec.max_episode_steps)


def expected_return(
    dynamics: dict[int, dict[int, list[tuple[float, int, float, bool]]]],
    actions: npt.NDArray[np.intp],
    first: npt.NDArray[np.float64],
    steps: int,
) -> float:
    """Expected sum of rewards of the policy `actions` `[S]` in at most `steps` env steps.

    Args:
        dynamics: for each state and action the probability, next state, reward and end of each outcome.
        actions: of each state.
        first: probability `[S]` of each first state.
        steps: time limit of an episode.
    """
    values = np.zeros(len(dynamics))
    for _ in range(steps):
        values = np.array(
            [
                sum(p * (reward + (0.0 if ends else values[there])) for p, there, reward, ends in outcomes)
                for outcomes in (dynamics[state][action] for state, action in enumerate(actions))
            ]
        )
    return float(first @ values)


if __name__ == "__main__":
    main()
