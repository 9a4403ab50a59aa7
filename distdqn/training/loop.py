"""The whole algorithm in one process, round by round.

`run_rounds` is what every run does, in its plainest order: all actors act, what they saw
goes into replay, the learner makes the updates that this pays for, and new weights go out.
`lockstep` runs the same function over Ray processes and ends with the same weights, bit
for bit; `async` lets the same calls overlap.
"""

import os
import socket
import time
from collections.abc import Sequence
from typing import Any, Protocol

from distdqn.config.config import Config, resolved
from distdqn.replay.rate_limiter import RateLimiter
from distdqn.reporting.metrics import Metrics
from distdqn.training.builders import (
    LearningSchedules,
    actor_blueprint,
    evaluator_blueprint,
    learner_blueprint,
    replay_blueprint,
)
from distdqn.training.checkpointing import Checkpointable, RoundCheckpointer
from distdqn.training.stopping import Budget, Goal, StopRequest
from distdqn.types import (
    EnvironmentSpec,
    Evaluation,
    EvaluationRequest,
    FlushReport,
    LearnReport,
    LearnRequest,
    PolicyWeights,
    RolloutReport,
    RolloutRequest,
)


class Finisher(Protocol):
    """What the end of a run needs of its parts, wherever they live."""

    def publish(self) -> PolicyWeights:
        """The newest weights as a new version."""
        ...

    def evaluate(self, order: EvaluationRequest) -> Evaluation:
        """Plays the ordered greedy episodes."""
        ...

    def export(self, weights: Any) -> bytes:
        """`weights`, or what a reference to them stands for, as a `.keras` file."""
        ...

    def value(self, weights: Any) -> PolicyWeights:
        """`weights`, or what a reference to them stands for."""
        ...

    def ray(self) -> dict[str, Any] | None:
        """Address and namespace of the Ray cluster, if there is one."""
        ...

    def roles(self) -> list[dict[str, Any]]:
        """Process, host, incarnation and last sign of life of each role."""
        ...


class Team(Finisher, Checkpointable, Protocol):
    """All parts of a run that goes in rounds."""

    def compile(self) -> str | None:
        """Gets the learner ready; a line if something about that is worth telling."""
        ...

    def rollout(
        self, orders: Sequence[RolloutRequest], weights: PolicyWeights
    ) -> list[tuple[RolloutReport, int]]:
        """Every actor acts and inserts in its turn; reports and `inserted` after each."""
        ...

    def learn(self, order: LearnRequest) -> LearnReport:
        """Samples `U` batches, makes `U` updates, and gives replay the new priorities."""
        ...


def run_rounds(
    team: Team,
    goal: Goal,
    budget: Budget,
    rate_limiter: RateLimiter,
    metrics: Metrics,
    stop: StopRequest,
    actors: int,
    steps_per_rollout: int,
    samples_per_call: int,
    schedules: LearningSchedules,
    report_period: int,
    saver: RoundCheckpointer,
) -> str:
    """Trains until the goal is reached or a budget is spent; returns which, as a word."""
    counters = metrics.counters
    while True:
        weights = team.publish()
        metrics.add_published(weights.weights_version)
        orders = _scheduler(counters.env_steps, budget, actors, steps_per_rollout)
        for report, inserted in team.rollout(orders, weights):
            metrics.add_rollout(report, inserted)
        while rate_limiter.can_sample(counters.inserted, counters.sampled, samples_per_call):
            if metrics.train_seconds_begin is None:
                metrics.train_seconds_begin = metrics.seconds
            before = counters.learner_steps
            order = schedules.at(counters.env_steps)
            metrics.add_learn(team.learn(order), samples_per_call, order.learning_rate)
            if counters.learner_steps // report_period > before // report_period:
                metrics.report(actors_alive=actors)
            evaluate_if_due(team, goal, metrics, actors)
            if goal.reached or stop.reason or budget.is_out_of_time(metrics.seconds):
                break
        if metrics.is_status_due():
            metrics.write_status("running", team.ray(), team.roles())
        if goal.reached:
            return "goal_reached"
        if stop.reason:
            return stop.reason
        if budget.is_out_of_time(metrics.seconds):
            return "max_seconds"
        if budget.is_out_of_episodes(counters.episodes):
            return "max_episodes"
        if not budget.env_steps_left(counters.env_steps):
            return "max_env_steps"
        saver.save_if_due(team, goal, metrics)


