"""Couples acting to learning: a pure function of the numbers of inserted and sampled transitions."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RateLimiter:
    """Holds `samples_per_insert = sampled / (inserted - min_replay_size)` within a tolerance.

    The learner may sample up to the goal, `samples_per_insert * (inserted - min_replay_size)`.
    Actors may insert while `goal - sampled` is within the tolerance. At least one may continue.

    Source: Cassirer et al. (2021), section 3.4, arXiv:2102.04736.
    """

    samples_per_insert: float  # transitions sampled per transition inserted
    tolerance: float  # how far the ratio may fall short of `samples_per_insert`, relative
    min_replay_size: int  # transitions inserted before sampling starts
    slack: float  # samples that may always be missing; at least one learner call, or both sides could stop
    slack_per_actor: float = 0.0  # more of them for each actor

    def can_sample(self, inserted: int, sampled: int, count: int) -> bool:
        """Whether the learner may draw `count` more transitions; `sampled` includes running calls."""
        return inserted >= self.min_replay_size and sampled + count <= self.goal(inserted)

    def can_insert(self, inserted: int, sampled: int, actors: int = 1) -> bool:
        """Whether one of `actors` may start a rollout; `inserted` includes running rollouts."""
        goal = self.goal(inserted)
        slack = self.slack + actors * self.slack_per_actor
        return goal - sampled <= max(slack, self.tolerance * goal)

    def goal(self, inserted: int) -> float:
        """Samples that belong to `inserted` transitions."""
        return self.samples_per_insert * max(0, inserted - self.min_replay_size)
