"""The actor: steps environments with an epsilon-greedy copy of the Q-network."""

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from distdqn.acting.exploration import epsilon_by_environment, epsilon_greedy_actions, random_actions
from distdqn.acting.n_step import NStepWindows
from distdqn.config.config import ActingOptions
from distdqn.environments.vector import EpisodeEnd, FaultLog, VectorEnvironment
from distdqn.errors import ConsecutiveFailures, Diverged
from distdqn.networks.numpy_policy import Policy, make_policy
from distdqn.networks.rescaling import bootstrap
from distdqn.replay.frames import make_frame_layout, pack_frames
from distdqn.seeding import make_generator, make_integer_seed
from distdqn.types import (
    AnyArray,
    BoolArray,
    EnvironmentSpec,
    FloatArray,
    FlushReport,
    FrameLayout,
    IntArray,
    ObservationPart,
    PolicyWeights,
    RolloutReport,
    RolloutRequest,
    Steps,
    Transitions,
)

_MAX_NOT_FINITE = 10  # consecutive steps with NaN or infinity, after which the run ends


class Actor:
    """Steps `E` environments together and returns n-step transitions.

    `restarts` is how often the actor with this `index` was restarted.

    Raises:
        EnvironmentFault: here or in a rollout, the environment returns wrong values, or raises
            `max_failures` consecutive errors.
    """

    def __init__(self, options: ActingOptions, spec: EnvironmentSpec, index: int, restarts: int = 0) -> None:
        self._options = options
        self._actions = spec.actions
        self._indices = (index, restarts)  # of its random streams
        self._generator = make_generator(options.seed, "exploration", *self._indices)
        self._faults = FaultLog(options, options.max_failures)
        self._environments = VectorEnvironment(
            options,
            options.envs_per_actor,
            self._seeds(),
            self._faults,
            checks_outputs=True,
            has_mask=spec.mask is not None,
        )
        self._mask = spec.mask
        self._maker = TransitionMaker(options, spec, self._environments.empty_steps(0))
        self._weights: PolicyWeights | None = None
        self._policy: Policy | None = None

    def rollout(
        self, request: RolloutRequest, weights: PolicyWeights | None = None
    ) -> tuple[RolloutReport, Transitions]:
        """Takes up to `rollout_length` steps in every environment, and `request.limit` in all together.

        `weights` None keeps the last ones. Before the first, actions are uniformly random.

        After a restart: new episodes from another seed; the open n-step windows are lost.
        """
        begin, scheduled = time.perf_counter(), _scheduled_seconds()
        if weights is not None:
            self._weights, self._policy = weights, make_policy(weights)
        epsilon = np.ones(self._options.envs_per_actor, np.float32)  # [E]
        if self._policy is not None:
            epsilon = epsilon_by_environment(self._options, request)
        steps, ends, env_seconds, network_seconds = self._act(request.limit, epsilon)
        not_finite, has_signal = self._maker.mask(steps)
        ends = [end for end in ends if steps.is_transition[end.row, end.environment]]
        transitions = self._maker.add(steps, ends, self._policy)
        total_seconds = time.perf_counter() - begin
        report = RolloutReport(
            env_steps=int(np.count_nonzero(steps.is_transition)),
            transitions=len(transitions),
            episode_returns=[end.episode_return for end in ends],
            episode_lengths=[end.length for end in ends],
            epsilon=float(epsilon.mean()),
            weights_version=self._weights.weights_version if self._weights else None,
            weights_learner_steps=self._weights.learner_steps if self._weights else 0,
            env_seconds=env_seconds,
            network_seconds=network_seconds,
            total_seconds=total_seconds,
            idle_seconds=max(0.0, total_seconds - (_scheduled_seconds() - scheduled)),
            env_faults=self._faults.count,
            env_tracebacks=self._faults.tracebacks,
            episodes_lost=self._faults.episodes_lost,
            env_warnings=self._faults.warnings,
            longest_open_episode=int(self._environments.open_lengths.max()),
            not_finite=not_finite,
            has_signal=has_signal,
        )
        self._faults.clear()
        return report, transitions

    def flush(self, number: int) -> tuple[FlushReport, Transitions]:
        """Ends all episodes and closes all open n-step windows, as if the episodes were truncated.

        The next steps depend only on the run's seed, this actor's index and restarts, `number` (of
        the flush in the run, from 0) and the weights: a new actor repeats them bit for bit.

        After a restart: the new actor is flushed with the checkpoint's number before it acts.
        """
        transitions = self._maker.close(self._policy)
        episodes_lost = self._environments.restart(self._seeds(number))
        self._generator = make_generator(self._options.seed, "exploration", *self._indices, number)
        return FlushReport(episodes_lost, len(transitions)), transitions

    def _seeds(self, flush: int | None = None) -> Iterator[int]:
        """A seed for each build of the environments since the start, or since the flush with this number.

        Later seeds of a stream have one index more than the first, because streams of different
        lengths never meet.
        """
        first, later = ((), 0) if flush is None else ((flush,), flush + 1)
        yield make_integer_seed(self._options.seed, "environment", *self._indices, *first)
        for attempt in itertools.count(1):
            yield make_integer_seed(self._options.seed, "environment", *self._indices, later, attempt)

    def _act(self, limit: int, epsilon: FloatArray) -> tuple[Steps, list[EpisodeEnd], float, float]:
        """Up to `limit` env steps under `epsilon` `[E]`, their episode ends, and env and network seconds."""
        length = self._options.rollout_length
        steps = self._environments.empty_steps(length)
        ends: list[EpisodeEnd] = []
        env_seconds = network_seconds = 0.0
        taken = row = 0
        while row < length and taken < limit:
            t0 = time.perf_counter()
            actions = self._choose_actions(epsilon, steps.is_exploratory[row])
            t1 = time.perf_counter()
            ended = self._environments.step(actions, steps, row)
            env_seconds += time.perf_counter() - t1
            network_seconds += t1 - t0
            if ended is not None:
                self._faults.consecutive.reset()
                ends += ended
            is_transition = steps.is_transition[row]
            if taken + len(is_transition) > limit:  # steps beyond it are masked: the budget is met exactly
                is_transition &= taken + np.cumsum(is_transition) <= limit
            taken += int(np.count_nonzero(is_transition))
            row += 1
        return steps[:row], ends, env_seconds, network_seconds

    def _choose_actions(self, epsilon: FloatArray, is_exploratory: BoolArray) -> IntArray:
        """Epsilon-greedy actions `[E]` under `epsilon` `[E]`, random ones before the first weights.

        Fills `is_exploratory` `[E]` if windows end before such actions.
        """
        observation = self._environments.observation
        allowed = None if self._mask is None else self._mask.read(observation)  # [E, A]
        if self._policy is None:
            is_exploratory[:] = bool(self._options.watkins)
            return random_actions(len(observation), self._actions, self._generator, allowed)
        self._policy.resample(self._generator)
        q_values = self._policy.q_values(observation)  # [E, A]
        actions = epsilon_greedy_actions(q_values, epsilon, self._generator, allowed)
        if self._options.watkins:
            is_exploratory[:] = q_values[np.arange(len(actions)), actions] < q_values.max(axis=1)
        return actions


