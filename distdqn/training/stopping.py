"""When a run ends: the goal, confirmed by fresh episodes, and signals. `Run` in `loop` has the budgets."""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self

from pydantic import TypeAdapter

from distdqn.config.config import Config
from distdqn.errors import TERMINATED
from distdqn.networks.numpy_policy import tree_from_weights, weights_from_tree
from distdqn.types import Evaluation, EvaluationRequest, PolicyWeights

# The reasons of a run that has used its budget, or that a callback ends: its last weights are evaluated, too.
BUDGET_SPENT = ("max_env_steps", "max_seconds", "max_episodes", "max_learner_steps", "callback")

REQUESTED = ("interrupted", "terminated")  # by a signal

# What a closed terminal, a batch system and `kill` send: all mean the same.
_TERMINATING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_SECOND_SECONDS = 1.0  # a terminal and a wrapper may both pass on one Ctrl-C


class Goal:
    """Requests evaluations and judges them.

    Every `eval_period` learner steps the newest weights play `eval_episodes`. Where two standard errors below
    their mean reach the goal, the *same* weights play `confirm_episodes` fresh ones. The goal is reached when
    two standard errors below that mean reach it, too: the maximum of many noisy evaluations is biased
    upwards.
    """

    def __init__(self, config: Config) -> None:
        self.target_return = None if config.target_return == "auto" else config.target_return
        self.reached = False
        self.best: Evaluation | None = None  # by two standard errors below the mean
        self.best_weights: PolicyWeights | None = None  # those of `best`
        self.seconds = 0.0  # that the last regular evaluation took
        self._period = config.eval_period
        self._episodes = {False: config.eval_episodes, True: config.confirm_episodes}
        self._candidate: PolicyWeights | None = None
        self._next_learner_steps = self._period
        self._evaluated_learner_steps = -1
        self._number = 0

    def is_due(self, learner_steps: int, final: bool = False) -> bool:
        """Whether weights of `learner_steps`, or a candidate, are to be evaluated; `final` ones once."""
        is_last = final and learner_steps > self._evaluated_learner_steps
        return is_last or self._candidate is not None or learner_steps >= self._next_learner_steps

    def next_request(self, weights: Any, learner_steps: int, final: bool = False) -> EvaluationRequest | None:
        """The evaluation that is due, of the newest `weights` or a reference to them; None if none is."""
        if not self.is_due(learner_steps, final):
            return None
        confirms = self._candidate is not None
        if not confirms:
            self._next_learner_steps = (learner_steps // self._period + 1) * self._period
            self._evaluated_learner_steps = learner_steps
        self._number += 1
        return EvaluationRequest(self._candidate or weights, self._episodes[confirms], self._number, confirms)

    def add(self, request: EvaluationRequest, evaluation: Evaluation) -> None:
        """Judges the evaluation made for `request`; one that was cut changes nothing."""
        if not request.confirms:
            self.seconds = evaluation.seconds
        if evaluation.is_cut:
            self._candidate = None if request.confirms else self._candidate
            return
        reaches = self.target_return is not None and evaluation.lower_bound >= self.target_return
        is_confirmed = reaches and request.confirms
        is_of_best = self.best is not None and evaluation.weights_version == self.best.weights_version
        is_best = self.best is None or evaluation.lower_bound >= self.best.lower_bound
        if is_best or is_of_best or is_confirmed:
            self.best, self.best_weights = evaluation, request.weights
        self.reached = self.reached or is_confirmed
        if request.confirms or reaches:
            self._candidate = None if request.confirms else request.weights

    def rewind(self, learner_steps: int) -> None:
        """Continues with a learner that has only made `learner_steps`."""
        due = (learner_steps // self._period + 1) * self._period
        self._next_learner_steps = min(self._next_learner_steps, due)
        if self._evaluated_learner_steps > learner_steps:
            self._evaluated_learner_steps = -1

    def get_state(self) -> dict[str, Any]:
        """The state as a tree for a checkpoint."""
        return {
            "best": None if self.best is None else dataclasses.asdict(self.best),
            "best_weights": self.best_weights and tree_from_weights(self.best_weights),
            "candidate": self._candidate and tree_from_weights(self._candidate),
            "next_learner_steps": self._next_learner_steps,
            "evaluated_learner_steps": self._evaluated_learner_steps,
            "number": self._number,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned; `LookupError`, `TypeError` or `ValueError` if it is none."""
        if state["best"] is not None:
            self.best = TypeAdapter(Evaluation).validate_python(state["best"])
            self.best_weights = weights_from_tree(state["best_weights"])
        candidate = state["candidate"]
        self._candidate = None if candidate is None else weights_from_tree(candidate)
        self._next_learner_steps = int(state["next_learner_steps"])
        self._evaluated_learner_steps = int(state["evaluated_learner_steps"])
        self._number = int(state["number"])


class StopRequested(BaseException):
    """A signal has stopped an evaluation. No `Exception`: those are taken for errors of the environment."""


class StopRequest:
    """While entered, a signal requests an orderly end; a second Ctrl-C a second later interrupts at once.

    SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 mean the same, however often they come. A SIGHUP that is ignored,
    as by `nohup`, stays ignored. Outside the main thread no handler is installed. Earlier handlers
    are restored at the end.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.reason: str | None = None  # `interrupted` or `terminated`
        self._clock = clock
        self._interrupted_at: float | None = None  # the first Ctrl-C
        self._ends_evaluation = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._receive) for number in handled_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def raise_if_set(self) -> None:
        """Ends a run that has nothing to save yet, with `KeyboardInterrupt` or, by SIGTERM, `SystemExit`."""
        if self.reason is not None:
            raise SystemExit(TERMINATED) if self.reason == "terminated" else KeyboardInterrupt

    @contextlib.contextmanager
    def ending_evaluations(self) -> Iterator[None]:
        """While entered, a request raises `StopRequested` at once, as an earlier one does on entry."""
        self._ends_evaluation = True
        try:
            if self.reason is not None:
                raise StopRequested
            yield
        finally:
            self._ends_evaluation = False

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted_at is None:
                self._interrupted_at = self._clock()
            elif self._clock() - self._interrupted_at > _SECOND_SECONDS:
                raise KeyboardInterrupt
        self.reason = self.reason or ("interrupted" if number == signal.SIGINT else "terminated")
        if self._ends_evaluation:
            self._ends_evaluation = False  # once: it may be on its way already
            raise StopRequested


def handled_signals() -> list[signal.Signals]:
    """The signals that end a run in order, as far as this thread may handle them."""
    if threading.current_thread() is not threading.main_thread():
        return []
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGINT, *(each for each in _TERMINATING if each != signal.SIGHUP or not is_ignored)]


@contextlib.contextmanager
def ended_by_signals() -> Iterator[Callable[[], None]]:
    """While entered, Ctrl-C raises `KeyboardInterrupt`, and SIGTERM and its like `SystemExit`.

    Without it the system ends the process on the spot at SIGTERM. Ray's handler, which may replace this one,
    exits with another code, which is translated. The handlers of others stay, and earlier ones are restored.
    Yields a function that raises again what was raised and swallowed: an exception in a callback ends that
    callback alone.
    """
    raised: list[BaseException] = []

    def leave(number: int, _frame: FrameType | None) -> None:
        raised.append(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(TERMINATED))
        raise raised[-1]

    def raise_again() -> None:
        if raised:
            raise raised[-1]

    defaults = (signal.default_int_handler, signal.SIG_DFL)
    ours = {each: old for each in handled_signals() if (old := signal.getsignal(each)) in defaults}
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
