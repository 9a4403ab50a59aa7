"""The supervisor of an `async` run: a state machine over counters, calls and deadlines.

It keeps one or two calls under way to every role and decides from counters alone who may
go on (`ordering`). Data is not unpacked here: the supervisor passes references on, from
actor to replay and from replay to learner. A call that fails or overruns its deadline is
how a fault is seen, and each fault has one answer (`replacing`).
"""

import dataclasses
import time
from collections.abc import Callable

from distdqn.acting.evaluator import Evaluation
from distdqn.distributed.async_saver import AsyncSaver
from distdqn.distributed.calls import Calls, Ended, last_line
from distdqn.distributed.fleet import CallFailed, Ref
from distdqn.distributed.limits import Limits
from distdqn.distributed.ordering import Learning, Orders, Published
from distdqn.distributed.replacing import Replacements
from distdqn.distributed.roster import Roster
from distdqn.distributed.staffing import Departure, Staffing
from distdqn.distributed.stalling import Stall
from distdqn.goal import Budget, EvaluationOrder, Goal
from distdqn.learning.learner import LearnReport
from distdqn.pacing import Pacing
from distdqn.policy import PolicyWeights
from distdqn.replay.shards import Stock
from distdqn.reporting.journal import Journal
from distdqn.resuming import Start
from distdqn.stopping import StopRequest

_LOOK_SECONDS = 0.2  # at least this often the supervisor looks at signals and deadlines
_REFILL_SECONDS = 0.02  # the same while replay is being put back


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
        self._journal = journal
        self._stop = stop
        self._saver = saver
        self._clock = clock
        self._reported_at = clock()
        # Versions of the weights that the checkpoint's learner has published are not given out again.
        epoch = 0 if start is None else start.document["learner"]["weights_version"][0] + 1
        cut = None if start is None else journal.counters.learner_steps
        self.roster = Roster(calls, limits.actors, epoch, limits.replay_shards, cut)
        self._orders = Orders(calls, limits, goal, budget, pacing, journal, self.roster)
        self._replacements = Replacements(
            calls, limits, goal, pacing, journal, saver, self.roster, self._orders, start
        )
        self._stall = Stall(calls, limits, journal, self.roster, self._orders, clock)
        self._replacements.begin()
        self._staffing = Staffing(
            calls, limits, journal, self.roster, self._replacements.forget, saver.refill.insert, clock
        )

    def run(self) -> str:
        """Trains until the goal is reached or a budget is spent; returns which, as a word.

        Raises:
            RoleFailure: a role keeps failing.
            EnvironmentFault: the environment keeps hanging.
            ClusterError: nothing goes on, or the cluster is too small for the run to start.
        """
        while (reason := self._finished()) is None:
            self._staffing.advance(self._orders.is_compiled)
            self._orders.send()
            if (unreadable := self._saver.advance(self._calls, self.roster)) is not None:
                self._replacements.fill_again(unreadable)
            waiting, begin = self._orders.who_waits(), self._clock()
            # A part that was read wakes nobody.
            ended = self._calls.collect(_REFILL_SECONDS if self._saver.refill.is_running else _LOOK_SECONDS)
            if waiting:
                self._journal.add_wait(waiting, self._clock() - begin)
            for end in ended:
                self._take(end)
            self._stall.look()
            if self._clock() - self._reported_at >= self._limits.report_seconds:
                self._report()
            if self._journal.is_status_due():
                roles, actors = self.roster.roles(), self._staffing.to_json()
                self._journal.write_status("running", self.roster.ray(), roles, actors)
        return reason

    def _finished(self) -> str | None:
        """Why the run is over, or None."""
        if self._stop.reason and not self._goal.reached:
            return self._stop.reason
        reason = self._orders.finished()
        return None if reason == "max_env_steps" and self._saver.refill.is_running else reason

    def _take(self, ended: Ended) -> None:
        """Takes in the end of one call."""
        call, result = ended.call, ended.result
        if ended.failure is not None:
            self._replacements.replace(ended)
            return
        if not self.roster.is_on(call.worker):  # it answered, but has been replaced since
            self._replacements.forget(call)
            return
        if self._saver.take(call, result, self._goal, self._journal, self.roster):
            return
        match call.kind:
            case "rollout":
                # It counts once replay has accepted its chunk.
                detail = (call.detail, result)
                shard = self.roster.shard_of(call.worker)
                self._saver.refill.insert(self._calls, shard, call.refs[1], detail)
            case "insert":
                order, report = call.detail
                self._orders.env_steps_under_way -= order.limit
                inserted = self._journal.counters.inserted
                if isinstance(report, Departure):
                    inserted += report.report.transitions
                    self._staffing.take_departure(report, inserted)
                else:
                    inserted += report.transitions
                    self._journal.add_rollout(report, inserted)
                self._take_stock(call.worker.index, result)
            case "update_priorities" | "set_index" | "set_chunk":
                self._take_stock(call.worker.index, result)
            case "cut":
                self._staffing.take_last_words(call, result)
            case "next_command":
                self._staffing.take_command(result)
            case "learn":
                self._end_learn(result, call.detail, *call.refs[1:])
            case "publish":
                published = Published(call.refs[0], result.weights_version, result.learner_steps)
                self._orders.take_weights(published)
            case "evaluate":
                self._end_evaluation(call.detail, result)
            case "compile":
                self._orders.is_compiled = True
                if result:
                    self._journal.note(result)

    def _take_stock(self, shard: int, stock: Stock) -> None:
        stocks = self._orders.stocks
        # What is being put back, part by part, is counted already.
        inserted = max(stock.inserted, stocks[shard].inserted)
        stocks[shard] = dataclasses.replace(stock, inserted=inserted)
        self._journal.replay_size = sum(each.size for each in stocks)

    def _end_evaluation(self, order: EvaluationOrder, evaluation: Evaluation) -> None:
        """Judges weights once they are here, where no node that dies takes them along."""
        weights = order.weights
        try:
            if not isinstance(weights, PolicyWeights):
                weights = self._calls.fleet.get(weights)
        except CallFailed as error:
            self._journal.note(f"An evaluation is left out, as its weights are lost: {last_line(str(error))}")
        else:
            self._goal.add(dataclasses.replace(order, weights=weights), evaluation)
        self._journal.counters.evaluations += 1
        self._report(evaluation)

    def _end_learn(self, report: LearnReport, learning: Learning, weights: Ref, *priorities: Ref) -> None:
        for (shard, _), update in zip(learning.parts, priorities, strict=True):
            shard.failures = ()
            # Another process in its place gives the same numbers to other items.
            if self._limits.prioritized and self.roster.is_on(shard):
                self._calls.send("update_priorities", shard, update)
        self._journal.add_learn(report, report.updates * self._limits.batch_size, learning.learning_rate)
        if report.weights_version is not None:
            self._orders.take_weights(Published(weights, report.weights_version, report.learner_steps))

    def _report(self, evaluation: Evaluation | None = None) -> None:
        self._reported_at = self._clock()
        self._journal.report(evaluation, actors_alive=len(self.roster.acting))

    @property
    def has_weights(self) -> bool:
        """Whether the learner has published any."""
        return self._orders.newest_version is not None
