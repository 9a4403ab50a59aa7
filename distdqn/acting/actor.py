"""The actor: runs episodes with an epsilon-greedy copy of the Q-network."""

import time
from dataclasses import dataclass

import numpy as np

from distdqn.acting.environments import EnvironmentBatch, EnvironmentSource
from distdqn.acting.exploration import epsilon_greedy_actions, linear_epsilon
from distdqn.acting.n_step import NStepWindows, Steps
from distdqn.policy import Policy, PolicyWeights
from distdqn.seeding import make_generator, make_integer_seed
from distdqn.transition import Transitions


@dataclass(frozen=True)
class RolloutOrder:
    """What an actor is asked for.

    Attributes:
        env_steps: total of the run when the order was given; sets epsilon.
        limit: most env steps to take.
    """

    env_steps: int
    limit: int


@dataclass(frozen=True)
class RolloutReport:
    """What an actor says of one rollout; the transitions travel apart.

    Attributes:
        env_steps: real transitions of the environments, resets excluded.
        transitions: n-step transitions completed, the size of the chunk.
        episode_returns: undiscounted returns of the episodes that ended.
        episode_lengths: their env steps.
        epsilon: mean over the environments.
        weights_version: of the network that acted; None before the first weights.
        weights_learner_steps: learner steps behind that network.
        env_seconds: time inside the environments.
        network_seconds: time inside the network and action selection.
        total_seconds: the whole rollout.
    """

    env_steps: int
    transitions: int
    episode_returns: list[float]
    episode_lengths: list[int]
    epsilon: float
    weights_version: tuple[int, int] | None
    weights_learner_steps: int
    env_seconds: float
    network_seconds: float
    total_seconds: float


class Actor:
    """Steps `E` environments at once and turns what happens into n-step transitions."""

    def __init__(
        self,
        source: EnvironmentSource,
        actions: int,
        environments: int,
        rollout_length: int,
        n_step: int,
        discount: float,
        epsilon_start: float,
        epsilon_end: float,
        epsilon_decay_steps: int,
        seed: int,
        index: int,
        incarnation: int,
    ) -> None:
        self._environments = environments
        self._actions = actions
        self._rollout_length = rollout_length
        self._epsilon = (epsilon_start, epsilon_end, epsilon_decay_steps)
        self._generator = make_generator(seed, "exploration", index, incarnation)
        env_seed = make_integer_seed(seed, "environment", index, incarnation)
        self._batch = EnvironmentBatch(source, environments, env_seed)
        self._windows = NStepWindows(n_step, discount)
        self._weights: PolicyWeights | None = None
        self._policy: Policy | None = None

    def rollout(
        self, order: RolloutOrder, weights: PolicyWeights | None = None
    ) -> tuple[RolloutReport, Transitions]:
        """Takes up to `rollout_length` steps in every environment.

        Without any weights yet, actions are uniformly random.

        Called by: the supervisor, one or two calls ahead, once pacing has granted it.
        Waits for: nothing. After a restart: environments start new episodes from another
        seed, and open n-step windows are lost.

        Args:
            order: the run's env steps so far, and the most to take.
            weights: a newer version, or None to go on with the last one.
        """
        begin = time.perf_counter()
        if weights is not None:
            self._weights, self._policy = weights, Policy(weights)
        epsilon = linear_epsilon(order.env_steps, *self._epsilon) if self._policy else 1.0
        shape, dtype = self._batch.observation.shape[1:], self._batch.observation.dtype
        steps = Steps.empty(self._rollout_length, self._environments, shape, dtype)
        returns: list[float] = []
        lengths: list[int] = []
        env_seconds = network_seconds = 0.0
        taken = used = 0
        while used < self._rollout_length and taken < order.limit:
            t0 = time.perf_counter()
            steps.observation[used] = self._batch.observation
            steps.action[used] = action = self._choose_actions(epsilon)
            t1 = time.perf_counter()
            result = self._batch.step(action)
            env_seconds += time.perf_counter() - t1
            network_seconds += t1 - t0
            steps.next_observation[used] = result.next_observation
            steps.reward[used] = result.reward
            steps.terminated[used] = result.terminated
            steps.truncated[used] = result.truncated
            # The budget is met to the step: what is beyond it in this vector step is left out.
            counted = result.is_transition & (taken + np.cumsum(result.is_transition) <= order.limit)
            steps.is_transition[used] = counted
            taken += int(counted.sum())
            kept = counted[result.ended]
            returns += [r for r, keep in zip(result.episode_returns, kept, strict=True) if keep]
            lengths += [n for n, keep in zip(result.episode_lengths, kept, strict=True) if keep]
            used += 1
        transitions = self._windows.add(steps[:used])
        report = RolloutReport(
            env_steps=taken,
            transitions=len(transitions),
            episode_returns=returns,
            episode_lengths=lengths,
            epsilon=epsilon,
            weights_version=self._weights.weights_version if self._weights else None,
            weights_learner_steps=self._weights.learner_steps if self._weights else 0,
            env_seconds=env_seconds,
            network_seconds=network_seconds,
            total_seconds=time.perf_counter() - begin,
        )
        return report, transitions

    def _choose_actions(self, epsilon: float) -> np.ndarray:
        """Epsilon-greedy actions `[E]`, random ones before the first weights."""
        if self._policy is None:
            return self._generator.integers(self._actions, size=self._environments)
        q_values = self._policy.q_values(self._batch.observation)  # [E, A]
        return epsilon_greedy_actions(q_values, np.full(self._environments, epsilon), self._generator)
