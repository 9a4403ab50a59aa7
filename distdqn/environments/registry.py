"""Families of environments whose package must be imported before Gymnasium knows them."""

import contextlib
import difflib
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv

from distdqn.errors import ConfigError, EnvironmentFault, one_line
from distdqn.types import EnvironmentSpec

EnvironmentSource = str | Callable[[], gymnasium.Env[Any, Any]]

# Returns must be the game's own: it is the actor that clips rewards, and it only learns
# from them. Actors are processes already, so one thread each.
_ATARI_SETTINGS: dict[str, Any] = {"reward_clipping": False, "num_threads": 1}


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
    import_package(name)
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


# By namespace: the package, and our extra that installs it.
_FAMILIES = {"ALE": ("ale_py", "atari"), "MinAtar": ("minatar.gym", "minatar")}


def import_package(name: str) -> None:
    """Imports the package that registers `name`; Gymnasium 1.x does not do so by itself."""
    family = name.rpartition("/")[0]
    if family not in _FAMILIES or any(spec.namespace == family for spec in gymnasium.registry.values()):
        return
    module_name, extra = _FAMILIES[family]
    try:
        with _put_off("seaborn"):
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"`env`: `{name}` is not installed: `pip install 'distdqn[{extra}]'` ({one_line(error)})."
        ) from error
    if family == "MinAtar":
        module.register_envs()


class _PutOff(ModuleType):
    """Stands for a module until something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def _put_off(name: str) -> Iterator[None]:
    """What is imported meanwhile gets the module `name` when it first uses it.

    MinAtar imports seaborn for the colours of its pictures: 1.3 s and 100 MB in every
    actor, or a warning where it is missing.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = _PutOff(name)
    try:
        yield
    finally:
        del sys.modules[name]
