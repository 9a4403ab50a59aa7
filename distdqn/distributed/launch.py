"""The topology: which roles a run has and how they come to life on Ray."""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from distdqn import builders
from distdqn.acting.environments import EnvironmentSpec, environment_name
from distdqn.builders import Blueprint
from distdqn.config import Config
from distdqn.distributed.async_saver import AsyncSaver
from distdqn.distributed.calls import Calls
from distdqn.distributed.cluster import Cluster, connected
from distdqn.distributed.limits import Limits
from distdqn.distributed.lockstep import RayTeam
from distdqn.distributed.supervisor import Supervisor
from distdqn.goal import Budget, Goal
from distdqn.pacing import Pacing
from distdqn.reporting.journal import Journal
from distdqn.resuming import Start
from distdqn.stopping import StopRequest


@dataclass(frozen=True)
class Launch:
    """A cluster that is connected, on which the roles of a run can be started."""

    cluster: Cluster
    config: Config
    calls: Calls

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
            actors=config.actors,
            steps_per_rollout=config.rollout_length * config.envs_per_actor,
            updates_per_call=config.updates_per_call,
            batch_size=config.batch_size,
            publish_period=config.publish_period,
            report_seconds=config.report_seconds,
            max_failures=config.max_failures,
            stall_timeout_seconds=config.stall_timeout_seconds,
            environment=environment_name(config.env),
            prioritized=config.sampler == "prioritized",
            schedules=builders.make_learning_schedules(config),
            replay_shards=config.replay_shards,
            seed=config.seed,
        )
        return Supervisor(self.calls, limits, goal, budget, pacing, journal, stop, saver, start)

    def make_team(self) -> RayTeam:
        """The team of a `lockstep` run."""
        config = self.config
        prioritized = config.sampler == "prioritized"
        return RayTeam(self.calls, config.actors, config.updates_per_call, config.batch_size, prioritized)


@contextlib.contextmanager
def launched(config: Config, spec: EnvironmentSpec) -> Iterator[Launch]:
    """Connects to Ray for this run; at the end every process of the run is gone."""

    def blueprint(role: str, index: int, incarnation: int) -> Blueprint:
        match role:
            case "actor":
                return builders.actor_blueprint(config, spec, index, incarnation)
            case "replay":
                return builders.replay_blueprint(config, index)
            case "learner":
                return builders.learner_blueprint(config, spec, epoch=incarnation)
            case _:
                return builders.evaluator_blueprint(config)

    with connected(config.address, roles=config.actors + config.replay_shards + 2) as cluster:
        from distdqn.distributed.ray_fleet import RayFleet

        fleet = RayFleet(cluster, f"distdqn-{uuid.uuid4().hex[:8]}", blueprint)
        calls = Calls(fleet, config.env_timeout_seconds, config.start_timeout_seconds)
        try:
            yield Launch(cluster, config, calls)
        finally:
            calls.end_all()
