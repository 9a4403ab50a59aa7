"""Faults: who failed, who takes its place, from where that goes on, and what is lost."""

from distdqn.checkpoints.reshard import RestorePlan
from distdqn.checkpoints.store import CheckpointRef
from distdqn.distributed.calls import Call, Calls, Ended, Failure, Worker, last_line
from distdqn.distributed.checkpointing import AsyncCheckpointer
from distdqn.distributed.limits import Limits
from distdqn.distributed.refill import Unreadable, count_lost_learner, count_lost_replay, send_learner
from distdqn.distributed.scheduler import Scheduler
from distdqn.distributed.worker_group import WorkerGroup
from distdqn.errors import CheckpointError, EnvironmentFault, RoleFailure
from distdqn.replay.rate_limiter import RateLimiter
from distdqn.reporting.metrics import Metrics
from distdqn.training.stopping import Goal


class FaultHandler:
    """Answers failed calls: each fault has one answer."""

    def __init__(
        self,
        calls: Calls,
        limits: Limits,
        goal: Goal,
        rate_limiter: RateLimiter,
        metrics: Metrics,
        saver: AsyncCheckpointer,
        workers: WorkerGroup,
        orders: Scheduler,
        start: CheckpointRef | None,
    ) -> None:
        self._calls = calls
        self._limits = limits
        self._goal = goal
        self._rate_limiter = rate_limiter
        self._metrics = metrics
        self._saver = saver
        self._workers = workers
        self._scheduler = orders
        self._start = start

    def begin(self) -> None:
        """Has the roles begin, where a checkpoint ended if there is one to go on from."""
        if self._start is not None:  # the journal and the goal have taken it up already
            send_learner(self._calls, self._workers.learner, self._start)
            for shard in self._workers.shards:
                self._fill(shard, self._start)
        self._calls.send("publish", self._workers.learner)
        self._calls.send("compile", self._workers.learner)

    def _fill(self, shard: Worker, ref: CheckpointRef | None) -> None:
        replay_infos = self._scheduler.replay_infos
        replay_infos[shard.index] = self._saver.fill(shard, RestorePlan(ref, len(replay_infos)))

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
        if not self._workers.is_on(worker):  # one of several calls that failed together
            self.forget(call)
            return
        if worker.leaves_by is not None:
            lost = [call, *self._calls.abandon(worker)]
            self._workers.remove(worker)
            for each in lost:
                self.forget(each)
            self._metrics.note(f"{worker.name} failed in `{call.kind}` while it left: {last_line(why)}")
            return
        name = f"{worker.name} (incarnation {worker.restarts})"
        how = self._count_failure(worker, ended, name)
        lost = [call, *self._calls.abandon(worker)]
        fresh = self._workers.replace(worker)
        losses = ""
        match worker.role:
            case "actor":
                self._metrics.counters.actor_restarts += 1
            case "learner":
                losses = self._restore_learner(fresh)
            case "replay":
                losses = self._restore_replay(fresh)
        for each in lost:
            self.forget(each)
        self._metrics.note(f"{name} {how} `{call.kind}` and is replaced{losses}: {last_line(why)}")

    def _count_failure(self, worker: Worker, ended: Ended, name: str) -> str:
        """Counts a failure; nodes that are lost meanwhile do not count. Says in words how it failed."""
        kind, why = ended.call.kind, ended.failure or ""
        node = worker.about.get("node") or ended.node
        worker.failures += (Failure(node, ended.is_hang),)
        lost_nodes = self._calls.backend.lost_nodes()
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
            self._scheduler.forget_weights(call.worker)
        if call.kind == "evaluate":  # the next one is of newer weights
            self._metrics.note(f"An evaluation is left out, as its weights are lost: {last_line(why)}")
        else:
            self.forget(call)

    def fill_again(self, unreadable: Unreadable) -> None:
        """Fills a shard from the checkpoint before, as what it was given so far cannot be taken back.

        Raises:
            CheckpointError: there is none before: the run goes on from this one.
        """
        shard, error = unreadable.shard, unreadable.error
        if self._start is not None and unreadable.ref is self._start:
            raise CheckpointError(f"The checkpoint to go on from cannot be read: {error}") from error
        lost = self._calls.abandon(shard)
        losses = self._restore_replay(self._workers.replace(shard))
        for each in lost:
            self.forget(each)
        self._metrics.note(f"{shard.name} cannot be filled and is replaced{losses}: {error}")

    def forget(self, call: Call) -> None:
        """Takes back what a call that never ends was granted, or orders it again."""
        match call.kind:
            case "rollout":
                self._scheduler.env_steps_under_way -= call.detail.limit
                self._metrics.counters.lost_rollouts += 1
            case "insert":
                self._scheduler.env_steps_under_way -= call.detail[0].limit
                self._metrics.counters.lost_rollouts += 1
            case "evaluate":
                self._scheduler.send_evaluation(call.detail)

    def _newest(self) -> CheckpointRef | None:
        """The newest checkpoint of this run that is whole, else the one that it resumes from."""
        return self._saver.newest() or self._start

    def _restore_learner(self, fresh: Worker) -> str:
        """Puts a new learner where the newest checkpoint was; says what that lost."""
        self._saver.give_up()
        ref = self._newest()
        lost = count_lost_learner(self._metrics.counters, ref)
        self._scheduler.published_at = self._metrics.counters.learner_steps
        self._goal.rewind(self._scheduler.published_at)
        self._scheduler.is_compiled = False
        if ref is not None:
            send_learner(self._calls, fresh, ref)
        self._calls.send("publish", fresh)
        self._calls.send("compile", fresh)
        return f", {lost:,} learner steps lost"

    def _restore_replay(self, fresh: Worker) -> str:
        """Fills a new shard with its part of the newest checkpoint; says what that lost."""
        self._saver.forget_shard(fresh.index)
        counters, replay_infos = self._metrics.counters, self._scheduler.replay_infos
        before = replay_infos[fresh.index]
        self._fill(fresh, self._newest())
        lost = count_lost_replay(counters, before, replay_infos[fresh.index].inserted)
        # As if all that is in had been sampled as often as it should: no burst, and no side waits.
        goal = int(self._rate_limiter.goal(counters.inserted))
        counters.sampled = max(0, goal - self._scheduler.samples_under_way)
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
            if self._calls.backend.state(rows) == wanted:
                return shard
        return None if ended.lacks_input else call.worker
