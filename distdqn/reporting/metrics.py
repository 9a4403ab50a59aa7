"""What a run knows about itself: counters, recent results, reports."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distdqn.reporting.console import Console
from distdqn.reporting.run_directory import RunDirectory
from distdqn.types import Evaluation, FlushReport, LearnReport, RolloutReport

_MAX_TRACEBACKS = 20  # shown of environments that fail in ever new ways

_RECENT_EPISODES = 100  # in `train_return_mean`, as Stable-Baselines3 does

_STATUS_SECONDS = 1.0

_MARGIN = 0.05  # of the support, at each end, where mean Q-values should not be


@dataclass
class Counters:
    """Totals of a run.

    Attributes:
        env_steps: real transitions of the environments, counted once when accepted.
        learner_steps: gradient updates.
        episodes: training episodes that ended.
        inserted: n-step transitions that replay accepted.
        sampled: transitions drawn from replay.
        actor_restarts: actors replaced after a fault.
        learner_restarts: learners replaced after a fault.
        lost_learner_steps: updates that went with them, since the checkpoint before.
        replay_restarts: replays replaced after a fault.
        lost_transitions: transitions that went with them, since the checkpoint before.
        lost_rollouts: rollouts whose chunk never reached replay.
        episodes_lost: episodes that were given up unfinished: at a checkpoint's clean cut,
            where an `async` run went on from a checkpoint, or with an environment that failed.
        env_faults: times that environments raised an error and were built anew.
        not_finite_steps: env steps left out as their numbers were not finite.
        not_finite_updates: updates left out as their numbers were not finite.
        evaluations: evaluations made.
    """

    env_steps: int = 0
    learner_steps: int = 0
    episodes: int = 0
    inserted: int = 0
    sampled: int = 0
    actor_restarts: int = 0
    learner_restarts: int = 0
    lost_learner_steps: int = 0
    replay_restarts: int = 0
    lost_transitions: int = 0
    lost_rollouts: int = 0
    episodes_lost: int = 0
    env_faults: int = 0
    not_finite_steps: int = 0
    not_finite_updates: int = 0
    evaluations: int = 0


class Mean:
    """A running mean that starts again each time it is read; None when nothing came."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def add(self, value: float, count: int = 1) -> None:
        """Adds `count` values of mean `value`."""
        self._sum += value * count
        self._count += count

    def take(self) -> float | None:
        """The mean since the last call."""
        mean = self._sum / self._count if self._count else None
        self._sum, self._count = 0.0, 0
        return mean

    def get_state(self) -> list[float]:
        """Sum and count."""
        return [self._sum, self._count]

    def set_state(self, state: list[float]) -> None:
        """Goes on from sum and count."""
        self._sum, self._count = state[0], int(state[1])


