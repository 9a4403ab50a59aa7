"""Runs without any progress: what they wait for, and when they end."""

from collections.abc import Callable

from distdqn.distributed.calls import Call, Calls
from distdqn.distributed.scheduler import Scheduler
from distdqn.distributed.team import WorkerGroup
from distdqn.errors import ClusterError
from distdqn.training.loop import Run

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
