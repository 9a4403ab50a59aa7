"""Calls in flight: who was asked what, until when, and what to do with the result."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from distdqn.config.config import RunOptions
from distdqn.errors import RoleFailure
from distdqn.training.backend import Backend, CallFailed, Handle, Ref, role_name

_PLACE_SECONDS = 5.0  # between two looks at which roles wait for resources
_RETRY_SECONDS = 0.5  # until a call whose message was lost is repeated
_EPISODES_PER_DEADLINE = 10  # of an evaluation, in the time of one rollout
# Methods without side effects: they may be called twice.
_REPEATABLE = ("publish", "evaluate", "export", "get_state", "get_index", "get_rows", "get_frames")


def evaluation_turns(episodes: int) -> float:
    """How many times the deadline of one rollout an evaluation gets."""
    return max(1.0, episodes / _EPISODES_PER_DEADLINE)


def last_line(why: str) -> str:
    """The line of a traceback that says what went wrong."""
    lines = why.strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"


@dataclass(frozen=True)
class Failure:
    """A failure of a role without a completed call since."""

    node: str | None  # the process was on; None if it never was up and no node is to blame
    is_hang: bool  # the environment did not respond in time


@dataclass(eq=False)
class Worker:
    """One role's process as the supervisor sees it."""

    role: str
    index: int
    handle: Handle
    restarts: int
    failures: tuple[Failure, ...] = ()  # consecutive ones
    in_flight: int = 0  # calls
    weights_version: tuple[int, int] | None = None  # last sent
    process: dict[str, Any] = field(default_factory=dict)  # pid, host and node, once it is up
    lacks: str | None = None  # resources that the cluster lacks to start it
    last_sign_of_life: float | None = None  # Unix time
    drains_until: float | None = None  # of an actor that finishes its rollouts and ends

    @property
    def name(self) -> str:
        """The name in messages and `status.json`."""
        return role_name(self.role, self.index)

    @property
    def is_ready(self) -> bool:
        """Whether its process is up."""
        return bool(self.process)

    def to_json(self) -> dict[str, Any]:
        """The role's entry in `status.json`."""
        return {
            "role": self.name,
            "pid": self.process.get("pid"),
            "host": self.process.get("host"),
            "restarts": self.restarts,
            "last_sign_of_life": self.last_sign_of_life,
        }


def _ignore(*_: Any) -> None:
    """Does nothing with the end of a call."""


def _called_role(ended: "Ended") -> Worker | None:
    """The role that was called; nobody if an argument is lost."""
    return None if ended.lacks_input else ended.call.worker


@dataclass(eq=False)
class Call:
    """One call in flight. Exactly one of `on_result` and `on_lost` is called in the end."""

    worker: Worker
    method: str
    refs: tuple[Ref, ...]  # its results
    begins_at: float  # once the calls before it in its role's queue have ended, at the latest
    on_result: Callable[["Call", Any], None] = _ignore  # gets the call and the first result
    on_lost: Callable[["Ended"], None] = _ignore  # there is no result, or the role has been replaced since
    find_culprit: Callable[["Ended"], Worker | None] = _called_role  # the role to replace where it fails
    turns: float = 1.0  # how many times the usual deadline it may take
    plays: bool = False  # it lasts as long as the environment takes
    is_work: bool = False  # its success proves that the role can do its work
    deadline: float = math.inf


@dataclass(frozen=True)
class Ended:
    """A call that has ended: its result, or why there is none."""

    call: Call
    result: Any = None
    failure: str | None = None
    lacks_input: bool = False  # it never started, because one of its arguments is lost
    is_overdue: bool = False  # it was given up at its deadline
    node: str | None = None  # of the cluster, whose death ended the process, if that is known

    @property
    def is_hang(self) -> bool:
        """Whether an environment that is up did not respond in time."""
        return self.is_overdue and self.call.plays and self.call.worker.is_ready


