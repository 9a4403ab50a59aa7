"""The topology: which roles a run has and how they come to life on Ray."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distdqn.checkpoints.store import CheckpointRef
from distdqn.cluster.connection import Cluster, connected
from distdqn.cluster.control import Control
from distdqn.config.config import Config, resolved
from distdqn.distributed.calls import Calls
from distdqn.distributed.checkpointing import AsyncCheckpointer
from distdqn.distributed.limits import Limits
from distdqn.distributed.startup_check import StartupCheck
from distdqn.distributed.supervisor import Supervisor
from distdqn.distributed.team import RayTeam
from distdqn.environments.registry import environment_name
from distdqn.errors import ClusterError
from distdqn.replay.rate_limiter import RateLimiter
from distdqn.reporting.metrics import Metrics
from distdqn.training import builders
from distdqn.training.builders import Blueprint
from distdqn.training.stopping import Budget, Goal, StopRequest
from distdqn.types import EnvironmentSpec


@dataclass(frozen=True)
class Launch:
    """A cluster that is connected, on which the roles of a run can be started.

    Attributes:
        cluster: that.
        config: the options.
        spec: of the environment.
        calls: to the roles.
        actors: how many to start with.
        show: takes each line of metrics.
    """

    cluster: Cluster
    config: Config
    spec: EnvironmentSpec
    calls: Calls
    actors: int
    show: Callable[[dict[str, Any]], None]

    def make_supervisor(
        self,
        goal: Goal,
        budget: Budget,
        rate_limiter: RateLimiter,
        metrics: Metrics,
        stop: StopRequest,
        saver: AsyncCheckpointer,
        start: CheckpointRef | None,
    ) -> Supervisor:
        """The supervisor of an `async` run, its roles starting."""
        config = self.config
        limits = Limits(
            actors=self.actors,
            min_actors=least_actors(config),
            max_actors=config.max_actors,
            follows_cluster=config.actors == "auto" and self.cluster.cpus_per_role > 0.0,
            start_timeout_seconds=config.start_timeout_seconds,
            steps_per_rollout=config.rollout_length * config.envs_per_actor,
            updates_per_call=config.updates_per_call,
            batch_size=resolved(config.batch_size),
            weights_update_period=config.weights_update_period,
            report_seconds=config.report_seconds,
            max_failures=config.max_failures,
            stall_timeout_seconds=config.stall_timeout_seconds,
            environment=environment_name(config.env),
            prioritized=config.sampler == "prioritized",
            schedules=builders.make_learning_schedules(config),
            replay_shards=config.replay_shards,
            seed=config.seed,
        )
        return Supervisor(self.calls, limits, goal, budget, rate_limiter, metrics, stop, saver, start)

    def make_team(self, note: Callable[[str], None]) -> RayTeam:
        """The team of a `lockstep` run; `note` tells the user a line."""
        config = self.config
        startup_check = StartupCheck(self.calls.backend, self.actors, config.start_timeout_seconds, note)
        prioritized = config.sampler == "prioritized"
        batch_size = resolved(config.batch_size)
        return RayTeam(
            self.calls, startup_check, self.actors, config.updates_per_call, batch_size, prioritized
        )


@contextlib.contextmanager
def launched(
    config: Config, spec: EnvironmentSpec, folder: Path, tell: Callable[[str], None]
) -> Iterator[Launch]:
    """Connects to Ray for the run of this folder; at the end every process of the run is gone.

    `tell` is told which Ray is joined, and why.
    """

    def blueprint(role: str, index: int, restarts: int) -> Blueprint:
        match role:
            case "actor":
                return builders.actor_blueprint(config, spec, index, restarts)
            case "replay":
                return builders.replay_blueprint(config, index)
            case "learner":
                return builders.learner_blueprint(config, spec, generation=restarts)
            case "control":
                return Blueprint(Control, {})
            case _:
                return builders.evaluator_blueprint(config)

    others = config.replay_shards + 2  # roles: replay's, the learner and the evaluator
    machine = fitting_actors(config, (os.cpu_count() or 1) - others)
    with connected(config.address, machine + others, not config.learner_gpus, tell) as cluster:
        from distdqn.cluster.ray_backend import RayBackend
        from distdqn.cluster.ray_metrics import RayMetrics

        backend = RayBackend(cluster, folder, blueprint, config)
        calls = Calls(backend, config.env_timeout_seconds, config.start_timeout_seconds)
        try:
            room = backend.capacity().actors - others if cluster.cpus_per_role else machine
            show = RayMetrics(folder.resolve().name).show
            yield Launch(cluster, config, spec, calls, fitting_actors(config, room), show)
        finally:
            with contextlib.suppress(ClusterError):  # it is gone, and the wish with it
                backend.request_resources([])
            calls.end_all()
            backend.close()


def fitting_actors(config: Config, room: int) -> int:
    """How many actors a run begins with where there is room for `room`."""
    if config.actors != "auto":
        return config.actors
    return max(least_actors(config), min(room, config.max_actors or room))


def least_actors(config: Config) -> int:
    """With how many actors a run starts, and how few it may have when it follows the cluster."""
    if config.actors != "auto":
        return config.min_actors or config.actors
    return max(config.min_actors or 1, config.replay_shards)  # none of which may stay empty
