"""Environments: building them, checking that DQN can use them, stepping many exactly.

Gymnasium is imported here and in the commands that show episodes, nowhere else.
"""

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from distdqn.errors import ConfigError, EnvironmentFault
from distdqn.transition import AnyArray, BoolArray, FloatArray, IntArray

EnvironmentSource = str | Callable[[], gymnasium.Env[Any, Any]]


@dataclass(frozen=True)
class EnvironmentSpec:
    """What the rest of the program needs to know of an environment.

    Attributes:
        name: for people and for the run directory's name.
        observation_shape: shape of one observation.
        actions: number of actions `A`.
        reward_threshold: the return at which Gymnasium calls it solved, if it says so.
    """

    name: str
    observation_shape: tuple[int, ...]
    actions: int
    reward_threshold: float | None


@dataclass(frozen=True)
class StepResult:
    """What one vector step of `E` environments brought.

    Attributes:
        next_observation: `[E, *observation_shape]`, what the action led to; at an
            episode's end its last observation, not the next episode's first.
        reward: `[E]` float32.
        terminated: `[E]` bool.
        truncated: `[E]` bool.
        is_transition: `[E]` bool; False where the environment ignored the action and
            only reset itself.
        ended: positions of the environments whose episode ended.
        episode_returns: undiscounted returns of those episodes, in the order of `ended`.
        episode_lengths: their env steps.
    """

    next_observation: AnyArray
    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    is_transition: BoolArray
    ended: IntArray
    episode_returns: list[float]
    episode_lengths: list[int]


