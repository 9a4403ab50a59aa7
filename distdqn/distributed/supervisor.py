"""The supervisor of an `async` run: a state machine over counters, calls and deadlines.

It keeps one or two calls under way to every role and decides from counters alone who may
go on. Data is not unpacked here: the supervisor passes references on, from actor to replay
and from replay to learner. A call that fails or overruns its deadline is how a fault is
seen, and each fault has one answer.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distdqn.acting.actor import RolloutOrder
from distdqn.acting.evaluator import Evaluation
from distdqn.distributed.calls import Call, Calls, Ended, Worker, evaluation_turns, last_line
from distdqn.distributed.fleet import CallFailed, Ref
from distdqn.errors import RoleFailure
from distdqn.goal import Budget, EvaluationOrder, Goal
from distdqn.learning.learner import LearnReport
from distdqn.pacing import Pacing
from distdqn.policy import PolicyWeights
from distdqn.reporting.journal import Journal
from distdqn.schedules import LinearSchedule
from distdqn.stopping import StopRequest

_CALLS_AHEAD = 2  # under way to each actor and to the learner: one runs, one is queued
_LOOK_SECONDS = 0.2  # at least this often the supervisor looks at signals and deadlines


@dataclass(frozen=True)
class Limits:
    """Sizes and times the supervisor works with.

    Attributes:
        actors: how many.
        steps_per_rollout: most env steps of one rollout.
        updates_per_call: learner steps in one call.
        batch_size: transitions in one update.
        publish_period: learner steps from one version of the weights to the next.
        report_seconds: from one report to the next.
        max_failures: of one role running, without a completed call between.
        prioritized: whether replay takes new priorities from the learner.
        importance_exponent: of the importance weights, by the run's env steps.
    """

    actors: int
    steps_per_rollout: int
    updates_per_call: int
    batch_size: int
    publish_period: int
    report_seconds: float
    max_failures: int
    prioritized: bool = False
    importance_exponent: LinearSchedule = LinearSchedule(0.0, 0.0, 0)

    @property
    def samples_per_call(self) -> int:
        """Transitions that one call of the learner draws."""
        return self.updates_per_call * self.batch_size


@dataclass(frozen=True)
class _Published:
    """The newest weights, by reference."""

    ref: Ref
    weights_version: tuple[int, int]
    learner_steps: int


class Supervisor:
    """Starts, paces, watches and replaces the roles of one run."""

    def __init__(
        self,
        calls: Calls,
        limits: Limits,
        goal: Goal,
        budget: Budget,
        pacing: Pacing,
        journal: Journal,
        stop: StopRequest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = calls
        self._limits = limits
        self._goal = goal
        self._budget = budget
        self._pacing = pacing
        self._journal = journal
        self._stop = stop
        self._clock = clock
        self._weights: _Published | None = None
        self._is_compiled = False
        # Counted when ordered, where the journal's counters count when it is over:
        self._sampled = 0
        self._learner_steps = 0
        self._env_steps_under_way = 0  # of rollouts that replay has not accepted yet
        self._turn = 0  # index of the actor to be asked next
        self._published_at = 0  # `_learner_steps` when weights were last ordered
        self._reported_at = clock()
        # The learner first: its TensorFlow takes longest.
        self._learner = calls.start("learner")
        calls.send("publish", self._learner)
        calls.send("compile", self._learner)
        self._replay = calls.start("replay")
        self._actors = [calls.start("actor", index) for index in range(limits.actors)]
        self._evaluator = calls.start("evaluator")

    def run(self) -> str:
        """Trains until the goal is reached or a budget is spent; returns which, as a word.

        Raises:
            RoleFailure: a role keeps failing.
        """
        while (reason := self._finished()) is None:
            self._order_rollouts()
            self._order_learning()
            self._order_evaluation()
            waiting, begin = self._who_waits(), self._clock()
            ended = self._calls.collect(_LOOK_SECONDS)
            if waiting:
                self._journal.add_wait(waiting, self._clock() - begin)
            for end in ended:
                self._take(end)
            if self._clock() - self._reported_at >= self._limits.report_seconds:
                self._report()
            if self._journal.is_status_due():
                self._journal.write_status("running", self.ray(), self.roles())
        return reason

    def _finished(self) -> str | None:
        """Why the run is over, or None."""
        if self._goal.reached:
            return "goal_reached"
        if self._stop.reason:
            return self._stop.reason
        if self._budget.is_out_of_time(self._journal.seconds):
            return "max_seconds"
        if self._budget.env_steps_left(self._journal.counters.env_steps):
            return None
        is_working = self._calls.are_under_way("compile", "learn", "evaluate")
        return None if is_working or self._may_learn() else "max_env_steps"

    # Who may go on.

    def _order_rollouts(self) -> None:
        """Orders rollouts: one from each actor before a second from any, and in turns."""
        for ahead in range(_CALLS_AHEAD):
            turns = self._actors[self._turn :] + self._actors[: self._turn]
            for actor in turns:
                if actor.under_way - (not actor.about) != ahead:  # not counting `identify`
                    continue
                env_steps = self._journal.counters.env_steps
                left = self._budget.env_steps_left(env_steps + self._env_steps_under_way)
                if not left or not self._may_act():
                    return
                order = RolloutOrder(env_steps, min(left, self._limits.steps_per_rollout))
                self._env_steps_under_way += order.limit
                self._calls.send("rollout", actor, order, *self._news_for(actor), returns=2, detail=order)
                self._turn = (actor.index + 1) % len(self._actors)

    def _news_for(self, actor: Worker) -> tuple[Ref, ...]:
        """The newest weights, unless they have been sent to this actor."""
        if self._weights is None or actor.weights_version == self._weights.weights_version:
            return ()
        actor.weights_version = self._weights.weights_version
        return (self._weights.ref,)

    def _order_learning(self) -> None:
        """Has replay draw batches and the learner learn from them, one call ahead."""
        limits = self._limits
        while self._learner.under_way < _CALLS_AHEAD and self._may_learn():
            if self._journal.train_seconds_begin is None:
                self._journal.train_seconds_begin = self._journal.seconds
            self._sampled += limits.samples_per_call
            self._learner_steps += limits.updates_per_call
            publish = self._learner_steps - self._published_at >= limits.publish_period
            if publish:
                self._published_at = self._learner_steps
            # Not waited for here: the learner's call starts once its batches are there.
            (batches,) = self._calls.fleet.call(
                self._replay.handle,
                "sample",
                limits.updates_per_call,
                limits.batch_size,
                limits.importance_exponent.at(self._journal.counters.env_steps),
            )
            self._calls.send("learn", self._learner, batches, publish, returns=3, detail=batches)

    def _order_evaluation(self) -> None:
        """Orders the evaluation that is due, one at a time."""
        if self._weights is None or self._calls.are_under_way("evaluate"):
            return
        order = self._goal.next_order(self._weights.ref, self._weights.learner_steps)
        if order is not None:
            self._send_evaluation(order)

    def _send_evaluation(self, order: EvaluationOrder) -> None:
        self._calls.send(
            "evaluate",
            self._evaluator,
            order.weights,
            order.episodes,
            order.number,
            detail=order,
            turns=evaluation_turns(order.episodes),
        )

    def _may_act(self) -> bool:
        counters = self._journal.counters
        return self._pacing.may_insert(counters.inserted + self._env_steps_under_way, counters.sampled)

    def _may_learn(self) -> bool:
        inserted, count = self._journal.counters.inserted, self._limits.samples_per_call
        return self._is_compiled and self._pacing.may_sample(inserted, self._sampled, count)

    def _who_waits(self) -> str | None:
        """`actors` or `learner`, if that side has nothing to do until the other goes on."""
        if not self._is_compiled:
            return None
        if not self._learner.under_way:
            return "learner"
        return None if self._calls.are_under_way("rollout") else "actors"

    # What comes of a call.

    def _take(self, ended: Ended) -> None:
        """Takes in the end of one call."""
        call, result = ended.call, ended.result
        if ended.failure is not None:
            self._replace(call, ended.failure)
            return
        match call.kind:
            case "rollout":
                # It counts once replay has accepted its chunk.
                detail = (call.detail, result)
                self._calls.send("insert", self._replay, call.refs[1], detail=detail)
            case "insert":
                order, report = call.detail
                self._env_steps_under_way -= order.limit
                self._journal.add_rollout(report, inserted=result)
            case "learn":
                self._end_learn(result, *call.refs[1:])
            case "publish":
                self._take_weights(_Published(call.refs[0], result.weights_version, result.learner_steps))
            case "evaluate":
                self._goal.add(call.detail, result)
                self._journal.counters.evaluations += 1
                self._report(result)
            case "compile":
                self._is_compiled = True
                if result:
                    self._journal.note(result)

    def _end_learn(self, report: LearnReport, weights: Ref, priorities: Ref) -> None:
        if self._limits.prioritized:
            self._calls.send("update_priorities", self._replay, priorities)
        self._journal.add_learn(report, report.updates * self._limits.batch_size)
        if report.weights_version is not None:
            self._take_weights(_Published(weights, report.weights_version, report.learner_steps))

    def _take_weights(self, published: _Published) -> None:
        if self._weights is not None and published.weights_version <= self._weights.weights_version:
            return
        self._weights = published
        self._journal.add_published(published.weights_version)

    # Faults.

    def _replace(self, call: Call, why: str) -> None:
        """Answers a failed call: a new process for an actor or the evaluator.

        Raises:
            RoleFailure: it failed too often running, or the role cannot be replaced.
        """
        worker = self._who_failed(call)
        if worker is not self._worker_now(worker):  # one of several calls that failed together
            self._forget(call)
            return
        worker.failures += 1
        name = f"{worker.name} (incarnation {worker.incarnation})"
        if worker.role in ("learner", "replay"):
            raise RoleFailure(f"{name} failed in `{call.kind}`: {last_line(why)}", details=why)
        if worker.failures >= self._limits.max_failures:
            raise RoleFailure(
                f"{name} failed {worker.failures} times running, last in `{call.kind}`: {last_line(why)}",
                details=why,
            )
        lost = [call, *self._calls.abandon(worker)]
        fresh = self._calls.start(worker.role, worker.index, worker.incarnation + 1)
        fresh.failures = worker.failures
        if worker.role == "actor":
            self._actors[worker.index] = fresh
            self._journal.counters.actor_restarts += 1
        else:
            self._evaluator = fresh
        for each in lost:
            self._forget(each)
        self._journal.note(f"{name} failed in `{call.kind}` and is replaced: {last_line(why)}")

    def _who_failed(self, call: Call) -> Worker:
        """Replay, where a learner's call failed for want of its batches; else who was called."""
        if call.kind == "learn":
            try:
                self._calls.fleet.get(call.detail)
            except CallFailed:
                return self._replay
        return call.worker

    def _worker_now(self, worker: Worker) -> Worker:
        """Who fills the worker's place now."""
        if worker.role == "actor":
            return self._actors[worker.index]
        return {"learner": self._learner, "replay": self._replay, "evaluator": self._evaluator}[worker.role]

    def _forget(self, call: Call) -> None:
        """Takes back what a call that never ends was granted, or orders it again."""
        if call.kind == "rollout":
            self._env_steps_under_way -= call.detail.limit
            self._journal.counters.lost_rollouts += 1
        elif call.kind == "evaluate":
            self._send_evaluation(call.detail)

    # Reports.

    def _report(self, evaluation: Evaluation | None = None) -> None:
        self._reported_at = self._clock()
        self._journal.report(evaluation, actors_alive=sum(bool(actor.about) for actor in self._actors))

    # What the end of a run needs, one call at a time; see `Team`.

    @property
    def has_weights(self) -> bool:
        """See `Team`."""
        return self._weights is not None

    def publish(self) -> PolicyWeights:
        """See `Team`."""
        weights: PolicyWeights = self._calls.ask(self._learner, "publish")
        return weights

    def evaluate(self, order: EvaluationOrder) -> Evaluation:
        """See `Team`."""
        evaluation: Evaluation = self._calls.ask(
            self._evaluator,
            "evaluate",
            order.weights,
            order.episodes,
            order.number,
            turns=evaluation_turns(order.episodes),
        )
        return evaluation

    def export(self, weights: Any) -> bytes:
        """See `Team`."""
        content: bytes = self._calls.ask(self._learner, "export", weights)
        return content

    def value(self, weights: Any) -> PolicyWeights:
        """See `Team`."""
        if isinstance(weights, PolicyWeights):
            return weights
        value: PolicyWeights = self._calls.fetch(self._learner, "publish", weights)
        return value

    def ray(self) -> dict[str, Any]:
        """See `Team`."""
        return self._calls.fleet.about()

    def roles(self) -> list[dict[str, Any]]:
        """See `Team`."""
        return [w.to_json() for w in (self._learner, self._replay, self._evaluator, *self._actors)]
