"""The topology: which roles a run has and how they come to life on Ray."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distdqn import builders
from distdqn.acting.environments import EnvironmentSpec, environment_name
from distdqn.builders import Blueprint
from distdqn.config import Config
from distdqn.distributed.async_saver import AsyncSaver
from distdqn.distributed.calls import Calls
from distdqn.distributed.cluster import Cluster, connected
from distdqn.distributed.control import Control
from distdqn.distributed.fleet import Wishes
from distdqn.distributed.limits import Limits
from distdqn.distributed.lockstep import RayTeam
from distdqn.distributed.placing import Placing
from distdqn.distributed.supervisor import Supervisor
from distdqn.errors import ClusterError
from distdqn.goal import Budget, Goal
from distdqn.option_types import parse_amounts
from distdqn.pacing import Pacing
from distdqn.reporting.journal import Journal
from distdqn.resuming import Start
from distdqn.stopping import StopRequest


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
        pacing: Pacing,
        journal: Journal,
        stop: StopRequest,
        saver: AsyncSaver,
        start: Start | None,
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
            batch_size=builders.batch_size(config, self.spec.is_image),
            publish_period=config.publish_period,
            report_seconds=config.report_seconds,
            max_failures=config.max_failures,
            stall_timeout_seconds=config.stall_timeout_seconds,
            environment=environment_name(config.env),
            prioritized=config.sampler == "prioritized",
            schedules=builders.make_learning_schedules(config, self.spec.is_image),
            replay_shards=config.replay_shards,
            seed=config.seed,
        )
        return Supervisor(self.calls, limits, goal, budget, pacing, journal, stop, saver, start)

    def make_team(self, note: Callable[[str], None]) -> RayTeam:
        """The team of a `lockstep` run; `note` tells the user a line."""
        config = self.config
        placing = Placing(self.calls.fleet, self.actors, config.start_timeout_seconds, note)
        prioritized = config.sampler == "prioritized"
        batch_size = builders.batch_size(config, self.spec.is_image)
        return RayTeam(self.calls, placing, self.actors, config.updates_per_call, batch_size, prioritized)


@contextlib.contextmanager
def launched(
    config: Config, spec: EnvironmentSpec, folder: Path, tell: Callable[[str], None]
) -> Iterator[Launch]:
    """Connects to Ray for the run of this folder; at the end every process of the run is gone.

    `tell` is told which Ray is joined, and why.
    """

    def blueprint(role: str, index: int, incarnation: int) -> Blueprint:
        match role:
            case "actor":
                return builders.actor_blueprint(config, spec, index, incarnation)
            case "replay":
                return builders.replay_blueprint(config, index)
            case "learner":
                return builders.learner_blueprint(config, spec, epoch=incarnation)
            case "control":
                return Blueprint(Control, {})
            case _:
                return builders.evaluator_blueprint(config)

    others = config.replay_shards + 2  # roles: replay's, the learner and the evaluator
    machine = fitting_actors(config, (os.cpu_count() or 1) - others)
    wishes = Wishes(
        config.learner_gpus,
        parse_amounts(config.learner_resources or ""),
        parse_amounts(config.actor_resources or ""),
    )
    with connected(config.address, machine + others, not wishes.learner_gpus, tell) as cluster:
        from distdqn.distributed.ray_fleet import RayFleet
        from distdqn.distributed.watching import RayMetrics

        fleet = RayFleet(cluster, folder, blueprint, wishes)
        calls = Calls(fleet, config.env_timeout_seconds, config.start_timeout_seconds)
        try:
            room = fleet.room().actors - others if cluster.cpus_per_role else machine
            show = RayMetrics(folder.resolve().name).show
            yield Launch(cluster, config, spec, calls, fitting_actors(config, room), show)
        finally:
            with contextlib.suppress(ClusterError):  # it is gone, and the wish with it
                fleet.ask_for([])
            calls.end_all()
            fleet.close()


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
