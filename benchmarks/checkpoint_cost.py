"""Measures what checkpoints of a large replay cost the learner.

    python benchmarks/checkpoint_cost.py --output cost.json
    python benchmarks/checkpoint_cost.py --once --window 60     # as often as a run makes them by default

Fills replay with a million transitions of CartPole-v1. Then windows without checkpoints alternate with
windows in which checkpoints of the whole replay follow each other and write every segment, which no run
does; with `--once` such a window has one checkpoint. Prints the learner steps/s of both, the longest time
that the learner was not in a call of `learn`, and how long each kind of call kept a role busy.
"""

import argparse
import functools
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distdqn.checkpoints.checkpointer import Checkpointer
from distdqn.checkpoints.resume import describe_run
from distdqn.checkpoints.store import Store
from distdqn.cluster.launch import launched
from distdqn.config.config import Config
from distdqn.distributed import supervisor as supervisor_module
from distdqn.distributed.checkpointing import AsyncCheckpointer
from distdqn.environments.registry import inspect_environment
from distdqn.learning.learner import Learner
from distdqn.replay.replay import Replay
from distdqn.reporting.callbacks import Callbacks
from distdqn.reporting.metrics import Metrics
from distdqn.reporting.run_directory import RunDirectory
from distdqn.training import builders
from distdqn.training.loop import Run
from distdqn.training.resolve import resolve
from distdqn.training.stopping import Goal, StopRequest


def timed(role: type[Any], *methods: str) -> type[Any]:
    """The role with an added method `timings`: begin and end of each call of `methods`."""

    class Timed(role):
        def timings(self) -> dict[str, list[tuple[float, float]]]:
            return dict(self.__dict__.setdefault("_timings", {}))

    def wrap(name: str) -> Callable[..., Any]:
        method = getattr(role, name)

        @functools.wraps(method)
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            begin = time.monotonic()  # the same clock in all processes of one machine
            result = method(self, *arguments, **options)
            self.__dict__.setdefault("_timings", {}).setdefault(name, []).append((begin, time.monotonic()))
            return result

        return call

    for name in methods:
        setattr(Timed, name, wrap(name))
    return Timed


class Turns(AsyncCheckpointer):
    """Makes checkpoints of all segments in every second window, once replay is full."""

    def prepare(self, run: Run, window: float, once: bool) -> None:
        """Sets the length of a window, and whether to make one checkpoint in each."""
        self._counters, self._size = run.metrics.counters, run.config.replay_capacity
        self._window, self._once, self._last = window, once, -1
        self.begin: float | None = None  # of the first window
        self.made: list[tuple[float, float]] = []  # begin and end of each checkpoint
        self._begun: float | None = None

    def advance(self) -> None:
        """Advances a checkpoint if this is a window for it."""
        now = time.monotonic()
        if self.begin is None:
            # Some time after the first learner steps, when the backlog of the learner is used up.
            if self._counters.inserted < self._size or self._counters.learner_steps < 5000:
                return
            self.begin = now
        if self._making is None and self._task is None:
            if self._begun is not None:
                self.made.append((self._begun, now))
                self._begun = None
            number = window_of(now, self.begin, self._window)
            if number % 2 == 0 or (self._once and number == self._last):
                return
            self._last = number
            if self._checkpointer is not None:
                self._checkpointer.forget_segments(0)
            self._begun, self._due = now, self._calls.clock()
        super().advance()


@dataclass(frozen=True)
class Windows(Run):
    """Ends a run after the last window."""

    savers: list[Turns] = field(default_factory=list)  # the one that makes the checkpoints, once it is there
    seconds: float = 0.0  # of all windows

    @property
    def stop_reason(self) -> str | None:
        """`max_seconds` once all windows are over."""
        begin = self.savers[0].begin if self.savers else None
        is_over = begin is not None and time.monotonic() > begin + self.seconds
        return "max_seconds" if is_over else super().stop_reason


def window_of(at: float, begin: float, window: float) -> int:
    """Number of the window that contains `at`. Odd windows have checkpoints."""
    return int((at - begin) // window)


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--transitions", type=int, default=1_000_000, help="in replay (default: 1,000,000)")
    parser.add_argument("--window", type=float, default=20.0, help="seconds of a window (default: 20)")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of windows (default: 3)")
    parser.add_argument("--once", action="store_true", help="one checkpoint per window with checkpoints")
    parser.add_argument("--prioritized", action="store_true", help="with priorities, which are saved as well")
    parser.add_argument("--output", type=Path, help="file for the results as JSON")
    options = parser.parse_args()
    # These are what builders and supervisor make.
    supervisor_module.AsyncCheckpointer = Turns
    builders.Learner = timed(Learner, "learn", "get_state")
    builders.Replay = timed(Replay, "sample", "get_index", "get_rows")
    with tempfile.TemporaryDirectory() as folder:
        report = measure(
            Path(folder),
            options.transitions,
            options.window,
            options.pairs,
            options.prioritized,
            options.once,
        )
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))
    return 0


