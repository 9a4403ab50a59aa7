"""The evaluator: greedy episodes on seeds that training never uses."""

import contextlib
import itertools
import time

import numpy as np

from distdqn.acting.exploration import greedy_actions
from distdqn.config.config import SharedOptions
from distdqn.environments.vector import EnvironmentRaised, Faults, VectorEnvironment
from distdqn.networks.keras_policy import KerasPolicy, make_policy
from distdqn.networks.numpy_policy import Policy
from distdqn.seeding import make_generator, make_integer_seed
from distdqn.types import Evaluation, PolicyWeights

# Environments stepped at once: more make an evaluation shorter until the largest batch
# costs more than the steps it saves.
_MAX_ENVIRONMENTS = 200

# Atari's limit of 108,000 frames, four a step. MinAtar has none, and a greedy policy can
# wait there for ever.
_MAX_EPISODE_STEPS = 27_000


class Evaluator:
    """Plays greedy episodes, many environments at once.

    Args:
        options: the environment, the seed, and how many consecutive evaluations the environment may fail.
    """

    def __init__(self, options: SharedOptions) -> None:
        self._source = options.env
        self._seed = options.seed
        self._faults = Faults(options.env, options.max_failures)

    def evaluate(self, weights: PolicyWeights, episodes: int, number: int) -> Evaluation:
        """Plays `episodes` full episodes, each cut off after 27,000 env steps as it stands.

        They are played in rounds in which each environment has one episode. Taking whichever
        end first would favour short ones. If the environment raises, all are played again
        from another seed.

        Called by: the supervisor, one call at a time. Waits for: nothing. After a
        restart: the same evaluation is ordered again.

        Args:
            weights: the network to play.
            episodes: how many.
            number: of this evaluation in the run; another number, other episodes.

        Raises:
            EnvironmentFault: the environment raised `max_failures` times running.
        """
        begin = time.perf_counter()
        for attempt in itertools.count():
            try:
                played = self._play(weights, episodes, number, attempt)
            except EnvironmentRaised as raised:
                self._faults.add(raised)
            else:
                break
        self._faults.end_row()
        faults = self._faults.take_report()
        return Evaluation(
            returns=[episode_return for episode_return, _ in played],
            lengths=[length for _, length in played],
            weights_version=weights.weights_version,
            learner_steps=weights.learner_steps,
            seconds=time.perf_counter() - begin,
            env_faults=faults.count,
            env_tracebacks=faults.tracebacks,
        )

    def _play(
        self, weights: PolicyWeights, episodes: int, number: int, attempt: int
    ) -> list[tuple[float, int]]:
        """Returns and lengths of all episodes."""
        environments = min(episodes, _MAX_ENVIRONMENTS)
        policy, generator = make_policy(weights), make_generator(self._seed, "evaluation", number)
        batch = VectorEnvironment(self._source, environments, self._round_seed(number, attempt, 0))
        played: list[tuple[float, int]] = []
        with contextlib.closing(batch):
            for i, first in enumerate(range(0, episodes, environments)):
                if i:
                    batch.restart(self._round_seed(number, attempt, i))
                played += _play_one_each(batch, min(environments, episodes - first), policy, generator)
        return played

    def _round_seed(self, number: int, attempt: int, i: int) -> int:
        """Another one for each round of each attempt."""
        later = (attempt, i) if attempt or i else ()
        return make_integer_seed(self._seed, "evaluation", number, *later)


def _play_one_each(
    batch: VectorEnvironment, episodes: int, policy: Policy | KerasPolicy, generator: np.random.Generator
) -> list[tuple[float, int]]:
    """Returns and lengths of the first episode in each of the first `episodes` environments."""
    played: list[tuple[float, int]] = []
    is_open = np.arange(len(batch.open_lengths)) < episodes  # [E]
    for _ in range(_MAX_EPISODE_STEPS):
        result = batch.step(greedy_actions(policy.q_values(batch.observation), generator))
        for position, episode_return, length in zip(
            result.ended, result.episode_returns, result.episode_lengths, strict=True
        ):
            if is_open[position]:
                is_open[position] = False
                played.append((episode_return, length))
        if not is_open.any():
            break
    cut_off = zip(batch.open_returns[is_open].tolist(), batch.open_lengths[is_open].tolist(), strict=True)
    return [*played, *cut_off]
