"""Actors whose steps are read from a dataset, all of them or a part."""

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
from typing_extensions import override

from distdqn.acting.actor import Actor, TransitionMaker
from distdqn.config.config import ActingOptions
from distdqn.environments.recorded import RecordedEpisodes
from distdqn.networks.numpy_policy import Policy, make_policy
from distdqn.seeding import make_generator
from distdqn.types import (
    EnvironmentSpec,
    FlushReport,
    Frames,
    PolicyWeights,
    RolloutReport,
    RolloutRequest,
    Steps,
    Transitions,
)


def actor_class(options: ActingOptions) -> "type[Actor | RecordedActor]":
    """The class of a run's actors."""
    if options.offline is None:
        return Actor
    return RecordedActor if options.is_offline else MixedActor


class RecordedActor:
    """Reads recorded steps in place of acting; see `Actor`, whose methods these are."""

    def __init__(self, options: ActingOptions, spec: EnvironmentSpec, index: int, restarts: int = 0) -> None:
        self._options = options
        self._indices = (index, restarts)  # of its random streams
        self._episodes = RecordedEpisodes(options, spec, self._generator())
        self._maker = TransitionMaker(options, spec, self._episodes.empty_steps(0))
        self._weights: PolicyWeights | None = None
        self._policy: Policy | None = None

    def rollout(
        self, request: RolloutRequest, weights: PolicyWeights | None = None
    ) -> tuple[RolloutReport, Transitions]:
        """Reads `request.limit` steps. `weights` give first priorities; None keeps the last ones.

        After a restart: another order of the episodes; the open n-step windows are lost.
        """
        begin = time.perf_counter()
        if weights is not None:
            self._weights, self._policy = weights, make_policy(weights)
        steps, ends = self._episodes.take(request.limit)
        read_seconds = time.perf_counter() - begin
        self._find_exploratory(steps)
        not_finite, has_signal = self._maker.mask(steps)
        ends = [end for end in ends if steps.is_transition[end.row, end.environment]]
        transitions = self._maker.add(steps, ends, self._policy)
        env_steps = int(np.count_nonzero(steps.is_transition))
        total_seconds = time.perf_counter() - begin
        report = RolloutReport(
            env_steps=env_steps,
            recorded_steps=env_steps,
            transitions=len(transitions),
            episode_returns=[],  # nobody has played them now
            episode_lengths=[],
            epsilon=0.0,
            weights_version=self._weights.weights_version if self._weights else None,
            weights_learner_steps=self._weights.learner_steps if self._weights else 0,
            env_seconds=read_seconds,
            network_seconds=total_seconds - read_seconds,
            total_seconds=total_seconds,
            not_finite=not_finite,
            has_signal=has_signal,
        )
        return report, transitions

    def flush(self, number: int) -> tuple[FlushReport, Transitions]:
        """Closes all open n-step windows and reads the episodes in another order; see `Actor.flush`."""
        transitions = self._maker.close(self._policy)
        self._episodes.restart(self._generator(number))
        return FlushReport(episodes_lost=0, transitions=len(transitions)), transitions

    def _generator(self, *flush: int) -> np.random.Generator:
        return make_generator(self._options.seed, "environment", *self._indices, *flush)

    def _find_exploratory(self, steps: Steps) -> None:
        """Marks actions in `steps` `[T, 1]` that the present network would not take, if windows end there."""
        if self._options.watkins:
            steps.is_exploratory[:] = True
            if self._policy is not None and len(steps):
                q_values = self._policy.q_values(steps.observation[:, 0])  # [T, A]
                taken = np.take_along_axis(q_values, steps.action, axis=1)  # [T, 1]
                steps.is_exploratory[:] = taken < q_values.max(axis=1, keepdims=True)


class MixedActor(Actor):
    """Acts, and reads as many recorded steps that they are `offline_fraction` of all."""

    def __init__(self, options: ActingOptions, spec: EnvironmentSpec, index: int, restarts: int = 0) -> None:
        super().__init__(options, spec, index, restarts)
        self._recorded = RecordedActor(options, spec, index, restarts)
        self._owed = 0.0  # recorded steps that are to be read

    @override
    def rollout(
        self, request: RolloutRequest, weights: PolicyWeights | None = None
    ) -> tuple[RolloutReport, Transitions]:
        fraction = self._options.offline_fraction
        limit = math.ceil((1.0 - fraction) * request.limit)
        report, played = super().rollout(replace(request, limit=limit), weights)
        self._owed += report.env_steps * fraction / (1.0 - fraction)
        count = min(int(self._owed), request.limit - report.env_steps)
        self._owed -= count
        other, read = self._recorded.rollout(replace(request, limit=count), weights)
        report = replace(
            report,
            env_steps=report.env_steps + other.env_steps,
            recorded_steps=other.env_steps,
            transitions=len(played) + len(read),
            network_seconds=report.network_seconds + other.network_seconds,
            total_seconds=report.total_seconds + other.total_seconds,
            not_finite=report.not_finite + other.not_finite,
            has_signal=report.has_signal or other.has_signal,
        )
        return report, joined(played, read)

    @override
    def flush(self, number: int) -> tuple[FlushReport, Transitions]:
        report, played = super().flush(number)
        _, read = self._recorded.flush(number)
        self._owed = 0.0
        return replace(report, transitions=len(played) + len(read)), joined(played, read)


def joined(first: Transitions, second: Transitions) -> Transitions:
    """One chunk of two chunks `[C]` and `[C']`."""
    others = second.columns()
    columns: dict[str, Any] = {
        name: np.concatenate([column, others[name]]) for name, column in first.columns().items()
    }
    chunk = Transitions(**columns)
    if first.priority is not None and second.priority is not None:
        chunk = replace(chunk, priority=np.concatenate([first.priority, second.priority]))
    if first.frames is None or second.frames is None:
        return chunk
    image = np.concatenate([first.frames.image, second.frames.image])
    key = np.concatenate([first.frames.key, second.frames.key])
    for name in ("observation", "next_observation"):  # [C + C', S]
        columns[name][len(first) :] += len(first.frames.key)
    return replace(chunk, frames=Frames(image, key, first.frames.layout))
