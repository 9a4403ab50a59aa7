"""Faults: which role failed, what replaces it, where that starts, and what is lost."""

from dataclasses import dataclass

from distdqn.checkpoints.reshard import RestorePlan
from distdqn.checkpoints.store import CheckpointRef
from distdqn.distributed.checkpointing import AsyncCheckpointer
from distdqn.distributed.replay_shards import ReplayShards
from distdqn.distributed.scheduler import Scheduler
from distdqn.environments.sources import environment_name
from distdqn.errors import CheckpointError, EnvironmentFault, RoleFailure, restoring
from distdqn.reporting.metrics import Counters
from distdqn.training.calls import Ended, Failure, Worker, last_line
from distdqn.training.loop import Run
from distdqn.training.team import Team
from distdqn.types import ReplayInfo


@dataclass(frozen=True)
class FaultHandler:
    """Replaces roles whose calls fail, and restores what the new ones need."""

    run: Run
    team: Team
    shards: ReplayShards
    scheduler: Scheduler
    checkpoints: AsyncCheckpointer

    def start(self) -> None:
        """Lets the first roles start, from the checkpoint that the run resumes from if there is one."""
        if (ref := self.run.resume_from) is not None:  # goal and metrics are restored already
            with restoring(f"Checkpoint {ref.number}"):
                self.team.calls.send(self.team.learner, "set_state", ref.read("learner"))
                for shard in self.team.shards:
                    self._restore_shard(shard, ref)
        self.scheduler.start_learner()

    def handle(self, ended: Ended) -> None:
        """Answers a failed call, usually with a new process; see `_count_failure` for its errors."""
        call, why = ended.call, ended.failure or ""
        worker = call.find_culprit(ended)
        # Nobody is to blame for a lost argument. Of several calls that fail together the first counts.
        if worker is None or not self.team.is_current(worker):
            call.on_lost(ended)
            return
        if worker.drains_until is not None:
            self.team.end_actor(worker, ended)
            what = f"{worker.name} failed in `{call.method}` while draining"
            self.run.metrics.note(f"{what}: {last_line(why)}")
            return
        name = f"{worker.name} (restart {worker.restarts})" if worker.restarts else worker.name
        how = self._count_failure(worker, ended, name)
        losses = self._replace(worker, ended)
        self.run.metrics.note(f"{name} {how} `{call.method}` and is replaced{losses}: {last_line(why)}")

    def replace_unreadable(self, shard: Worker, plan: RestorePlan, error: Exception) -> None:
        """Restores a shard from the checkpoint before, in a new process: parts of this one are in it already.

        `CheckpointError` if the run resumes from this one.
        """
        start = self.run.resume_from
        if start is not None and plan.ref is not None and plan.ref.document is start.document:
            raise CheckpointError(f"The checkpoint to resume from cannot be read: {error}") from error
        losses = self._replace(shard)
        self.run.metrics.note(f"{shard.name} cannot be restored and is replaced{losses}: {error}")

    def _count_failure(self, worker: Worker, ended: Ended, name: str) -> str:
        """Counts a failure, unless its node is lost; says how the role failed.

        `RoleFailure` after too many consecutive ones, `EnvironmentFault` if none of them got an answer from
        the environment.
        """
        method, why = ended.call.method, ended.failure or ""
        node = worker.process.get("node") or ended.node
        worker.failures += (Failure(node, ended.is_hang),)
        lost_nodes = self.team.calls.backend.lost_nodes()
        counted = [failure for failure in worker.failures if failure.node not in lost_nodes]
        if len(counted) < self.run.config.max_failures:
            return "was lost with its node in" if node in lost_nodes else "failed in"
        if all(failure.is_hang for failure in counted):
            raise EnvironmentFault(
                f"The environment `{environment_name(self.run.config)}` did not respond within "
                f"{self.team.calls.env_timeout_seconds:g} s in {name}, {len(counted)} consecutive times "
                "(fix it, or raise `env_timeout_seconds`)."
            )
        raise RoleFailure(
            f"{name} failed {len(counted)} consecutive times, last in `{method}`: {last_line(why)}",
            details=why,
        )

    def _replace(self, worker: Worker, *failed: Ended) -> str:
        """Starts a new process and restores what it needs; says what is lost.

        The calls of the old process, and those that `failed` before, are lost once the new one is in place.
        """
        lost, losses = [*failed, *self.team.calls.abandon(worker)], ""
        fresh = self.team.replace(worker)
        match worker.role:
            case "actor":
                self.run.metrics.counters.actor_restarts += 1
            case "learner":
                losses = self._restore_learner()
            case "replay":
                losses = self._restore_replay(fresh)
        for ended in lost:
            ended.call.on_lost(ended)
        return losses

    def _restore_learner(self) -> str:
        """Puts a new learner where the newest checkpoint was; says what that loses."""
        self.checkpoints.reset()
        ref, counters = self.checkpoints.newest(), self.run.metrics.counters
        lost = count_lost_learner(counters, ref)
        self.run.goal.rewind(counters.learner_steps)
        if ref is not None:
            self.team.calls.send(self.team.learner, "set_state", ref.read("learner"))
        self.scheduler.start_learner()
        return f", {lost:,} learner steps lost"

    def _restore_replay(self, fresh: Worker) -> str:
        """Fills a new shard with its part of the newest checkpoint; says what that loses."""
        self.checkpoints.forget_shard(fresh.index)
        counters, before = self.run.metrics.counters, self.shards.infos[fresh.index]
        self._restore_shard(fresh, self.checkpoints.newest())
        lost = count_lost_replay(counters, before, self.shards.infos[fresh.index].inserted)
        # Set `sampled` to its target, so that the rate limiter neither bursts nor blocks.
        target = int(self.run.rate_limiter.goal(counters.inserted))
        counters.sampled = max(0, target - self.scheduler.samples_in_flight)
        return f", {lost:,} transitions lost"

    def _restore_shard(self, shard: Worker, ref: CheckpointRef | None) -> None:
        plan, index = RestorePlan(ref, len(self.team.shards)), None
        if ref is not None and self.run.checkpointer is not None:
            index = self.run.checkpointer.reuse_segments(ref, shard.index, plan.shards)
        self.shards.restore(shard, plan, index)


def count_lost_learner(counters: Counters, ref: CheckpointRef | None) -> int:
    """Rewinds the counters to a checkpoint's learner, or to none; returns the learner steps lost."""
    before = counters.learner_steps
    counters.learner_steps = ref.document["learner"]["learner_steps"] if ref else 0
    lost = max(0, before - counters.learner_steps)
    counters.learner_restarts += 1
    counters.lost_learner_steps += lost
    return lost


def count_lost_replay(counters: Counters, before: ReplayInfo, after: int) -> int:
    """Counts what a shard holds after a restore in place of what it held; returns the transitions lost.

    What it had overwritten before does not count as lost.
    """
    lost = min(max(0, before.inserted - after), before.size)
    counters.inserted += after - before.inserted
    counters.replay_restarts += 1
    counters.lost_transitions += lost
    return lost
