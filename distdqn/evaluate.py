"""`python -m distdqn.evaluate`: play a run's best or last network greedily, without TensorFlow."""

import argparse
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
import numpy as np
from distdqn.environments.registry import inspect_environment, resolve_environment
from distdqn.acting.evaluator import Evaluator
from distdqn.config.config import SharedOptions
from distdqn.config.command_line import Parser, print_mistakes
from distdqn.errors import ConfigError, DistdqnError
from distdqn.networks.keras_policy import make_policy
from distdqn.types import PolicyWeights
from distdqn.networks.numpy_policy import load_policy


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints mean, standard deviation, minimum and maximum as one JSON line."""
    try:
        options = _parser().parse_args(arguments)
        network = "final" if options.final else "policy"
        print(
            json.dumps(
                evaluate(options.run_dir, options.episodes, options.seed, options.env, network=network)
            )
        )
    except DistdqnError as error:
        return print_mistakes(error)
    return 0


def evaluate(
    run_dir: Path, episodes: int, seed: int, env: str | None = None, network: str = "policy"
) -> dict[str, float | int]:
    """Greedy undiscounted returns of one of `run_dir`'s networks.

    Args:
        run_dir: of a finished run.
        episodes: how many to play.
        seed: fixes the episodes; none of them is one that training saw.
        env: an environment other than the run's.
        network: `policy`, the best one, or `final`, the last one.

    Raises:
        ConfigError: the folder holds no policy, the environment is not to be found, or
            the two do not fit.
    """
    mistakes = []
    if episodes < 1:
        mistakes.append(f"`episodes` must be at least 1, not `{episodes}`.")
    if seed < 0:
        mistakes.append(f"`seed` must be at least 0, not `{seed}`.")
    try:
        weights, source = _load(run_dir, env, f"{network}.npz")
        _check_fit(weights, source)
    except ConfigError as error:
        mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    evaluation = Evaluator(SharedOptions(env=source, seed=seed)).evaluate(weights, episodes, number=0)
    return {
        "mean": evaluation.mean,
        "standard_deviation": evaluation.standard_deviation,
        "minimum": min(evaluation.returns),
        "maximum": max(evaluation.returns),
        "episodes": len(evaluation.returns),
        "seed": seed,
    }


def _load(run_dir: Path, env: str | None, name: str) -> tuple[PolicyWeights, str]:
    """The network `name` of a run, and the environment to play it in.

    Raises:
        ConfigError: one of the run's files is missing or damaged, or there is no such
            environment.
    """
    mistakes = []
    try:
        weights = load_policy(run_dir / name)
    except FileNotFoundError:
        mistakes.append(f"`run_dir`: {run_dir} holds no `{name}` (name the folder of a finished run).")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        mistakes.append(f"`run_dir`: {run_dir / name} is damaged: {error} (name another run).")
    try:
        source = env or str(json.loads((run_dir / "config.json").read_text())["env"])
        resolve_environment(source)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigError):
            mistakes += error.mistakes
        elif not mistakes:
            mistakes.append(
                f"`run_dir`: {run_dir / 'config.json'} does not name an environment (give `--env`)."
            )
    if mistakes:
        raise ConfigError(mistakes)
    return weights, source


def _check_fit(weights: PolicyWeights, source: str) -> None:
    """Refuses an environment that the network was not made for."""
    spec = inspect_environment(source)
    try:
        q_values = make_policy(weights).q_values(np.zeros((1, *spec.observation_shape), np.float32))  # [1, A]
        if q_values.shape[1] == spec.actions:
            return
    except ValueError:
        pass
    raise ConfigError(
        f"`env`: the network of this run does not fit `{spec.name}`, whose observations have the shape "
        f"{spec.observation_shape} and which has {spec.actions} actions (name the run's environment)."
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="distdqn evaluate",
        description="Play a run's best network greedily and print its returns.",
        allow_abbrev=False,
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of a finished run")
    parser.add_argument(
        "--episodes", type=int, default=100, metavar="N", help="episodes to play (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="fixes the episodes (default: 0)")
    parser.add_argument(
        "--final", action="store_true", help="play the run's last network, not the best of its evaluations"
    )
    parser.add_argument("--env", metavar="TEXT", help="another environment than the run's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
