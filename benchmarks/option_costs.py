"""Measures what options of the algorithm cost beside the defaults, in one process with one thread.

    python benchmarks/option_costs.py
    python benchmarks/option_costs.py --env MinAtar/Breakout-v1 --rounds 10

Prints a table in Markdown: an update, the Q-values of 16 observations by an actor, a batch from replay, and
the bytes of the weights. All variants take turns, so that a drift of the machine's speed affects all alike;
each number is the median over the rounds. Use an idle machine.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import numpy as np

from distdqn.config.config import Config, resolved
from distdqn.networks.numpy_policy import make_policy
from distdqn.training.builders import learn_request, role_parts
from distdqn.training.resolve import check_surroundings, resolve
from distdqn.types import RolloutRequest

ENVIRONMENTS = 16  # whose observations an actor evaluates in one call
VARIANTS: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "`--no-double`": {"double": False},
    "`--head value`": {"head": "value"},
    "`--head categorical`": {"head": "categorical"},
    "`--head implicit`": {"head": "implicit"},
    "`--munchausen --no-double`": {"munchausen": True, "double": False},
    "`--dueling`": {"dueling": True},
    "`--noisy`": {"noisy": True},
    "`--no-layer-norm`": {"layer_norm": False},
    "`--value-rescaling`": {"value_rescaling": True},
    "`--conservative-weight 1`": {"conservative_weight": 1.0},
    "`--sampler prioritized`": {"sampler": "prioritized"},
}


@dataclass(frozen=True)
class Timed:
    """One variant, ready to be timed."""

    calls: list[Callable[[], Any]]  # an update, Q-values, a batch
    divisors: list[int]  # what of each call is shown
    weights_bytes: int


def prepare(options: dict[str, Any], env: str) -> Timed:
    """The roles of a run with these options, with enough transitions in replay."""
    config = Config(env=env, learner_threads=1, envs_per_actor=ENVIRONMENTS, **options)
    spec = check_surroundings(config, None, None)
    full = resolve(config, spec)
    learner, actor, replay = [
        role(*arguments)
        for role, arguments in (role_parts(full, spec, name, 0, 0) for name in ("learner", "actor", "replay"))
    ]
    learner.compile()
    weights, request = learner.publish(), learn_request(full, 0)
    updates, batch_size = full.updates_per_call, resolved(full.batch_size)
    while replay.insert(actor.rollout(RolloutRequest(0, 10**9), weights)[1]).size < 5000:
        pass
    shape = (updates, batch_size, request.importance_sampling_exponent)
    batches, policy = replay.sample(*shape), make_policy(weights)
    observation = batches.transitions.observation[0, :ENVIRONMENTS]
    calls: list[Callable[[], Any]] = [
        lambda: learner.learn(batches, False, request.learning_rate),
        lambda: [policy.q_values(observation) for _ in range(100)],
        lambda: len(replay.sample(*shape).item_id),
    ]
    weights_bytes = sum(array.nbytes for array in weights.arrays)
    return Timed(calls, [updates, 100, updates], weights_bytes)


def measure(variants: list[Timed], rounds: int) -> np.ndarray:
    """Median seconds `[variants, 3]`, of rounds in which all take turns; one more round comes first."""
    seconds = np.zeros((rounds + 1, len(variants), 3))
    for times in seconds:
        for i, variant in enumerate(variants):
            for j, (call, divisor) in enumerate(zip(variant.calls, variant.divisors, strict=True)):
                begin = time.perf_counter()
                call()
                times[i, j] = (time.perf_counter() - begin) / divisor
    medians: np.ndarray = np.median(seconds[1:], axis=0)
    return medians


def table(names: list[str], variants: list[Timed], seconds: np.ndarray) -> str:
    """The table, times also as multiples of those of the first variant."""
    lines = ["| options | an update | Q-values of 16 | a batch | weights |", "|---|---|---|---|---|"]
    for name, variant, times in zip(names, variants, seconds, strict=True):
        shown = [
            f"{1e6 * each:,.0f} µs ({each / first:.2f})"
            for each, first in zip(times, seconds[0], strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(shown)} | {variant.weights_bytes / 1000:,.0f} kB |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1", help="Gymnasium id (default: CartPole-v1)")
    parser.add_argument("--rounds", type=int, default=20, help="in which all take turns (default: 20)")
    parser.add_argument("--only", nargs="+", default=[*VARIANTS], choices=[*VARIANTS], help="some variants")
    options = parser.parse_args(arguments)
    variants = [prepare(VARIANTS[name], options.env) for name in options.only]
    print(table(options.only, variants, measure(variants, options.rounds)))


if __name__ == "__main__":
    main()
