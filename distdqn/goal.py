"""When a run is done: evaluations, the best weights, the confirmed goal, the budgets."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distdqn.acting.evaluator import Evaluation
from distdqn.policy import PolicyWeights, tree_from_weights, weights_from_tree


@dataclass(frozen=True)
class EvaluationOrder:
    """One evaluation to make.

    Attributes:
        weights: the weights, or a reference to them.
        episodes: how many to play.
        number: of this evaluation in the run; fixes its episodes.
        confirms: whether it decides that the goal is reached.
    """

    weights: Any
    episodes: int
    number: int
    confirms: bool


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

    def next_order(self, weights: Any, learner_steps: int, final: bool = False) -> EvaluationOrder | None:
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

    def add(self, order: EvaluationOrder, evaluation: Evaluation) -> None:
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

    def begin_again(self, learner_steps: int) -> None:
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

    def _order(self, weights: Any, confirms: bool) -> EvaluationOrder:
        self._number += 1
        return EvaluationOrder(weights, self._episodes[confirms], self._number, confirms)


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
