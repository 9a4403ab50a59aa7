"""Epsilon-greedy action selection and its schedule."""

import numpy as np

from distdqn.transition import FloatArray, IntArray


def linear_epsilon(env_steps: int, start: float, end: float, decay_steps: int) -> float:
    """Probability of a random action after `env_steps`, falling linearly from `start` to `end`.

    `epsilon = start + (end - start) * min(1, env_steps / decay_steps)`

    Args:
        env_steps: total env steps of all actors, absolute, never a share of a budget.
        start: at env step 0, in [0, 1].
        end: from `decay_steps` on, in [0, 1].
        decay_steps: in env steps; 0 means `end` from the start.

    Source: Mnih et al. (2015), Methods, "Training details".
    """
    if env_steps >= decay_steps:
        return end
    return start + (end - start) * env_steps / decay_steps


def greedy_actions(q_values: FloatArray, generator: np.random.Generator) -> IntArray:
    """The action with the largest Q-value, ties broken at random.

    Args:
        q_values: `[E, A]`.
        generator: draws among equals.

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
        generator: all draws come from it, the same number of them on every call
            without ties.

    Returns:
        `[E]` actions from 0.
    """
    environments, actions = q_values.shape
    explores = generator.random(environments) < epsilon  # [E]
    random_actions = generator.integers(actions, size=environments)  # [E]
    return np.where(explores, random_actions, greedy_actions(q_values, generator))
