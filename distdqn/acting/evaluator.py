"""The evaluator: greedy episodes on seeds that training never uses."""

import contextlib
import math
import time
from collections.abc import Iterator

import numpy as np

from distdqn.acting.exploration import greedy_actions
from distdqn.config.config import SharedOptions
from distdqn.environments.vector import FaultLog, VectorEnvironment
from distdqn.networks.numpy_policy import Policy, make_policy
from distdqn.seeding import make_generator, make_integer_seed
from distdqn.types import Evaluation, PolicyWeights

# More environments make an evaluation shorter, until the largest batch costs more than the steps it saves.
_MAX_ENVIRONMENTS = 200


class Evaluator:
    """Plays greedy episodes, many environments together; if `has_mask`, `info` says what is allowed.

    Evaluators with another `index` play other episodes.
    """

    def __init__(self, options: SharedOptions, has_mask: bool = False, index: int = 0) -> None:
        self._options = options
        self._index = index
        self._has_mask = has_mask
        self._faults = FaultLog(options, options.max_failures)

    def evaluate(
        self, weights: PolicyWeights, episodes: int, number: int, seconds: float | None = None
    ) -> Evaluation:
        """Plays `episodes` full episodes, each truncated after `max_eval_steps`, or stops after `seconds`.

        In each round, every environment plays one episode: taking the episodes that end first would
        favour short ones. The seeds follow from `number`, that of the evaluation in the run. If an
        environment raises, all episodes are repeated from another seed, and after `max_failures` consecutive
        attempts it is an `EnvironmentFault`.

        After a restart: the evaluation is requested again.
        """
        begin = time.perf_counter()
        end = math.inf if seconds is None else begin + seconds
        policy = make_policy(weights)
        environments = VectorEnvironment(
            self._options,
            min(episodes, _MAX_ENVIRONMENTS),
            self._seeds(number),
            self._faults,
            has_mask=self._has_mask,
        )
        with contextlib.closing(environments):
            while (played := self._play(environments, policy, episodes, number, end)) is None:
                pass
        self._faults.consecutive.reset()
        evaluation = Evaluation(
            returns=played,
            weights_version=weights.weights_version,
            learner_steps=weights.learner_steps,
            seconds=time.perf_counter() - begin,
            env_faults=self._faults.count,
            env_tracebacks=self._faults.tracebacks,
            is_cut=len(played) < episodes,
        )
        self._faults.clear()
        return evaluation

    def _seeds(self, number: int, round_index: int = 0) -> Iterator[int]:
        """The seed of this round, then one for the first round of each further attempt."""
        while True:
            attempt = self._faults.count
            later: tuple[int, ...] = (attempt, round_index) if attempt or round_index else ()
            later = (attempt, round_index, self._index) if self._index else later
            yield make_integer_seed(self._options.seed, "evaluation", number, *later)
            round_index = 0

    def _play(
        self, environments: VectorEnvironment, policy: Policy, episodes: int, number: int, end: float
    ) -> list[float] | None:
        """Returns of the episodes that end before `end`; None if an environment raised."""
        generator = make_generator(self._options.seed, "evaluation", number)
        attempt = self._faults.count
        steps = environments.empty_steps(1)
        size = steps.action.size
        played: list[float] = []
        for i, first in enumerate(range(0, episodes, size)):
            if i:
                environments.restart(self._seeds(number, i))
            is_open = np.arange(size) < episodes - first  # [E]
            for _ in range(self._options.max_eval_steps):
                if self._faults.count > attempt or not is_open.any():
                    break
                if time.perf_counter() >= end:
                    return played
                actions = greedy_actions(policy.q_values(environments.observation), generator)
                for ended in environments.step(actions, steps, 0) or []:
                    if is_open[ended.environment]:
                        is_open[ended.environment] = False
                        played.append(ended.episode_return)
            if self._faults.count > attempt:
                return None
            played += environments.open_returns[is_open].tolist()
        return played
