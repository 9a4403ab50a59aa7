"""Epsilon-greedy action selection."""

import numpy as np

from distdqn.config.config import ActingOptions
from distdqn.schedules import make_schedule
from distdqn.types import FloatArray, IntArray, RolloutRequest


def epsilon_by_environment(options: ActingOptions, request: RolloutRequest) -> FloatArray:
    """Probability of a random action in each environment of one actor.

    Args:
        options: a schedule, or the ladder, of which every actor gets evenly spaced rungs.
        request: the run's env steps, and the position of the actor among all.

    Returns:
        `[E]` in [0, 1].
    """
    environments = options.envs_per_actor
    if options.epsilon_ladder:
        ladder = epsilon_ladder(
            request.actors * environments, options.epsilon_ladder_base, options.epsilon_ladder_exponent
        )
        return ladder[request.position :: request.actors]
    schedule = make_schedule(
        options.epsilon_schedule,
        options.epsilon_start,
        options.epsilon_end,
        options.epsilon_decay_steps,
        options.epsilon_points,
    )
    return np.full(environments, schedule.at(request.env_steps))


def epsilon_ladder(environments: int, base: float, exponent: float) -> FloatArray:
    """A fixed epsilon for each environment, from `base` down to `base^(1 + exponent)`.

    `epsilon_i = base^(1 + exponent * i / (N - 1))`; a single environment gets the middle.

    Some environments explore much and some hardly at all, so replay always holds both. The
    paper's ladder has a rung for each actor; here it has one for each *environment*, because
    a few actors would be nearly all greedy.

    Args:
        environments: of all actors together, `N`.
        base: the largest epsilon, in (0, 1).
        exponent: of the smallest epsilon, minus 1.

    Returns:
        `[N]` float32, falling.

    Source: Horgan et al. (2018), section 4.1, arXiv:1803.00933.
    """
    rung = np.linspace(0.0, 1.0, environments) if environments > 1 else np.array([0.5])
    ladder: FloatArray = (base ** (1.0 + exponent * rung)).astype(np.float32)
    return ladder


def greedy_actions(q_values: FloatArray, generator: np.random.Generator) -> IntArray:
    """The action with the largest Q-value, ties broken at random.

    Args:
        q_values: `[E, A]`.
        generator: draws among ties.

    Returns:
        `[E]` actions from 0.
    """
    best = q_values == q_values.max(axis=1, keepdims=True)  # [E, A]
    if best.sum() == len(best):
        only: IntArray = np.argmax(q_values, axis=1)  # [E]
        return only
    ranks = np.where(best, generator.random(best.shape), -1.0)
    chosen: IntArray = np.argmax(ranks, axis=1)  # [E]
    return chosen


def epsilon_greedy_actions(
    q_values: FloatArray, epsilon: FloatArray, generator: np.random.Generator
) -> IntArray:
    """With probability `epsilon` a uniformly random action, else the greedy one.

    Args:
        q_values: `[E, A]`.
        epsilon: `[E]` in [0, 1], one for each environment.
        generator: of all draws; their number is the same in every call without ties.

    Returns:
        `[E]` actions from 0.
    """
    environments, actions = q_values.shape
    explores = generator.random(environments) < epsilon  # [E]
    random_actions = generator.integers(actions, size=environments)  # [E]
    return np.where(explores, random_actions, greedy_actions(q_values, generator))