def _scheduled_seconds() -> float:
    """Seconds in which this thread has used a CPU or waited for one; infinite where the system tells none."""
    try:
        used, waited, _ = Path("/proc/thread-self/schedstat").read_bytes().split()  # in nanoseconds
    except (OSError, ValueError):
        return math.inf
    return (int(used) + int(waited)) / 1e9


class TransitionMaker:
    """Turns the steps of one actor into the transitions to learn from.

    `no_steps` `[0, E]` give the shapes. `mask` and `add` get the same steps, one after the other, in order.
    """

    def __init__(self, options: ActingOptions, spec: EnvironmentSpec, no_steps: Steps) -> None:
        self._options = options
        self._frame_layout: FrameLayout | None = None
        if spec.is_image:
            self._frame_layout = make_frame_layout(spec.observation_shape, spec.observation_high)
        self._nan_guard = NaNGuard(spec.name, no_steps.action.shape[1], spec.parts)
        self._windows = NStepWindows(options.n_step, options.discount, no_steps)

    def mask(self, steps: Steps) -> tuple[int, bool]:
        """Masks the `steps` `[T, E]` that `NaNGuard` does; returns its count, and whether there is a signal.

        A signal is a reward that is not 0, or an episode that terminates: there is something to learn.
        """
        not_finite = self._nan_guard.mask(steps)
        has_signal = bool((steps.is_transition & ((steps.reward != 0.0) | steps.terminated)).any())
        return not_finite, has_signal

    def add(self, steps: Steps, ends: list[EpisodeEnd], policy: Policy | None) -> Transitions:
        """The transitions `[C]` that `steps` `[T, E]` complete, in which episodes have the `ends`.

        Rewards and terminations in `steps` become those to learn from. `policy` gives first priorities.
        """
        self._prepare_for_learning(steps, ends)
        return self._completed(self._windows.add(steps), policy)

    def close(self, policy: Policy | None) -> Transitions:
        """The transitions `[C]` of all open windows, as if every episode was truncated here."""
        self._nan_guard.reset()
        return self._completed(self._windows.close(), policy)

    def _prepare_for_learning(self, steps: Steps, ends: list[EpisodeEnd]) -> None:
        """Changes rewards and terminations in `steps` to those to learn from."""
        options = self._options
        steps.reward[:] *= np.float32(options.reward_scale)
        if options.reward_clip is not None:
            np.clip(steps.reward, -options.reward_clip, options.reward_clip, out=steps.reward)
        if options.failure_reward is not None:
            for row, environment, _, length in ends:
                if steps.terminated[row, environment] and length < options.early_end_steps:
                    steps.reward[row, environment] = options.failure_reward
        if options.bootstrap_on_termination:
            steps.truncated[:] |= steps.terminated
            steps.terminated[:] = False

    def _completed(self, transitions: Transitions, policy: Policy | None) -> Transitions:
        """Adds first priorities, if replay uses them, and packs frames, if observations are images."""
        if self._options.sampler == "prioritized" and policy is not None:
            priority = np.abs(td_errors(policy, transitions, self._options.value_rescaling))
            transitions = dataclasses.replace(transitions, priority=priority)
        if self._frame_layout is None:
            return transitions
        frames, observation, next_observation = pack_frames(
            self._frame_layout, transitions.observation, transitions.next_observation
        )
        return dataclasses.replace(
            transitions, observation=observation, next_observation=next_observation, frames=frames
        )