class Metrics:
    """Takes in what the roles report and writes a line about it when asked.

    Attributes:
        counters: totals so far.
        epsilon: of the last rollout accepted.
        train_seconds_begin: when the first learner step was ordered, or None.
        replay_size: transitions stored, as replay told; None means as many as were inserted
            and fit.
        watch: takes in each line of metrics, too, if there is any.
    """

    def __init__(
        self,
        run_directory: RunDirectory,
        console: Console,
        started: float,
        capacity: int,
        min_replay_size: int,
        support: tuple[float, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters = Counters()
        self.epsilon = 1.0
        self.train_seconds_begin: float | None = None
        self.replay_size: int | None = None
        self.watch: Callable[[dict[str, Any]], None] | None = None
        self._directory = run_directory
        self._console = console
        self._started = started
        self._capacity = capacity
        self._min_size = min_replay_size
        self._support = support
        self._clock = clock
        self._returns: deque[float] = deque(maxlen=_RECENT_EPISODES)
        self._lengths: deque[int] = deque(maxlen=_RECENT_EPISODES)
        self._means = {
            name: Mean()
            for name in ("loss", "q_mean", "gradient_norm", "weights_age_steps", "env", "network", "update")
        }
        self._learning_rate: float | None = None
        self._env_tracebacks: set[str] = set()
        self._waited = {"actors": 0.0, "learner": 0.0}
        self._weights_version: tuple[int, int] = (0, 0)
        self._last = (self._clock(), 0, 0)
        self._taken_up: tuple[int, int, int] | None = None  # done by the checkpoint that the run goes on from
        self._status_written = float("-inf")
        self._ray: dict[str, Any] | None = None
        self._roles: Sequence[dict[str, Any]] = ()
        self._actors: dict[str, Any] | None = None

    @property
    def seconds(self) -> float:
        """Since the run started."""
        return self._clock() - self._started

    def note(self, text: str) -> None:
        """Tells the user something that happened once."""
        self._console.note(text)

    def add_rollout(self, report: RolloutReport, inserted: int) -> None:
        """Takes in a rollout whose transitions replay accepted, `inserted` in all by then."""
        self.counters.env_steps += report.env_steps
        self.counters.episodes += len(report.episode_returns)
        self.counters.inserted = inserted
        self.counters.env_faults += report.env_faults
        self.counters.episodes_lost += report.episodes_lost
        self.counters.not_finite_steps += report.not_finite
        for text in report.env_tracebacks:
            self._note_env_traceback(text)
        self.epsilon = report.epsilon
        self._returns.extend(report.episode_returns)
        self._lengths.extend(report.episode_lengths)
        # Below 0 where a dead learner's weights acted and the new one is not that far yet.
        age = max(0, self.counters.learner_steps - report.weights_learner_steps)
        self._means["weights_age_steps"].add(age)
        self._means["env"].add(report.env_seconds / report.total_seconds)
        self._means["network"].add(report.network_seconds / report.total_seconds)

    def add_flush(self, report: FlushReport, inserted: int) -> None:
        """Takes in the end of all that was open at a checkpoint, `inserted` in all by then."""
        self.counters.inserted = inserted
        self.counters.episodes_lost += report.episodes_lost

    def _note_env_traceback(self, text: str) -> None:
        """Tells of an error in an environment, each one once."""
        if text not in self._env_tracebacks and len(self._env_tracebacks) < _MAX_TRACEBACKS:
            self._env_tracebacks.add(text)
            self.note(f"An environment failed and is built anew:\n{text.rstrip()}")

    @property
    def recent_returns(self) -> list[float]:
        """Returns of the latest hundred training episodes, oldest first."""
        return list(self._returns)

    def add_learn(self, report: LearnReport, sampled: int, learning_rate: float) -> None:
        """Takes in a learner call that drew `sampled` transitions."""
        self._learning_rate = learning_rate
        self.counters.learner_steps = report.learner_steps
        self.counters.not_finite_updates += report.not_finite
        self.counters.sampled += sampled
        made = report.updates - report.not_finite
        self._means["loss"].add(report.loss, made)
        self._means["q_mean"].add(report.q_mean, made)
        self._means["gradient_norm"].add(report.gradient_norm, made)
        self._means["update"].add(report.seconds / report.updates)

    def add_published(self, weights_version: tuple[int, int]) -> None:
        """Takes note of the newest version of the weights."""
        self._weights_version = weights_version

    def add_wait(self, side: str, seconds: float) -> None:
        """Adds to the time that all `actors`, or the `learner`, had to wait for the other."""
        self._waited[side] += seconds

    def report(self, evaluation: Evaluation | None = None, actors_alive: int = 0) -> dict[str, Any]:
        """Writes one line of metrics, shows it, and starts a new period."""
        now, counters = self._clock(), self.counters
        then, env_steps, learner_steps = self._last
        period = max(now - then, 1e-9)
        self._last = (now, counters.env_steps, counters.learner_steps)
        means = {name: mean.take() for name, mean in self._means.items()}
        paced = counters.inserted - self._min_size
        fitting = min(counters.inserted, self._capacity)
        line: dict[str, Any] = {
            "wall_seconds": self.seconds,
            "env_steps": counters.env_steps,
            "learner_steps": counters.learner_steps,
            "episodes": counters.episodes,
            "train_return_mean": sum(self._returns) / len(self._returns) if self._returns else None,
            "train_length_mean": sum(self._lengths) / len(self._lengths) if self._lengths else None,
            "eval_return_mean": evaluation.mean if evaluation else None,
            "eval_return_std": evaluation.standard_deviation if evaluation else None,
            "eval_return_min": min(evaluation.returns) if evaluation else None,
            "eval_episodes": len(evaluation.returns) if evaluation else None,
            "eval_learner_steps": evaluation.learner_steps if evaluation else None,
            "epsilon": self.epsilon,
            "learning_rate": self._learning_rate,
            "loss": means["loss"],
            "q_mean": means["q_mean"],
            "gradient_norm": means["gradient_norm"],
            "env_steps_per_second": (counters.env_steps - env_steps) / period,
            "learner_steps_per_second": max(0, counters.learner_steps - learner_steps) / period,
            "samples_per_insert": counters.sampled / paced if paced > 0 else None,
            "weights_version": list(self._weights_version),
            "weights_age_steps": means["weights_age_steps"],
            "replay_size": fitting if self.replay_size is None else self.replay_size,
            "lost_rollouts": counters.lost_rollouts,
            "episodes_lost": counters.episodes_lost,
            "env_faults": counters.env_faults,
            "not_finite_steps": counters.not_finite_steps,
            "not_finite_updates": counters.not_finite_updates,
            "actors_alive": actors_alive,
            "actor_restarts": counters.actor_restarts,
            "actors_wait_fraction": min(1.0, self._waited["actors"] / period),
            "learner_wait_fraction": min(1.0, self._waited["learner"] / period),
            "actor_env_fraction": means["env"],
            "actor_network_fraction": means["network"],
            "seconds_per_update": means["update"],
        }
        self._waited = {"actors": 0.0, "learner": 0.0}
        self._check_support(means["q_mean"])
        self._directory.add_metrics(line)
        self._console.progress(line)
        if self.watch is not None:
            self.watch(line)
        return line

    def _check_support(self, q_mean: float | None) -> None:
        """Tells once that Q-values crowd at an end of the categorical head's support."""
        if self._support is None or q_mean is None:
            return
        v_min, v_max = self._support
        share = (q_mean - v_min) / (v_max - v_min)
        if not _MARGIN <= share <= 1.0 - _MARGIN:
            name, value, way = ("v_max", v_max, "raise") if share > _MARGIN else ("v_min", v_min, "lower")
            self.note(
                f"`{name}` ({value:g}) is too tight for the returns seen: mean Q {q_mean:.1f} ({way} it)."
            )
            self._support = None

    def get_state(self) -> dict[str, Any]:
        """All that a run which goes on from here needs, as a tree for a checkpoint."""
        return {
            "counters": dict(vars(self.counters)),
            "epsilon": self.epsilon,
            "learning_rate": self._learning_rate,
            "returns": list(self._returns),
            "lengths": list(self._lengths),
            "means": {name: mean.get_state() for name, mean in self._means.items()},
            "weights_version": list(self._weights_version),
            "reported": list(self._last[1:]),
            "seconds": self.seconds,
            "metrics_bytes": self._directory.metrics_bytes,
        }

    def set_state(self, state: dict[str, Any], inserted: int, most_sampled: int) -> None:
        """Goes on from what `get_state` gave.

        Args:
            state: that.
            inserted: transitions that the replay which is put back had taken in; 0 for none.
            most_sampled: what may have been drawn from them.
        """
        self.counters = Counters(**state["counters"])
        self.counters.inserted = inserted
        self.counters.sampled = min(self.counters.sampled, most_sampled)
        self._taken_up = self._done
        self.epsilon, self._learning_rate = state["epsilon"], state["learning_rate"]
        self._returns.extend(state["returns"])
        self._lengths.extend(state["lengths"])
        for name, mean in state["means"].items():
            self._means[name].set_state(mean)
        generation, version = state["weights_version"]
        self._weights_version = (generation, version)
        env_steps, learner_steps = state["reported"]
        self._last = (self._clock(), env_steps, learner_steps)
        self._started -= state["seconds"]

    def has_progress(self) -> bool:
        """Whether anything was done since the checkpoint that the run goes on from, or it began anew."""
        return self._done != self._taken_up

    @property
    def _done(self) -> tuple[int, int, int]:
        return self.counters.env_steps, self.counters.learner_steps, self.counters.evaluations

    def is_news(self) -> bool:
        """Whether anything was done since the last report."""
        return (self.counters.env_steps, self.counters.learner_steps) != self._last[1:]

    def is_status_due(self) -> bool:
        """Whether `status.json` is a second old."""
        return self._clock() - self._status_written >= _STATUS_SECONDS

    def write_status(
        self,
        state: str,
        ray: dict[str, Any] | None = None,
        roles: Sequence[dict[str, Any]] = (),
        actors: dict[str, Any] | None = None,
    ) -> None:
        """Rewrites `status.json`; without `roles` or `actors`, those of the last time stand."""
        self._status_written = self._clock()
        if roles:
            self._ray, self._roles = ray, roles
        self._actors = actors or self._actors
        self._directory.write_json(
            "status.json",
            {
                "state": state,
                "written_at": time.time(),
                "seconds": self.seconds,
                "counters": vars(self.counters),
                "weights_version": list(self._weights_version),
                "ray": self._ray,
                "actors": self._actors,
                "roles": list(self._roles),
            },
        )
