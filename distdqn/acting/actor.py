"""The actor: runs episodes with an epsilon-greedy copy of the Q-network."""

import dataclasses
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from distdqn.acting.exploration import epsilon_by_environment, epsilon_greedy_actions
from distdqn.acting.n_step import NStepWindows
from distdqn.acting.nan_guard import NaNGuard
from distdqn.config.config import ActingOptions
from distdqn.environments.vector import RebuildingEnvironment
from distdqn.networks.keras_policy import KerasPolicy, make_policy
from distdqn.networks.numpy_policy import Policy
from distdqn.replay.frames import pack_frames
from distdqn.seeding import make_generator
from distdqn.types import (
    EnvironmentSpec,
    FloatArray,
    FlushReport,
    IntArray,
    PolicyWeights,
    RolloutReport,
    RolloutRequest,
    Steps,
    Transitions,
)


class _Ended(NamedTuple):
    """An episode that ended, where in the steps of a rollout it did."""

    row: int
    environment: int
    episode_return: float
    length: int


@dataclass(frozen=True)
class _Seen:
    """What one rollout saw."""

    steps: Steps
    ended: list[_Ended]
    env_seconds: float
    network_seconds: float


class Actor:
    """Steps `E` environments at once and turns what happens into n-step transitions.

    Args:
        options: what an actor reads.
        spec: of the environment.
        index: of this actor.
        restarts: how often it was restarted before.

    Raises:
        EnvironmentFault: here or in a rollout, the environment returns what it must not, or
            raised `max_failures` times in a row.
    """

    def __init__(self, options: ActingOptions, spec: EnvironmentSpec, index: int, restarts: int = 0) -> None:
        self._options = options
        self._actions = spec.actions
        self._stream = (options.seed, "exploration", index, restarts)
        self._generator = make_generator(*self._stream)
        self._batch = RebuildingEnvironment(
            options.env, options.envs_per_actor, options.seed, index, restarts, options.max_failures
        )
        self._finite = NaNGuard(spec.name, options.envs_per_actor)
        self._windows = NStepWindows(options.n_step, options.discount)
        self._weights: PolicyWeights | None = None
        self._policy: Policy | KerasPolicy | None = None

    def rollout(
        self, request: RolloutRequest, weights: PolicyWeights | None = None
    ) -> tuple[RolloutReport, Transitions]:
        """Takes up to `rollout_length` steps in every environment.

        Without any weights yet, actions are uniformly random.

        Called by: the supervisor, one or two calls ahead, once pacing has granted it.
        Waits for: nothing. After a restart: environments start new episodes from another
        seed, and open n-step windows are lost.

        Args:
            request: the run's env steps so far, and the most to take.
            weights: a newer version, or None to go on with the last one.
        """
        begin = time.perf_counter()
        if weights is not None:
            self._weights, self._policy = weights, make_policy(weights)
        epsilon = self._epsilon_now(request)  # [E]
        seen = self._act(request.limit, epsilon)
        not_finite = self._finite.mask(seen.steps)
        ended = [episode for episode in seen.ended if seen.steps.is_transition[episode[:2]]]
        self._prepare_for_learning(seen.steps, ended)
        transitions = self._packed(self._with_priority(self._windows.add(seen.steps)))
        faults = self._batch.faults.take_report()
        report = RolloutReport(
            env_steps=int(np.count_nonzero(seen.steps.is_transition)),
            transitions=len(transitions),
            episode_returns=[episode.episode_return for episode in ended],
            episode_lengths=[episode.length for episode in ended],
            epsilon=float(epsilon.mean()),
            weights_version=self._weights.weights_version if self._weights else None,
            weights_learner_steps=self._weights.learner_steps if self._weights else 0,
            env_seconds=seen.env_seconds,
            network_seconds=seen.network_seconds,
            total_seconds=time.perf_counter() - begin,
            env_faults=faults.count,
            env_tracebacks=faults.tracebacks,
            episodes_lost=faults.episodes_lost,
            not_finite=not_finite,
        )
        return report, transitions

    def flush(self, number: int) -> tuple[FlushReport, Transitions]:
        """Ends everything open, so that nothing needs to be kept to go on from here.

        Open n-step windows are closed as if their episodes had been cut off here, and all
        environments start anew. What follows depends on the run's seed, this actor's index
        and incarnation, `number` and the weights alone: an actor that was just made and then
        cut goes on like one that lived until this cut, bit for bit.

        Called by: the supervisor, between rollouts, for each checkpoint of a mode that
        repeats itself. Waits for: nothing. After a restart: the new actor is cut with the
        number of the checkpoint before it acts.

        Args:
            number: of the cut in the run, from 0.
        """
        self._windows.add(self._room_for(0))  # an actor that never acted has shapes, too
        transitions = self._packed(self._with_priority(self._windows.close()))
        lost = self._batch.restart(number)
        self._finite.forget()
        self._generator = make_generator(*self._stream, number)
        return FlushReport(lost, len(transitions)), transitions

    def _room_for(self, length: int) -> Steps:
        """Steps to be filled, with the shapes of this environment."""
        observation = self._batch.observation
        return Steps.empty(length, self._options.envs_per_actor, observation.shape[1:], observation.dtype)

    def _act(self, limit: int, epsilon: FloatArray) -> _Seen:
        """Takes up to `rollout_length` vector steps and up to `limit` env steps under `epsilon` `[E]`."""
        steps = self._room_for(self._options.rollout_length)
        ended: list[_Ended] = []
        env_seconds = network_seconds = 0.0
        taken = used = 0
        while used < self._options.rollout_length and taken < limit:
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
            counted = result.is_transition & (taken + np.cumsum(result.is_transition) <= limit)
            steps.is_transition[used] = counted
            taken += int(counted.sum())
            episodes = zip(result.ended.tolist(), result.episode_returns, result.episode_lengths, strict=True)
            ended += [_Ended(used, *episode) for episode in episodes]
            used += 1
        return _Seen(steps[:used], ended, env_seconds, network_seconds)

    def _epsilon_now(self, request: RolloutRequest) -> FloatArray:
        """Probability of a random action in each environment, `[E]`; 1 before the first weights."""
        if self._policy is None:
            return np.full(self._options.envs_per_actor, 1.0)
        return epsilon_by_environment(self._options, request)

    def _with_priority(self, transitions: Transitions) -> Transitions:
        """The same with first priorities, if replay wants them and there is a network to judge by."""
        if self._options.sampler != "prioritized" or self._policy is None:
            return transitions
        return dataclasses.replace(transitions, priority=np.abs(td_errors(self._policy, transitions)))

    def _packed(self, transitions: Transitions) -> Transitions:
        """The same with every frame once, if observations are images."""
        layout = self._batch.frame_layout
        if layout is None:
            return transitions
        frames, observation, next_observation = pack_frames(
            layout, transitions.observation, transitions.next_observation
        )
        return dataclasses.replace(
            transitions, observation=observation, next_observation=next_observation, frames=frames
        )

    def _prepare_for_learning(self, steps: Steps, ended: list[_Ended]) -> None:
        """Turns rewards and ends as the environment gives them into those to learn from, in place."""
        options = self._options
        steps.reward[:] *= np.float32(options.reward_scale)
        if options.reward_clip is not None:
            np.clip(steps.reward, -options.reward_clip, options.reward_clip, out=steps.reward)
        if options.failure_reward is not None:
            for row, environment, _, length in ended:
                if steps.terminated[row, environment] and length < options.early_end_steps:
                    steps.reward[row, environment] = options.failure_reward
        if options.bootstrap_on_termination:
            steps.truncated[:] |= steps.terminated
            steps.terminated[:] = False

    def _choose_actions(self, epsilon: FloatArray) -> IntArray:
        """Epsilon-greedy actions `[E]` under `epsilon` `[E]`, random ones before the first weights."""
        if self._policy is None:
            return self._generator.integers(self._actions, size=self._options.envs_per_actor)
        self._policy.resample(self._generator)
        q_values = self._policy.q_values(self._batch.observation)  # [E, A]
        return epsilon_greedy_actions(q_values, epsilon, self._generator)


def td_errors(policy: Policy | KerasPolicy, transitions: Transitions) -> FloatArray:
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
