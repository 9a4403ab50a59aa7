"""Faults: who failed, who takes its place, from where that goes on, and what is lost."""

from distdqn.distributed.async_saver import AsyncSaver
from distdqn.distributed.calls import Call, Calls, Worker, last_line
from distdqn.distributed.fleet import CallFailed
from distdqn.distributed.limits import Limits
from distdqn.distributed.ordering import Orders
from distdqn.distributed.restoring import (
    Found,
    count_lost_learner,
    count_lost_replay,
    send_learner,
    send_replay,
    send_shard,
)
from distdqn.distributed.roster import Roster
from distdqn.errors import RoleFailure
from distdqn.goal import Goal
from distdqn.pacing import Pacing
from distdqn.reporting.journal import Journal
from distdqn.resuming import Start


class Replacements:
    """Answers failed calls: each fault has one answer."""

    def __init__(
        self,
        calls: Calls,
        limits: Limits,
        goal: Goal,
        pacing: Pacing,
        journal: Journal,
        saver: AsyncSaver,
        roster: Roster,
        orders: Orders,
        start: Start | None,
    ) -> None:
        self._calls = calls
        self._limits = limits
        self._goal = goal
        self._pacing = pacing
        self._journal = journal
        self._saver = saver
        self._roster = roster
        self._orders = orders
        self._start = start

    def begin(self) -> None:
        """Has the roles begin, where a checkpoint ended if there is one to go on from."""
        if self._start is not None:  # the journal and the goal have taken it up already
            found = (self._start.store, self._start.document)
            send_learner(self._calls, self._roster.learner, found)
            self._begin_replay(found)
            for actor in self._roster.actors:  # other episodes than those from before
                self._calls.send("cut", actor, self._journal.counters.learner_steps, returns=2)
        self._calls.send("publish", self._roster.learner)
        self._calls.send("compile", self._roster.learner)

    def _begin_replay(self, found: Found) -> None:
        """Fills all shards from a checkpoint."""
        counters = self._journal.counters
        self._orders.stocks[:] = send_replay(self._calls, self._roster.shards, found)
        # Dealt out to another number of shards, rows that were overwritten before are not counted.
        counters.inserted = sum(stock.inserted for stock in self._orders.stocks)
        counters.sampled = min(counters.sampled, int(self._pacing.goal(counters.inserted)))

    def replace(self, call: Call, why: str) -> None:
        """Answers a failed call: a new process in the place of the one that failed.

        Raises:
            RoleFailure: it failed too often running.
        """
        worker = self._who_failed(call)
        if not self._roster.is_on(worker):  # one of several calls that failed together
            self.forget(call)
            return
        worker.failures += 1
        name = f"{worker.name} (incarnation {worker.incarnation})"
        if worker.failures >= self._limits.max_failures:
            raise RoleFailure(
                f"{name} failed {worker.failures} times running, last in `{call.kind}`: {last_line(why)}",
                details=why,
            )
        lost = [call, *self._calls.abandon(worker)]
        fresh = self._roster.replace(worker)
        losses = ""
        match worker.role:
            case "actor":
                self._journal.counters.actor_restarts += 1
            case "learner":
                losses = self._restore_learner(fresh)
            case "replay":
                losses = self._restore_replay(fresh)
        for each in lost:
            self.forget(each)
        self._journal.note(f"{name} failed in `{call.kind}` and is replaced{losses}: {last_line(why)}")

    def forget(self, call: Call) -> None:
        """Takes back what a call that never ends was granted, or orders it again."""
        match call.kind:
            case "rollout":
                self._orders.env_steps_under_way -= call.detail.limit
                self._journal.counters.lost_rollouts += 1
            case "insert":
                self._orders.env_steps_under_way -= call.detail[0].limit
                self._journal.counters.lost_rollouts += 1
            case "evaluate":
                self._orders.send_evaluation(call.detail)

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
        self._orders.published_at = self._journal.counters.learner_steps
        self._goal.begin_again(self._orders.published_at)
        self._orders.is_compiled = False
        if found is not None:
            send_learner(self._calls, fresh, found)
        self._calls.send("publish", fresh)
        self._calls.send("compile", fresh)
        return f", {lost:,} learner steps lost"

    def _restore_replay(self, fresh: Worker) -> str:
        """Fills a new shard with its part of the newest checkpoint, if that has one; says what that lost."""
        self._saver.forget_shard(fresh.index)
        counters, stocks = self._journal.counters, self._orders.stocks
        before = stocks[fresh.index].inserted
        stocks[fresh.index] = send_shard(self._calls, fresh, len(stocks), self._newest())
        lost = count_lost_replay(counters, before, stocks[fresh.index].inserted)
        # As if all that is in had been sampled as often as it should: no burst, and no side waits.
        goal = int(self._pacing.goal(counters.inserted))
        counters.sampled = max(0, goal - self._orders.samples_under_way)
        return f", {lost:,} transitions lost"

    def _who_failed(self, call: Call) -> Worker:
        """The shard that should have drawn, where a learner's call failed for want of its batches."""
        shard: Worker
        for shard, rows in call.detail.parts if call.kind == "learn" else ():
            try:
                self._calls.fleet.get(rows)
            except CallFailed:
                return shard
        return call.worker
