"""`python -m distdqn.evaluate`: play a run's best or last network greedily, without TensorFlow."""

import json
import sys

from distdqn.acting.evaluator import Evaluator
from distdqn.config.command_line import command
from distdqn.config.config import Count, Seed, SharedOptions
from distdqn.loading import PolicyOptions, find_policy
from distdqn.reporting.run_directory import finite


class EvaluateOptions(PolicyOptions):
    """The network to play and the number of episodes."""

    episodes: Count = 100
    """Episodes to play."""
    seed: Seed = 0
    """Fixes the episodes; training saw none of them."""


@command("distdqn evaluate RUN_DIR [OPTION VALUE ...]", EvaluateOptions, positional="run_dir")
def main(options: EvaluateOptions) -> None:
    """Play a run's best network greedily and print its returns."""
    print(json.dumps(finite(evaluate(options))))


def evaluate(options: EvaluateOptions) -> dict[str, float | int]:
    """Greedy undiscounted returns of a run's network. Raises the errors of `distdqn.load`."""
    weights, source, spec = find_policy(options)
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