def evaluate_if_due(team: Finisher, goal: Goal, metrics: Metrics, actors: int, final: bool = False) -> None:
    """Makes every evaluation that is due, a confirming one included, and reports each."""
    learner_steps = metrics.counters.learner_steps
    if not goal.is_due(learner_steps, final):
        return
    weights = team.publish()
    metrics.add_published(weights.weights_version)
    while order := goal.next_order(weights, learner_steps, final):
        evaluation = team.evaluate(order)
        goal.add(order, evaluation)
        metrics.counters.evaluations += 1
        metrics.report(evaluation, actors_alive=actors)


def _scheduler(env_steps: int, budget: Budget, actors: int, steps_per_rollout: int) -> list[RolloutRequest]:
    """One order for each actor, which together stay within the budget."""
    orders = []
    ordered = env_steps
    for place in range(actors):
        limit = min(steps_per_rollout, budget.env_steps_left(ordered))
        orders.append(RolloutRequest(env_steps, limit, place, actors))
        ordered += limit
    return orders


class SerialTeam:
    """All parts as plain objects in this process."""

    def __init__(self, config: Config, spec: EnvironmentSpec) -> None:
        self._learner = learner_blueprint(config, spec).build()
        self._replay = replay_blueprint(config).build()
        self._actors = [actor_blueprint(config, spec, index).build() for index in range(int(config.actors))]
        self._evaluator = evaluator_blueprint(config).build()
        self._batches = (config.updates_per_call, resolved(config.batch_size))

    def compile(self) -> str | None:
        """See `Team`."""
        notice: str | None = self._learner.compile()
        return notice

    def rollout(
        self, orders: Sequence[RolloutRequest], weights: PolicyWeights
    ) -> list[tuple[RolloutReport, int]]:
        """See `Team`."""
        results = []
        for actor, order in zip(self._actors, orders, strict=True):
            report, transitions = actor.rollout(order, weights)
            results.append((report, self._replay.insert(transitions).inserted))
        return results

    def learn(self, order: LearnRequest) -> LearnReport:
        """See `Team`."""
        batches = self._replay.sample(*self._batches, order.importance_sampling_exponent)
        report: LearnReport
        report, _, priorities = self._learner.learn(batches, publish=False, learning_rate=order.learning_rate)
        if priorities is not None:
            self._replay.update_priorities(priorities)
        return report

    def flush(self, number: int) -> list[tuple[FlushReport, int]]:
        """See `Checkpointable`."""
        results = []
        for actor in self._actors:
            report, transitions = actor.flush(number)
            results.append((report, self._replay.insert(transitions).inserted))
        return results

    def ask(self, role: str, method: str, *arguments: Any) -> Any:
        """See `Checkpointable`."""
        return getattr({"learner": self._learner, "replay": self._replay}[role], method)(*arguments)

    def publish(self) -> PolicyWeights:
        """See `Team`."""
        weights: PolicyWeights = self._learner.publish()
        return weights

    def evaluate(self, order: EvaluationRequest) -> Evaluation:
        """See `Team`."""
        evaluation: Evaluation = self._evaluator.evaluate(order.weights, order.episodes, order.number)
        return evaluation

    def export(self, weights: PolicyWeights) -> bytes:
        """See `Team`."""
        content: bytes = self._learner.export(weights)
        return content

    def value(self, weights: PolicyWeights) -> PolicyWeights:
        """See `Team`."""
        return weights

    def ray(self) -> None:
        """See `Team`."""
        return

    def roles(self) -> list[dict[str, Any]]:
        """See `Team`."""
        names = ["learner", "replay", "evaluator"] + [f"actor-{i}" for i in range(len(self._actors))]
        here = {"pid": os.getpid(), "host": socket.gethostname(), "restarts": 0}
        return [{"role": name, **here, "last_sign_of_life": time.time()} for name in names]
