"""A supervisor on a fleet without processes, with all that it works with."""

import math
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from distributed.fake_backend import HANG, FakeBackend
from distributed.fake_roles import ROWS_PER_SEGMENT, FakeActor, FakeEvaluator, FakeLearner, FakeReplay

from distdqn.checkpoints.checkpointer import Checkpointer
from distdqn.checkpoints.store import Store
from distdqn.config.config import Config
from distdqn.distributed.calls import Calls
from distdqn.distributed.checkpointing import AsyncCheckpointer
from distdqn.distributed.limits import Limits
from distdqn.distributed.supervisor import Supervisor
from distdqn.replay.rate_limiter import RateLimiter
from distdqn.reporting.metrics import Metrics
from distdqn.schedules import LinearSchedule
from distdqn.training.builders import LearningSchedules
from distdqn.training.checkpointing import restore_state
from distdqn.training.stopping import Budget, Goal, StopRequest

__all__ = [
    "HANG",
    "ROWS_PER_SEGMENT",
    "FakeActor",
    "FakeBackend",
    "FakeEvaluator",
    "FakeExecutor",
    "FakeLearner",
    "FakeReplay",
    "fault",
    "faults_of",
    "make_checkpoints",
    "make_run",
    "newest_start",
    "starts",
]

_SCHEDULES = LearningSchedules(LinearSchedule(1e-3, 1e-3, 0), LinearSchedule(0.0, 0.0, 0))


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

    metrics_bytes = 0

    def __init__(self):
        self.files = {}

    def write_json(self, name, value):
        self.files[name] = value

    def add_metrics(self, line):
        self.files["metrics.jsonl"] = line


class FakeExecutor(Executor):
    """A thread that takes `seconds` of a fleet's for each task, which is then made all at once.

    Attributes:
        tasks: when each task came, but for those that read on.
    """

    def __init__(self, backend=None, seconds=0.0):
        self.tasks = []
        self._backend = backend
        self._seconds = seconds

    def submit(self, function, /, *arguments, **named):
        future = _FakeFuture(lambda: function(*arguments, **named))
        if self._backend is not None and function is not next:
            self.tasks.append(self._backend.now)
        if self._seconds:
            self._backend.at(self._backend.now + self._seconds, future.exception)
        else:
            future.exception()
        return future


class _FakeFuture(Future):
    """One task: made once somebody waits for it."""

    def __init__(self, task):
        super().__init__()
        self._task = task

    def exception(self, timeout=None):
        if self._task is not None:
            task, self._task = self._task, None
            try:
                self.set_result(task())
            except Exception as error:
                self.set_exception(error)
        return super().exception(timeout)

    def result(self, timeout=None):
        self.exception()
        return super().result(timeout)


@dataclass
class FakeRun:
    """A supervisor on a fake fleet, with all that a test looks at."""

    backend: FakeBackend
    calls: Calls
    supervisor: Supervisor
    goal: Goal
    rate_limiter: RateLimiter
    metrics: Metrics
    console: FakeConsole
    directory: FakeDirectory
    stop: StopRequest
    saver: AsyncCheckpointer

    @property
    def counters(self):
        return self.metrics.counters

    @property
    def replay(self):
        return self.backend.newest("replay").object

    @property
    def learner(self):
        return self.backend.newest("learner").object

    def finish(self):
        """Makes the last checkpoint, as a run does at its end."""
        self.saver.finish(self.goal, self.metrics, self.supervisor.workers)


def make_run(
    backend=None,
    *,
    actors=2,
    steps_per_rollout=50,
    max_env_steps=5_000,
    max_seconds=None,
    max_episodes=None,
    samples_per_insert=4.0,
    tolerance=0.1,
    min_replay_size=100,
    slack=None,
    target_return=None,
    eval_period=10**9,
    env_timeout_seconds=30.0,
    start_timeout_seconds=60.0,
    placing_seconds=math.inf,
    start=None,
    saving=None,
    **limits,
):
    """A run of the supervisor; its budget is met after about a thousand fake calls.

    It waits `placing_seconds` at its start for room on the cluster, if that is small.
    `start` is a checkpoint to go on from, `saving` what an `AsyncCheckpointer` is to be made with.
    """
    backend = backend or FakeBackend()
    console, directory, stop = FakeConsole(), FakeDirectory(), StopRequest()
    calls = Calls(backend, env_timeout_seconds, start_timeout_seconds, backend.clock)
    limits = make_limits(actors, steps_per_rollout, start_timeout_seconds=placing_seconds, **limits)
    if slack is None:  # as `builders.make_rate_limiter` chooses it
        slack, slack_per_actor = 2 * limits.samples_per_call, samples_per_insert * steps_per_rollout
    else:
        slack_per_actor = 0.0
    rate_limiter = RateLimiter(samples_per_insert, tolerance, min_replay_size, slack, slack_per_actor)
    config = Config(replay_capacity=10**6, min_replay_size=min_replay_size)
    metrics = Metrics(directory, console, config, backend.now, clock=backend.clock)
    goal = Goal(target_return, eval_period, eval_episodes=5, confirm_episodes=10)
    if start is not None:
        restore_state(start, goal, metrics, rate_limiter, limits.replay_shards)
    saver = make_saver(backend, **(saving or {}))
    budget = Budget(max_env_steps, max_seconds, max_episodes)
    supervisor = Supervisor(
        calls, limits, goal, budget, rate_limiter, metrics, stop, saver, start, backend.clock
    )
    return FakeRun(backend, calls, supervisor, goal, rate_limiter, metrics, console, directory, stop, saver)


def make_limits(actors, steps_per_rollout, **others):
    """The sizes a supervisor works with."""
    usual = {
        "min_actors": actors,
        "max_actors": None,
        "follows_cluster": False,
        "updates_per_call": 4,
        "batch_size": 25,
        "weights_update_period": 8,
        "report_seconds": 1.0,
        "max_failures": 3,
        "stall_timeout_seconds": 10_000.0,
        "environment": "Toy-v0",
        "prioritized": False,
        "schedules": _SCHEDULES,
    }
    return Limits(actors=actors, steps_per_rollout=steps_per_rollout, **{**usual, **others})


def make_saver(backend, checkpoints=None, seconds=None, with_replay=True, executor=None):
    """What makes the checkpoints of a run; never any by default."""
    about = {"config": {"actors": "auto", "envs_per_actor": 16}}
    return AsyncCheckpointer(
        checkpoints, seconds, with_replay, about, executor or FakeExecutor(), backend.clock
    )


def make_checkpoints(folder, keep=3, note=lambda _text: None):
    """Checkpointer in a folder that is made."""
    store = Store(str(folder))
    store.check_writable()
    return Checkpointer(store, keep, note)


def newest_start(folder):
    """The newest checkpoint in a folder, to go on from."""
    return Store(str(folder)).newest_whole()[0]


def fault(role, method, *numbers, words="Boom", incarnations=None):
    """Faults of one role in the n-th calls of one method; of every call if none is given."""

    def faults(handle, called, n):
        is_meant = (handle.role, called) == (role, method) and (not numbers or n in numbers)
        if incarnations is not None and handle.restarts not in incarnations:
            return None
        return words if is_meant else None

    return faults


def faults_of(*several):
    """All of these faults."""
    return lambda *call: next((words for each in several if (words := each(*call))), None)


def starts(backend, role, index=0):
    """Incarnations of one role, in the order they were started."""
    return [handle.restarts for handle in backend.started if (handle.role, handle.index) == (role, index)]
