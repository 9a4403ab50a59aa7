"""`python -m distdqn.evaluate`: play a run's best network greedily, without TensorFlow."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distdqn.acting.evaluator import Evaluator
from distdqn.cli import print_mistakes
from distdqn.errors import ConfigError, DistdqnError
from distdqn.policy import load_policy


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints mean, standard deviation, minimum and maximum as one JSON line."""
    options = _parser().parse_args(arguments)
    try:
        print(json.dumps(evaluate(options.run_dir, options.episodes, options.seed, options.env)))
    except DistdqnError as error:
        return print_mistakes(error)
    return 0


def evaluate(run_dir: Path, episodes: int, seed: int, env: str | None = None) -> dict[str, float | int]:
    """Greedy undiscounted returns of `run_dir`'s best network.

    Args:
        run_dir: of a finished run.
        episodes: how many to play.
        seed: fixes the episodes; none of them is one that training saw.
        env: an environment other than the run's.

    Raises:
        ConfigError: the folder holds no policy, or the environment is not to be found.
    """
    from distdqn.acting.environments import inspect_environment

    mistakes = []
    if episodes < 1:
        mistakes.append(f"`episodes` must be at least 1, not `{episodes}`.")
    if seed < 0:
        mistakes.append(f"`seed` must be at least 0, not `{seed}`.")
    if not (run_dir / "policy.npz").is_file():
        mistakes.append(f"`run_dir`: {run_dir} holds no `policy.npz` (name the folder of a finished run).")
    if mistakes:
        raise ConfigError(mistakes)
    weights = load_policy(run_dir / "policy.npz")
    source = env or json.loads((run_dir / "config.json").read_text())["env"]
    inspect_environment(source)
    evaluation = Evaluator(source, seed).evaluate(weights, episodes, number=0)
    return {
        "mean": evaluation.mean,
        "standard_deviation": evaluation.standard_deviation,
        "minimum": float(np.min(evaluation.returns)),
        "maximum": float(np.max(evaluation.returns)),
        "episodes": len(evaluation.returns),
        "seed": seed,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distdqn evaluate", description="Play a run's best network greedily and print its returns."
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of a finished run")
    parser.add_argument(
        "--episodes", type=int, default=100, metavar="N", help="episodes to play (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="fixes the episodes (default: 0)")
    parser.add_argument("--env", metavar="TEXT", help="another environment than the run's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
