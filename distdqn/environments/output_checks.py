"""Checks what environments return during their first episode, and costs nothing afterwards.

Vector environments batch and cast without a warning, so single environments are checked before
they are batched. Gymnasium's `PassiveEnvChecker` only warns, and looks at one step.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from distdqn.environments.spaces import leaves, name_of, value_at
from distdqn.errors import EnvironmentFault
from distdqn.types import AnyArray, BoolArray

Warn = Callable[[str, float, str], None]  # of what it is about, by how much, and the line for the user

_DISCRETE = np.int64  # dtype of a part that takes whole numbers of any kind

# The wrappers that `gymnasium.make` adds. Wrong outputs make them raise errors that name no cause,
# so the check goes inside them.
_ADDED_WRAPPERS = (PassiveEnvChecker, OrderEnforcing, TimeLimit)


class OutputCheck:
    """Compares what `reset` and `step` return with Gymnasium's interface and the observation space.

    A finite number outside the bounds of a `Box` is no error, and goes to `warn`: nothing is computed from
    them, except how an image is scaled. `batch_shape` is `()` for one environment, `(E,)` for a vector.
    """

    def __init__(self, name: str, space: Any, warn: Warn, batch_shape: tuple[int, ...] = ()) -> None:
        self._name = name
        self._warn = warn
        self._batch_shape = batch_shape
        found = ((path, _as_box(leaf), isinstance(leaf, Box)) for path, leaf in leaves(space))
        self._boxes = [(path, box, is_box) for path, box, is_box in found if box is not None]

    def check_reset(self, result: Any) -> None:
        """Checks what `reset` returned; `EnvironmentFault` says what was expected."""
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            self._fail("reset", "value", "a tuple (observation, info) with a dict as info", _describe(result))
        self._check_observation("reset", result[0], np.ones(self._batch_shape, np.bool_))

    def check_step(self, result: Any, where: BoolArray | None = None) -> None:
        """Checks what `step` returned, its values only where `where` `[E]` says so; or `EnvironmentFault`."""
        if not (isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], dict)):
            expected = "a tuple (observation, reward, terminated, truncated, info) with a dict as info"
            self._fail("step", "value", expected, _describe(result))
        observation, reward, *flags, _ = result
        where = np.ones(self._batch_shape, np.bool_) if where is None else where
        self._check_observation("step", observation, where)
        numbers = np.asarray(reward)
        if numbers.shape != self._batch_shape or numbers.dtype.kind not in "biuf":
            self._fail("step", "reward", self._one_or_many("real number"), _describe(reward))
        self._check_values("step", "reward", numbers, "finite numbers", ~np.isfinite(numbers) & where)
        for word, flag in zip(("terminated", "truncated"), flags, strict=True):
            if np.shape(flag) != self._batch_shape or np.asarray(flag).dtype != np.bool_:
                self._fail("step", f"`{word}`", self._one_or_many("bool"), _describe(flag))

    def _one_or_many(self, kind: str) -> str:
        """The expected type of a value that each environment has once."""
        return f"an array of {kind}s with shape {self._batch_shape}" if self._batch_shape else f"a {kind}"

    def _check_observation(self, method: str, observation: Any, where: BoolArray) -> None:
        """Checks each part's type, shape and dtype, and its values where `where` `[]` or `[E]` says so."""
        for path, box, is_box in self._boxes:
            what = f"observation `{name_of(path)}`" if path else "observation"
            try:
                value = value_at(observation, path)
            except (KeyError, IndexError, TypeError):
                self._fail(method, what, "a part of this name", _describe(observation))
            shape = (*self._batch_shape, *box.shape)
            is_discrete = box.dtype == _DISCRETE and not isinstance(value, float)
            found = np.asarray(value) if is_discrete else value
            if (
                not isinstance(found, np.ndarray | np.generic)
                or found.shape != shape
                or not (found.dtype.kind in "biu" if is_discrete else np.can_cast(found.dtype, box.dtype))
            ):
                self._fail(method, what, f"an array of {box.dtype} with shape {shape}", _describe(value))
            values = np.asarray(found)
            inside = where.reshape(where.shape + (1,) * (values.ndim - where.ndim))
            self._check_values(method, what, values, "finite numbers", ~np.isfinite(values) & inside)
            self._check_bounds(method, what, values, box, inside, is_box)

    def _check_bounds(
        self, method: str, what: str, values: AnyArray, box: Box, where: BoolArray, is_box: bool
    ) -> None:
        """Warns of the worst number outside the bounds of a `Box`, and fails at any outside another space."""
        for word, bound, wrong in (
            ("least", box.low, values < _widened(box.low, -1)),
            ("most", box.high, values > _widened(box.high, 1)),
        ):
            if not (wrong := wrong & where).any():
                continue
            limits = np.broadcast_to(bound, values.shape)
            if not is_box:
                limit = limits[wrong][0]
                self._check_values(method, what, values, f"at {word} {limit:.6g} by its space", wrong)
            excess = np.where(wrong, np.abs(values.astype(np.float64) - limits), 0.0)
            worst = np.unravel_index(np.argmax(excess), excess.shape)
            at = f" at position {tuple(map(int, worst))}" if worst else ""
            text = (
                f"The environment `{self._name}` returned {values[worst]:.6g}{at} of an {what}, which is at "
                f"{word} {limits[worst]:.6g} by its space: training continues (correct the space)."
            )
            self._warn(what, float(excess[worst]), text)

    def _check_values(
        self, method: str, what: str, values: AnyArray, expected: str, wrong: BoolArray
    ) -> None:
        """Fails at the first of `values` that is `wrong`, arrays of one shape."""
        if wrong.any():
            position = tuple(np.argwhere(wrong)[0].tolist())
            at = f" at position {position}" if position else ""
            self._fail(method, what, expected, f"{values[position]}{at}")

    def _fail(self, method: str, what: str, expected: str, got: str) -> NoReturn:
        raise EnvironmentFault(
            f"The environment `{self._name}` returned a wrong {what} from `{method}`: expected {expected} "
            f"and got {got} (`gymnasium.utils.env_checker.check_env` finds such mistakes)."
        )


