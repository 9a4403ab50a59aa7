"""Checks what environments return, during the first episode of each and at no cost afterwards.

Vector environments batch and cast without a word, so single environments are checked
before they are batched. Gymnasium's own `PassiveEnvChecker` only warns, and looks at one
step.
"""

from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from distdqn.errors import EnvironmentFault
from distdqn.types import AnyArray, BoolArray

# What `gymnasium.make` puts around an environment. They hand its outputs on, or stumble over
# them with an error that names no cause, so the check goes inside of them.
_PUT_AROUND = (PassiveEnvChecker, OrderEnforcing, TimeLimit)


class OutputCheck:
    """Compares what `reset` and `step` return with what Gymnasium and the space promise.

    Args:
        name: of the environment, for the message.
        space: of one observation.
        batch_shape: `()` for a single environment, `(E,)` for a vector of them.
    """

    def __init__(self, name: str, space: gymnasium.spaces.Box, batch_shape: tuple[int, ...] = ()) -> None:
        self._name = name
        self._batch_shape = batch_shape
        self._dtype = space.dtype
        self._shape = (*batch_shape, *space.shape)
        self._low, self._high = space.low, space.high
        self._least, self._most = _widened(space.low, -1), _widened(space.high, 1)

    def check_reset(self, result: Any) -> None:
        """Raises unless `result` is what `reset` must return.

        Raises:
            EnvironmentFault: it is not; says what was expected.
        """
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            self._fail("reset", "value", "a tuple (observation, info) with a dict as info", _kind(result))
        self._check_observation("reset", result[0], np.ones(self._batch_shape, np.bool_))

    def check_step(self, result: Any, unchecked: BoolArray | None = None) -> None:
        """Raises unless `result` is what `step` must return.

        Args:
            result: what it returned.
            unchecked: `[E]`, the environments of a vector whose numbers matter; None means all.

        Raises:
            EnvironmentFault: it is not; says what was expected.
        """
        if not (isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], dict)):
            expected = "a tuple (observation, reward, terminated, truncated, info) with a dict as info"
            self._fail("step", "value", expected, _kind(result))
        observation, reward, *flags, _ = result
        where = np.ones(self._batch_shape, np.bool_) if unchecked is None else unchecked
        self._check_observation("step", observation, where)
        numbers = np.asarray(reward)
        if numbers.shape != self._batch_shape or numbers.dtype.kind not in "biuf":
            self._fail("step", "reward", self._one_or_all("real number"), _kind(reward))
        self._check_numbers("step", "reward", numbers, "finite numbers", ~np.isfinite(numbers) & where)
        for word, flag in zip(("terminated", "truncated"), flags, strict=True):
            if np.shape(flag) != self._batch_shape or np.asarray(flag).dtype != np.bool_:
                self._fail("step", f"`{word}`", self._one_or_all("bool"), _kind(flag))

    def _one_or_all(self, kind: str) -> str:
        """What is expected where each environment has one value."""
        return f"an array of {kind}s with shape {self._batch_shape}" if self._batch_shape else f"a {kind}"

    def _check_observation(self, method: str, observation: Any, where: BoolArray) -> None:
        """Type, shape, dtype and values; `where` `[]` or `[E]` says whose values."""
        expected = f"an array of {self._dtype} with shape {self._shape}"
        if (
            not isinstance(observation, np.ndarray | np.generic)
            or observation.shape != self._shape
            or not np.can_cast(observation.dtype, self._dtype)
        ):
            self._fail(method, "observation", expected, _kind(observation))
        seen = np.asarray(observation)
        where = where.reshape(where.shape + (1,) * (seen.ndim - where.ndim))
        self._check_numbers(method, "observation", seen, "finite numbers", ~np.isfinite(seen) & where)
        for word, bound, wrong in (
            ("least", self._low, seen < self._least),
            ("most", self._high, seen > self._most),
        ):
            if (wrong & where).any():
                limit = np.broadcast_to(bound, self._shape)[wrong & where][0]
                expected = f"at {word} {limit:.6g} by its space"
                self._check_numbers(method, "observation", seen, expected, wrong & where)

    def _check_numbers(
        self, method: str, what: str, numbers: AnyArray, expected: str, wrong: BoolArray
    ) -> None:
        """Fails at the first of `numbers` that is `wrong`, arrays of one shape."""
        if not wrong.any():
            return
        position = tuple(np.argwhere(wrong)[0].tolist())
        at = f" at position {position}" if position else ""
        self._fail(method, what, expected, f"{numbers[position]}{at}")

    def _fail(self, method: str, what: str, expected: str, got: str) -> NoReturn:
        raise EnvironmentFault(
            f"The environment `{self._name}` returned a wrong {what} from `{method}`: expected {expected} "
            f"and got {got} (`gymnasium.utils.env_checker.check_env` finds such mistakes)."
        )


