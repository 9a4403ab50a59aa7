"""Who may go on, actors or learner: a pure function of what was inserted and sampled.

`samples_per_insert = sampled / (inserted - min_replay_size)` is held by two rules. The learner
may sample while that keeps the ratio at or below its goal. Actors may insert while the
learner's backlog, `samples_per_insert * (inserted - min_replay_size) - sampled`, is within the
tolerance. When one rule stops its side, the other lets its side go on, so the two can
never wait for each other.

Source: the rate limiter of Cassirer et al. (2021), section 3.4, arXiv:2102.04736. There a
side blocks inside its call; here nothing is called that would block.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RateLimiter:
    """The goal of `samples_per_insert` and how far either side may run ahead.

    Attributes:
        samples_per_insert: transitions sampled per transition inserted.
        tolerance: how far the ratio may fall short of the goal, relative.
        min_replay_size: transitions inserted before sampling starts.
        slack: backlog always allowed, in samples. The ratio is held from the point on
            where the tolerance exceeds it; at least one learner call, or actors would
            stop before the learner may go.
        slack_per_actor: the same for each actor there is, on top of it.
    """

    samples_per_insert: float
    tolerance: float
    min_replay_size: int
    slack: float
    slack_per_actor: float = 0.0

    def can_sample(self, inserted: int, sampled: int, count: int) -> bool:
        """Whether the learner may draw `count` more transitions.

        Args:
            inserted: transitions in replay so far, in all.
            sampled: transitions drawn so far, those of granted calls included.
            count: what the next call draws.
        """
        if inserted < self.min_replay_size:
            return False
        return sampled + count <= self.goal(inserted)

    def can_insert(self, inserted: int, sampled: int, actors: int = 1) -> bool:
        """Whether an actor may start another rollout.

        Args:
            inserted: transitions in replay so far, those of rollouts under way included.
            sampled: transitions drawn so far.
            actors: how many there are.
        """
        goal = self.goal(inserted)
        slack = self.slack + actors * self.slack_per_actor
        return goal - sampled <= max(slack, self.tolerance * goal)

    def goal(self, inserted: int) -> float:
        """Samples that belong to `inserted`."""
        return self.samples_per_insert * max(0, inserted - self.min_replay_size)
