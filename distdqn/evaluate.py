"""`python -m distdqn.evaluate`: play a run's best or last network greedily, without TensorFlow."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distdqn.acting.evaluator import Evaluator
from distdqn.config.command_line import Command, print_mistakes
from distdqn.config.config import Count, Seed, SharedOptions
from distdqn.errors import ConfigError, DistdqnError, collecting
from distdqn.loading import PolicyOptions, find_policy
from distdqn.reporting.run_directory import finite


class EvaluateOptions(PolicyOptions):
    """The network to play and the number of episodes."""

    episodes: Count = 100
    """Episodes to play."""
    seed: Seed = 0
    """Fixes the episodes; training saw none of them."""


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


def evaluate(run_dir: Path | str, **given: Any) -> dict[str, float | int]:
    """Greedy undiscounted returns of a run's network; `EvaluateOptions` says what else may be given.

    Raises the errors of `distdqn.load`.
    """
    mistakes: list[str] = []
    # If an option is wrong, the environment and the folder are looked at nevertheless.
    named = {name: given[name] for name in ("final", "checkpoint", "env") if name in given}
    options = EvaluateOptions.model_construct(run_dir=str(run_dir), **named)
    with collecting(mistakes):
        options = EvaluateOptions(run_dir=str(run_dir), **given)
    with collecting(mistakes):
        if options.checkpoint is None or not mistakes:
            weights, source, spec = find_policy(options)
    if mistakes:
        raise ConfigError(mistakes)
    evaluator = Evaluator(SharedOptions(**dict(source), seed=options.seed), spec.mask is not None)
    evaluation = evaluator.evaluate(weights, options.episodes, number=0)
    return {
        "mean": evaluation.mean,
        "standard_deviation": evaluation.standard_deviation,
        "minimum": min(evaluation.returns),
        "maximum": max(evaluation.returns),
        "episodes": len(evaluation.returns),
        "seed": options.seed,
    }


if __name__ == "__main__":
    sys.exit(main())
