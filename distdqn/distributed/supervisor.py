"""The supervisor of an `async` run: a state machine over counters, calls and deadlines.

It keeps one or two calls under way to every role and decides from counters alone who may
go on. Data is not unpacked here: the supervisor passes references on, from actor to replay
and from replay to learner. A call that fails or overruns its deadline is how a fault is
seen, and each fault has one answer.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from distdqn.acting.actor import RolloutOrder
from distdqn.acting.evaluator import Evaluation
from distdqn.distributed.async_saver import AsyncSaver
from distdqn.distributed.calls import Call, Calls, Ended, Worker, evaluation_turns, last_line
from distdqn.distributed.fleet import CallFailed, Ref
from distdqn.distributed.limits import Limits
from distdqn.distributed.restoring import (
    Found,
    count_lost_learner,
    count_lost_replay,
    send_learner,
    send_replay,
)
from distdqn.distributed.roster import Roster
from distdqn.errors import RoleFailure
from distdqn.goal import Budget, EvaluationOrder, Goal
from distdqn.learning.learner import LearnReport
from distdqn.pacing import Pacing
from distdqn.reporting.journal import Journal
from distdqn.resuming import Start
from distdqn.stopping import StopRequest

_CALLS_AHEAD = 2  # under way to each actor and to the learner: one runs, one is queued
_LOOK_SECONDS = 0.2  # at least this often the supervisor looks at signals and deadlines


@dataclass(frozen=True)
class _Published:
    """The newest weights, by reference."""

    ref: Ref
    weights_version: tuple[int, int]
    learner_steps: int


@dataclass(frozen=True)
class _Learning:
    """What a learner's call was made with."""

    batches: Ref
    replay: Worker
    learning_rate: float


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
        saver: AsyncSaver,
        start: Start | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = calls
        self._limits = limits
        self._goal = goal
        self._budget = budget
        self._pacing = pacing
        self._journal = journal
        self._stop = stop
        self._saver = saver
        self._start = start
        self._clock = clock
        self._weights: _Published | None = None
        self._is_compiled = False
        self._env_steps_under_way = 0  # of rollouts that replay has not accepted yet
        self._turn = 0  # index of the actor to be asked next
        self._published_at = journal.counters.learner_steps  # when weights were last ordered
        self._reported_at = clock()
        # Versions of the weights that the checkpoint's learner has published are not given out again.
        epoch = 0 if start is None else start.document["learner"]["weights_version"][0] + 1
        self.roster = Roster(calls, limits.actors, epoch)
        if start is not None:
            self._go_on_from(start)
        calls.send("publish", self.roster.learner)
        calls.send("compile", self.roster.learner)

    def _go_on_from(self, start: Start) -> None:
        """Has the roles begin where a checkpoint ended; the journal and the goal do already."""
        found = (start.store, start.document)
        send_learner(self._calls, self.roster.learner, found)
        send_replay(self._calls, self.roster.replay, found)
        for actor in self.roster.actors:  # other episodes than those from before
            self._calls.send("cut", actor, self._journal.counters.learner_steps, returns=2)

    def run(self) -> str:
        """Trains until the goal is reached or a budget is spent; returns which, as a word.

        Raises:
            RoleFailure: a role keeps failing.
        """
        while (reason := self._finished()) is None:
            self._order_rollouts()
            self._order_learning()
            self._order_evaluation()
            self._saver.advance(self._calls, self.roster)
            waiting, begin = self._who_waits(), self._clock()
            ended = self._calls.collect(_LOOK_SECONDS)
            if waiting:
                self._journal.add_wait(waiting, self._clock() - begin)
            for end in ended:
                self._take(end)
            if self._clock() - self._reported_at >= self._limits.report_seconds:
                self._report()
            if self._journal.is_status_due():
                self._journal.write_status("running", self.roster.ray(), self.roster.roles())
        return reason

    def _finished(self) -> str | None:
        """Why the run is over, or None."""
        if self._goal.reached:
            return "goal_reached"
        if self._stop.reason:
            return self._stop.reason
        if self._budget.is_out_of_time(self._journal.seconds):
            return "max_seconds"
        if self._budget.is_out_of_episodes(self._journal.counters.episodes):
            return "max_episodes"
        if self._budget.env_steps_left(self._journal.counters.env_steps):
            return None
        is_working = self._calls.are_under_way("compile", "learn", "evaluate")
        return None if is_working or self._may_learn() else "max_env_steps"

    # Who may go on.

    def _order_rollouts(self) -> None:
        """Orders rollouts: one from each actor before a second from any, and in turns."""
        for ahead in range(_CALLS_AHEAD):
            turns = self.roster.actors[self._turn :] + self.roster.actors[: self._turn]
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
                self._turn = (actor.index + 1) % len(self.roster.actors)

    def _news_for(self, actor: Worker) -> tuple[Ref, ...]:
        """The newest weights, unless they have been sent to this actor."""
        if self._weights is None or actor.weights_version == self._weights.weights_version:
            return ()
        actor.weights_version = self._weights.weights_version
        return (self._weights.ref,)

    def _order_learning(self) -> None:
        """Has replay draw batches and the learner learn from them, one call ahead."""
        limits = self._limits
        while self.roster.learner.under_way < _CALLS_AHEAD and self._may_learn():
            if self._journal.train_seconds_begin is None:
                self._journal.train_seconds_begin = self._journal.seconds
            learner_steps = self._learner_steps + limits.updates_per_call
            publish = learner_steps - self._published_at >= limits.publish_period
            if publish:
                self._published_at = learner_steps
            order = limits.schedules.at(self._journal.counters.env_steps)
            # Not waited for here: the learner's call starts once its batches are there.
            (batches,) = self._calls.fleet.call(
                self.roster.replay.handle,
                "sample",
                limits.updates_per_call,
                limits.batch_size,
                order.importance_exponent,
            )
            detail = _Learning(batches, self.roster.replay, order.learning_rate)
            self._calls.send(
                "learn", self.roster.learner, batches, publish, order.learning_rate, returns=3, detail=detail
            )

    def _order_evaluation(self) -> None:
        """Orders the evaluation that is due, one at a time, of weights of the learner there is now."""
        if self._weights is None or self._calls.are_under_way("evaluate"):
            return
        if self._weights.weights_version[0] != self.roster.learner.incarnation:
            return
        order = self._goal.next_order(self._weights.ref, self._weights.learner_steps)
        if order is not None:
            self._send_evaluation(order)

    def _send_evaluation(self, order: EvaluationOrder) -> None:
        self._calls.send(
            "evaluate",
            self.roster.evaluator,
            order.weights,
            order.episodes,
            order.number,
            detail=order,
            turns=evaluation_turns(order.episodes),
        )

    @property
    def _sampled(self) -> int:
        """Transitions drawn, those of granted calls included."""
        under_way = self._calls.count_under_way("learn") * self._limits.samples_per_call
        return self._journal.counters.sampled + under_way

    @property
    def _learner_steps(self) -> int:
        """Learner steps made, those of granted calls included."""
        under_way = self._calls.count_under_way("learn") * self._limits.updates_per_call
        return self._journal.counters.learner_steps + under_way

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
        if not self.roster.learner.under_way:
            return "learner"
        return None if self._calls.are_under_way("rollout") else "actors"

    # What comes of a call.

    def _take(self, ended: Ended) -> None:
        """Takes in the end of one call."""
        call, result = ended.call, ended.result
        if ended.failure is not None:
            self._replace(call, ended.failure)
            return
        if not self.roster.is_on(call.worker):  # it answered, but has been replaced since
            self._forget(call)
            return
        if self._saver.take(call.kind, result, self._goal, self._journal, self.roster):
            return
        match call.kind:
            case "rollout":
                # It counts once replay has accepted its chunk.
                detail = (call.detail, result)
                self._calls.send("insert", self.roster.replay, call.refs[1], detail=detail)
            case "insert":
                order, report = call.detail
                self._env_steps_under_way -= order.limit
                self._journal.add_rollout(report, inserted=result)
            case "learn":
                self._end_learn(result, call.detail, *call.refs[1:])
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

    def _end_learn(self, report: LearnReport, learning: _Learning, weights: Ref, priorities: Ref) -> None:
        learning.replay.failures = 0
        # Another replay gives the same numbers to other items.
        if self._limits.prioritized and self.roster.is_on(learning.replay):
            self._calls.send("update_priorities", self.roster.replay, priorities)
        self._journal.add_learn(report, report.updates * self._limits.batch_size, learning.learning_rate)
        if report.weights_version is not None:
            self._take_weights(_Published(weights, report.weights_version, report.learner_steps))

    def _take_weights(self, published: _Published) -> None:
        if self._weights is not None and published.weights_version <= self._weights.weights_version:
            return
        self._weights = published
        self._journal.add_published(published.weights_version)

    # Faults.

    def _replace(self, call: Call, why: str) -> None:
        """Answers a failed call: a new process in the place of the one that failed.

        Raises:
            RoleFailure: it failed too often running.
        """
        worker = self._who_failed(call)
        if not self.roster.is_on(worker):  # one of several calls that failed together
            self._forget(call)
            return
        worker.failures += 1
        name = f"{worker.name} (incarnation {worker.incarnation})"
        if worker.failures >= self._limits.max_failures:
            raise RoleFailure(
                f"{name} failed {worker.failures} times running, last in `{call.kind}`: {last_line(why)}",
                details=why,
            )
        lost = [call, *self._calls.abandon(worker)]
        fresh = self.roster.replace(worker)
        losses = ""
        match worker.role:
            case "actor":
                self._journal.counters.actor_restarts += 1
            case "learner":
                losses = self._restore_learner(fresh)
            case "replay":
                losses = self._restore_replay(fresh)
        for each in lost:
            self._forget(each)
        self._journal.note(f"{name} failed in `{call.kind}` and is replaced{losses}: {last_line(why)}")

    def _newest(self) -> Found | None:
        """The newest checkpoint that is whole, of this run or the one that it goes on from."""
        if (found := self._saver.newest()) is not None or self._start is None:
            return found
        return self._start.store, self._start.document

    def _restore_learner(self, fresh: Worker) -> str:
        """Puts a new learner where the newest checkpoint was; says what that lost."""
        self._saver.give_up()
        found = self._newest()
        lost = count_lost_learner(self._journal.counters, found)
        self._published_at = self._journal.counters.learner_steps
        self._goal.begin_again(self._published_at)
        self._is_compiled = False
        if found is not None:
            send_learner(self._calls, fresh, found)
        self._calls.send("publish", fresh)
        self._calls.send("compile", fresh)
        return f", {lost:,} learner steps lost"

    def _restore_replay(self, fresh: Worker) -> str:
        """Fills a new replay from the newest checkpoint, if that holds one; says what that lost."""
        self._saver.forget_replay()
        counters, found = self._journal.counters, self._newest()
        lost = count_lost_replay(counters, found)
        # As if all that is in had been sampled as often as it should: no burst, and no side waits.
        under_way = self._sampled - counters.sampled
        counters.sampled = max(0, int(self._pacing.goal(counters.inserted)) - under_way)
        if found is not None:
            send_replay(self._calls, fresh, found)
        return f", {lost:,} transitions lost"

    def _who_failed(self, call: Call) -> Worker:
        """The replay that should have sampled, where a learner's call failed for want of its batches."""
        if call.kind == "learn":
            try:
                self._calls.fleet.get(call.detail.batches)
            except CallFailed:
                replay: Worker = call.detail.replay
                return replay
        return call.worker

    def _forget(self, call: Call) -> None:
        """Takes back what a call that never ends was granted, or orders it again."""
        match call.kind:
            case "rollout":
                self._env_steps_under_way -= call.detail.limit
                self._journal.counters.lost_rollouts += 1
            case "insert":
                self._env_steps_under_way -= call.detail[0].limit
                self._journal.counters.lost_rollouts += 1
            case "evaluate":
                self._send_evaluation(call.detail)

    # Reports.

    def _report(self, evaluation: Evaluation | None = None) -> None:
        self._reported_at = self._clock()
        self._journal.report(evaluation, actors_alive=sum(bool(actor.about) for actor in self.roster.actors))

    @property
    def has_weights(self) -> bool:
        """Whether the learner has published any."""
        return self._weights is not None
