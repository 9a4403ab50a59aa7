"""Environments: building them, checking that DQN can use them, stepping many exactly.

Gymnasium is imported in this folder and in the commands that show episodes, nowhere else.
"""

import contextlib
import functools
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from distdqn.environments.output_checks import check_first_episodes
from distdqn.environments.registry import (
    EnvironmentSource,
    _kept_dtype,
    environment_name,
    make_vector_environment,
)
from distdqn.errors import DistdqnError, EnvironmentFault, one_line
from distdqn.replay.frames import make_frame_layout
from distdqn.seeding import make_integer_seed
from distdqn.types import AnyArray, BoolArray, FloatArray, FrameLayout, IntArray

P = ParamSpec("P")

R = TypeVar("R")


@dataclass(frozen=True)
class StepResult:
    """What one vector step of `E` environments brought.

    Attributes:
        next_observation: `[E, *observation_shape]`, what the action led to; at an
            episode's end its last observation, not the next episode's first.
        reward: `[E]` float32.
        terminated: `[E]` bool.
        truncated: `[E]` bool.
        is_transition: `[E]` bool; False where the environment ignored the action and
            only reset itself.
        ended: positions of the environments whose episode ended.
        episode_returns: undiscounted returns of those episodes, in the order of `ended`.
        episode_lengths: their env steps.
    """

    next_observation: AnyArray
    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    is_transition: BoolArray
    ended: IntArray
    episode_returns: list[float]
    episode_lengths: list[int]


class EnvironmentRaised(Exception):
    """The environment raised while it was built, reset or stepped; `__cause__` is what."""


