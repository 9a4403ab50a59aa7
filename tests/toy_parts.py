"""Actor, replay and learner as a run has them, small and on their own."""

from typing import Any, NamedTuple

from distdqn.acting.actor import Actor
from distdqn.config.config import Config
from distdqn.environments.registry import inspect_environment
from distdqn.learning.learner import Learner
from distdqn.replay.replay import Replay
from distdqn.training.resolve import resolve
from distdqn.types import RolloutRequest


class Parts(NamedTuple):
    """One of each role, in this process."""

    actor: Actor
    replay: Replay
    learner: Learner

    def act(self, rollouts: int) -> None:
        """Rollouts under the learner's newest weights, into replay."""
        for _ in range(rollouts):
            _, transitions = self.actor.rollout(
                RolloutRequest(env_steps=0, limit=10**9), self.learner.publish()
            )
            self.replay.insert(transitions)

    def learn(self, calls: int, updates: int, batch_size: int) -> None:
        """Calls of the learner, and what they say of priorities, back to replay."""
        for _ in range(calls):
            batches = self.replay.sample(updates, batch_size, importance_sampling_exponent=0.5)
            _, _, priorities = self.learner.learn(batches, publish=False)
            if priorities is not None:
                self.replay.update_priorities(priorities)


def make_parts(env: Any, **options: Any) -> Parts:
    """The parts of a run with these options."""
    spec = inspect_environment(env)
    config = resolve(Config(env=env, actors=1, **options), spec)
    return Parts(Actor(config, spec, 0), Replay(config), Learner(config, spec))
