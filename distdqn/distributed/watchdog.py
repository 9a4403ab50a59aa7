"""Runs that wait, at the start for resources and later for any progress, and when they end."""

from collections.abc import Callable

from distdqn.distributed.actor_pool import min_actors
from distdqn.errors import ClusterError
from distdqn.training.calls import Call, Worker
from distdqn.training.loop import Run
from distdqn.training.team import Team

_START_LINE_SECONDS = 10.0  # between two lines in the first minute of a run that has not learned yet
_START_SECONDS = 60.0
_LINE_SECONDS = 30.0  # between two lines about the same wait
_MAX_NAMED = 6  # roles and calls in such a line
# What a role's process does before it answers its first call.
_FIRST_WORK = {
    "learner": "is importing TensorFlow and building its networks",
    "actor": "is building its environments",
}


class Watchdog:
    """Tells what a run that does not learn yet or has no progress waits for; ends one that waits too long.

    Progress is a rollout that replay has stored, a learner step or an evaluation. While a role that is up
    works on a call, the run does not end: every call has a deadline of its own. At the start it waits for the
    resources of the fewest actors that it may have for `start_timeout_seconds`, unless nodes are starting.
    `describe_waits` tells which side waits for which.
    """

    def __init__(self, run: Run, team: Team, describe_waits: Callable[[], list[str]] = list) -> None:
        self._run = run
        self._calls = team.calls
        self._team = team
        self._describe_waits = describe_waits
        self._progress = self._count_progress()
        self._has_learned = False
        now = self._begun_at = self._progress_at = self._told_at = self._worked_at = self._calls.clock()
        self._late_at = now + run.config.start_timeout_seconds
        self._look_at = min(self._late_at, now + _START_LINE_SECONDS)
        self._has_started = False
        self._found = ""  # in the last line about resources

    def check(self) -> None:
        """Shows a line each half minute without progress, and before the first learner step more often.

        `ClusterError` after `stall_timeout_seconds` without progress or a running call, or if the cluster is
        too small for the run to start.
        """
        now = self._calls.clock()
        self._check_resources(now)
        if (progress := self._count_progress()) != self._progress:
            self._has_learned = self._has_learned or progress[1] != self._progress[1]
            self._progress = progress
            self._progress_at = self._worked_at = now
            if self._has_learned:
                self._told_at = now
        if self._running_calls(now):
            self._worked_at = now
        if now - self._worked_at >= self._run.config.stall_timeout_seconds:
            raise ClusterError(
                f"No progress for {now - self._worked_at:.0f} s: {self._describe(now)} "
                "(add nodes or free some, start fewer actors, or raise `stall_timeout_seconds`)."
            )
        is_early = not self._has_learned and now - self._begun_at <= _START_SECONDS
        if now - self._told_at >= (_START_LINE_SECONDS if is_early else _LINE_SECONDS):
            self._told_at = now
            what = f"Learning has not started, {now - self._begun_at:.0f} s after Ray"
            if self._has_learned:
                what = f"No progress for {now - self._progress_at:.0f} s"
            self._run.metrics.note(f"{what}: {self._describe(now)}.")

    def _running_calls(self, now: float) -> list[Call]:
        """Calls that roles which are up work on; waiting for a command is no work."""
        up = [call for call in self._calls.in_flight() if call.worker.is_ready and call.begins_at <= now]
        return [call for call in up if call.worker.role != "control"]

    def _count_progress(self) -> tuple[int, ...]:
        counters = self._run.metrics.counters
        return counters.env_steps, counters.learner_steps, counters.evaluations

    def _describe(self, now: float) -> str:
        """What the run waits for, in one line."""
        starting = [worker for worker in self._team.all_workers if not worker.is_ready]
        parts = [f"{each.name} {self._describe_start(each)}" for each in starting[:_MAX_NAMED]]
        if len(starting) > _MAX_NAMED:
            parts.append(f"{len(starting) - _MAX_NAMED} more roles are starting or waiting")
        if any(worker.lacks for worker in starting):
            parts.append(self._calls.backend.holders())
        running = self._running_calls(now)
        parts += [
            f"{call.worker.name} has been running `{call.method}` for {now - call.begins_at:.0f} s"
            for call in running[:_MAX_NAMED]
        ]
        if len(running) > _MAX_NAMED:
            parts.append(f"{len(running) - _MAX_NAMED} more calls are running")
        return "; ".join([*parts, *self._describe_waits()])

    def _describe_start(self, worker: Worker) -> str:
        """What a role does that is not up."""
        if worker.lacks:
            return f"waits for resources, it {worker.lacks}"
        if not self._calls.backend.has_process(worker.handle):
            return "is getting a process"
        return _FIRST_WORK.get(worker.role, "is starting")

    def _check_resources(self, now: float) -> None:
        """Shows a line every half minute while nodes are starting, else one for each change."""
        workers = self._team.workers
        if all(each.is_ready for each in workers):
            self._has_started, self._look_at = True, now + _LINE_SECONDS
        if now < self._look_at:
            return
        is_late = not self._has_started and now >= self._late_at
        self._look_at = now + _LINE_SECONDS
        if not self._has_started and not is_late:
            self._look_at = min(self._look_at, self._late_at)
        waiting = [each for each in workers if each.lacks]
        if not waiting:
            return
        capacity, note = self._calls.backend.capacity(), self._run.metrics.note
        found = (
            f"{len(workers) - len(waiting)} of {len(workers)} processes have found resources on the cluster, "
            f"which has {capacity.cpus:g} CPUs, {capacity.free_cpus:g} of them free; "
            f"{len(workers) * capacity.cpus_per_role:g} are needed"
        )
        if is_late and not capacity.is_growing:
            actors = sum(each.role == "actor" and not each.lacks for each in workers)
            if actors < min_actors(self._run.config) or any(each.role != "actor" for each in waiting):
                raise ClusterError(
                    f"After {self._run.config.start_timeout_seconds:g} s {found}; "
                    f"{waiting[0].name} {waiting[0].lacks}; {self._calls.backend.holders()} "
                    "(add nodes, lower `--actors`, start with fewer by `--min-actors`, or wait longer by "
                    "`--start-timeout-seconds`)."
                )
            self._has_started = True
        if capacity.is_growing:
            note(f"{found}; new nodes are starting.")
        elif self._has_started and found != self._found:
            self._found = found
            note(f"{found}; the rest is added when nodes join.")
