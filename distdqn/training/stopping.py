"""When a run is done: evaluations, the best weights, the confirmed goal, the budgets."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

from distdqn.errors import TERMINATED
from distdqn.networks.numpy_policy import tree_from_weights, weights_from_tree
from distdqn.types import Evaluation, EvaluationRequest, PolicyWeights


class Goal:
    """Orders evaluations and judges them.

    Every `eval_period` learner steps the newest weights play `eval_episodes`. Where two
    standard errors below their mean reach the goal, the *same* weights play
    `confirm_episodes` fresh ones; the goal is reached when two standard errors below that
    mean still do. The best of many noisy evaluations flatters, and so does a single look:
    weights that only just pass would fail somebody else's hundred episodes.

    Attributes:
        target_return: the goal, or None.
        reached: whether an evaluation confirmed it.
        best: evaluation of the best weights so far, by two standard errors below the mean.
        best_weights: those weights, or a reference to them.
    """

    def __init__(
        self, target_return: float | None, eval_period: int, eval_episodes: int, confirm_episodes: int
    ) -> None:
        self.target_return = target_return
        self.reached = False
        self.best: Evaluation | None = None
        self.best_weights: Any = None
        self._period = eval_period
        self._episodes = {False: eval_episodes, True: confirm_episodes}
        self._candidate: Any = None
        self._next_learner_steps = eval_period
        self._evaluated_learner_steps = -1
        self._number = 0

    def is_due(self, learner_steps: int, final: bool = False) -> bool:
        """Whether weights with `learner_steps` behind them, or a candidate, are to be evaluated.

        Args:
            learner_steps: behind the newest weights.
            final: they are the last ones, so evaluate them unless they have been.
        """
        if self._candidate is not None or learner_steps >= self._next_learner_steps:
            return True
        return final and learner_steps > self._evaluated_learner_steps

    def next_order(self, weights: Any, learner_steps: int, final: bool = False) -> EvaluationRequest | None:
        """The evaluation that is due, if one is.

        Args:
            weights: the newest weights, or a reference to them.
            learner_steps: behind those weights.
            final: see `is_due`.
        """
        if not self.is_due(learner_steps, final):
            return None
        if self._candidate is not None:
            return self._order(self._candidate, confirms=True)
        self._next_learner_steps = (learner_steps // self._period + 1) * self._period
        self._evaluated_learner_steps = learner_steps
        return self._order(weights, confirms=False)

    def add(self, order: EvaluationRequest, evaluation: Evaluation) -> None:
        """Takes in the evaluation made for `order`."""
        is_of_best = self.best is not None and evaluation.weights_version == self.best.weights_version
        if self.best is None or is_of_best or evaluation.lower_bound >= self.best.lower_bound:
            self.best, self.best_weights = evaluation, order.weights
        if self.target_return is None:
            return
        if order.confirms:
            self._candidate = None
            if evaluation.lower_bound >= self.target_return:
                self.reached = True
                self.best, self.best_weights = evaluation, order.weights
        elif evaluation.lower_bound >= self.target_return:
            self._candidate = order.weights

    def rewind(self, learner_steps: int) -> None:
        """Goes on with a learner that has only `learner_steps` behind it."""
        due = (learner_steps // self._period + 1) * self._period
        self._next_learner_steps = min(self._next_learner_steps, due)
        if self._evaluated_learner_steps > learner_steps:
            self._evaluated_learner_steps = -1

    def get_state(self, value: Callable[[Any], PolicyWeights]) -> dict[str, Any]:
        """All that a run which goes on from here needs, as a tree for a checkpoint.

        Args:
            value: turns weights, or a reference to them, into weights.
        """
        return {
            "best": None if self.best is None else dataclasses.asdict(self.best),
            "best_weights": None if self.best is None else tree_from_weights(value(self.best_weights)),
            "candidate": None if self._candidate is None else tree_from_weights(value(self._candidate)),
            "next_learner_steps": self._next_learner_steps,
            "evaluated_learner_steps": self._evaluated_learner_steps,
            "number": self._number,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` gave; the goal itself stays the one it has."""
        if state["best"] is not None:
            version = tuple(state["best"]["weights_version"])
            self.best = Evaluation(**{**state["best"], "weights_version": version})
            self.best_weights = weights_from_tree(state["best_weights"])
        self._candidate = state["candidate"] and weights_from_tree(state["candidate"])
        self._next_learner_steps = state["next_learner_steps"]
        self._evaluated_learner_steps = state["evaluated_learner_steps"]
        self._number = state["number"]

    def _order(self, weights: Any, confirms: bool) -> EvaluationRequest:
        self._number += 1
        return EvaluationRequest(weights, self._episodes[confirms], self._number, confirms)


@dataclass(frozen=True)
class Budget:
    """What a run may spend.

    Attributes:
        max_env_steps: of all actors.
        max_seconds: from the start of the run, or None.
        max_episodes: of all actors, or None.
    """

    max_env_steps: int
    max_seconds: float | None
    max_episodes: int | None = None

    def env_steps_left(self, env_steps: int) -> int:
        """Env steps that may still be ordered when `env_steps` are taken or ordered."""
        return max(0, self.max_env_steps - env_steps)

    def is_out_of_time(self, seconds: float) -> bool:
        """Whether `seconds` since the start use up the time."""
        return self.max_seconds is not None and seconds >= self.max_seconds

    def is_out_of_episodes(self, episodes: int) -> bool:
        """Whether `episodes` that ended use up their budget."""
        return self.max_episodes is not None and episodes >= self.max_episodes


class StopRequest:
    """While entered, the first signal asks for an orderly end; a second one interrupts at once.

    Off the main thread nothing is installed, since Python allows it there only. What was
    installed before is put back at the end.

    Attributes:
        reason: None, `interrupted` or `terminated`.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def leave_if_asked(self) -> None:
        """Ends a run that was asked to stop at once, where it has done nothing yet that could be saved.

        Raises:
            KeyboardInterrupt: by Ctrl-C.
            SystemExit: by SIGTERM.
        """
        if self.reason is not None:
            raise SystemExit(TERMINATED) if self.reason == "terminated" else KeyboardInterrupt

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.reason is not None:
            raise KeyboardInterrupt
        self.reason = "terminated" if number == signal.SIGTERM else "interrupted"


@contextlib.contextmanager
def ended_by_signals() -> Iterator[Callable[[], None]]:
    """While entered, Ctrl-C and SIGTERM raise `KeyboardInterrupt` and `SystemExit`, which end all there is.

    Without it, the system ends the process on the spot at SIGTERM. Ray's handler, where that has
    taken the place of this one, does the same with another code, which is replaced. What was
    installed before stays, or is put back at the end.

    Yields:
        A function that raises again what was raised and came to nothing: an exception in the
        middle of a callback ends that callback alone.
    """
    raised: list[BaseException] = []

    def leave(number: int, _frame: FrameType | None) -> None:
        raised.append(SystemExit(TERMINATED) if number == signal.SIGTERM else KeyboardInterrupt())
        raise raised[-1]

    def raise_again() -> None:
        if raised:
            raise raised[-1]

    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    is_main = threading.current_thread() is threading.main_thread()
    ours = {number: old for number, old in defaults.items() if is_main and signal.getsignal(number) is old}
    for number in ours:
        signal.signal(number, leave)
    try:
        yield raise_again
    except SystemExit as error:
        if error.code == signal.SIGTERM:
            raise SystemExit(TERMINATED) from None
        raise
    finally:
        for number, old in ours.items():
            signal.signal(number, old)
