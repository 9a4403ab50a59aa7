"""A fleet without processes and a clock without time.

Each role is a plain object behind a queue: a call starts when the calls before it and the
results it needs are there, and takes as many fake seconds as the test says. `wait` moves
the clock to the next end. Processes die, hang and raise where the test says so; what they
would have done after that is not done.
"""

import itertools
import math
import weakref
from dataclasses import dataclass, field
from typing import Any

from distributed.fake_roles import FakeActor, FakeControl, FakeEvaluator, FakeLearner, FakeReplay

from distdqn.training.backend import CallFailed, ClusterCapacity

HANG = "hang"  # a fault: the call never ends, nor do those queued behind it

_NO_INPUT = "what it needs failed: "
LOST = "the message was lost"  # a fault: nobody knows whether the call is made
_SECONDS = {
    "start": 1.0,
    "rollout": 0.1,
    "flush": 0.01,
    "insert": 0.001,
    "sample": 0.001,
    "draw": 0.001,
    "update_priorities": 0.001,
    "learn": 0.1,
    "learn_from_shards": 0.1,
    "publish": 0.01,
    "compile": 2.0,
    "evaluate": 0.5,
    "export": 0.1,
    "get_state": 0.005,
    "set_state": 0.1,
    "get_index": 0.002,
    "get_rows": 0.003,
    "set_rows": 0.01,
    "set_index": 0.01,
    "set_chunk": 0.01,
    "next_command": math.inf,
}


@dataclass(eq=False)
class FakeHandle:
    """One fake process: its role, and from when on it is free or dead."""

    role: str
    index: int
    restarts: int
    object: Any
    free_at: float
    dies_at: float = math.inf
    node: str = "node-0"
    lacks: str | None = None
    queue: list = field(default_factory=list)  # calls that are not over
    calls_of: dict = field(default_factory=dict)  # method -> how many


@dataclass(eq=False)
class FakeTask:
    """One call: when it would end, and with what."""

    handle: FakeHandle
    method: str
    arguments: tuple
    number: int  # in the order in which they were sent
    sent_at: float
    end: float
    values: tuple
    error: str | None = None

    @property
    def needs(self):
        return [argument.task for argument in self.arguments if isinstance(argument, FakeRef)]


@dataclass(eq=False)
class FakeRef:
    """One result of a task."""

    task: FakeTask
    position: int

    @property
    def value(self):
        return self.task.values[self.position]


@dataclass(frozen=True)
class Record:
    """A call as it was made; references among the arguments as what they stand for by then."""

    at: float
    handle: FakeHandle
    method: str
    arguments: tuple
    in_flight: int  # calls of this method of this process, this one included
    inserted: int  # in replay by then

    @property
    def role(self):
        return self.handle.role


