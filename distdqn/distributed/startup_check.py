"""Whether the processes of a run find room on its cluster, and what is said while they do not."""

import time
from collections.abc import Callable, Sequence

from distdqn.distributed.calls import Worker
from distdqn.errors import ClusterError
from distdqn.training.backend import Backend

_LINE_SECONDS = 30.0  # from one line about what is waited for to the next


class StartupCheck:
    """Watches processes that wait for room; ends a run that cannot start for want of it.

    Args:
        fleet: tells who has room, and what the cluster has.
        least_actors: with this many a run may start.
        seconds: how long it waits for them, unless nodes are on their way.
        note: tells the user a line.
        clock: in seconds.
    """

    def __init__(
        self,
        backend: Backend,
        least_actors: int,
        seconds: float,
        note: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._least_actors = least_actors
        self._seconds = seconds
        self._note = note
        self._clock = clock
        self._late_at = clock() + seconds
        self._look_at = clock() + min(seconds, _LINE_SECONDS)
        self._has_started = False
        self._told = ""

    def check(self, workers: Sequence[Worker]) -> None:
        """Says how many wait for room: every half minute while nodes are on their way, else once.

        Raises:
            ClusterError: the run cannot start, and no node is on its way.
        """
        now = self._clock()
        if all(each.about for each in workers):
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
        room = self._backend.capacity()
        placed = len(workers) - len(waiting)
        found = (
            f"{placed} of {len(workers)} processes have found room on the cluster, which has {room.cpus:g} "
            f"CPUs, {room.free_cpus:g} of them free; {len(workers) * room.cpus_per_role:g} are needed"
        )
        actors = sum(each.role == "actor" for each in workers)
        actors_placed = actors - sum(each.role == "actor" for each in waiting)
        if is_late and not room.is_growing:
            can_start = actors_placed >= self._least_actors and actors - actors_placed == len(waiting)
            if not can_start:
                raise ClusterError(
                    f"After {self._seconds:g} s {found}; {waiting[0].name} {waiting[0].lacks} "
                    "(add nodes, lower `--actors`, let the run start with fewer by "
                    "`--min-actors`, or give it longer by `--start-timeout-seconds`)."
                )
            self._has_started = True
        if room.is_growing:
            self._note(f"{found}; new nodes are on their way.")
        elif self._has_started and found != self._told:
            self._told = found
            self._note(f"{found}; the rest is added when nodes come.")
