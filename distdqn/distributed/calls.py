"""The calls under way: who was asked what, until when, and how each ended."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distdqn.errors import RoleFailure
from distdqn.training.backend import Backend, CallFailed, Handle, Ref

_PLAY = ("rollout", "evaluate")  # calls that last as long as the environment takes

_PLACE_SECONDS = 5.0  # from one look at which roles have a place in the cluster to the next

_WORK = ("rollout", "learn", "evaluate")  # calls that prove, when they end well, that a role can do its work

# Calls that may be made twice: they tell how things stand.
_REPEATABLE = ("publish", "evaluate", "export", "get_state", "get_index", "get_rows", "get_frames")

_AGAIN_SECONDS = 0.5  # until a call whose message was lost is made again

_EPISODES_PER_DEADLINE = 10  # of an evaluation, in the time one rollout may take


def evaluation_turns(episodes: int) -> float:
    """How many times the deadline of one rollout an evaluation may take."""
    return max(1.0, episodes / _EPISODES_PER_DEADLINE)


def last_line(why: str) -> str:
    """The line of a traceback that says what went wrong."""
    lines = why.strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"


def _role_failure(worker: "Worker", method: str, error: CallFailed) -> RoleFailure:
    why = str(error)
    return RoleFailure(f"{worker.name} failed in `{method}`: {last_line(why)}", details=why)


@dataclass(frozen=True)
class Failure:
    """One of the failures of a place that came without a completed call between.

    Attributes:
        node: of the cluster, that the process was on; None if it never was up and no node is to blame.
        is_hang: the environment gave no answer in time.
    """

    node: str | None
    is_hang: bool


@dataclass
class Worker:
    """One role's process as the supervisor sees it."""

    role: str
    index: int
    handle: Handle
    restarts: int
    is_numbered: bool = False  # besides actors, which always are
    failures: tuple[Failure, ...] = ()  # running, without a completed call between
    under_way: int = 0
    weights_version: tuple[int, int] | None = None  # last sent
    about: dict[str, Any] = field(default_factory=dict)  # pid, host and node, once it is up
    lacks: str | None = None  # what the cluster has too little of to give it a place
    last_sign_of_life: float | None = None  # Unix time
    leaves_by: float | None = None  # of an actor that is to hand over what it has and end

    @property
    def name(self) -> str:
        """As messages and `status.json` call it."""
        return f"{self.role}-{self.index}" if self.role == "actor" or self.is_numbered else self.role

    def to_json(self) -> dict[str, Any]:
        """The role's entry in `status.json`."""
        return {
            "role": self.name,
            "pid": self.about.get("pid"),
            "host": self.about.get("host"),
            "restarts": self.restarts,
            "last_sign_of_life": self.last_sign_of_life,
        }


@dataclass
class Call:
    """One call under way. `detail` is what its end will need."""

    kind: str
    worker: Worker
    refs: tuple[Ref, ...]
    detail: Any
    turns: float
    sent_at: float
    deadline: float = math.inf


@dataclass(frozen=True)
class Ended:
    """A call that is over: its result, or `failure` in words.

    Attributes:
        call: the call.
        result: what it returned.
        failure: why it did not.
        lacks_input: it never began, for what it was to be given could not be had.
        is_overdue: it was given up at its deadline.
        node: of the cluster, whose death took the process, where that is told.
    """

    call: Call
    result: Any = None
    failure: str | None = None
    lacks_input: bool = False
    is_overdue: bool = False
    node: str | None = None

    @property
    def is_hang(self) -> bool:
        """Whether an environment that has begun gave no answer in time."""
        return self.is_overdue and self.call.kind in _PLAY and bool(self.call.worker.about)


