"""Masks steps with NaN or infinity, so that nothing is learned from them."""

import numpy as np

from distdqn.errors import ConsecutiveFailures, Diverged
from distdqn.types import BoolArray, Steps

_MAX_CONSECUTIVE = 10


class NaNGuard:
    """Masks every step with NaN or infinity, and the rest of its episode.

    Few environments recover from NaN before their next reset, and some never end such an episode.
    So ten such steps without a good one between them, in the order of time, then environment, end
    the run.
    """

    def __init__(self, name: str, environments: int) -> None:
        self._name = name
        self._is_masked = np.zeros(environments, np.bool_)  # [E], until the episode ends
        self._failures = ConsecutiveFailures(_MAX_CONSECUTIVE)
        self._first = ""  # of the consecutive failures

    def reset(self) -> None:
        """Forgets all steps before."""
        self._is_masked[:] = False
        self._failures.reset()

    def mask(self, steps: Steps) -> int:
        """Clears `steps.is_transition` `[T, E]` of steps that no window may contain.

        `steps` follow those of the last call, with the environment's own rewards. Returns how many
        contained NaN or infinity.

        Raises:
            Diverged: ten consecutive steps did.
        """
        bad = steps.is_transition & ~_is_finite(steps)  # [T, E]
        masked = bad.copy()  # [T, E]
        if bad.any() or self._is_masked.any():
            ended = steps.terminated | steps.truncated
            for t in range(len(steps)):
                masked[t] |= self._is_masked
                self._is_masked = masked[t] & ~ended[t]
        good = steps.is_transition & ~masked
        if bad.any():
            self._count(steps, bad, good)
        elif good.any():
            self._failures.reset()
        steps.is_transition[masked] = False
        steps.reward[bad] = 0.0
        return int(np.count_nonzero(bad))

    def _count(self, steps: Steps, bad: BoolArray, good: BoolArray) -> None:
        """Counts consecutive `bad` steps `[T, E]`, with no `good` one `[T, E]` between them."""
        for t, environment in np.argwhere(bad | good).tolist():
            if good[t, environment]:
                self._failures.reset()
                continue
            if not self._failures.count:
                self._first = _first_not_finite(steps, t, environment)
            if self._failures.add():
                raise Diverged(
                    f"The environment `{self._name}` returned NaN or infinity in {_MAX_CONSECUTIVE} "
                    f"consecutive steps, first {self._first} (`gymnasium.utils.env_checker.check_env` may "
                    "find the cause)."
                )


def _is_finite(steps: Steps) -> BoolArray:
    """`[T, E]`, whether all numbers of a step are finite."""
    finite = np.isfinite(steps.reward)
    if steps.observation.dtype.kind == "f":
        for array in (steps.observation, steps.next_observation):
            finite &= np.isfinite(array).all(axis=tuple(range(2, array.ndim)))
    return finite


def _first_not_finite(steps: Steps, t: int, environment: int) -> str:
    """Describes the first number of a step that is not finite."""
    if not np.isfinite(reward := steps.reward[t, environment]):
        return f"a reward of {reward}"
    before, after = steps.observation[t, environment], steps.next_observation[t, environment]
    observation = after if np.isfinite(before).all() else before
    position = tuple(np.argwhere(~np.isfinite(observation))[0].tolist())
    return f"an observation with {observation[position]} at position {position}"
