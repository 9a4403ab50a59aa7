"""Roles that wait for resources of the cluster when a run starts."""

import time
from collections.abc import Callable, Sequence

from distdqn.distributed.calls import Worker
from distdqn.errors import ClusterError
from distdqn.training.backend import Backend, ClusterCapacity

_LINE_SECONDS = 30.0  # between two lines about the same wait


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
        self._look_at = clock() + min(seconds, _LINE_SECONDS)
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
