"""Runs that wait, at the start for resources and later for any progress, and when they end."""

import time
from collections.abc import Callable, Sequence

from distdqn.distributed.calls import Call, Calls, Worker
from distdqn.distributed.scheduler import Scheduler
from distdqn.distributed.team import WorkerGroup
from distdqn.errors import ClusterError
from distdqn.training.backend import Backend, ClusterCapacity
from distdqn.training.loop import Run

_FIRST_LINE_SECONDS = 10.0  # until a line about roles that wait for resources
_LINE_SECONDS = 30.0  # between two lines about the same wait
_MAX_CALLS = 6  # named in such a line


class Watchdog:
    """Tells what a run without progress waits for, and ends one that has waited too long.

    Progress is a rollout that replay has stored, a learner step or an evaluation. While a role that is up
    works on a call, the run does not end: every call has a deadline of its own.
    """

    def __init__(
        self, run: Run, calls: Calls, team: WorkerGroup, scheduler: Scheduler, clock: Callable[[], float]
    ) -> None:
        self._run = run
        self._calls = calls
        self._team = team
        self._scheduler = scheduler
        self._clock = clock
        self._progress = self._count_progress()
        self._progress_at = self._told_at = self._worked_at = clock()

    def check(self) -> None:
        """Shows a line each half minute without progress.

        Raises:
            ClusterError: no progress and no running call for `stall_timeout_seconds`.
        """
        now = self._clock()
        if (progress := self._count_progress()) != self._progress:
            self._progress = progress
            self._progress_at = self._told_at = self._worked_at = now
            return
        if self._running_calls():
            self._worked_at = now
        if now - self._worked_at >= self._run.config.stall_timeout_seconds:
            raise ClusterError(
                f"No progress for {now - self._worked_at:.0f} s: {self._describe(now)} "
                "(add nodes or free some, start fewer actors, or raise `stall_timeout_seconds`)."
            )
        if now - self._told_at >= _LINE_SECONDS:
            self._told_at = now
            seconds = now - self._progress_at
            self._run.metrics.note(f"No progress for {seconds:.0f} s: {self._describe(now)}.")

    def _running_calls(self) -> list[Call]:
        """Calls of roles that are up; waiting for a command is no work."""
        calls = self._calls.in_flight()
        return [call for call in calls if call.worker.is_ready and call.worker.role != "control"]

    def _count_progress(self) -> tuple[int, ...]:
        counters = self._run.metrics.counters
        return counters.env_steps, counters.learner_steps, counters.evaluations

    def _describe(self, now: float) -> str:
        """What the run waits for, in one line."""
        parts = [
            f"{worker.name} waits for resources, it {worker.lacks}"
            if worker.lacks
            else f"{worker.name} is starting"
            for worker in self._team.all_workers
            if not worker.is_ready
        ]
        running = self._running_calls()
        parts += [
            f"{call.worker.name} has been running `{call.method}` for {now - call.sent_at:.0f} s"
            for call in running[:_MAX_CALLS]
        ]
        if len(running) > _MAX_CALLS:
            parts.append(f"{len(running) - _MAX_CALLS} more calls are running")
        return "; ".join([*parts, *self._scheduler.describe_waits()])


class StartupCheck:
    """Tells how many processes wait for resources; ends a run that cannot start for want of them.

    Args:
        backend: knows the cluster's resources.
        min_actors: with this many actors a run may start.
        seconds: how long the run waits for them, unless nodes are starting.
        note: shows the user a line.
        clock: in seconds.
    """

    def __init__(
        self,
        backend: Backend,
        min_actors: int,
        seconds: float,
        note: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._min_actors = min_actors
        self._seconds = seconds
        self._note = note
        self._clock = clock
        self._late_at = clock() + seconds
        self._look_at = clock() + min(seconds, _FIRST_LINE_SECONDS)
        self._has_started = False
        self._told = ""

    def check(self, workers: Sequence[Worker]) -> None:
        """Shows a line every half minute while nodes are starting, else one for each change.

        Raises:
            ClusterError: the run cannot start, and no node is starting.
        """
        now = self._clock()
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
        capacity = self._backend.capacity()
        found = _describe_startup(workers, waiting, capacity)
        if is_late and not capacity.is_growing:
            if not self._can_start(workers, waiting):
                raise ClusterError(
                    f"After {self._seconds:g} s {found}; {waiting[0].name} {waiting[0].lacks} "
                    "(add nodes, lower `--actors`, start with fewer by `--min-actors`, or wait longer by "
                    "`--start-timeout-seconds`)."
                )
            self._has_started = True
        if capacity.is_growing:
            self._note(f"{found}; new nodes are starting.")
        elif self._has_started and found != self._told:
            self._told = found
            self._note(f"{found}; the rest is added when nodes join.")

    def _can_start(self, workers: Sequence[Worker], waiting: Sequence[Worker]) -> bool:
        """Whether only actors wait, and enough of them do not."""
        actors = sum(each.role == "actor" for each in workers)
        waiting_actors = sum(each.role == "actor" for each in waiting)
        return actors - waiting_actors >= self._min_actors and waiting_actors == len(waiting)


def _describe_startup(workers: Sequence[Worker], waiting: Sequence[Worker], capacity: ClusterCapacity) -> str:
    return (
        f"{len(workers) - len(waiting)} of {len(workers)} processes have found resources on the cluster, "
        f"which has {capacity.cpus:g} CPUs, {capacity.free_cpus:g} of them free; "
        f"{len(workers) * capacity.cpus_per_role:g} are needed"
    )
