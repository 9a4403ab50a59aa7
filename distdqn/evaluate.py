"""`python -m distdqn.evaluate`: play a run's best or last network greedily, without TensorFlow."""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from distdqn.acting.evaluator import Evaluator
from distdqn.checkpoints.resume import locate_checkpoints
from distdqn.config.command_line import Command, print_mistakes
from distdqn.config.config import Arguments, Count, EnvironmentOptions, Names, Seed, SharedOptions
from distdqn.config.model import Options, Text
from distdqn.environments.registry import EnvironmentMaker, inspect_environment
from distdqn.errors import ConfigError, DistdqnError, NoCheckpoint, collecting, restoring
from distdqn.networks.numpy_policy import load_policy, make_policy, weights_from_learner, weights_from_tree
from distdqn.reporting.run_directory import finite, read_options, read_status
from distdqn.types import EnvironmentSpec, PolicyWeights

_OF_ENVIRONMENT = ("env", "env_kwargs", "wrapper", "max_episode_steps")


class EvaluateOptions(Options):
    """The network to play and the number of episodes."""

    run_dir: Text
    """Folder of a run; with `--checkpoint` also a folder or URL of checkpoints."""
    episodes: Count = 100
    """Episodes to play."""
    seed: Seed = 0
    """Fixes the episodes; training saw none of them."""
    final: bool = False
    """Play the run's last network instead of its best."""
    checkpoint: Annotated[int, Field(ge=0)] | Literal["newest", "best"] | None = None
    """Play the network of a checkpoint instead: of that number, of the `newest`, or the `best` by evaluation
    that the newest holds."""
    env: Text | None = None
    """Another environment than the run's, without the run's arguments; none means the run's."""
    env_kwargs: Arguments | None = None
    """Its arguments, as in `size=5` or as JSON, in place of the run's."""
    wrapper: Names | None = None
    """Its wrappers, each as `module:Name,size=5`, in place of the run's."""
    max_episode_steps: Annotated[int, Field(ge=1)] | None = None
    """Its time limit in place of the run's."""


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
    run_dir: Path | str,
    episodes: int = 100,
    seed: int = 0,
    env: str | None = None,
    final: bool = False,
    checkpoint: int | str | None = None,
    **environment: Any,
) -> dict[str, float | int]:
    """Greedy undiscounted returns of a run's best network, or of its last if `final`, or of a `checkpoint`.

    `seed` fixes the `episodes`, none of which training saw. `env` is None for the run's environment.
    `checkpoint` is a number, `newest` or `best`. `env_kwargs`, `wrapper` and `max_episode_steps` replace
    those of the run.

    Raises:
        ConfigError: the folder holds no policy, there is no such environment, or the two do not fit.
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    mistakes: list[str] = []
    given: dict[str, Any] = {"run_dir": str(run_dir), "episodes": episodes, "seed": seed, "env": env}
    given |= {"final": final, "checkpoint": checkpoint, **environment}
    chosen: dict[str, Any] = {} if env is None else {"env": env}
    with collecting(mistakes):
        chosen = EvaluateOptions(**given).model_dump(include={*_OF_ENVIRONMENT}, exclude_none=True)
    if final and checkpoint is not None:
        mistakes.append("`final` and `checkpoint` exclude each other (give one of them).")
    with collecting(mistakes):
        if checkpoint is None or not mistakes:
            weights, source = _load(Path(run_dir), chosen, "final.npz" if final else "policy.npz", checkpoint)
            spec = _find_spec(weights, source)
    if mistakes:
        raise ConfigError(mistakes)
    evaluator = Evaluator(SharedOptions(**dict(source), seed=seed), spec.mask is not None)
    evaluation = evaluator.evaluate(weights, episodes, number=0)
    return {
        "mean": evaluation.mean,
        "standard_deviation": evaluation.standard_deviation,
        "minimum": min(evaluation.returns),
        "maximum": max(evaluation.returns),
        "episodes": len(evaluation.returns),
        "seed": seed,
    }


def _load(
    run_dir: Path, chosen: dict[str, Any], name: str, checkpoint: int | str | None
) -> tuple[PolicyWeights, EnvironmentOptions]:
    """The network in file `name` of a run, or in a checkpoint, and its environment; may raise both errors.

    `chosen` replaces what the run says of its environment. Arguments are those of one environment alone.
    """
    mistakes: list[str] = []
    recorded = read_options(run_dir).model_dump()
    with collecting(mistakes):
        if checkpoint is None:
            weights = _read_policy(run_dir / name)
        else:
            weights, recorded = _read_checkpoint(str(run_dir), checkpoint)
    kept = [name for name in _OF_ENVIRONMENT if name != "env_kwargs" or "env" not in chosen]
    found = {name: recorded.get(name) for name in kept} | chosen
    values: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
    with collecting(mistakes):
        if "env" in values:
            source = EnvironmentOptions(**values)
            EnvironmentMaker(source)  # finds what does not exist
        elif not mistakes:
            file = run_dir / "config.json"
            raise ConfigError(f"`run_dir`: {file} does not name an environment (give `--env`).")
    if mistakes:
        raise ConfigError(mistakes)
    return weights, source


def _read_policy(path: Path) -> PolicyWeights:
    """The network in a file of a run; `ConfigError` if it is missing or damaged."""
    try:
        return load_policy(path)
    except FileNotFoundError as error:
        status = read_status(path.parent)
        why = "" if status is None else f"; its run is `{status.state}`"
        what = f"{path.parent} holds no `{path.name}`{why}"
        raise ConfigError(f"`run_dir`: {what} (name another run, or give `--checkpoint newest`).") from error


def _read_checkpoint(place: str, checkpoint: int | str) -> tuple[PolicyWeights, dict[str, Any]]:
    """The network in a checkpoint, and its run's options; `CheckpointError` if there is none."""
    with restoring(f"`checkpoint`: {place}"):
        store, numbers = locate_checkpoints(place)
        number = checkpoint if isinstance(checkpoint, int) else numbers[-1]
        if number not in numbers:
            there = ", ".join(map(str, numbers))
            raise NoCheckpoint(f"`checkpoint`: {place} holds no checkpoint {number} (name one of {there}).")
        document = store.read_manifest(number)
    with restoring(f"Checkpoint {number} of {place}"):
        options: dict[str, Any] = document["about"]["config"]
        if checkpoint != "best":
            return weights_from_learner(store.read_tree(document["learner"])), options
        if document["goal"]["best_weights"] is None:
            raise NoCheckpoint(f"`checkpoint`: {place} holds no evaluated network yet (give a number).")
        return weights_from_tree(store.read_tree(document["goal"]["best_weights"])), options


def _find_spec(weights: PolicyWeights, source: EnvironmentOptions) -> EnvironmentSpec:
    """The environment as the network saw it, with masks or without them.

    `ConfigError` if it does not fit the network, or if the network cannot be evaluated.
    """
    policy = None
    for masks in (True, False):
        spec = inspect_environment(source, masks)
        observation = np.zeros((1, *spec.observation_shape), spec.observation_dtype)
        with restoring("The network"):
            policy = policy or make_policy(weights)
            with contextlib.suppress(ValueError):
                if policy.q_values(observation).shape == (1, spec.actions):
                    return spec
    raise ConfigError(
        f"`env`: the network of this run does not fit `{spec.name}`, whose observations have the shape "
        f"{spec.observation_shape} and which has {spec.actions} actions (name the run's environment)."
    )


if __name__ == "__main__":
    sys.exit(main())