class CheckedEnvironment(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One environment, checked until its second reset."""

    def __init__(self, environment: gymnasium.Env[Any, Any], check: OutputCheck) -> None:
        super().__init__(environment)
        self._check = check
        self._is_reset = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Resets the environment."""
        result = self.env.reset(seed=seed, options=options)
        if self._is_reset:
            # Later calls bypass this wrapper.
            self.reset, self.step = self.env.reset, self.env.step  # type: ignore[method-assign]
        else:
            self._check.check_reset(result)
        self._is_reset = True
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment."""
        result = self.env.step(action)
        self._check.check_step(result)
        return result


def check_first_episodes(vector: VectorEnv[Any, Any, Any], name: str, warn: Warn) -> OutputCheck | None:
    """Lets single environments in `vector`, not reset yet, check themselves during their first episode.

    Returns the check that the caller must make, if the vector class steps all environments itself.
    """
    base = vector.unwrapped
    if not isinstance(base, SyncVectorEnv):
        return OutputCheck(name, vector.single_observation_space, warn, (vector.num_envs,))
    base.envs = [_checked(single, name, warn) for single in base.envs]
    return None


def _checked(environment: gymnasium.Env[Any, Any], name: str, warn: Warn) -> gymnasium.Env[Any, Any]:
    """The environment with a check inside the wrappers that `gymnasium.make` adds."""
    if isinstance(environment, gymnasium.Wrapper) and type(environment) in _ADDED_WRAPPERS:
        environment.env = _checked(environment.env, name, warn)
        return environment
    return CheckedEnvironment(environment, OutputCheck(name, environment.observation_space, warn))


def _as_box(space: Any) -> Box | None:
    """A `Box` with the shape and the bounds of `space`, of whole numbers if it is discrete."""
    match space:
        case Box():
            return space
        case MultiBinary():
            return Box(0, 1, space.shape, _DISCRETE)
        case Discrete():
            return Box(space.start, space.start + space.n - 1, (), _DISCRETE)
        case MultiDiscrete():
            return Box(space.start, space.start + space.nvec - 1, space.shape, _DISCRETE)
    return None


def _widened(bound: Any, sign: int) -> Any:
    """A bound that tolerates rounding errors of floats."""
    if not np.issubdtype(bound.dtype, np.floating):
        return bound
    with np.errstate(over="ignore"):  # the bound may be the end of the dtype's range
        return bound + sign * 1e-5 * np.maximum(1.0, np.abs(bound))


def _describe(value: Any) -> str:
    """Type, dtype and shape of a wrong value."""
    if isinstance(value, np.ndarray | np.generic):
        return f"an array of {value.dtype} with shape {value.shape}"
    if isinstance(value, tuple):
        old = ", as Gym before 0.26 did" if len(value) == 4 else ""
        return f"a tuple of {len(value)}{old}"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '…'} ({type(value).__name__})"
