"""Environments: building them, checking that DQN can use them, stepping many exactly.

Gymnasium is imported in this folder and in the commands that show episodes, nowhere else.
"""

import contextlib
import difflib
import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from distdqn.acting.families import import_family, one_line
from distdqn.acting.first_episodes import check_first_episodes
from distdqn.errors import ConfigError, DistdqnError, EnvironmentFault
from distdqn.frames import FrameLayout, make_frame_layout
from distdqn.transition import AnyArray, BoolArray, FloatArray, IntArray

P = ParamSpec("P")
R = TypeVar("R")

EnvironmentSource = str | Callable[[], gymnasium.Env[Any, Any]]

# Returns must be the game's own: it is the actor that clips rewards, and it only learns
# from them. Actors are processes already, so one thread each.
_ATARI_SETTINGS: dict[str, Any] = {"reward_clipping": False, "num_threads": 1}


@dataclass(frozen=True)
class EnvironmentSpec:
    """What the rest of the program needs to know of an environment.

    Attributes:
        name: for people and for the run directory's name.
        observation_shape: shape of one observation.
        actions: number of actions `A`.
        reward_threshold: the return at which Gymnasium calls it solved, if it says so.
        observation_dtype: what observations are kept as: `uint8` for images, else `float32`.
        observation_low: smallest value of the space.
        observation_high: largest value of the space.
        conversion: a line about observations that come as something else, for the user.
    """

    name: str
    observation_shape: tuple[int, ...]
    actions: int
    reward_threshold: float | None
    observation_dtype: str
    observation_low: float
    observation_high: float
    conversion: str | None

    @property
    def is_image(self) -> bool:
        """Whether observations are images, kept as uint8."""
        return self.observation_dtype == "uint8"


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


class EnvironmentRaised(Exception):
    """The environment raised while it was built, reset or stepped; `__cause__` is what."""