class Calls:
    """Keeps the calls under way and their deadlines.

    The time of a call runs from when the one before it in its role's queue has ended. The
    time to start runs from when the cluster has a place for the role.
    """

    def __init__(
        self,
        backend: Backend,
        env_timeout_seconds: float,
        start_timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self.env_timeout_seconds = env_timeout_seconds
        self.start_timeout_seconds = start_timeout_seconds
        self._clock = clock
        self._place_seconds = min(_PLACE_SECONDS, start_timeout_seconds / 4)
        self._look_at = clock() + self._place_seconds
        self._calls: dict[Ref, Call] = {}
        self._handles: list[Handle] = []

    def start(self, role: str, index: int = 0, restarts: int = 0, is_numbered: bool = False) -> Worker:
        """Starts a role's process and asks who it is."""
        handle = self.backend.start(role, index, restarts)
        self._handles.append(handle)
        worker = Worker(role, index, handle, restarts, is_numbered)
        self._note("identify", worker, (self.backend.identify(worker.handle),), None)
        return worker

    def send(
        self,
        kind: str,
        worker: Worker,
        *arguments: Any,
        returns: int = 1,
        detail: Any = None,
        turns: float = 1.0,
        method: str | None = None,
    ) -> tuple[Ref, ...]:
        """Calls a method of a role and keeps the call until it ends.

        Args:
            kind: what the call is known by.
            worker: the role.
            arguments: of the method.
            returns: how many results it has.
            detail: what the call's end will need.
            turns: how many times the usual deadline it may take.
            method: of the role; None means `kind`.
        """
        refs = self.backend.call(worker.handle, method or kind, *arguments, returns=returns)
        self._note(kind, worker, refs, detail, turns)
        return refs

    def are_under_way(self, *kinds: str) -> bool:
        """Whether a call of any of these kinds is."""
        return any(call.kind in kinds for call in self._calls.values())

    def count_under_way(self, kind: str) -> int:
        """How many calls of this kind are."""
        return sum(call.kind == kind for call in self._calls.values())

    def under_way(self) -> list[Call]:
        """All that are, in the order in which they were sent."""
        return list(self._calls.values())

    def collect(self, timeout_seconds: float) -> list[Ended]:
        """The calls that ended or overran their deadlines, waiting for the first of them."""
        ended = []
        for ref in self.backend.wait(list(self._calls), timeout_seconds):
            call = self._calls.pop(ref)
            call.worker.under_way -= 1
            try:
                ended.append(Ended(call, result=self.backend.get(ref)))
            except CallFailed as error:
                ended.append(Ended(call, None, str(error), error.lacks_input, node=error.node))
            else:
                self._note_sign_of_life(ended[-1])
            self._renew(call.worker)
        now = self._clock()
        self._look_for_places(now)
        for call in [call for call in self._calls.values() if call.deadline <= now]:
            del self._calls[call.refs[0]]
            call.worker.under_way -= 1
            why = f"no answer by its deadline, {now - call.deadline:.1f} s ago"
            ended.append(Ended(call, failure=why, is_overdue=True))
        return ended

    def abandon(self, worker: Worker) -> list[Call]:
        """Ends a role's process and returns the calls that will have no end."""
        lost = [call for call in self._calls.values() if call.worker is worker]
        for call in lost:
            del self._calls[call.refs[0]]
        self._end(worker.handle)
        return lost

    def end_all(self) -> None:
        """Ends the process of every role that was started."""
        self._calls.clear()
        for handle in list(self._handles):
            self._end(handle)

    def ask(self, worker: Worker, method: str, *arguments: Any, turns: float = 1.0) -> Any:
        """Calls a role and waits for its answer, `turns` times the usual deadline at most.

        A call whose message is lost is made again if that does no harm.

        Raises:
            RoleFailure: none came.
        """
        deadline = self._clock() + self.start_timeout_seconds * turns
        while True:
            (ref,) = self.backend.call(worker.handle, method, *arguments)
            try:
                return self.backend.get(ref, self.start_timeout_seconds * turns)
            except CallFailed as error:
                if not error.is_lost or method not in _REPEATABLE or self._clock() >= deadline:
                    raise _role_failure(worker, method, error) from error
            self.backend.wait([], _AGAIN_SECONDS)

    def fetch(self, worker: Worker, method: str, ref: Ref, turns: float = 1.0) -> Any:
        """Waits for the result of a call of `method`, `turns` times the usual deadline at most.

        Raises:
            RoleFailure: none came.
        """
        try:
            return self.backend.get(ref, self.start_timeout_seconds * turns)
        except CallFailed as error:
            raise _role_failure(worker, method, error) from error

    def _end(self, handle: Handle) -> None:
        self._handles.remove(handle)
        self.backend.end(handle)

    def _note(
        self, kind: str, worker: Worker, refs: tuple[Ref, ...], detail: Any, turns: float = 1.0
    ) -> None:
        now = self._clock()
        call = Call(kind, worker, refs, detail, turns, sent_at=now)
        before = [each.deadline for each in self._calls.values() if each.worker is worker]
        call.deadline = max([now, *before]) + self._seconds(call)
        worker.under_way += 1
        self._calls[refs[0]] = call

    def _seconds(self, call: Call) -> float:
        """The time a call has, once those before it have ended."""
        plays_and_is_up = call.kind in _PLAY and bool(call.worker.about)
        return call.turns * (self.env_timeout_seconds if plays_and_is_up else self.start_timeout_seconds)

    def _renew(self, worker: Worker) -> None:
        """Has the time of a role's calls, one after another, run from now on."""
        deadline = self._clock()
        for call in self._calls.values():
            if call.worker is worker:
                deadline += self._seconds(call)
                call.deadline = deadline

    def _look_for_places(self, now: float) -> None:
        """Finds out which roles wait for a place; their time to start has not begun."""
        if now < self._look_at:
            return
        self._look_at = now + self._place_seconds
        for worker in [call.worker for call in self._calls.values() if call.kind == "identify"]:
            worker.lacks = self.backend.missing(worker.handle)
            if worker.lacks is not None:
                self._renew(worker)

    def _note_sign_of_life(self, ended: Ended) -> None:
        worker = ended.call.worker
        worker.last_sign_of_life = time.time()
        if ended.call.kind == "identify":
            worker.about, worker.lacks = ended.result, None
            if worker.role == "control":  # which does no work of its own
                worker.failures = ()
        elif ended.call.kind in _WORK:
            worker.failures = ()
