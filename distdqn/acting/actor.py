"""The actor: runs episodes with an epsilon-greedy copy of the Q-network."""

import dataclasses
import time
from dataclasses import dataclass

import numpy as np

from distdqn.acting.environments import EnvironmentBatch, EnvironmentSource
from distdqn.acting.exploration import epsilon_greedy_actions
from distdqn.acting.n_step import NStepWindows, Steps
from distdqn.policy import Policy, PolicyWeights
from distdqn.schedules import LinearSchedule
from distdqn.seeding import make_generator, make_integer_seed
from distdqn.transition import FloatArray, IntArray, Transitions


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
    """Steps `E` environments at once and turns what happens into n-step transitions.

    Args:
        source: of the environments.
        actions: number of actions `A`.
        environments: `E`.
        rollout_length: most vector steps of one rollout.
        n_step: env steps of reward in one transition.
        discount: per env step.
        epsilon: of all environments, by the run's env steps.
        seed: of the run.
        index: of this actor.
        incarnation: how many lives it had before.
        epsilon_ladder: `[E]`, a fixed epsilon for each environment instead of `epsilon`.
        reward_scale: what rewards are multiplied with before they are learned from.
        reward_clip: rewards are then cut to plus or minus this; None means never.
        prioritized: give each transition a first priority.
    """

    def __init__(
        self,
        source: EnvironmentSource,
        actions: int,
        environments: int,
        rollout_length: int,
        n_step: int,
        discount: float,
        epsilon: LinearSchedule,
        seed: int,
        index: int,
        incarnation: int,
        epsilon_ladder: FloatArray | None = None,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
        prioritized: bool = False,
    ) -> None:
        self._environments = environments
        self._actions = actions
        self._rollout_length = rollout_length
        self._epsilon = epsilon
        self._epsilon_ladder = epsilon_ladder
        self._reward_scale = reward_scale
        self._reward_clip = reward_clip
        self._prioritized = prioritized
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
        epsilon = self._epsilon_now(order.env_steps)  # [E]
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
            steps.reward[used] = self._learned_reward(result.reward)
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
        transitions = self._with_priority(self._windows.add(steps[:used]))
        report = RolloutReport(
            env_steps=taken,
            transitions=len(transitions),
            episode_returns=returns,
            episode_lengths=lengths,
            epsilon=float(epsilon.mean()),
            weights_version=self._weights.weights_version if self._weights else None,
            weights_learner_steps=self._weights.learner_steps if self._weights else 0,
            env_seconds=env_seconds,
            network_seconds=network_seconds,
            total_seconds=time.perf_counter() - begin,
        )
        return report, transitions

    def _epsilon_now(self, env_steps: int) -> FloatArray:
        """Probability of a random action in each environment, `[E]`; 1 before the first weights."""
        if self._policy is not None and self._epsilon_ladder is not None:
            return self._epsilon_ladder
        epsilon = self._epsilon.at(env_steps) if self._policy is not None else 1.0
        return np.full(self._environments, epsilon)

    def _with_priority(self, transitions: Transitions) -> Transitions:
        """The same with first priorities, if replay wants them and there is a network to judge by."""
        if not self._prioritized or self._policy is None:
            return transitions
        return dataclasses.replace(transitions, priority=np.abs(td_errors(self._policy, transitions)))

    def _learned_reward(self, reward: FloatArray) -> FloatArray:
        """The reward `[E]` that is learned from; returns are reported without scale and clip."""
        scaled = reward * np.float32(self._reward_scale)
        if self._reward_clip is None:
            return scaled
        clipped: FloatArray = np.clip(scaled, -self._reward_clip, self._reward_clip)
        return clipped

    def _choose_actions(self, epsilon: FloatArray) -> IntArray:
        """Epsilon-greedy actions `[E]` under `epsilon` `[E]`, random ones before the first weights."""
        if self._policy is None:
            return self._generator.integers(self._actions, size=self._environments)
        self._policy.resample(self._generator)
        q_values = self._policy.q_values(self._batch.observation)  # [E, A]
        return epsilon_greedy_actions(q_values, epsilon, self._generator)


def td_errors(policy: Policy, transitions: Transitions) -> FloatArray:
    """How far the network that acted was off, for first priorities.

    `reward + discount * max_a q(next_observation)[a] - q(observation)[action]`

    Args:
        policy: the network.
        transitions: `[C]`.

    Returns:
        `[C]` float32.

    Source: Horgan et al. (2018), section 3, arXiv:1803.00933; there, too, actors have one
    network only, where the learner's error has an online and a target network.
    """
    if not len(transitions):
        return np.zeros(0, np.float32)
    q_taken = np.take_along_axis(
        policy.q_values(transitions.observation), transitions.action[:, None], axis=1
    )[:, 0]  # [C]
    next_q = policy.q_values(transitions.next_observation).max(axis=1)  # [C]
    errors: FloatArray = transitions.reward + transitions.discount * next_q - q_taken
    return errors