class CheckedEnvironment(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One environment, checked until it is reset a second time."""

    def __init__(self, environment: gymnasium.Env[Any, Any], check: OutputCheck) -> None:
        super().__init__(environment)
        self._check = check
        self._begun = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Resets the environment."""
        result = self.env.reset(seed=seed, options=options)
        if self._begun:
            # From here on, calls go past this object.
            self.reset, self.step = self.env.reset, self.env.step  # type: ignore[method-assign]
        else:
            self._check.check_reset(result)
        self._begun = True
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment."""
        result = self.env.step(action)
        self._check.check_step(result)
        return result


class CheckedVector(VectorWrapper):
    """A vector environment, each environment in it checked until it has ended an episode."""

    def __init__(self, vector: VectorEnv[Any, Any, Any], check: OutputCheck) -> None:
        super().__init__(vector)
        self._check = check
        self._unchecked = np.ones(vector.num_envs, np.bool_)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Resets all environments."""
        result = self.env.reset(seed=seed, options=options)
        self._check.check_reset(result)
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps all environments."""
        result = self.env.step(actions)
        self._check.check_step(result, self._unchecked)
        self._unchecked &= ~(result[2] | result[3])
        if not self._unchecked.any():
            # From here on, calls go past this object.
            self.reset, self.step = self.env.reset, self.env.step  # type: ignore[method-assign]
        return result


def check_first_episodes(vector: VectorEnv[Any, Any, Any], name: str) -> VectorEnv[Any, Any, Any]:
    """The same environments, each checked until its first episode is over.

    Args:
        vector: not reset yet. Single environments in it are checked one by one, a vector
            class of its own in what it returns for all.
        name: what people call it.
    """
    base = vector.unwrapped
    space: Any = vector.single_observation_space
    if not isinstance(base, SyncVectorEnv):
        return CheckedVector(vector, OutputCheck(name, space, (vector.num_envs,)))
    base.envs = [_checked(single, name) for single in base.envs]
    return vector


def _checked(environment: gymnasium.Env[Any, Any], name: str) -> gymnasium.Env[Any, Any]:
    """The environment with a check inside of what `gymnasium.make` puts around it."""
    if isinstance(environment, gymnasium.Wrapper) and type(environment) in _PUT_AROUND:
        environment.env = _checked(environment.env, name)
        return environment
    space: Any = environment.observation_space
    return CheckedEnvironment(environment, OutputCheck(name, space))


def _widened(bound: Any, sign: int) -> Any:
    """A bound that spares what rounding does to floats."""
    if not np.issubdtype(bound.dtype, np.floating):
        return bound
    with np.errstate(over="ignore"):  # the bound may be the end of the dtype's range
        return bound + sign * 1e-5 * np.maximum(1.0, np.abs(bound))


def _kind(value: Any) -> str:
    """What a wrong value is, for people."""
    if isinstance(value, np.ndarray | np.generic):
        return f"an array of {value.dtype} with shape {value.shape}"
    if isinstance(value, tuple):
        old = ", as Gym before 0.26 did" if len(value) == 4 else ""
        return f"a tuple of {len(value)}{old}"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '…'} ({type(value).__name__})"