class Calls:
    """Keeps the calls in flight and their deadlines.

    The time of a call runs from the end of the one before it in its role's queue. The time to start runs from
    when the cluster has the resources for the role.
    """

    def __init__(
        self, backend: Backend, options: RunOptions, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.backend = backend
        self.env_timeout_seconds = options.env_timeout_seconds
        self.start_timeout_seconds = options.start_timeout_seconds
        self.clock = clock
        self._place_seconds = min(_PLACE_SECONDS, self.start_timeout_seconds / 4)
        self._place_look_at = clock() + self._place_seconds
        self._calls: dict[Ref, Call] = {}

    def start(self, role: str, index: int = 0, restarts: int = 0) -> Worker:
        """Starts a role's process and asks it to identify itself."""
        handle, ref = self.backend.start(role, index, restarts)
        worker = Worker(role, index, handle, restarts)
        is_work = role == "control"  # it does no work that could prove that it is well
        self._add(Call(worker, "identify", (ref,), self.clock(), is_work=is_work))
        return worker

    def send(
        self,
        worker: Worker,
        method: str,
        *arguments: Any,
        returns: int = 1,
        on_result: Callable[[Call, Any], None] = _ignore,
        on_lost: Callable[[Ended], None] = _ignore,
        find_culprit: Callable[[Ended], Worker | None] = _called_role,
        turns: float = 1.0,
        plays: bool = False,
        is_work: bool = False,
    ) -> None:
        """Calls a method of a role, which has so many `returns`; the options are the fields of `Call`."""
        refs = self.backend.call(worker.handle, method, *arguments, returns=returns)
        ends, is_work = (on_result, on_lost, find_culprit), plays or is_work
        self._add(Call(worker, method, refs, self.clock(), *ends, turns, plays, is_work))

    def count(self, *methods: str) -> int:
        """How many calls of these methods are in flight."""
        return sum(call.method in methods for call in self._calls.values())

    def in_flight(self, worker: Worker | None = None) -> list[Call]:
        """The calls in flight, in the order in which they were sent; None means of all roles."""
        return [call for call in self._calls.values() if worker in (None, call.worker)]

    def collect(self, timeout_seconds: float) -> list[Ended]:
        """The calls that ended or passed their deadlines, waiting for the first of them."""
        ended = []
        for ref in self.backend.wait(list(self._calls), timeout_seconds):
            call = self._calls.pop(ref)
            call.worker.in_flight -= 1
            try:
                ended.append(Ended(call, result=self.backend.get(ref)))
            except CallFailed as error:
                ended.append(Ended(call, None, str(error), error.lacks_input, node=error.node))
            else:
                self._note_success(ended[-1])
            self._renew(call.worker)
        now = self.clock()
        self._find_waiting(now)
        for call in [call for call in self._calls.values() if call.deadline <= now]:
            del self._calls[call.refs[0]]
            call.worker.in_flight -= 1
            why = f"no answer by its deadline, {now - call.deadline:.1f} s ago"
            ended.append(Ended(call, failure=why, is_overdue=True))
        return ended

    def abandon(self, worker: Worker) -> list[Ended]:
        """Ends a role's process and returns its calls, which will have no result."""
        lost = self.in_flight(worker)
        for call in lost:
            del self._calls[call.refs[0]]
        self.backend.end(worker.handle)
        return [Ended(call, failure="its process was ended") for call in lost]

    def ask(self, worker: Worker, method: str, *arguments: Any) -> Any:
        """Calls a role and waits for the result; `RoleFailure` without one by the usual deadline."""
        return self.ask_each(method, [(worker, arguments)])[0][0]

    def ask_each(
        self, method: str, asked: Sequence[tuple[Worker, tuple[Any, ...]]], turns: float = 1.0
    ) -> list[tuple[Any, Ref]]:
        """Calls roles at the same time; waits for results and references, `turns` times the usual deadline.

        `RoleFailure` without one. A call whose message is lost is repeated if that has no side effects.
        """
        seconds = self.start_timeout_seconds * turns
        deadline = self.clock() + seconds
        refs = [self.backend.call(worker.handle, method, *arguments)[0] for worker, arguments in asked]
        results = []
        for ref, (worker, arguments) in zip(refs, asked, strict=True):
            while True:
                try:
                    results.append((self.backend.get(ref, seconds), ref))
                    break
                except CallFailed as error:
                    if not error.is_lost or method not in _REPEATABLE or self.clock() >= deadline:
                        raise _role_failure(worker, method, error) from error
                self.backend.wait([], _RETRY_SECONDS)
                (ref,) = self.backend.call(worker.handle, method, *arguments)
        return results

    def fetch(self, worker: Worker, method: str, ref: Ref) -> Any:
        """Waits for the result of a call of `method`; `RoleFailure` if there is none."""
        try:
            return self.backend.get(ref, self.start_timeout_seconds)
        except CallFailed as error:
            raise _role_failure(worker, method, error) from error

    def _add(self, call: Call) -> None:
        before = [each.deadline for each in self.in_flight(call.worker)]
        call.begins_at = max([call.begins_at, *before])
        call.deadline = call.begins_at + self._seconds(call)
        call.worker.in_flight += 1
        self._calls[call.refs[0]] = call

    def _seconds(self, call: Call) -> float:
        """The time of a call, once those before it have ended."""
        plays = call.plays and call.worker.is_ready
        return call.turns * (self.env_timeout_seconds if plays else self.start_timeout_seconds)

    def _renew(self, worker: Worker) -> None:
        """Lets the time of a role's calls, one after another, run from now on."""
        deadline = self.clock()
        for call in self.in_flight(worker):
            call.begins_at, deadline = deadline, deadline + self._seconds(call)
            call.deadline = deadline

    def _find_waiting(self, now: float) -> None:
        """Finds the roles that wait for resources; their time to start has not begun."""
        if now < self._place_look_at:
            return
        self._place_look_at = now + self._place_seconds
        for worker in dict.fromkeys(c.worker for c in self._calls.values() if not c.worker.is_ready):
            worker.lacks = self.backend.missing(worker.handle)
            if worker.lacks is not None:
                self._renew(worker)

    def _note_success(self, ended: Ended) -> None:
        worker = ended.call.worker
        worker.last_sign_of_life = time.time()
        if not worker.is_ready:  # calls end in their order, and the first one identifies the process
            worker.process, worker.lacks = ended.result, None
        if ended.call.is_work:
            worker.failures = ()


def _role_failure(worker: Worker, method: str, error: CallFailed) -> RoleFailure:
    return RoleFailure(f"{worker.name} failed in `{method}`: {last_line(str(error))}", details=str(error))
