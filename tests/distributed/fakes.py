"""A fleet without processes and a clock without time.

Each role is a plain object behind a queue: a call starts when the calls before it and the
results it needs are there, and takes as many fake seconds as the test says. `wait` moves
the clock to the next end. Processes die, hang and raise where the test says so.
"""

import math
import weakref
from dataclasses import dataclass, field
from typing import Any

from distributed.fake_roles import FakeActor, FakeEvaluator, FakeLearner, FakeReplay

from distdqn.distributed.calls import Calls
from distdqn.distributed.fleet import CallFailed
from distdqn.distributed.supervisor import Limits, Supervisor
from distdqn.goal import Budget, Goal
from distdqn.pacing import Pacing
from distdqn.reporting.journal import Journal
from distdqn.schedules import LinearSchedule
from distdqn.stopping import StopRequest

_NO_IMPORTANCE = LinearSchedule(0.0, 0.0, 0)

HANG = "hang"  # a fault: the call never ends, nor do those queued behind it


@dataclass(eq=False)
class FakeHandle:
    """One fake process: its role, and from when on it is free or dead."""

    role: str
    index: int
    incarnation: int
    object: Any
    free_at: float
    dies_at: float = math.inf
    tasks: list = field(default_factory=list)  # weak references, to count what is under way
    calls_of: dict = field(default_factory=dict)  # method -> how many


@dataclass(eq=False)
class FakeTask:
    """One call: when it would end, and with what."""

    handle: FakeHandle
    method: str
    sent_at: float
    end: float
    needs: tuple
    values: tuple
    error: str | None = None


@dataclass(eq=False)
class FakeRef:
    """One result of a task."""

    task: FakeTask
    position: int


@dataclass(frozen=True)
class Record:
    """A call as it was made; references among the arguments as what they stand for."""

    at: float
    handle: FakeHandle
    method: str
    arguments: tuple
    under_way: int  # calls of this method of this process, this one included
    inserted: int  # in replay by then

    @property
    def role(self):
        return self.handle.role


