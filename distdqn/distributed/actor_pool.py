"""How many actors a run has: who comes, who leaves, and how a command changes it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distdqn.distributed.calls import Call, Calls, Worker
from distdqn.distributed.limits import Limits
from distdqn.distributed.startup_check import StartupCheck
from distdqn.distributed.worker_group import WorkerGroup
from distdqn.reporting.metrics import Metrics
from distdqn.training.backend import Ref
from distdqn.types import ActorPoolStatus, FlushReport, RolloutRequest

_LEAVE_SECONDS = 10.0  # for the rollouts of an actor that leaves; then its process is ended all the same

_FOLLOW_SECONDS = 5.0  # from one look at what the cluster has room for to the next

_TELL_SECONDS = 5.0  # from one message about how many there are to the next, where nothing changes

_LISTEN_SECONDS = 10.0  # of training, before a process for commands is started: short runs do without


@dataclass(frozen=True)
class Departure:
    """What an actor that leaves has said last."""

    actor: Worker
    report: FlushReport


class ActorPool:
    """Keeps the number of actors at what is wanted.

    That is what the user asked for, by option or by command, or what the cluster has room
    for. Who leaves is asked for no more rollouts. What it has under way, and what is open in
    its environments, still goes to replay; then its process ends.

    Args:
        forget: takes back what a call that never ends was granted.
        insert: has a shard of replay store a chunk, once it can.
    """

    def __init__(
        self,
        calls: Calls,
        limits: Limits,
        metrics: Metrics,
        workers: WorkerGroup,
        forget: Callable[[Call], None],
        insert: Callable[[Calls, Worker, Ref, Any], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = calls
        self._limits = limits
        self._metrics = metrics
        self._workers = workers
        self._forget = forget
        self._insert = insert
        self._clock = clock
        self._startup_check = StartupCheck(
            calls.backend, limits.min_actors, limits.start_timeout_seconds, metrics.note, clock
        )
        self._wanted = limits.actors
        self._follows = limits.follows_cluster
        self._followed_at = clock()
        self._homeless: list[Worker] = []  # who waited for room when that was looked at last
        self._command = 0
        self._listens_from: float | None = None
        self._listens_to: Worker | None = None
        self._is_listening = False
        self._told: tuple[Worker, ActorPoolStatus] | None = None
        self._told_at = clock()
        if self._follows:
            others = [each.role for each in workers.working() if each.role != "actor"]
            calls.backend.request_resources([*others, *["actor"] * (limits.max_actors or limits.min_actors)])

    def advance(self, is_training: bool) -> None:
        """Takes the next steps, if there are any to take.

        Args:
            is_training: the learner is ready.

        Raises:
            ClusterError: the cluster is too small for the run to start.
        """
        now = self._clock()
        if is_training and self._listens_from is None:
            self._listens_from = now + _LISTEN_SECONDS
        if self._listens_from is not None and now >= self._listens_from:
            self._listen()
        if self._follows and now - self._followed_at >= _FOLLOW_SECONDS:
            self._followed_at = now
            self._follow()
        for actor in self._workers.actors:
            if actor.leaves_by is not None and actor.leaves_by <= now:
                if actor.under_way:  # else replay has yet to take in what it handed over
                    self._metrics.note(f"{actor.name} did not end its rollout in time and is ended with it.")
                self._end(actor)
        self._meet(now)
        self._startup_check.check(self._workers.working())
        self._tell(now)

    def take_command(self, command: tuple[int, int]) -> None:
        """Takes in how many actors somebody wants."""
        self._command, self._wanted = command
        self._is_listening = False
        self._metrics.note(f"A command asks for {self._wanted} actors.")
        if self._follows:
            self._follows = False
            self._calls.backend.request_resources([])

    def take_last_words(self, call: Call, report: FlushReport) -> None:
        """Has replay take in what was open when an actor left."""
        if call.detail is None:
            return  # a cut at the begin of an actor, in a run that goes on
        order = RolloutRequest(self._metrics.counters.env_steps, limit=0)
        detail = (order, Departure(call.worker, report))
        self._insert(self._calls, self._workers.shard_of(call.worker), call.refs[1], detail)

    def take_departure(self, departure: Departure, inserted: int) -> None:
        """Ends the process of an actor that has handed over everything."""
        self._metrics.add_flush(departure.report, inserted)
        if self._workers.is_on(departure.actor):
            self._end(departure.actor)

    def to_json(self) -> dict[str, Any]:
        """The entry in `status.json`."""
        return {"wanted": self._wanted, "acting": len(self._workers.acting)}

    # Inside.

    def _listen(self) -> None:
        """Keeps one call under way that ends when a command comes."""
        control = self._workers.control or self._workers.start_control()
        if self._listens_to is not control:
            self._listens_to, self._is_listening = control, False
            self._command = 0  # the numbers of a new process begin again
        if not self._is_listening:
            self._is_listening = True
            self._calls.send("next_command", control, turns=float("inf"))

    def _follow(self) -> None:
        """Wants as many actors as there is room for, after the roles that a run cannot do without."""
        least, most = self._limits.min_actors, self._limits.max_actors
        staying = self._workers.staying
        before = self._homeless
        self._homeless = [each for each in self._workers.working() if each.lacks]
        if self._homeless:  # for two looks: a process that finds room does so within moments
            still = sum(any(each is one for one in before) for each in self._homeless)
            wanted = len(staying) - still
        elif all(actor.about for actor in staying):
            wanted = len(staying) + self._calls.backend.capacity().actors
        else:
            return
        self._wanted = max(least, wanted if most is None else min(most, wanted))

    def _meet(self, now: float) -> None:
        """Starts actors that are missing, and has those leave that are too many."""
        staying = self._workers.staying
        for _ in range(self._wanted - len(staying)):
            self._workers.add_actor()
        # Those that are not up have nothing to hand over.
        by_loss = sorted(staying, key=lambda actor: (bool(actor.about), -actor.index))
        for actor in by_loss[: max(0, len(staying) - self._wanted)]:
            if not actor.about:
                self._end(actor)
                continue
            actor.leaves_by = now + _LEAVE_SECONDS
            self._calls.send("flush", actor, 0, returns=2, detail="leaves")  # after its rollouts under way

    def _end(self, actor: Worker) -> None:
        lost = self._calls.abandon(actor)
        self._workers.remove(actor)
        for call in lost:
            self._forget(call)

    def _tell(self, now: float) -> None:
        """Lets who watches know how many actors there are; again after a while, as a message may be lost."""
        control = self._workers.control
        if control is None or not control.about:
            return
        starting = [actor for actor in self._workers.staying if not actor.about]
        staff = ActorPoolStatus(
            wanted=self._wanted,
            acting=len(self._workers.acting),
            starting=len(starting),
            waiting=sum(bool(actor.lacks) for actor in starting),
            draining=len(self._workers.actors) - len(self._workers.staying),
            command=self._command,
        )
        is_news = self._told is None or self._told[0] is not control or self._told[1] != staff
        if is_news or now - self._told_at >= _TELL_SECONDS:
            self._told, self._told_at = (control, staff), now
            self._calls.backend.call(control.handle, "tell", staff)
