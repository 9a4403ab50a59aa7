"""A supervisor on a fleet without processes, with all that it works with."""

import copy
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from distributed.fake_backend import HANG, FakeBackend
from distributed.fake_roles import ROWS_PER_SEGMENT, FakeActor, FakeEvaluator, FakeLearner, FakeReplay

from distdqn.checkpoints.checkpointer import Checkpointer
from distdqn.checkpoints.reshard import RestorePlan
from distdqn.checkpoints.store import Store
from distdqn.config.config import Config, RunOptions
from distdqn.distributed.supervisor import Supervisor
from distdqn.replay.rate_limiter import RateLimiter
from distdqn.reporting.callbacks import Callbacks
from distdqn.reporting.metrics import Metrics
from distdqn.training.calls import Calls
from distdqn.training.checkpointing import restore_progress
from distdqn.training.loop import Run
from distdqn.training.stopping import Goal, StopRequest

__all__ = [
    "HANG",
    "ROWS_PER_SEGMENT",
    "FakeActor",
    "FakeBackend",
    "FakeEvaluator",
    "FakeExecutor",
    "FakeLearner",
    "FakeReplay",
    "block_blobs",
    "fault",
    "faults_of",
    "loaded",
    "make_checkpoints",
    "make_config",
    "make_run",
    "newest_start",
    "starts",
    "unblock_blobs",
]


EPISODES = {"eval_episodes": 5, "confirm_episodes": 10}  # of evaluations


class FakeConsole:
    """Keeps what a run would show."""

    def __init__(self):
        self.notes = []
        self.lines = []

    def note(self, text):
        self.notes.append(text)

    def on_report(self, line):
        self.lines.append(line)


class FakeDirectory:
    """A run directory without a disk; keeps the newest of each file."""

    metrics_bytes = 0

    def __init__(self):
        self.files = {}

    def write_json(self, name, value):
        self.files[name] = value

    def write_bytes(self, name, content):
        self.files[name] = content

    def on_report(self, line):
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
    """A supervisor on a fake backend, with all that a test looks at."""

    backend: FakeBackend
    calls: Calls
    supervisor: Supervisor
    run: Run
    console: FakeConsole
    directory: FakeDirectory

    @property
    def goal(self):
        return self.run.goal

    @property
    def stop(self):
        return self.run.request

    @property
    def rate_limiter(self):
        return self.run.rate_limiter

    @property
    def metrics(self):
        return self.run.metrics

    @property
    def counters(self):
        return self.metrics.counters

    @property
    def checkpoints(self):
        return self.supervisor.checkpoints

    @property
    def replay(self):
        return self.backend.newest("replay").object

    @property
    def learner(self):
        return self.backend.newest("learner").object

    def finish(self):
        """Makes the last checkpoint, as a run does at its end."""
        self.supervisor.checkpoints.finish()


def make_run(
    backend=None,
    *,
    actors=2,
    steps_per_rollout=50,
    samples_per_insert=4.0,
    tolerance=0.1,
    min_replay_size=100,
    slack=None,
    target_return=None,
    env_timeout_seconds=30.0,
    start_timeout_seconds=60.0,
    startup_seconds=1e9,
    start=None,
    saving=None,
    **options,
):
    """A run of the supervisor; its budget is met after about a thousand fake calls.

    It waits `startup_seconds` at its start for resources of the cluster, if that is small.
    `start` is a checkpoint to resume from, `saving` how its checkpoints are made.
    """
    backend = backend or FakeBackend()
    saving = saving or {}
    initial = options.pop("initial_actors", actors)
    config = make_config(
        actors=actors,
        rollout_length=steps_per_rollout,
        min_replay_size=min_replay_size,
        start_timeout_seconds=startup_seconds,
        checkpoint_seconds=saving.get("seconds"),
        checkpoint_replay=saving.get("with_replay", True),
        **options,
    )
    console, directory = FakeConsole(), FakeDirectory()
    timeouts = RunOptions(
        env_timeout_seconds=env_timeout_seconds, start_timeout_seconds=start_timeout_seconds
    )
    calls = Calls(backend, timeouts, backend.clock)
    if slack is None:  # as `builders.make_rate_limiter` chooses it
        samples_per_call = config.updates_per_call * config.batch_size
        slack, slack_per_actor = 2 * samples_per_call, samples_per_insert * steps_per_rollout
    else:
        slack_per_actor = 0.0
    run = Run(
        config,
        {"config": {"actors": "auto", "envs_per_actor": 16}},
        Goal(config.model_copy(update={"target_return": target_return, **EPISODES})),
        StopRequest(),
        RateLimiter(samples_per_insert, tolerance, min_replay_size, slack, slack_per_actor),
        Metrics(
            directory, Callbacks([directory, console], console.note), config, backend.now, clock=backend.clock
        ),
        saving.get("checkpoints"),
        start,
    )
    restore_progress(run)
    executor = saving.get("executor") or FakeExecutor()
    supervisor = Supervisor(run, calls, initial, executor)
    return FakeRun(backend, calls, supervisor, run, console, directory)


def make_config(**changes):
    """The resolved options of a run with one environment for each actor."""
    usual = {
        "env": "Toy-v0",
        "envs_per_actor": 1,
        "replay_capacity": 10**6,
        "max_env_steps": 5_000,
        "eval_period": 10**9,
        "updates_per_call": 4,
        "batch_size": 25,
        "weights_update_period": 8,
        "report_seconds": 1.0,
        "max_failures": 3,
        "stall_timeout_seconds": 10_000.0,
        "learning_rate_schedule": "constant",
        "checkpoint_seconds": None,
    }
    # Unchecked: some tests have a budget that is smaller than `min_replay_size`.
    config = copy.copy(Config())
    for name, value in {**usual, **changes}.items():
        object.__setattr__(config, name, value)
    return config


def make_checkpoints(folder, keep=3, note=lambda _text: None):
    """Checkpointer in a folder that is made."""
    store = Store(str(folder))
    store.check_writable()
    return Checkpointer(store, keep, note)


def newest_start(folder):
    """The newest checkpoint in a folder, to go on from."""
    return Store(str(folder)).newest_whole()[0]


def fault(role, method, *numbers, words="Boom", restarts=None):
    """Faults of one role in the n-th calls of one method; of every call if none is given."""

    def faults(handle, called, n):
        is_meant = (handle.role, called) == (role, method) and (not numbers or n in numbers)
        if restarts is not None and handle.restarts not in restarts:
            return None
        return words if is_meant else None

    return faults


def faults_of(*several):
    """All of these faults."""
    return lambda *call: next((words for each in several if (words := each(*call))), None)


def starts(backend, role, index=0):
    """Restarts of one role, in the order they were started."""
    return [handle.restarts for handle in backend.started if (handle.role, handle.index) == (role, index)]


def loaded(folder, number=None):
    """Learner, replay and the rest of a checkpoint, read with another store."""
    ref = Store(str(folder)).verify(Store(str(folder)).numbers()[-1] if number is None else number)
    learner, replay = FakeLearner(), FakeReplay()
    learner.set_state(ref.read("learner"))
    for method, state in RestorePlan(ref, 1).calls(0):
        getattr(replay, method)(state)
    return learner, replay, ref.document


def block_blobs(folder):
    """Puts a file in the place of a store's folder of arrays."""
    (folder / "blobs").rename(folder / "elsewhere")
    (folder / "blobs").touch()


def unblock_blobs(folder):
    """Puts the folder back."""
    (folder / "blobs").unlink()
    (folder / "elsewhere").rename(folder / "blobs")
