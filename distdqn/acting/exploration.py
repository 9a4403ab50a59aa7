"""Epsilon-greedy action selection."""

import numpy as np

from distdqn.config.config import ActingOptions
from distdqn.schedules import Schedule
from distdqn.types import AnyArray, FloatArray, IntArray, RolloutRequest


def epsilon_by_environment(options: ActingOptions, request: RolloutRequest) -> FloatArray:
    """Probability `[E]` of a random action in each environment of one actor, in [0, 1].

    It follows a schedule over the run's env steps, or is fixed by the ladder, of which every actor
    gets evenly spaced rungs.
    """
    environments = options.envs_per_actor
    if options.epsilon_ladder:
        ladder = epsilon_ladder(
            request.actors * environments, options.epsilon_ladder_base, options.epsilon_ladder_exponent
        )
        return ladder[request.position :: request.actors]
    schedule = Schedule(
        options.epsilon_schedule,
        options.epsilon_start,
        options.epsilon_end,
        options.epsilon_decay_steps,
        options.epsilon_points,
    )
    return np.full(environments, schedule.at(request.env_steps))


def epsilon_ladder(environments: int, base: float, exponent: float) -> FloatArray:
    """A fixed epsilon for each of the `N` environments of all actors, `[N]` float32, falling.

    `epsilon_i = base^(1 + exponent * i / (N - 1))`, `base` in (0, 1); a single one gets the middle.

    The paper's ladder has a rung for each actor. Here each *environment* has one, because a few
    actors would be nearly all greedy.

    Source: Horgan et al. (2018), section 4.1, arXiv:1803.00933.
    """
    rung = np.linspace(0.0, 1.0, environments) if environments > 1 else np.array([0.5])
    ladder: FloatArray = (base ** (1.0 + exponent * rung)).astype(np.float32)
    return ladder


def greedy_actions(q_values: FloatArray, generator: np.random.Generator) -> IntArray:
    """The greedy actions `[E]` from 0 for `q_values` `[E, A]`, ties broken at random."""
    best = q_values == q_values.max(axis=1, keepdims=True)  # [E, A]
    if np.count_nonzero(best) != len(best):
        best = np.where(best, generator.random(best.shape), -1.0)
    chosen: IntArray = best.argmax(axis=1)  # [E]
    return chosen


def random_actions(
    environments: int, actions: int, generator: np.random.Generator, allowed: AnyArray | None = None
) -> IntArray:
    """Uniformly random actions `[E]` from 0, among those where `allowed` `[E, A]` is not 0; None: all are."""
    if allowed is None:
        return generator.integers(actions, size=environments)
    ranks = np.where(allowed != 0, generator.random(allowed.shape), -1.0)  # [E, A]
    chosen: IntArray = np.argmax(ranks, axis=1)  # [E]
    return chosen


def epsilon_greedy_actions(
    q_values: FloatArray, epsilon: FloatArray, generator: np.random.Generator, allowed: AnyArray | None = None
) -> IntArray:
    """Actions `[E]` from 0: uniformly random with probability `epsilon` `[E]` in [0, 1], else greedy.

    `q_values` is `[E, A]`, and so is `allowed`; see `random_actions`. Without ties, every call draws equally
    many numbers.
    """
    environments, actions = q_values.shape
    explores = generator.random(environments) < epsilon  # [E]
    chosen = random_actions(environments, actions, generator, allowed)  # [E]
    return np.where(explores, chosen, greedy_actions(q_values, generator))