class FakeBackend:
    """See `distdqn.runner.backend.Backend`.

    Attributes:
        now: fake seconds since the beginning.
        seconds: method -> how long it takes: a number, or a function of the handle.
        faults: called as `faults(handle, method, n)` for the n-th call (from 1) of that
            method of that process; returns None, `HANG`, or the words of an exception.
        records: every call made.
        started, ended: every process started or ended.
        placeless: roles that have no place when they are started.
        node: where processes are started.
        slots: how many processes there is room for, that which takes commands apart.
        is_growing: whether it says that nodes are on their way.
        told: (when, how many actors there are) as the process that takes commands was told.
        asked_for: every list of roles it was asked to grow for.
    """

    def __init__(self, make_role=None, seconds=None, faults=None, keep_records=True):
        self.now = 0.0
        self.seconds = {**_SECONDS, **(seconds or {})}
        self.faults = faults or (lambda _handle, _method, _n: None)
        self.records = []
        self.started = []
        self.ended = []
        self.waits = 0
        self.holders = lambda: "others have 3 CPU"
        self.placeless = set()
        self.node = "node-0"
        self._dead_nodes = set()
        self.slots = math.inf
        self.is_growing = False
        self.told = []
        self.asked_for = []
        self._commands = []  # that nobody has taken
        self.live_refs = weakref.WeakSet()
        self._roles = {
            "actor": FakeActor,
            "replay": FakeReplay,
            "learner": FakeLearner,
            "evaluator": FakeEvaluator,
            "control": FakeControl,
            **(make_role or {}),
        }
        self._keep_records = keep_records
        self._plans = []
        self._busy = []  # processes with calls that are not over
        self._numbers = itertools.count()

    def clock(self):
        return self.now

    # What a test scripts and asks.

    def at(self, seconds, action):
        """Has `action()` happen at that time."""
        self._plans.append((seconds, action))

    def command(self, actors):
        """Somebody wants so many actors, now."""
        self._commands.append(actors)
        self._hand_over()

    def grow(self, slots):
        """There is room for so many processes now."""
        self.slots = slots
        self._place_waiting()

    def living(self, role=None):
        """Processes that have room and are not over."""
        return [
            each
            for each in self.started
            if not each.lacks and each.dies_at > self.now and each.role == (role or each.role)
        ]

    def kill(self, role, index=0):
        """The newest process of that role dies now."""
        self.newest(role, index).dies_at = self.now

    def kill_node(self, node, seconds_until_known=0.0):
        """Everything on that node dies now; that it is the node is known a while later."""
        for handle in self.started:
            if handle.node == node:
                handle.dies_at = min(handle.dies_at, self.now)
        if seconds_until_known:
            self.at(self.now + seconds_until_known, lambda: self._dead_nodes.add(node))
        else:
            self._dead_nodes.add(node)

    def give_place(self, role, index=0):
        """The newest process of that role, which had none, has a place now."""
        self._place(self.newest(role, index))

    def _place(self, handle):
        handle.lacks, free_at = None, self.now + self.seconds["start"]
        for task in handle.queue:  # sent before there was room
            seconds = 0.0 if task.method == "identify" else self.seconds[task.method]
            task.end = free_at = max([free_at, *(self._outcome(need)[0] for need in task.needs)]) + seconds
        handle.free_at = free_at

    def newest(self, role, index=0):
        """The process of that role that was started last."""
        return [h for h in self.started if (h.role, h.index) == (role, index)][-1]

    def calls_of(self, role, method=None):
        """The records of one role."""
        return [r for r in self.records if r.role == role and method in (None, r.method)]

    # Backend.

    def start(self, role, index, restarts):
        made = self._roles[role]()
        if role == "learner":
            made.generation = restarts
        handle = FakeHandle(role, index, restarts, made, math.inf, lacks="needs 1 CPU")
        handle.node = self.node
        self.started.append(handle)
        self._place_waiting()
        return handle, self._identify(handle)

    def _identify(self, handle):
        fault = self._fault(handle, "identify")
        about = {"pid": 1000 + self.started.index(handle), "host": "here", "node": handle.node}
        end = handle.free_at = math.inf if fault == HANG else handle.free_at
        task = FakeTask(handle, "identify", (), next(self._numbers), self.now, end, (about,), fault)
        return self._queue(task)[0]

    def call(self, handle, method, *arguments, returns=1):
        if method == "tell":  # beside its other calls
            self.told.append((self.now, *arguments))
            return (None,)
        task = FakeTask(handle, method, arguments, next(self._numbers), self.now, 0.0, (None,) * returns)
        begin = max([self.now, handle.free_at, *(self._outcome(need)[0] for need in task.needs)])
        task.error = self._fault(handle, method)
        seconds = self.seconds[method]
        task.end = begin + (seconds(handle) if callable(seconds) else seconds)
        if task.error == HANG:
            task.end = math.inf
        handle.free_at = task.end
        if self._keep_records:
            self._record(task)
        refs = self._queue(task)
        self._hand_over()
        return refs

    def wait(self, refs, timeout_seconds):
        self.waits += 1
        deadline = self.now + timeout_seconds
        while True:
            self._settle()
            ends = [self._outcome(ref.task)[0] for ref in refs]
            ready = [ref for ref, end in zip(refs, ends, strict=True) if end <= self.now]
            if ready or self.now >= deadline:
                return ready
            self._move_to(min([*ends, deadline]))

    def get(self, ref, timeout_seconds=10.0):
        deadline = self.now + timeout_seconds
        self._settle()
        while (end := self._outcome(ref.task)[0]) > self.now:
            if self.now >= deadline:
                raise CallFailed("the time is up")
            self._move_to(min(end, deadline))
            self._settle()
        _, error = self._outcome(ref.task)
        if error is not None:
            node = ref.task.handle.node if ref.task.handle.node in self._dead_nodes else None
            raise CallFailed(error, error.startswith(_NO_INPUT), node, is_lost=error == LOST)
        return ref.value

    def state(self, ref):
        self._settle()
        end, error = self._outcome(ref.task)
        return "running" if end > self.now else "done" if error is None else "failed"

    def missing(self, handle):
        return handle.lacks

    def has_process(self, handle):
        return not handle.lacks

    def lost_nodes(self):
        return self._dead_nodes

    def end(self, handle):
        assert handle not in self.ended, "a process is ended once"
        handle.dies_at = min(handle.dies_at, self.now)
        self.ended.append(handle)
        self._place_waiting()

    def capacity(self):
        free = self.slots - self._taken()
        return ClusterCapacity(free, self.slots, free, 1.0, self.is_growing)

    def request_resources(self, roles):
        self.asked_for.append(roles)

    def describe(self):
        return {"address": "nowhere", "namespace": "fake"}

    # Inside.

    def _taken(self):
        return len([each for each in self.living() if each.role != "control"])

    def _place_waiting(self):
        for handle in self.started:
            if not handle.lacks or handle.dies_at <= self.now:
                continue
            is_full = handle.role != "control" and self._taken() >= self.slots
            if is_full or handle.role in self.placeless:
                continue
            self._place(handle)

    def _hand_over(self):
        """Ends the call that waits for a command, if there is one of each."""
        controls = [each for each in self.living("control") if each.queue]
        tasks = [task for each in controls for task in each.queue if task.method == "next_command"]
        if tasks and self._commands:
            task = tasks[0]
            task.handle.object.commands.append(self._commands.pop(0))
            before = [each.end for each in task.handle.queue if each is not task]
            task.end = task.handle.free_at = max([self.now, *before])

    def _fault(self, handle, method):
        handle.calls_of[method] = handle.calls_of.get(method, 0) + 1
        return self.faults(handle, method, handle.calls_of[method])

    def _queue(self, task):
        if not task.handle.queue:
            self._busy.append(task.handle)
        task.handle.queue.append(task)
        refs = tuple(FakeRef(task, position) for position in range(len(task.values)))
        self.live_refs.update(refs)
        return refs

    def _record(self, task):
        self._settle()
        arguments = tuple(a.value if isinstance(a, FakeRef) else a for a in task.arguments)
        replays = [h.object.inserted for h in self.started if h.role == "replay"]
        count = 1 + sum(each.method == task.method for each in task.handle.queue)
        inserted = replays[-1] if replays else 0
        self.records.append(Record(self.now, task.handle, task.method, arguments, count, inserted))

    def _settle(self):
        """Does what is due by now, in the order in which it ends."""
        while True:
            heads = [(self._outcome(task)[0], task.number, task) for task in (h.queue[0] for h in self._busy)]
            end, _, task = min(heads, default=(math.inf, 0, None))
            if end > self.now:
                return
            task.handle.queue.pop(0)
            if not task.handle.queue:
                self._busy.remove(task.handle)
            if self._outcome(task)[1] is None:
                self._run(task)
                task.arguments = ()  # Ray, too, lets go of arguments when a call is over

    def _run(self, task):
        if task.method == "identify":
            return
        arguments = [a.value if isinstance(a, FakeRef) else a for a in task.arguments]
        try:
            result = getattr(task.handle.object, task.method)(*arguments)
        except ValueError as error:
            task.error = f"ValueError: {error}"
        else:
            task.values = result if len(task.values) > 1 else (result,)

    def _outcome(self, task):
        """When a task ends or ended, and its error if it failed."""
        end, error = task.end, task.error
        for need in task.needs:
            needed_end, needed_error = self._outcome(need)
            if needed_error is not None:
                end, error = max(task.sent_at, needed_end), f"{_NO_INPUT}{needed_error}"
            elif needed_end > end:
                end = needed_end
        if task.handle.dies_at < end:
            end, error = max(task.handle.dies_at, task.sent_at), "The process died."
        return end, error

    def _move_to(self, now):
        """Moves the clock to `now`, or to the first thing that was planned before."""
        assert now < 20_000, "the run hangs"
        self.now = max(self.now, min([now, *(at for at, _ in self._plans)]))
        due = [action for at, action in self._plans if at <= self.now]
        self._plans = [plan for plan in self._plans if plan[0] > self.now]
        for action in due:
            action()
