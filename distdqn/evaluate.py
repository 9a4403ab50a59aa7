"""`python -m distdqn.evaluate`: play a run's best or last network greedily, without TensorFlow."""

import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distdqn.acting.evaluator import Evaluator
from distdqn.config.command_line import Command, print_mistakes
from distdqn.config.config import Count, Seed, SharedOptions
from distdqn.config.model import Options, Text
from distdqn.environments.registry import inspect_environment, resolve_environment
from distdqn.errors import ConfigError, DistdqnError, collecting
from distdqn.networks.numpy_policy import load_policy, make_policy
from distdqn.reporting.run_directory import finite
from distdqn.types import PolicyWeights


class EvaluateOptions(Options):
    """The network to play and the number of episodes."""

    run_dir: Text
    """Folder of a finished run."""
    episodes: Count = 100
    """Episodes to play."""
    seed: Seed = 0
    """Fixes the episodes; training saw none of them."""
    final: bool = False
    """Play the run's last network instead of its best."""
    env: Text | None = None
    """Another environment than the run's; none means the run's."""


_COMMAND = Command(
    "distdqn evaluate RUN_DIR [OPTION VALUE ...]",
    "Play a run's best network greedily and print its returns.",
    EvaluateOptions,
    positional="run_dir",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints mean, standard deviation, minimum and maximum as one JSON line; returns the exit code."""
    try:
        given, mistakes = _COMMAND.collect(arguments)
        if mistakes or "run_dir" not in given:
            raise ConfigError(mistakes or "`run_dir` is missing (see `--help`).")
        print(json.dumps(finite(evaluate(**given))))
    except DistdqnError as error:
        return print_mistakes(error)
    return 0


def evaluate(
    run_dir: Path | str, episodes: int = 100, seed: int = 0, env: str | None = None, final: bool = False
) -> dict[str, float | int]:
    """Greedy undiscounted returns of a finished run's best network, or of its last if `final`.

    `seed` fixes the `episodes`, none of which training saw. `env` is None for the run's environment.

    Raises:
        ConfigError: the folder holds no policy, there is no such environment, or the two do not fit.
    """
    mistakes: list[str] = []
    with collecting(mistakes):
        EvaluateOptions(run_dir=str(run_dir), episodes=episodes, seed=seed, env=env, final=final)
    with collecting(mistakes):
        weights, source = _load(Path(run_dir), env, "final.npz" if final else "policy.npz")
        _check_fit(weights, source)
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
    """The network in file `name` of a run, and its environment; `ConfigError` lists what is wrong."""
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
    except ConfigError as error:
        mistakes += error.mistakes
    except (OSError, ValueError, KeyError, TypeError):
        if not mistakes:
            mistakes.append(
                f"`run_dir`: {run_dir / 'config.json'} does not name an environment (give `--env`)."
            )
    if mistakes:
        raise ConfigError(mistakes)
    return weights, source


def _check_fit(weights: PolicyWeights, source: str) -> None:
    """Refuses an environment that does not fit the network."""
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


if __name__ == "__main__":
    sys.exit(main())