class EnvironmentBatch:
    """`E` environments stepped together, whatever their autoreset mode.

    `observation` is always what to act on next: `[E, *observation_shape]` float32.
    """

    def __init__(self, source: EnvironmentSource, environments: int, seed: int) -> None:
        self._vector = make_vector_environment(source, environments)
        self._mode = AutoresetMode(self._vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        space = self._vector.single_action_space
        self._first_action = int(space.start) if isinstance(space, gymnasium.spaces.Discrete) else 0
        self._returns = np.zeros(environments, np.float64)
        self._lengths = np.zeros(environments, np.int64)
        self._resets_next = np.zeros(environments, np.bool_)
        first, _ = self._vector.reset(seed=seed)
        self.observation: FloatArray = np.array(first, np.float32)

    def step(self, actions: IntArray) -> StepResult:
        """Steps every environment once.

        Args:
            actions: `[E]` from 0; where an environment's turn is to reset itself, its
                action has no effect.
        """
        observation, reward, terminated, truncated, info = self._vector.step(actions + self._first_action)
        is_transition = ~self._resets_next
        # A copy each: an environment may hand out the same buffer again.
        ended_now: BoolArray = np.logical_or(terminated, truncated) & is_transition
        next_observation = np.array(observation, np.float32)
        current = next_observation
        if self._mode is AutoresetMode.SAME_STEP and ended_now.any():
            next_observation = next_observation.copy()
            for i in np.flatnonzero(ended_now):
                next_observation[i] = info["final_obs"][i]
        elif self._mode is AutoresetMode.DISABLED and ended_now.any():
            fresh, _ = self._vector.reset(options={"reset_mask": ended_now})
            current = np.array(fresh, np.float32)
        elif self._mode is AutoresetMode.NEXT_STEP:
            self._resets_next = ended_now
        self.observation = current
        return self._record(next_observation, reward, terminated, truncated, is_transition)

    def _record(
        self,
        next_observation: AnyArray,
        reward: AnyArray,
        terminated: BoolArray,
        truncated: BoolArray,
        is_transition: BoolArray,
    ) -> StepResult:
        """Adds to the open episodes and closes those that ended."""
        rewards = np.where(is_transition, reward, 0.0)
        self._returns += rewards
        self._lengths += is_transition
        ended = np.flatnonzero((terminated | truncated) & is_transition)
        returns, lengths = self._returns[ended].tolist(), self._lengths[ended].tolist()
        self._returns[ended], self._lengths[ended] = 0.0, 0
        return StepResult(
            next_observation=next_observation,
            reward=rewards.astype(np.float32),
            terminated=np.array(terminated, np.bool_),
            truncated=np.array(truncated, np.bool_),
            is_transition=is_transition,
            ended=ended,
            episode_returns=returns,
            episode_lengths=lengths,
        )

    def close(self) -> None:
        """Frees what the environments hold."""
        self._vector.close()


def make_vector_environment(source: EnvironmentSource, environments: int) -> VectorEnv[Any, Any, Any]:
    """`environments` copies of one environment, in the environment's own vector class if it has one.

    Args:
        source: a Gymnasium id, `module:Name`, or a function that makes one environment.
        environments: how many.

    Raises:
        ConfigError: there is no such environment.
    """
    resolved = resolve_environment(source)
    if isinstance(resolved, str):
        return gymnasium.make_vec(resolved, num_envs=environments)
    return SyncVectorEnv([resolved] * environments)


def resolve_environment(source: EnvironmentSource) -> EnvironmentSource:
    """A registered id, or a function that makes one environment.

    `module:Name` imports the module; an attribute of that name wins over an id.

    Raises:
        ConfigError: nothing by that name exists.
    """
    if not isinstance(source, str):
        return source
    module_name, colon, name = source.rpartition(":")
    if colon:
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            why = f"{type(error).__name__}: {_one_line(error)}"
            raise ConfigError(
                f"`env`: cannot import `{module_name}` of `{source}`: {why} "
                "(is its folder on the Python path, and does it import by itself?)"
            ) from error
        if callable(attribute := getattr(module, name, None)):
            made: EnvironmentSource = attribute
            return made
    try:
        gymnasium.spec(name)
    except gymnasium.error.Error as error:
        raise ConfigError(f"`env`: {_one_line(error)}{_suggestion(name, str(error))}") from error
    return name


def inspect_environment(source: EnvironmentSource) -> EnvironmentSpec:
    """Builds the environment once and checks that DQN can learn it.

    Raises:
        ConfigError: no such environment, or its spaces do not suit DQN.
        EnvironmentFault: its constructor fails; the message carries the original error.
    """
    resolved = resolve_environment(source)
    try:
        vector = make_vector_environment(resolved, 1)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ConfigError(f"`env`: {_one_line(error)}") from error
    except Exception as error:
        raise EnvironmentFault(
            f"The environment `{_name(source)}` cannot be built: {type(error).__name__}: {_one_line(error)}"
        ) from error
    try:
        _check_spaces(vector.single_observation_space, vector.single_action_space)
        shape = vector.single_observation_space.shape or ()
        actions = int(vector.single_action_space.n)  # type: ignore[attr-defined]
        return EnvironmentSpec(_name(source), shape, actions, _reward_threshold(vector))
    finally:
        vector.close()


def _check_spaces(observations: Any, actions: Any) -> None:
    """Refuses spaces that DQN cannot use, all at once."""
    mistakes = []
    if not isinstance(actions, gymnasium.spaces.Discrete):
        mistakes.append(
            f"`env`: its actions are {actions}, and DQN needs `Discrete` actions (wrap it so that it "
            "offers a fixed list of actions)."
        )
    if not isinstance(observations, gymnasium.spaces.Box):
        kind = type(observations).__name__
        mistakes.append(
            f"`env`: its observations are a `{kind}` space, and the network needs one `Box` (wrap it in "
            "`gymnasium.wrappers.FlattenObservation`)."
        )
    if mistakes:
        raise ConfigError(mistakes)


def _reward_threshold(vector: VectorEnv[Any, Any, Any]) -> float | None:
    """`spec.reward_threshold`, wherever this kind of vector environment keeps its spec."""
    spec = vector.unwrapped.spec
    if spec is None and isinstance(vector, SyncVectorEnv):
        spec = vector.envs[0].spec
    return None if spec is None or spec.reward_threshold is None else float(spec.reward_threshold)


def _name(source: EnvironmentSource) -> str:
    if isinstance(source, str):
        return source
    return getattr(source, "__name__", type(source).__name__)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _suggestion(name: str, message: str) -> str:
    """A near registered id, where Gymnasium's message names none."""
    if "Did you mean" in message or "`" in message.replace(f"`{name}`", ""):
        return ""
    near = difflib.get_close_matches(name, gymnasium.registry, n=1)
    return f" (did you mean `{near[0]}`?)" if near else ""