class FakeFleet:
    """See `distdqn.distributed.fleet.Fleet`.

    Attributes:
        now: fake seconds since the beginning.
        seconds: method -> how long it takes: a number, or a function of the handle.
        faults: called as `faults(handle, method, n)` for the n-th call (from 1) of that
            method of that process; returns None, `HANG`, or the words of an exception.
        records: every call made.
        started: every process started.
        ended: every process ended.
    """

    def __init__(self, make_role=None, seconds=None, faults=None, keep_records=True):
        self.now = 0.0
        self.seconds = {
            "start": 1.0,
            "rollout": 0.1,
            "insert": 0.001,
            "sample": 0.001,
            "update_priorities": 0.001,
            "learn": 0.1,
            "publish": 0.01,
            "compile": 2.0,
            "evaluate": 0.5,
            "export": 0.1,
            **(seconds or {}),
        }
        self.faults = faults or (lambda _handle, _method, _n: None)
        self.records = []
        self.started = []
        self.ended = []
        self.waits = 0
        self.live_refs = weakref.WeakSet()
        self._roles = {
            "actor": FakeActor,
            "replay": FakeReplay,
            "learner": FakeLearner,
            "evaluator": FakeEvaluator,
            **(make_role or {}),
        }
        self._keep_records = keep_records
        self._plans = []

    def clock(self):
        return self.now

    # What a test scripts and asks.

    def at(self, seconds, action):
        """Has `action()` happen at that time."""
        self._plans.append((seconds, action))

    def kill(self, role, index=0):
        """The newest process of that role dies now."""
        self.newest(role, index).dies_at = self.now

    def newest(self, role, index=0):
        """The process of that role that was started last."""
        return [h for h in self.started if (h.role, h.index) == (role, index)][-1]

    def calls_of(self, role, method=None):
        """The records of one role."""
        return [r for r in self.records if r.role == role and method in (None, r.method)]

    # Fleet.

    def start(self, role, index, incarnation):
        handle = FakeHandle(role, index, incarnation, self._roles[role](), self.now + self.seconds["start"])
        self.started.append(handle)
        return handle

    def identify(self, handle):
        fault = self._fault(handle, "identify")
        about = {"pid": 1000 + self.started.index(handle), "host": "here"}
        task = FakeTask(handle, "identify", self.now, handle.free_at, (), (about,), fault)
        if fault == HANG:
            task.end = handle.free_at = math.inf
        return self._refs(task)[0]

    def call(self, handle, method, *arguments, returns=1):
        needs = tuple(a for a in arguments if isinstance(a, FakeRef))
        plain = tuple(a.task.values[a.position] if isinstance(a, FakeRef) else a for a in arguments)
        seconds = self.seconds[method]
        begin = max([self.now, handle.free_at, *(self._outcome(ref.task)[0] for ref in needs)])
        fault = self._fault(handle, method)
        end = begin + (seconds(handle) if callable(seconds) else seconds)
        if fault == HANG:
            end = math.inf
        values = (None,) * returns
        # Done ahead of its time, which nobody can tell: calls of a process stay in their order.
        if fault is None and math.isfinite(end) and not any(self._outcome(ref.task)[1] for ref in needs):
            result = getattr(handle.object, method)(*plain)
            values = result if returns > 1 else (result,)
        handle.free_at = end
        task = FakeTask(handle, method, self.now, end, needs, values, fault)
        self._record(handle, method, plain, task)
        return self._refs(task)

    def wait(self, refs, timeout_seconds):
        self.waits += 1
        deadline = self.now + timeout_seconds
        while True:
            ends = [self._outcome(ref.task)[0] for ref in refs]
            ready = [ref for ref, end in zip(refs, ends, strict=True) if end <= self.now]
            if ready or self.now >= deadline:
                return ready
            self._move_to(min([*ends, deadline]))

    def get(self, ref, timeout_seconds=10.0):
        deadline = self.now + timeout_seconds
        while (end := self._outcome(ref.task)[0]) > self.now:
            if self.now >= deadline:
                raise CallFailed("the time is up")
            self._move_to(min(end, deadline))
        _, error = self._outcome(ref.task)
        if error is not None:
            raise CallFailed(error)
        return ref.task.values[ref.position]

    def end(self, handle):
        assert handle not in self.ended, "a process is ended once"
        handle.dies_at = min(handle.dies_at, self.now)
        self.ended.append(handle)

    def about(self):
        return {"address": "nowhere", "namespace": "fake"}

    # Inside.

    def _fault(self, handle, method):
        handle.calls_of[method] = handle.calls_of.get(method, 0) + 1
        return self.faults(handle, method, handle.calls_of[method])

    def _refs(self, task):
        task.handle.tasks.append(weakref.ref(task))
        refs = tuple(FakeRef(task, position) for position in range(len(task.values)))
        self.live_refs.update(refs)
        return refs

    def _record(self, handle, method, arguments, task):
        under_way = [t for t in (ref() for ref in handle.tasks) if t and self._outcome(t)[0] > self.now]
        handle.tasks = [weakref.ref(t) for t in under_way]
        if self._keep_records:
            replays = [h.object.inserted for h in self.started if h.role == "replay"]
            inserted = replays[-1] if replays else 0
            count = 1 + sum(t.method == task.method for t in under_way)
            self.records.append(Record(self.now, handle, method, arguments, count, inserted))

    def _outcome(self, task):
        """When a task ends or ended, and its error if it failed."""
        end, error = task.end, task.error
        for ref in task.needs:
            needed_end, needed_error = self._outcome(ref.task)
            if needed_error is not None:
                end, error = max(task.sent_at, needed_end), f"what it needs failed: {needed_error}"
            elif needed_end > end:
                end = needed_end
        if task.handle.dies_at < end:
            end, error = max(task.handle.dies_at, task.sent_at), "The process died."
        if end <= self.now and error is None:
            task.needs = ()  # Ray, too, lets go of arguments when a call is over
        return end, error

    def _move_to(self, now):
        """Moves the clock to `now`, or to the first thing that was planned before."""
        assert now < 20_000, "the run hangs"
        self.now = max(self.now, min([now, *(at for at, _ in self._plans)]))
        due = [action for at, action in self._plans if at <= self.now]
        self._plans = [plan for plan in self._plans if plan[0] > self.now]
        for action in due:
            action()


