"""Counters, recent results and reports of a run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from distdqn.config.config import Config
from distdqn.reporting.callbacks import Callbacks
from distdqn.reporting.run_directory import RunDirectory
from distdqn.types import Evaluation, FlushReport, LearnReport, RolloutReport

_MAX_TRACEBACKS = 20  # of environments, each shown once
_ENDLESS_STEPS = 1000  # of an episode, while none has ended
_NO_SIGNAL_STEPS = 10_000  # of the run
_RECENT_EPISODES = 100  # in `train_return_mean`, as in Stable-Baselines3
_STATUS_SECONDS = 1.0
_SUPPORT_MARGIN = 0.05  # fraction of the support, at each end, where mean Q-values should not be

_ENDLESS = (
    f"No episode has ended yet, and one has taken {_ENDLESS_STEPS:,} env steps: if they never end, give "
    "`--max-episode-steps`."
)
_NO_SIGNAL = (
    f"In {_NO_SIGNAL_STEPS:,} env steps every reward was 0 and no episode terminated: there is nothing to "
    "learn yet, and epsilon does not fall."
)

# In a line of metrics.
_REPORTED_COUNTERS = (
    *("env_steps", "recorded_steps", "learner_steps", "episodes", "lost_rollouts", "episodes_lost"),
    *("env_faults", "not_finite_steps", "not_finite_updates", "actor_restarts"),
)
_REPORTED_MEANS = (
    *("loss", "q_mean", "gradient_norm", "weights_age_steps"),
    *("actor_env_fraction", "actor_network_fraction", "seconds_per_update"),
)


@dataclass
class Counters:
    """Totals of a run."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    env_steps: int = 0  # real transitions of the environments, counted once when accepted
    recorded_steps: int = 0  # those of `env_steps` that were read from a dataset
    env_steps_without_signal: int = 0  # those before the first reward that is not 0 or terminated episode
    learner_steps: int = 0  # gradient updates
    episodes: int = 0  # training episodes that ended
    inserted: int = 0  # n-step transitions that replay accepted
    sampled: int = 0  # transitions drawn from replay
    actor_restarts: int = 0  # actors replaced after a fault
    learner_restarts: int = 0  # learners replaced after a fault
    lost_learner_steps: int = 0  # updates lost with them, since their last checkpoint
    replay_restarts: int = 0  # replays replaced after a fault
    lost_transitions: int = 0  # transitions lost with them, since their last checkpoint
    lost_rollouts: int = 0  # rollouts whose chunk never reached replay
    episodes_lost: int = 0  # unfinished episodes ended by a flush, a resume in `async`, or an env fault
    env_faults: int = 0  # times an environment raised and all were rebuilt
    not_finite_steps: int = 0  # env steps masked because of NaN or infinity
    not_finite_updates: int = 0  # updates skipped because of NaN or infinity
    evaluations: int = 0

    @property
    def exploration_env_steps(self) -> int:
        """Env steps that epsilon has been falling for: until there is something to learn, none."""
        return self.env_steps - self.env_steps_without_signal


@dataclass
class Mean:
    """A running mean that restarts each time it is read."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float, count: int = 1) -> None:
        """Adds `count` values of mean `value`."""
        self.total += value * count
        self.count += count

    def take(self) -> float | None:
        """The mean since the last call; None if no value was added."""
        mean = self.total / self.count if self.count else None
        self.total, self.count = 0.0, 0
        return mean


@dataclass
class MetricsState:
    """What a checkpoint holds of a run's metrics."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    counters: Counters = field(default_factory=Counters)
    epsilon: float = 1.0  # of the last accepted rollout
    learning_rate: float | None = None
    returns: list[float] = field(default_factory=list)  # of the last hundred training episodes, oldest first
    lengths: list[int] = field(default_factory=list)  # of the same
    means: dict[str, Mean] = field(default_factory=lambda: {name: Mean() for name in _REPORTED_MEANS})
    weights_version: tuple[int, int] = (0, 0)  # the newest one
    reported: tuple[int, int] = (0, 0)  # env steps and learner steps at the last report
    seconds: float = 0.0  # since the run started
    metrics_bytes: int = 0


