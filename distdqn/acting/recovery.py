"""What is done when an environment raises: count it, build it anew, give up at some point."""

import traceback
from dataclasses import dataclass

import numpy as np

from distdqn.acting.environments import (
    EnvironmentBatch,
    EnvironmentRaised,
    EnvironmentSource,
    StepResult,
    environment_name,
)
from distdqn.acting.families import one_line
from distdqn.errors import EnvironmentFault
from distdqn.frames import FrameLayout
from distdqn.seeding import make_integer_seed
from distdqn.transition import AnyArray, IntArray

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


class RecoveringBatch:
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
        incarnation: int,
        max_failures: int,
    ) -> None:
        self._source, self._environments = source, environments
        self._seed, self._actor = seed, (index, incarnation)
        self._cut: int | None = None
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
        self._cut, self._attempt = number, 0
        try:
            self._batch.restart(self._next_seed())
        except EnvironmentRaised as raised:
            self._recover(raised, episodes_lost=0)
        self.observation = self._batch.observation
        return lost

    def _build(self, checks_outputs: bool) -> EnvironmentBatch:
        while True:
            try:
                return EnvironmentBatch(self._source, self._environments, self._next_seed(), checks_outputs)
            except EnvironmentRaised as raised:
                self.faults.add(raised)

    def _next_seed(self) -> int:
        """Another one for each build: for the first after a cut, the cut alone decides it."""
        cut = () if self._cut is None else (self._cut,)
        # Streams of different lengths never meet, so later builds get a longer one.
        later = (0 if self._cut is None else self._cut + 1, self._attempt)
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
