"""The evaluator: greedy episodes on seeds that training never uses."""

import math
import time
from dataclasses import dataclass

import numpy as np

from distdqn.acting.environments import EnvironmentBatch, EnvironmentSource
from distdqn.acting.exploration import greedy_actions
from distdqn.policy import Policy, PolicyWeights
from distdqn.seeding import make_generator, make_integer_seed

# Environments stepped at once: more make an evaluation shorter until the largest batch
# costs more than the steps it saves.
_MOST_ENVIRONMENTS = 200


@dataclass(frozen=True)
class Evaluation:
    """What greedy episodes of one version of the weights brought.

    Attributes:
        returns: undiscounted, one for each episode.
        lengths: env steps, one for each episode.
        weights_version: of the network that acted.
        learner_steps: gradient updates behind it.
        seconds: how long it took.
    """

    returns: list[float]
    lengths: list[int]
    weights_version: tuple[int, int]
    learner_steps: int
    seconds: float

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def standard_deviation(self) -> float:
        """Sample standard deviation of the returns; 0 for one episode."""
        return float(np.std(self.returns, ddof=1)) if len(self.returns) > 1 else 0.0

    @property
    def lower_bound(self) -> float:
        """Two standard errors below the mean."""
        return self.mean - 2.0 * self.standard_deviation / math.sqrt(len(self.returns))


class Evaluator:
    """Plays greedy episodes, many environments at once."""

    def __init__(self, source: EnvironmentSource, seed: int) -> None:
        self._source = source
        self._seed = seed

    def evaluate(self, weights: PolicyWeights, episodes: int, number: int) -> Evaluation:
        """Plays `episodes` full episodes.

        Each environment has a fixed share of the episodes. Taking whichever end first
        would favour short ones.

        Called by: the supervisor, one call at a time. Waits for: nothing. After a
        restart: the same evaluation is ordered again.

        Args:
            weights: the network to play.
            episodes: how many.
            number: of this evaluation in the run; another number, other episodes.
        """
        begin = time.perf_counter()
        environments = min(episodes, _MOST_ENVIRONMENTS)
        share = np.full(environments, episodes // environments)  # [E] episodes still to count
        share[: episodes % environments] += 1
        generator = make_generator(self._seed, "evaluation", number)
        batch = EnvironmentBatch(
            self._source, environments, make_integer_seed(self._seed, "evaluation", number)
        )
        policy = Policy(weights)
        returns: list[float] = []
        lengths: list[int] = []
        while share.any():
            result = batch.step(greedy_actions(policy.q_values(batch.observation), generator))
            for position, episode_return, length in zip(
                result.ended, result.episode_returns, result.episode_lengths, strict=True
            ):
                if share[position] > 0:
                    share[position] -= 1
                    returns.append(episode_return)
                    lengths.append(length)
        batch.close()
        seconds = time.perf_counter() - begin
        return Evaluation(returns, lengths, weights.weights_version, weights.learner_steps, seconds)