def _blames_the_environment(method: Callable[P, R]) -> Callable[P, R]:
    """The same method; whatever goes wrong in it is the environment's doing."""

    @functools.wraps(method)
    def blaming(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return method(*arguments, **options)
        except DistdqnError:
            raise
        except Exception as error:
            raise EnvironmentRaised(type(error).__name__) from error

    return blaming


class VectorEnvironment:
    """`E` environments stepped together, whatever their autoreset mode.

    Args:
        source: of the environments.
        environments: `E`.
        seed: of their first episodes and all that follow.
        checks_outputs: check what each environment returns until its first episode is over.

    Attributes:
        observation: what to act on next, `[E, *observation_shape]`, uint8 if it is an image
            and float32 if not.
        frame_layout: how images are made of frames.
        open_returns: `[E]`, undiscounted return of each open episode so far.
        open_lengths: `[E]`, its env steps.
        unchecked: `[E]` bool, environments whose outputs are being checked still.

    Raises:
        ConfigError: there is no such environment.
        EnvironmentFault: what it returns is wrong.
        EnvironmentRaised: it raised.
    """

    @_blames_the_environment
    def __init__(
        self, source: EnvironmentSource, environments: int, seed: int, checks_outputs: bool = False
    ) -> None:
        self._source, self._environments = source, environments
        self.unchecked = np.full(environments, checks_outputs)
        self._build()
        try:
            self._reset(seed)
        except Exception:
            self.close()
            raise

    def _build(self) -> None:
        vector = make_vector_environment(self._source, self._environments)
        if self.unchecked.any():
            vector = check_first_episodes(vector, environment_name(self._source))
        self._vector = vector
        self._mode = AutoresetMode(vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        space = vector.single_action_space
        self._first_action = int(space.start) if isinstance(space, gymnasium.spaces.Discrete) else 0
        observed: Any = vector.single_observation_space
        self._dtype = np.dtype(_kept_dtype(observed))
        self.frame_layout: FrameLayout | None = None
        if self._dtype == np.uint8:
            self.frame_layout = make_frame_layout(observed.shape, float(observed.high.max()))

    def _reset(self, seed: int) -> None:
        first, _ = self._vector.reset(seed=seed)
        self.observation: AnyArray = np.array(first, self._dtype)
        self.open_returns = np.zeros(self._environments, np.float64)
        self.open_lengths = np.zeros(self._environments, np.int64)
        self._resets_next = np.zeros(self._environments, np.bool_)

    def open_episodes(self) -> int:
        """How many episodes have had a step and go on."""
        return int(np.count_nonzero(self.open_lengths))

    @_blames_the_environment
    def restart(self, seed: int) -> None:
        """Breaks off all episodes and goes on as a new batch of this seed would.

        Environments without a vector class are built anew, since some keep state over a
        reset (MinAtar: its last action). Vector classes are only reset: building Atari games
        takes as long again.
        """
        if isinstance(self._vector.unwrapped, SyncVectorEnv):
            self.close()
            self._build()
        self._reset(seed)

    @_blames_the_environment
    def step(self, actions: IntArray) -> StepResult:
        """Steps every environment once.

        Args:
            actions: `[E]` from 0; where an environment's turn is to reset itself, its
                action has no effect.
        """
        observation, reward, terminated, truncated, info = self._vector.step(actions + self._first_action)
        is_transition = ~self._resets_next
        # A copy each: an environment may hand out the same buffer again.
        ended_now: BoolArray = np.logical_or(terminated, truncated) & is_transition
        next_observation = np.array(observation, self._dtype)
        current = next_observation
        if self._mode is AutoresetMode.SAME_STEP and ended_now.any():
            next_observation = next_observation.copy()
            for i in np.flatnonzero(ended_now):
                next_observation[i] = info["final_obs"][i]
        elif self._mode is AutoresetMode.DISABLED and ended_now.any():
            fresh, _ = self._vector.reset(options={"reset_mask": ended_now})
            current = np.array(fresh, self._dtype)
        elif self._mode is AutoresetMode.NEXT_STEP:
            self._resets_next = ended_now
        self.observation = current
        return self._record(next_observation, reward, terminated, truncated, is_transition)

    def _record(
        self,
        next_observation: AnyArray,
        reward: AnyArray,
        terminated: BoolArray,
        truncated: BoolArray,
        is_transition: BoolArray,
    ) -> StepResult:
        """Adds to the open episodes and closes those that ended."""
        rewards = np.where(is_transition, reward, 0.0)
        self.open_returns += rewards
        self.open_lengths += is_transition
        ended = np.flatnonzero((terminated | truncated) & is_transition)
        returns, lengths = self.open_returns[ended].tolist(), self.open_lengths[ended].tolist()
        self.open_returns[ended], self.open_lengths[ended], self.unchecked[ended] = 0.0, 0, False
        return StepResult(
            next_observation=next_observation,
            reward=rewards.astype(np.float32),
            terminated=np.array(terminated, np.bool_),
            truncated=np.array(truncated, np.bool_),
            is_transition=is_transition,
            ended=ended,
            episode_returns=returns,
            episode_lengths=lengths,
        )

    def close(self) -> None:
        """Frees what the environments hold; a fault in doing so harms nobody."""
        with contextlib.suppress(Exception):
            self._vector.close()


_SURROUNDINGS = ("distdqn", "gymnasium")


@dataclass(frozen=True)
class FaultReport:
    """What an environment raised since the last report.

    Attributes:
        count: how many times.
        tracebacks: those never reported before; a place that raises is one, whatever it says.
        episodes_lost: open episodes that were broken off.
    """

    count: int
    tracebacks: list[str]
    episodes_lost: int


class Faults:
    """Counts what an environment raises.

    Args:
        source: of the environment.
        max_failures: so many running, without a success between, are one fault of the run.
    """

    def __init__(self, source: EnvironmentSource, max_failures: int) -> None:
        self._name = environment_name(source)
        self._max_failures = max_failures
        self._running = 0
        self._known: set[tuple[object, ...]] = set()
        self._forget()

    def _forget(self) -> None:
        self._count, self._episodes_lost = 0, 0
        self._tracebacks: list[str] = []

    def add(self, raised: EnvironmentRaised, episodes_lost: int = 0) -> None:
        """Counts one.

        Raises:
            EnvironmentFault: it was the last one allowed.
        """
        error = raised.__cause__ or raised
        text = "".join(traceback.format_exception(error))
        if (place := _place(error)) not in self._known:
            self._known.add(place)
            self._tracebacks.append(text)
        self._count += 1
        self._episodes_lost += episodes_lost
        self._running += 1
        if self._running >= self._max_failures:
            raise EnvironmentFault(
                f"The environment `{self._name}` raised {self._running} times running, at last "
                f"{type(error).__name__}: {one_line(error)}",
                details=text,
            ) from error

    def end_row(self) -> None:
        """Says that the environment works again."""
        self._running = 0

    def take_report(self) -> FaultReport:
        """What was counted since the last call."""
        report = FaultReport(self._count, self._tracebacks, self._episodes_lost)
        self._forget()
        return report


def _place(error: BaseException) -> tuple[object, ...]:
    """What tells places that raise apart: the lines of code, whatever the message says.

    What surrounds an environment changes after its first episode, so only the innermost
    line may be ours or Gymnasium's.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [f for f in frames if f[0].f_globals.get("__name__", "").split(".")[0] not in _SURROUNDINGS]
    lines = [(frame.f_code.co_filename, line) for frame, line in [*own, *frames[-1:]]]
    return type(error).__name__, *lines


class RebuildingEnvironment:
    """An actor's environments, built anew from another seed whenever one of them raises.

    What they return is checked until the first episode of each is over.

    Args:
        source: of the environments.
        environments: `E`.
        seed: of the run.
        index: of the actor.
        incarnation: how many lives it had before.
        max_failures: failures without a successful vector step between that end the run.

    Attributes:
        observation: what to act on next, `[E, *observation_shape]`.
        frame_layout: how images are made of frames.
        faults: what the environments raised.

    Raises:
        EnvironmentFault: what it returns is wrong, or it raised `max_failures` times running.
    """

    def __init__(
        self,
        source: EnvironmentSource,
        environments: int,
        seed: int,
        index: int,
        restarts: int,
        max_failures: int,
    ) -> None:
        self._source, self._environments = source, environments
        self._seed, self._actor = seed, (index, restarts)
        self._flush_number: int | None = None
        self._attempt = 0  # builds since the beginning or the cut
        self.faults = Faults(source, max_failures)
        self._batch = self._build(checks_outputs=True)
        self.observation: AnyArray = self._batch.observation
        self.frame_layout: FrameLayout | None = self._batch.frame_layout

    def step(self, actions: IntArray) -> StepResult:
        """Steps every environment once.

        Where one raises, the step is no transition for any, and all go on with new episodes.

        Args:
            actions: `[E]` from 0.
        """
        try:
            result = self._batch.step(actions)
        except EnvironmentRaised as raised:
            self._recover(raised, self._batch.open_episodes())
            result = self._nothing_happened()
        else:
            self.faults.end_row()
        self.observation = self._batch.observation
        return result

    def restart(self, number: int) -> int:
        """Breaks off all episodes and goes on in a way that only `number` decides.

        Args:
            number: of the cut in the run.

        Returns:
            Episodes broken off that had a step.
        """
        lost = self._batch.open_episodes()
        self._flush_number, self._attempt = number, 0
        try:
            self._batch.restart(self._next_seed())
        except EnvironmentRaised as raised:
            self._recover(raised, episodes_lost=0)
        self.observation = self._batch.observation
        return lost

    def _build(self, checks_outputs: bool) -> VectorEnvironment:
        while True:
            try:
                return VectorEnvironment(self._source, self._environments, self._next_seed(), checks_outputs)
            except EnvironmentRaised as raised:
                self.faults.add(raised)

    def _next_seed(self) -> int:
        """Another one for each build: for the first after a cut, the cut alone decides it."""
        cut = () if self._flush_number is None else (self._flush_number,)
        # Streams of different lengths never meet, so later builds get a longer one.
        later = (0 if self._flush_number is None else self._flush_number + 1, self._attempt)
        stream = later if self._attempt else cut
        self._attempt += 1
        return make_integer_seed(self._seed, "environment", *self._actor, *stream)

    def _recover(self, raised: EnvironmentRaised, episodes_lost: int) -> None:
        """Counts what was raised and goes on with new environments."""
        self._batch.close()
        self.faults.add(raised, episodes_lost)
        self._batch = self._build(bool(self._batch.unchecked.any()))

    def _nothing_happened(self) -> StepResult:
        """A vector step in which every episode was cut off and nothing else."""
        no = np.zeros(self._environments, np.bool_)
        return StepResult(
            next_observation=self._batch.observation,
            reward=no.astype(np.float32),
            terminated=no,
            truncated=~no,
            is_transition=no,
            ended=np.flatnonzero(no),
            episode_returns=[],
            episode_lengths=[],
        )
