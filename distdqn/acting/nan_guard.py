"""Leaves out steps whose numbers are NaN or infinite."""

import numpy as np

from distdqn.errors import Diverged
from distdqn.types import BoolArray, Steps

_MAX_CONSECUTIVE = 10


class NaNGuard:
    """Leaves out every step with a number that is not finite, and the rest of its episode.

    Environments rarely recover from NaN before they are reset, and may not even end then:
    ten such steps running, in the order of time, then environment, with no good one
    between are a fault of the run.

    Args:
        name: of the environment, for the message.
        environments: `E`.
    """

    def __init__(self, name: str, environments: int) -> None:
        self._name = name
        self._environments = environments
        self.forget()

    def forget(self) -> None:
        """Goes on as if nothing had been seen."""
        self._is_left_out = np.zeros(self._environments, np.bool_)  # [E], until the next reset
        self._running = 0
        self._first = ""

    def mask(self, steps: Steps) -> int:
        """Marks in `steps.is_transition` what no window may contain.

        Args:
            steps: `[T, E]` the vector steps that follow those of the last call, rewards as
                the environment gives them; changed in place.

        Returns:
            How many steps held a number that is not finite.

        Raises:
            Diverged: ten of them came running.
        """
        if _is_finite(steps) and not self._is_left_out.any():
            self._running = 0 if steps.is_transition.any() else self._running
            return 0
        bad = steps.is_transition & ~_finite_by_step(steps)  # [T, E]
        left_out = bad.copy()
        ended = steps.terminated | steps.truncated
        for t in range(len(steps)):
            left_out[t] |= self._is_left_out
            self._is_left_out = left_out[t] & ~ended[t]
        good = steps.is_transition & ~left_out
        for t, environment in np.argwhere(bad | good).tolist():
            self._count(steps, t, environment, bool(bad[t, environment]))
        steps.is_transition[left_out] = False
        steps.reward[bad] = 0.0
        return int(np.count_nonzero(bad))

    def _count(self, steps: Steps, t: int, environment: int, is_bad: bool) -> None:
        """Counts one step for the row of bad ones."""
        if not is_bad:
            self._running = 0
            return
        if not self._running:
            self._first = _what_is_bad(steps, t, environment)
        self._running += 1
        if self._running == _MAX_CONSECUTIVE:
            raise Diverged(
                f"The environment `{self._name}` gave numbers that are not finite {_MAX_CONSECUTIVE} times "
                f"running, first {self._first} (`gymnasium.utils.env_checker.check_env` may tell why)."
            )


def _is_finite(steps: Steps) -> bool:
    """Whether every number is, at a small part of the cost of acting."""
    arrays = [steps.reward]
    if steps.observation.dtype.kind == "f":
        arrays += [steps.observation, steps.next_observation]  # type: ignore[list-item]
    return all(np.isfinite(array).all() for array in arrays)


def _finite_by_step(steps: Steps) -> BoolArray:
    """`[T, E]`, whether all numbers of a step are finite."""
    finite = np.isfinite(steps.reward)
    for array in (steps.observation, steps.next_observation):
        finite &= np.isfinite(array).all(axis=tuple(range(2, array.ndim)))
    return finite


def _what_is_bad(steps: Steps, t: int, environment: int) -> str:
    """The first number of a step that is not finite, for people."""
    if not np.isfinite(reward := steps.reward[t, environment]):
        return f"a reward of {reward}"
    for array in (steps.observation, steps.next_observation):
        numbers = array[t, environment]
        if not np.isfinite(numbers).all():
            position = tuple(np.argwhere(~np.isfinite(numbers))[0].tolist())
            return f"an observation with {numbers[position]} at position {position}"
    raise ValueError("All numbers of this step are finite.")
