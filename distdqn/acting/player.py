"""Episodes of one environment, step by step, to be shown."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from distdqn.acting.exploration import greedy_actions, random_actions
from distdqn.environments.vector import VectorEnvironment
from distdqn.networks.numpy_policy import Policy
from distdqn.types import AnyArray, EnvironmentSpec, FloatArray

_MAX_STEPS = 27_000  # of an episode, as in an evaluation


class PlayedStep(NamedTuple):
    """A step that is about to be taken, or the end of an episode."""

    observation: AnyArray  # [*observation_shape]
    q_values: FloatArray | None  # [A]; None without a network and at the end
    action: int | None  # from 0; None at the end
    episode_return: float  # so far, undiscounted
    length: int  # so far, in env steps


def play_episode(
    environments: VectorEnvironment,
    spec: EnvironmentSpec,
    policy: Policy | None,
    generator: np.random.Generator,
) -> Iterator[PlayedStep]:
    """The steps of an episode with greedy actions, or random ones without a policy, and its end."""
    steps = environments.empty_steps(1)
    total, length = 0.0, 0
    for _ in range(_MAX_STEPS):
        observation = environments.observation  # [1, *observation_shape]
        if policy is None:
            allowed = None if spec.mask is None else spec.mask.read(observation)
            q_values, actions = None, random_actions(1, spec.actions, generator, allowed)
        else:
            q_values = policy.q_values(observation)  # [1, A]
            actions = greedy_actions(q_values, generator)
        values = None if q_values is None else q_values[0]
        yield PlayedStep(observation[0], values, int(actions[0]), total, length)
        ended = environments.step(actions, steps, 0)
        total, length = total + float(steps.reward[0, 0]), length + 1
        if ended:
            break
    yield PlayedStep(steps.next_observation[0, 0], None, None, total, length)
