"""Faults: who failed, who takes its place, from where that goes on, and what is lost."""

from distdqn.distributed.async_saver import AsyncSaver
from distdqn.distributed.calls import Call, Calls, Ended, Failure, Worker, last_line
from distdqn.distributed.limits import Limits
from distdqn.distributed.ordering import Orders
from distdqn.distributed.restoring import (
    Found,
    Unreadable,
    count_lost_learner,
    count_lost_replay,
    send_learner,
)
from distdqn.distributed.roster import Roster
from distdqn.errors import EnvironmentFault, RoleFailure
from distdqn.goal import Goal
from distdqn.pacing import Pacing
from distdqn.reporting.journal import Journal
from distdqn.resuming import Start
from distdqn.storage.errors import CheckpointError


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
            for shard in self._roster.shards:
                self._fill(shard, found)
        self._calls.send("publish", self._roster.learner)
        self._calls.send("compile", self._roster.learner)

    def _fill(self, shard: Worker, found: Found | None) -> None:
        stocks = self._orders.stocks
        stocks[shard.index] = self._saver.fill(shard, len(stocks), found)

    def replace(self, ended: Ended) -> None:
        """Answers a failed call: a new process in the place of the one that failed.

        Raises:
            RoleFailure: it failed too often running.
            EnvironmentFault: each time, the environment hung.
        """
        call, why = ended.call, ended.failure or ""
        worker = self._who_failed(ended)
        if worker is None:
            self._go_on_without(call, why)
            return
        if not self._roster.is_on(worker):  # one of several calls that failed together
            self.forget(call)
            return
        if worker.leaves_by is not None:
            lost = [call, *self._calls.abandon(worker)]
            self._roster.remove(worker)
            for each in lost:
                self.forget(each)
            self._journal.note(f"{worker.name} failed in `{call.kind}` while it left: {last_line(why)}")
            return
        name = f"{worker.name} (incarnation {worker.incarnation})"
        how = self._count_failure(worker, ended, name)
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
        self._journal.note(f"{name} {how} `{call.kind}` and is replaced{losses}: {last_line(why)}")

    def _count_failure(self, worker: Worker, ended: Ended, name: str) -> str:
        """Counts a failure; nodes that are lost meanwhile do not count. Says in words how it failed."""
        kind, why = ended.call.kind, ended.failure or ""
        node = worker.about.get("node") or ended.node
        worker.failures += (Failure(node, ended.is_hang),)
        lost_nodes = self._calls.fleet.lost_nodes()
        counted = [failure for failure in worker.failures if failure.node not in lost_nodes]
        if len(counted) < self._limits.max_failures:
            return "was lost with its node in" if node in lost_nodes else "failed in"
        if all(failure.is_hang for failure in counted):
            raise EnvironmentFault(
                f"The environment `{self._limits.environment}` gave no answer within "
                f"{self._calls.env_timeout_seconds:g} s in {name}, {len(counted)} times running "
                "(mend it, or raise `env_timeout_seconds`)."
            )
        raise RoleFailure(
            f"{name} failed {len(counted)} times running, last in `{kind}`: {last_line(why)}", details=why
        )

    def _go_on_without(self, call: Call, why: str) -> None:
        """Leaves out a call for which what it was to be given is lost, with the node that had it."""
        if call.kind == "rollout":
            self._orders.forget_weights(call.worker)
        if call.kind == "evaluate":  # the next one is of newer weights
            self._journal.note(f"An evaluation is left out, as its weights are lost: {last_line(why)}")
        else:
            self.forget(call)

    def fill_again(self, unreadable: Unreadable) -> None:
        """Fills a shard from the checkpoint before, as what it was given so far cannot be taken back.

        Raises:
            CheckpointError: there is none before: the run goes on from this one.
        """
        shard, error = unreadable.shard, unreadable.error
        start = self._start
        if start is not None and unreadable.found is not None and unreadable.found[1] is start.document:
            raise CheckpointError(f"The checkpoint to go on from cannot be read: {error}") from error
        lost = self._calls.abandon(shard)
        losses = self._restore_replay(self._roster.replace(shard))
        for each in lost:
            self.forget(each)
        self._journal.note(f"{shard.name} cannot be filled and is replaced{losses}: {error}")

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
        """Fills a new shard with its part of the newest checkpoint; says what that lost."""
        self._saver.forget_shard(fresh.index)
        counters, stocks = self._journal.counters, self._orders.stocks
        before = stocks[fresh.index]
        self._fill(fresh, self._newest())
        lost = count_lost_replay(counters, before, stocks[fresh.index].inserted)
        # As if all that is in had been sampled as often as it should: no burst, and no side waits.
        goal = int(self._pacing.goal(counters.inserted))
        counters.sampled = max(0, goal - self._orders.samples_under_way)
        return f", {lost:,} transitions lost"

    def _who_failed(self, ended: Ended) -> Worker | None:
        """Whose process is to be replaced; nobody's, if what a call needed is lost.

        Where a learner's call has no batches, it is that of the shard that should have drawn them.
        """
        call = ended.call
        if call.kind != "learn":
            return None if ended.lacks_input else call.worker
        wanted = "failed" if ended.lacks_input else "under way"
        shard: Worker
        for shard, rows in call.detail.parts if ended.lacks_input or ended.is_overdue else ():
            if self._calls.fleet.state(rows) == wanted:
                return shard
        return None if ended.lacks_input else call.worker