class Metrics:
    """Collects what the roles report and writes lines of metrics; `started` is a time of `clock`."""

    def __init__(
        self,
        run_directory: RunDirectory,
        callbacks: Callbacks,
        config: Config,
        started: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.timeline: dict[str, float] = {}  # seconds after the start at which a stage was reached first
        self.replay_size = 0  # as replay reported it
        self.waited = {"actors": 0.0, "learner": 0.0}  # seconds that all of one side waited for the other
        self.callbacks = callbacks
        self.note = callbacks.note  # shows the user a message
        self.directory = run_directory
        self._min_size = config.min_replay_size
        self._support = (config.v_min, config.v_max) if config.head == "categorical" else None
        self._started = started
        self._clock = clock
        self._state = MetricsState()
        self._env_tracebacks: set[str] = set()
        self._env_warnings: set[str] = set()  # what was warned of
        self._reported_at = clock()  # or when the run started
        self._restored: tuple[int, int, int] | None = None  # `_progress` of the restored checkpoint
        self._status_written = float("-inf")
        self._processes: dict[str, Any] = {"ray": None, "actors": None, "roles": []}  # in `status.json`

    @property
    def counters(self) -> Counters:
        """Totals of the run."""
        return self._state.counters

    @property
    def seconds(self) -> float:
        """Seconds since the run started."""
        return self._clock() - self._started

    def reach(self, stage: str) -> None:
        """Notes when a stage of the run is reached for the first time."""
        self.timeline.setdefault(stage, round(self.seconds, 3))

    @property
    def seconds_since_report(self) -> float:
        """Seconds since the last report, or since the start before the first."""
        return self._clock() - self._reported_at

    @property
    def recent_returns(self) -> list[float]:
        """Returns of the last hundred training episodes, oldest first."""
        return self._state.returns

    def add_rollout(self, report: RolloutReport, inserted: int) -> None:
        """Adds a rollout whose transitions replay accepted; `inserted` is replay's total after it."""
        if not self.counters.exploration_env_steps and not report.has_signal:
            self.counters.env_steps_without_signal += report.env_steps
        self.counters.env_steps += report.env_steps
        self.counters.recorded_steps += report.recorded_steps
        self.reach("first env steps")
        self.counters.episodes += len(report.episode_returns)
        self.counters.inserted = inserted
        self.counters.env_faults += report.env_faults
        self.counters.episodes_lost += report.episodes_lost
        self.counters.not_finite_steps += report.not_finite
        for text in report.env_tracebacks:
            if text not in self._env_tracebacks and len(self._env_tracebacks) < _MAX_TRACEBACKS:
                self._env_tracebacks.add(text)
                self.note(f"An environment failed and is rebuilt:\n{text.rstrip()}")
        warnings = report.env_warnings
        if not self.counters.episodes and report.longest_open_episode >= _ENDLESS_STEPS:
            warnings = warnings | {"endless": _ENDLESS}
        if self.counters.env_steps_without_signal >= _NO_SIGNAL_STEPS:
            warnings = warnings | {"no signal": _NO_SIGNAL}
        for about in warnings.keys() - self._env_warnings:
            self._env_warnings.add(about)
            self.note(warnings[about])
        state, means = self._state, self._state.means
        state.epsilon = report.epsilon
        state.returns = (state.returns + report.episode_returns)[-_RECENT_EPISODES:]
        state.lengths = (state.lengths + report.episode_lengths)[-_RECENT_EPISODES:]
        # Negative for weights of a dead learner until the new one has made as many steps.
        age = max(0, self.counters.learner_steps - report.weights_learner_steps)
        means["weights_age_steps"].add(age)
        means["actor_env_fraction"].add(report.env_seconds / report.total_seconds)
        means["actor_network_fraction"].add(report.network_seconds / report.total_seconds)

    def add_flush(self, report: FlushReport, inserted: int) -> None:
        """Adds the flush of an actor at a checkpoint; `inserted` is replay's total after it."""
        self.counters.inserted = inserted
        self.counters.episodes_lost += report.episodes_lost

    def add_learn(self, report: LearnReport, sampled: int, learning_rate: float) -> None:
        """Adds a learner call that drew `sampled` transitions."""
        if report.notice:
            self.note(report.notice)
        self._state.learning_rate = learning_rate
        self.counters.learner_steps = report.learner_steps
        self.counters.not_finite_updates += report.not_finite
        self.counters.sampled += sampled
        applied = report.updates - report.not_finite
        for name in ("loss", "q_mean", "gradient_norm"):
            self._state.means[name].add(getattr(report, name), applied)
        self._state.means["seconds_per_update"].add(report.seconds / report.updates)
        self.callbacks.call("on_learn", report)

    def add_published(self, weights_version: tuple[int, int]) -> None:
        """Records the newest version of the weights."""
        self._state.weights_version = weights_version

    def report(self, evaluation: Evaluation | None = None, actors_alive: int = 0) -> dict[str, Any]:
        """Sends a line of metrics to the callbacks and returns it; means and rates are since the last one."""
        state, counters = self._state, self.counters
        period, (env_steps, learner_steps) = max(self.seconds_since_report, 1e-9), state.reported
        sampling_inserted = counters.inserted - self._min_size
        played = evaluation if evaluation and evaluation.returns else None
        line = {
            "wall_seconds": self.seconds,
            **{name: getattr(counters, name) for name in _REPORTED_COUNTERS},
            "train_return_mean": sum(state.returns) / len(state.returns) if state.returns else None,
            "train_length_mean": sum(state.lengths) / len(state.lengths) if state.lengths else None,
            "eval_return_mean": played and played.mean,
            "eval_return_std": played and played.standard_deviation,
            "eval_return_min": played and min(played.returns),
            "eval_episodes": evaluation and len(evaluation.returns),
            "eval_cut": evaluation and evaluation.is_cut,
            "eval_seconds": evaluation and evaluation.seconds,
            "eval_learner_steps": evaluation and evaluation.learner_steps,
            "epsilon": state.epsilon,
            "learning_rate": state.learning_rate,
            **{name: state.means[name].take() for name in _REPORTED_MEANS},
            "env_steps_per_second": (counters.env_steps - env_steps) / period,
            "learner_steps_per_second": max(0, counters.learner_steps - learner_steps) / period,
            "samples_per_insert": counters.sampled / sampling_inserted if sampling_inserted > 0 else None,
            "weights_version": list(state.weights_version),
            "replay_size": self.replay_size,
            "actors_alive": actors_alive,
            **{f"{side}_wait_fraction": min(1.0, wait / period) for side, wait in self.waited.items()},
        }
        self._reported_at, state.reported = self._clock(), self._steps
        self.waited = dict.fromkeys(self.waited, 0.0)
        self._check_support(line["q_mean"])
        self.callbacks.call("on_report", line)
        if evaluation is not None:
            self.callbacks.call("on_evaluation", evaluation)
        return line

    def _check_support(self, q_mean: float | None) -> None:
        """Warns once if mean Q-values are at an end of the categorical head's support."""
        if self._support is None or q_mean is None:
            return
        v_min, v_max = self._support
        position = (q_mean - v_min) / (v_max - v_min)
        if not _SUPPORT_MARGIN <= position <= 1.0 - _SUPPORT_MARGIN:
            is_high = position > _SUPPORT_MARGIN
            what, fix = (f"`v_max` ({v_max:g})", "raise") if is_high else (f"`v_min` ({v_min:g})", "lower")
            self.note(f"{what} is too tight for the returns seen: mean Q {q_mean:.1f} ({fix} it).")
            self._support = None

    def get_state(self) -> dict[str, Any]:
        """The state of a run's metrics, as a tree for a checkpoint."""
        metrics_bytes = self.directory.metrics_bytes
        return asdict(replace(self._state, seconds=self.seconds, metrics_bytes=metrics_bytes))

    def set_state(self, state: dict[str, Any], inserted: int, max_sampled: int) -> None:
        """Restores what `get_state` returned.

        The restored replay was given `inserted` transitions, 0 without one; `sampled` becomes at most
        `max_sampled`. `ValueError` if `state` has another structure.
        """
        self._state = TypeAdapter(MetricsState).validate_python(state)
        self.counters.inserted = inserted
        self.counters.sampled = min(self.counters.sampled, max_sampled)
        self._restored = self._progress
        self._reported_at = self._clock()
        self._started -= self._state.seconds

    @property
    def _steps(self) -> tuple[int, int]:
        return self.counters.env_steps, self.counters.learner_steps

    @property
    def _progress(self) -> tuple[int, int, int]:
        return (*self._steps, self.counters.evaluations)

    def has_progress(self) -> bool:
        """Whether there was progress since the checkpoint that the run resumed from; True without one."""
        return self._progress != self._restored

    def has_unreported_steps(self) -> bool:
        """Whether there were env steps or learner steps since the last report."""
        return self._steps != self._state.reported

    def is_status_due(self) -> bool:
        """Whether `status.json` is at least a second old."""
        return self._clock() - self._status_written >= _STATUS_SECONDS

    def write_status(
        self,
        state: str,
        ray: dict[str, Any] | None = None,
        roles: Sequence[dict[str, Any]] = (),
        actors: dict[str, Any] | None = None,
    ) -> None:
        """Rewrites `status.json`; without `roles` or `actors` it repeats the last ones."""
        self._status_written = self._clock()
        if roles:
            self._processes |= {"ray": ray, "roles": list(roles)}
        if actors:
            self._processes["actors"] = actors
        status = {
            "state": state,
            "written_at": time.time(),
            "seconds": self.seconds,
            "counters": asdict(self.counters),
            "weights_version": list(self._state.weights_version),
            **self._processes,
        }
        self.directory.write_json("status.json", status)
        self.callbacks.call("on_status", status)