def _blames_the_environment(method: Callable[P, R]) -> Callable[P, R]:
    """The same method; whatever goes wrong in it is the environment's doing."""

    @functools.wraps(method)
    def blaming(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return method(*arguments, **options)
        except DistdqnError:
            raise
        except Exception as error:
            raise EnvironmentRaised(type(error).__name__) from error

    return blaming


class EnvironmentBatch:
    """`E` environments stepped together, whatever their autoreset mode.

    Args:
        source: of the environments.
        environments: `E`.
        seed: of their first episodes and all that follow.
        checks_outputs: check what each environment returns until its first episode is over.

    Attributes:
        observation: what to act on next, `[E, *observation_shape]`, uint8 if it is an image
            and float32 if not.
        frame_layout: how images are made of frames.
        open_returns: `[E]`, undiscounted return of each open episode so far.
        open_lengths: `[E]`, its env steps.
        unchecked: `[E]` bool, environments whose outputs are being checked still.

    Raises:
        ConfigError: there is no such environment.
        EnvironmentFault: what it returns is wrong.
        EnvironmentRaised: it raised.
    """

    @_blames_the_environment
    def __init__(
        self, source: EnvironmentSource, environments: int, seed: int, checks_outputs: bool = False
    ) -> None:
        self._source, self._environments = source, environments
        self.unchecked = np.full(environments, checks_outputs)
        self._build()
        try:
            self._reset(seed)
        except Exception:
            self.close()
            raise

    def _build(self) -> None:
        vector = make_vector_environment(self._source, self._environments)
        if self.unchecked.any():
            vector = check_first_episodes(vector, environment_name(self._source))
        self._vector = vector
        self._mode = AutoresetMode(vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        space = vector.single_action_space
        self._first_action = int(space.start) if isinstance(space, gymnasium.spaces.Discrete) else 0
        observed: Any = vector.single_observation_space
        self._dtype = np.dtype(_kept_dtype(observed))
        self.frame_layout: FrameLayout | None = None
        if self._dtype == np.uint8:
            self.frame_layout = make_frame_layout(observed.shape, float(observed.high.max()))

    def _reset(self, seed: int) -> None:
        first, _ = self._vector.reset(seed=seed)
        self.observation: AnyArray = np.array(first, self._dtype)
        self.open_returns = np.zeros(self._environments, np.float64)
        self.open_lengths = np.zeros(self._environments, np.int64)
        self._resets_next = np.zeros(self._environments, np.bool_)

    def open_episodes(self) -> int:
        """How many episodes have had a step and go on."""
        return int(np.count_nonzero(self.open_lengths))

    @_blames_the_environment
    def restart(self, seed: int) -> None:
        """Breaks off all episodes and goes on as a new batch of this seed would.

        Environments without a vector class are built anew, since some keep state over a
        reset (MinAtar: its last action). Vector classes are only reset: building Atari games
        takes as long again.
        """
        if isinstance(self._vector.unwrapped, SyncVectorEnv):
            self.close()
            self._build()
        self._reset(seed)

    @_blames_the_environment
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
        next_observation = np.array(observation, self._dtype)
        current = next_observation
        if self._mode is AutoresetMode.SAME_STEP and ended_now.any():
            next_observation = next_observation.copy()
            for i in np.flatnonzero(ended_now):
                next_observation[i] = info["final_obs"][i]
        elif self._mode is AutoresetMode.DISABLED and ended_now.any():
            fresh, _ = self._vector.reset(options={"reset_mask": ended_now})
            current = np.array(fresh, self._dtype)
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
        self.open_returns += rewards
        self.open_lengths += is_transition
        ended = np.flatnonzero((terminated | truncated) & is_transition)
        returns, lengths = self.open_returns[ended].tolist(), self.open_lengths[ended].tolist()
        self.open_returns[ended], self.open_lengths[ended], self.unchecked[ended] = 0.0, 0, False
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
        """Frees what the environments hold; a fault in doing so harms nobody."""
        with contextlib.suppress(Exception):
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
        is_atari = str(gymnasium.spec(resolved).vector_entry_point).startswith("ale_py.")
        return gymnasium.make_vec(resolved, num_envs=environments, **(_ATARI_SETTINGS if is_atari else {}))
    return SyncVectorEnv([resolved] * environments)


def resolve_environment(source: EnvironmentSource) -> EnvironmentSource:
    """A registered id, or a function that makes one environment.

    `module:Name` imports the module; an attribute of that name wins over an id. Atari and
    MinAtar need no module.

    Raises:
        ConfigError: nothing by that name exists, or its package is not installed.
    """
    if not isinstance(source, str):
        return source
    module_name, colon, name = source.rpartition(":")
    if colon:
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            why = f"{type(error).__name__}: {one_line(error)}"
            raise ConfigError(
                f"`env`: cannot import `{module_name}` of `{source}`: {why} "
                "(is its folder on the Python path, and does it import by itself?)"
            ) from error
        if callable(attribute := getattr(module, name, None)):
            made: EnvironmentSource = attribute
            return made
    import_family(name)
    try:
        gymnasium.spec(name)
    except gymnasium.error.Error as error:
        raise ConfigError(f"`env`: {one_line(error)}{_suggestion(name, str(error))}") from error
    return name


def environment_name(source: EnvironmentSource) -> str:
    """What people call the environment."""
    return source if isinstance(source, str) else getattr(source, "__name__", type(source).__name__)


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
        raise ConfigError(f"`env`: {one_line(error)}") from error
    except Exception as error:
        raise EnvironmentFault(
            f"The environment `{environment_name(source)}` cannot be built: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
    try:
        observed: Any = vector.single_observation_space
        acted: Any = vector.single_action_space
        _check_spaces(observed, acted)
        return EnvironmentSpec(
            name=environment_name(source),
            observation_shape=observed.shape,
            actions=int(acted.n),
            reward_threshold=_reward_threshold(vector),
            observation_dtype=_kept_dtype(observed),
            observation_low=float(observed.low.min()),
            observation_high=float(observed.high.max()),
            conversion=_conversion(observed),
        )
    finally:
        vector.close()


def _kept_dtype(observations: Any) -> str:
    """`uint8` for pixels and maps of bits with two or three axes, `float32` for everything else."""
    is_image = observations.dtype in (np.uint8, np.bool_) and len(observations.shape) in (2, 3)
    return "uint8" if is_image else "float32"


def _conversion(observations: Any) -> str | None:
    """A line about observations that are not kept as they come; None where nothing is lost."""
    if observations.dtype == np.float32 or _kept_dtype(observations) == "uint8":
        return None
    kind = str(observations.dtype)
    if kind in ("uint8", "bool"):
        axes = len(observations.shape)
        kind = f"{kind} with {axes} {'axis' if axes == 1 else 'axes'} (images have 2 or 3)"
    return f"Observations are {kind}: converted to float32."


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


def _suggestion(name: str, message: str) -> str:
    """A near registered id, where Gymnasium's message names none."""
    if "Did you mean" in message or "`" in message.replace(f"`{name}`", ""):
        return ""
    near = difflib.get_close_matches(name, gymnasium.registry, n=1)
    return f" (did you mean `{near[0]}`?)" if near else ""