class FakeConsole:
    """Keeps what a run would show."""

    def __init__(self):
        self.notes = []
        self.lines = []

    def note(self, text):
        self.notes.append(text)

    def progress(self, line):
        self.lines.append(line)


class FakeDirectory:
    """A run directory without a disk; keeps the newest of each file."""

    def __init__(self):
        self.files = {}

    def write_json(self, name, value):
        self.files[name] = value

    def add_metrics(self, line):
        self.files["metrics.jsonl"] = line


@dataclass
class FakeRun:
    """A supervisor on a fake fleet, with all that a test looks at."""

    fleet: FakeFleet
    calls: Calls
    supervisor: Supervisor
    goal: Goal
    pacing: Pacing
    journal: Journal
    console: FakeConsole
    directory: FakeDirectory
    stop: StopRequest

    @property
    def counters(self):
        return self.journal.counters

    @property
    def replay(self):
        return self.fleet.newest("replay").object


def make_run(
    fleet=None,
    *,
    actors=2,
    steps_per_rollout=50,
    max_env_steps=5_000,
    max_seconds=None,
    updates_per_call=4,
    batch_size=25,
    publish_period=8,
    samples_per_insert=4.0,
    tolerance=0.1,
    min_size=100,
    slack=None,
    target_return=None,
    eval_period=10**9,
    report_seconds=1.0,
    max_failures=3,
    prioritized=False,
    importance_exponent=_NO_IMPORTANCE,
    env_timeout_seconds=30.0,
    start_timeout_seconds=60.0,
):
    """A run of the supervisor; its budget is met after about a thousand fake calls."""
    fleet = fleet or FakeFleet()
    console, directory, stop = FakeConsole(), FakeDirectory(), StopRequest()
    calls = Calls(fleet, env_timeout_seconds, start_timeout_seconds, fleet.clock)
    if slack is None:  # as `builders.make_pacing` chooses it
        slack = samples_per_insert * actors * steps_per_rollout + 2 * updates_per_call * batch_size
    pacing = Pacing(samples_per_insert, tolerance, min_size, slack)
    journal = Journal(directory, console, 0.0, 10**6, min_size, clock=fleet.clock)
    goal = Goal(target_return, eval_period, eval_episodes=5, confirm_episodes=10)
    limits = Limits(
        actors=actors,
        steps_per_rollout=steps_per_rollout,
        updates_per_call=updates_per_call,
        batch_size=batch_size,
        publish_period=publish_period,
        report_seconds=report_seconds,
        max_failures=max_failures,
        prioritized=prioritized,
        importance_exponent=importance_exponent,
    )
    budget = Budget(max_env_steps, max_seconds)
    supervisor = Supervisor(calls, limits, goal, budget, pacing, journal, stop, fleet.clock)
    return FakeRun(fleet, calls, supervisor, goal, pacing, journal, console, directory, stop)


def fault(role, method, *numbers, words="Boom", incarnations=None):
    """Faults of one role in the n-th calls of one method; of every call if none is given."""

    def faults(handle, called, n):
        is_meant = (handle.role, called) == (role, method) and (not numbers or n in numbers)
        if incarnations is not None and handle.incarnation not in incarnations:
            return None
        return words if is_meant else None

    return faults


def starts(fleet, role, index=0):
    """Incarnations of one role, in the order they were started."""
    return [handle.incarnation for handle in fleet.started if (handle.role, handle.index) == (role, index)]
