"""Sizes and times that an `async` run goes by."""

from dataclasses import dataclass

from distdqn.training.builders import LearningSchedules


@dataclass(frozen=True)
class Limits:
    """Sizes and times the supervisor works with.

    Attributes:
        actors: how many, to begin with.
        min_actors: with this many the run may start, and follow the cluster down to.
        max_actors: most when it follows the cluster; None means no limit.
        follows_cluster: has as many actors as the cluster has room for.
        start_timeout_seconds: for the processes to find room.
        replay_shards: how many.
        steps_per_rollout: most env steps of one rollout.
        updates_per_call: learner steps in one call.
        batch_size: transitions in one update.
        weights_update_period: learner steps from one version of the weights to the next.
        report_seconds: from one report to the next.
        max_failures: of one role running, without a completed call between.
        stall_timeout_seconds: in which nothing goes on, before the run gives up.
        environment: its name.
        prioritized: whether replay takes new priorities from the learner.
        schedules: what of the learning changes over the run.
        seed: of the run, for how draws are spread over shards.
    """

    actors: int
    min_actors: int
    max_actors: int | None
    follows_cluster: bool
    start_timeout_seconds: float
    steps_per_rollout: int
    updates_per_call: int
    batch_size: int
    weights_update_period: int
    report_seconds: float
    max_failures: int
    stall_timeout_seconds: float
    environment: str
    prioritized: bool
    schedules: LearningSchedules
    replay_shards: int = 1
    seed: int = 0

    @property
    def samples_per_call(self) -> int:
        """Transitions that one call of the learner draws."""
        return self.updates_per_call * self.batch_size