def td_errors(policy: Policy, transitions: Transitions, rescaled: bool = False) -> FloatArray:
    """TD errors `[C]` float32 of `transitions` `[C]` by the acting network, for first priorities.

    `reward + discount * max_a q(next_observation)[a] - q(observation)[action]`, without a target network;
    if values are `rescaled`, as in `td_target` of `distdqn.learning.losses`

    Source: Horgan et al. (2018), section 3, arXiv:1803.00933.
    """
    if not len(transitions):
        return np.zeros(0, np.float32)
    q_values = policy.q_values(transitions.observation)  # [C, A]
    q_taken = q_values[np.arange(len(q_values)), transitions.action]  # [C]
    next_q = policy.q_values(transitions.next_observation).max(axis=1)  # [C]
    target = bootstrap(transitions.reward, transitions.discount, next_q, rescaled)
    errors: FloatArray = target - q_taken
    return errors


class NaNGuard:
    """Masks every step with NaN or infinity, and the rest of its episode.

    Few environments recover from NaN before their next reset, and some never end such an episode.
    So ten such steps without a good one between them, in the order of time, then environment, end
    the run.
    """

    def __init__(self, name: str, environments: int, parts: Sequence[ObservationPart] = ()) -> None:
        self._name = name
        self._parts = parts  # of packed observations
        self._is_masked = np.zeros(environments, np.bool_)  # [E], until the episode ends
        self._failures = ConsecutiveFailures(_MAX_NOT_FINITE)
        self._first = ""  # of the consecutive failures

    def reset(self) -> None:
        """Forgets all steps before."""
        self._is_masked[:] = False
        self._failures.reset()

    def mask(self, steps: Steps) -> int:
        """Clears `steps.is_transition` `[T, E]` of steps that no window may contain.

        `steps` follow those of the last call, with the environment's own rewards. Returns how many
        contained NaN or infinity; `Diverged` if ten consecutive ones did.
        """
        bad = steps.is_transition & ~self._is_finite(steps)  # [T, E]
        masked = bad.copy()  # [T, E]
        if bad.any() or self._is_masked.any():
            ended = steps.terminated | steps.truncated
            for t in range(len(steps)):
                masked[t] |= self._is_masked
                self._is_masked = masked[t] & ~ended[t]
        good = steps.is_transition & ~masked
        if bad.any():
            self._count(steps, bad, good)
        elif good.any():
            self._failures.reset()
        steps.is_transition[masked] = False
        steps.reward[bad] = 0.0
        return int(np.count_nonzero(bad))

    def _count(self, steps: Steps, bad: BoolArray, good: BoolArray) -> None:
        """Counts consecutive `bad` steps `[T, E]`, with no `good` one `[T, E]` between them."""
        for t, environment in np.argwhere(bad | good).tolist():
            if good[t, environment]:
                self._failures.reset()
                continue
            if not self._failures.count:
                self._first = self._describe(steps, t, environment)
            if self._failures.add():
                raise Diverged(
                    f"The environment `{self._name}` returned NaN or infinity in {_MAX_NOT_FINITE} "
                    f"consecutive steps, first {self._first} (`gymnasium.utils.env_checker.check_env` may "
                    "find the cause)."
                )

    def _is_finite(self, steps: Steps) -> BoolArray:
        """`[T, E]`, whether all numbers of a step are finite."""
        finite = np.isfinite(steps.reward)
        for array in self._numbers(steps.observation) + self._numbers(steps.next_observation):
            finite &= np.isfinite(array).all(axis=tuple(range(2, array.ndim)))
        return finite

    def _numbers(self, observation: AnyArray) -> list[AnyArray]:
        """What may be NaN or infinity in observations `[T, E, ...]`: all but images."""
        if observation.dtype.kind == "f":
            return [observation]
        return [part.read(observation) for part in self._parts if part.kind == "vector"]

    def _describe(self, steps: Steps, t: int, environment: int) -> str:
        """The first number of a step that is not finite, in words."""
        if not np.isfinite(reward := steps.reward[t, environment]):
            return f"a reward of {reward}"
        observations = self._numbers(steps.observation) + self._numbers(steps.next_observation)
        found = (array[t, environment] for array in observations)
        values = next(each for each in found if not np.isfinite(each).all())
        position = tuple(np.argwhere(~np.isfinite(values))[0].tolist())
        return f"an observation with {values[position]} at position {position}"