def measure(
    folder: Path, transitions: int, window: float, pairs: int, prioritized: bool, once: bool
) -> dict[str, Any]:
    """Runs until all windows are over; returns the measurements."""
    config = Config(
        actors=2,
        envs_per_actor=64,
        replay_capacity=transitions,
        min_replay_size=transitions,
        max_env_steps=10**9,
        target_return=None,
        eval_period=10**9,
        sampler="prioritized" if prioritized else "uniform",
        checkpoint_seconds=1e9,
    )
    spec = inspect_environment(config.env)
    given, config = config, resolve(config, spec)
    directory = RunDirectory(str(folder / "run"), spec.name)
    metrics = Metrics(directory, Callbacks([directory], print), config, time.monotonic())
    store = Store(str(folder / "checkpoints"))
    store.check_writable()
    about, limiter = describe_run(given, config, spec), builders.make_rate_limiter(config)
    parts = (config, about, Goal(config), StopRequest(), limiter, metrics, Checkpointer(store, 1, print))
    run = Windows(*parts, seconds=pairs * 2 * window)
    with (
        ThreadPoolExecutor(1) as executor,
        launched(run, spec, directory.path, print) as (calls, actors),
        run.request,
    ):
        supervisor = supervisor_module.Supervisor(run, calls, actors, executor)
        saver = supervisor.checkpoints
        saver.prepare(run, window, once)
        run.savers.append(saver)
        supervisor.run()
        team = supervisor.team
        timings = {role.role: calls.ask(role, "timings") for role in (team.learner, *team.shards)}
    directory.close()
    size = sum(path.stat().st_size for path in (folder / "checkpoints").rglob("*") if path.is_file())
    return {
        "transitions": transitions,
        "checkpoint_bytes": size,
        **judge(timings, saver, config.updates_per_call, window, pairs, once),
    }


def judge(
    timings: dict[str, Any], saver: Turns, updates: int, window: float, pairs: int, once: bool
) -> dict[str, Any]:
    """Rates, gaps and durations, from the begin and end of each call."""
    begin = saver.begin or 0.0
    learn = [call for call in timings["learner"]["learn"] if begin <= call[0] < begin + 2 * pairs * window]
    steps: dict[int, int] = defaultdict(int)
    gaps: dict[int, list[float]] = defaultdict(list)
    for before, call in itertools.pairwise(learn):
        steps[window_of(call[0], begin, window)] += updates
        gaps[window_of(call[0], begin, window)].append(call[0] - before[1])
    rates = {number: count / window for number, count in sorted(steps.items())}
    kinds = {"without": 0, "with": 1}
    per_kind = {
        name: [rate for number, rate in rates.items() if number % 2 == k] for name, k in kinds.items()
    }
    durations = {
        f"{role} {method}": _spread([end - start for start, end in timings[role].get(method, ())])
        for role, method in (
            ("learner", "learn"),
            ("learner", "get_state"),
            ("replay", "sample"),
            ("replay", "get_index"),
            ("replay", "get_rows"),
        )
    }
    ratio = statistics.mean(per_kind["with"]) / statistics.mean(per_kind["without"])
    seconds = statistics.median(end - start for start, end in saver.made)
    pauses = [max(gap for number, each in gaps.items() if number % 2 == k for gap in each) for k in (0, 1)]
    how = f"one in each {window:g} s" if once else "one after another"
    return {
        "says": [
            f"Windows with {len(saver.made)} checkpoints, {how}, of {seconds:.2f} s each, had",
            f"{ratio:.3f} times the learner steps/s of the windows between. The learner was idle for at most",
            f"{1000 * pauses[1]:.0f} ms, and {1000 * pauses[0]:.0f} ms in the windows between.",
        ],
        "seconds_per_checkpoint": _spread([end - start for start, end in saver.made]),
        "learner_steps_per_second": per_kind,
        "ratio": ratio,
        "seconds_between_calls_of_learn": {
            name: _spread([gap for number in gaps if number % 2 == k for gap in gaps[number]])
            for name, k in kinds.items()
        },
        "seconds_of_calls": durations,
    }


def _spread(values: list[float]) -> dict[str, float]:
    """Count, median, 99th percentile and maximum."""
    if not values:
        return {"count": 0}
    ordered = sorted(values)
    return {
        "count": len(values),
        "median": round(statistics.median(values), 5),
        "99 %": round(ordered[int(0.99 * len(ordered))], 5),
        "maximum": round(ordered[-1], 5),
    }


if __name__ == "__main__":
    sys.exit(main())
