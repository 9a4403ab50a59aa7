"""When nothing goes on: what is waited for, and for how long."""

from collections.abc import Callable

from distdqn.distributed.calls import Call, Calls
from distdqn.distributed.limits import Limits
from distdqn.distributed.scheduler import Scheduler
from distdqn.distributed.worker_group import WorkerGroup
from distdqn.errors import ClusterError
from distdqn.reporting.metrics import Metrics

_TELL_SECONDS = 30.0  # from one line about it to the next

_MAX_CALLS = 6  # named in such a line


class Watchdog:
    """Tells what is waited for while nothing comes, and ends a run in which nothing goes on.

    Something has come when replay has accepted a rollout, the learner has made steps or an
    evaluation has ended. Something goes on, too, while a role that is up is at work on a
    call: every call has a deadline of its own, a long evaluation a long one.
    """

    def __init__(
        self,
        calls: Calls,
        limits: Limits,
        metrics: Metrics,
        workers: WorkerGroup,
        orders: Scheduler,
        clock: Callable[[], float],
    ) -> None:
        self._calls = calls
        self._limits = limits
        self._metrics = metrics
        self._workers = workers
        self._scheduler = orders
        self._clock = clock
        self._seen = self._what_came()
        self._came_at = self._told_at = self._at_work_at = clock()

    def look(self) -> None:
        """Looks whether anything has come or goes on.

        Raises:
            ClusterError: nothing has for `stall_timeout_seconds`.
        """
        now = self._clock()
        if (seen := self._what_came()) != self._seen:
            self._seen = seen
            self._came_at = self._told_at = self._at_work_at = now
            return
        if self._at_work():
            self._at_work_at = now
        if now - self._at_work_at >= self._limits.stall_timeout_seconds:
            raise ClusterError(
                f"Nothing has gone on for {now - self._at_work_at:.0f} s: {self._describe(now)} "
                "(add nodes or free some, start fewer actors, or raise `stall_timeout_seconds`)."
            )
        if now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            self._metrics.note(f"Nothing has come for {now - self._came_at:.0f} s: {self._describe(now)}.")

    def _at_work(self) -> list[Call]:
        """Calls that a role is at work on; to wait for a command is no work."""
        under_way = self._calls.under_way()
        return [call for call in under_way if call.worker.about and call.worker.role != "control"]

    def _what_came(self) -> tuple[int, ...]:
        counters = self._metrics.counters
        return counters.env_steps, counters.learner_steps, counters.evaluations

    def _describe(self, now: float) -> str:
        """What is waited for, in one line."""
        down = [worker for worker in self._workers.everyone() if not worker.about]
        parts = [
            f"{worker.name} has no place in the cluster, it {worker.lacks}"
            if worker.lacks
            else f"{worker.name} is starting"
            for worker in down
        ]
        at_work = self._at_work()
        parts += [
            f"{call.worker.name} has been at `{call.kind}` for {now - call.sent_at:.0f} s"
            for call in at_work[:_MAX_CALLS]
        ]
        if len(at_work) > _MAX_CALLS:
            parts.append(f"{len(at_work) - _MAX_CALLS} more calls are under way")
        return "; ".join([*parts, *self._scheduler.describe_waits()])
