"""From a name to an environment: Gymnasium ids, `module:Name`, Atari, MinAtar; and what DQN needs of it."""

import contextlib
import difflib
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import SyncVectorEnv, VectorEnv

from distdqn.environments.observations import MASK, ObservationPacker
from distdqn.errors import ConfigError, EnvironmentFault, one_line
from distdqn.networks.checks import choose_torso
from distdqn.types import EnvironmentSpec, ObservationPart

EnvironmentSource = str | Callable[[], gymnasium.Env[Any, Any]]  # an id, `module:Name`, or a function

# Returns must be those of the game, so the actor clips rewards. An actor has one process, so one thread.
_ATARI_SETTINGS: dict[str, Any] = {"reward_clipping": False, "num_threads": 1}
_CODE_STEPS, _MAX_CODE = 100, 32  # a small image with no larger numbers in so many steps holds codes
# By namespace: the package that registers it, and the extra of this package that installs it.
_NAMESPACES = {"ALE": ("ale_py", "atari"), "MinAtar": ("minatar.gym", "minatar")}


def make_vector_environment(env: EnvironmentSource, environments: int) -> VectorEnv[Any, Any, Any]:
    """Copies of one environment, in its own vector class if it has one; see `resolve_environment`."""
    found = resolve_environment(env)
    if isinstance(found, str):
        is_atari = str(gymnasium.spec(found).vector_entry_point).startswith("ale_py.")
        return gymnasium.make_vec(found, num_envs=environments, **(_ATARI_SETTINGS if is_atari else {}))
    return SyncVectorEnv([found] * environments)


def resolve_environment(env: EnvironmentSource) -> EnvironmentSource:
    """A registered id, or a function that makes one environment.

    `module:Name` imports the module; an attribute of that name is preferred to an id. Atari and
    MinAtar need no module. `ConfigError` if nothing has this name, or its package is not installed.
    """
    if not isinstance(env, str):
        return env
    module_name, colon, name = env.rpartition(":")
    if colon:
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            raise ConfigError(
                f"`env`: cannot import `{module_name}` of `{env}`: {type(error).__name__}: {one_line(error)} "
                "(is its folder on the Python path, and does it import by itself?)"
            ) from error
        if callable(attribute := getattr(module, name, None)):
            made: EnvironmentSource = attribute
            return made
    _register(name)
    try:
        gymnasium.spec(name)
    except gymnasium.error.Error as error:
        raise ConfigError(f"`env`: {one_line(error)}{_suggestion(name, str(error))}") from error
    return name


def environment_name(env: EnvironmentSource) -> str:
    """The name to show to the user."""
    return env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__)


def inspect_environment(env: EnvironmentSource, masks: bool = True) -> EnvironmentSpec:
    """Builds the environment once, resets it, and checks that DQN can learn it.

    Args:
        env: its name, or a function.
        masks: honour the `action_mask` of `info`.

    Raises:
        ConfigError: the environment does not exist, or DQN cannot use its spaces.
        EnvironmentFault: its constructor fails; the message quotes the original error.
    """
    found = resolve_environment(env)
    name = environment_name(env)
    try:
        vector = make_vector_environment(found, 1)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ConfigError(f"`env`: {one_line(error)}") from error
    except Exception as error:
        raise EnvironmentFault(
            f"The environment `{name}` cannot be built: {type(error).__name__}: {one_line(error)}"
        ) from error
    with contextlib.closing(vector):
        actions: Any = vector.single_action_space
        if not isinstance(actions, gymnasium.spaces.Discrete):
            raise ConfigError(
                f"`env`: its actions are {actions}, and DQN needs `Discrete` actions (wrap it so that it "
                "offers a fixed list of actions)."
            )
        packer = make_packer(vector, masks and MASK in _first_info(vector))
        if 0 in packer.shape:
            raise ConfigError(
                f"`env`: its observations are {vector.single_observation_space}, which holds no number (wrap "
                "it so that it shows something)."
            )
        spec = EnvironmentSpec(
            name=name,
            observation_shape=packer.shape,
            actions=int(actions.n),
            reward_threshold=_reward_threshold(vector),
            observation_dtype=packer.dtype.name,
            observation_low=packer.low,
            observation_high=packer.high,
            conversion=_conversion(vector.single_observation_space, packer),
            parts=packer.parts,
        )
        return _scaled_codes(spec, vector, packer)


def _scaled_codes(
    spec: EnvironmentSpec, vector: VectorEnv[Any, Any, Any], packer: ObservationPacker
) -> EnvironmentSpec:
    """Scales small images that hold codes by the largest number seen, not by the 255 of their space."""
    lone = ObservationPart("observation", "image", spec.observation_shape, 0, 0, spec.observation_high)
    parts = spec.parts or ((lone,) if spec.is_image else ())
    small = [part for part in parts if part.kind == "image" and _may_hold_codes(part)]
    if not small:
        return spec
    seen = _largest_numbers(vector, packer, small)
    codes = {part.name: high for part, high in zip(small, seen, strict=True) if 0 < high <= _MAX_CODE}
    if not codes:
        return spec
    told = ", ".join(f"`{name}` holds numbers up to {high}" for name, high in codes.items())
    line = f"{told} in {_CODE_STEPS} random steps: the network scales by that, not by 255."
    spec = replace(spec, conversion=" ".join(filter(None, [spec.conversion, line])))
    if not spec.parts:
        return replace(spec, code_high=float(codes["observation"]))
    return replace(
        spec, parts=tuple(replace(part, high=float(codes.get(part.name, part.high))) for part in parts)
    )


def _may_hold_codes(part: ObservationPart) -> bool:
    return part.high == 255 and choose_torso(part.shape, is_image=True) != "nature"


def _largest_numbers(
    vector: VectorEnv[Any, Any, Any], packer: ObservationPacker, parts: Sequence[ObservationPart]
) -> list[int]:
    """The largest number of each image in some random steps; 0 if the environment fails."""
    largest = [0] * len(parts)
    try:
        observation, _ = vector.reset(seed=0)
        vector.action_space.seed(0)
        for _ in range(_CODE_STEPS):
            packed = packer.pack(observation)
            images = [part.read(packed) if packer.parts else packed for part in parts]
            largest = [max(high, int(np.max(image))) for high, image in zip(largest, images, strict=True)]
            observation, *_ = vector.step(vector.action_space.sample())
    except Exception:  # the actors find out what is wrong
        return [0] * len(parts)
    return largest


def make_packer(vector: VectorEnv[Any, Any, Any], has_mask: bool) -> ObservationPacker:
    """What makes one array of the observations of `vector`, whose `info` has masks if `has_mask`."""
    actions: Any = vector.single_action_space
    return ObservationPacker(vector.single_observation_space, int(actions.n), has_mask)


def _first_info(vector: VectorEnv[Any, Any, Any]) -> dict[str, Any]:
    """`info` of the first reset. What is wrong with that is found by the actors, which check all outputs."""
    try:
        _, info = vector.reset(seed=0)
        return dict(info)
    except Exception:
        return {}


def _conversion(space: Any, packer: ObservationPacker) -> str | None:
    """A line for the user about observations that are converted to another kind of numbers."""
    lines = []
    if packer.parts:
        parts = [f"{part.name} {part.shape}" for part in packer.parts]
        lines.append(f"Observations have {len(parts)} parts: {', '.join(parts)}.")
    elif not isinstance(space, Box):
        lines.append(f"Observations are {type(space).__name__}: {packer.shape[0]} numbers, one-hot.")
    elif space.dtype != np.float32 and packer.dtype != np.uint8:
        kind, axes = str(space.dtype), len(space.shape)
        if kind in ("uint8", "bool"):
            kind = f"{kind} with {axes} {'axis' if axes == 1 else 'axes'} (images have 2 or 3)"
        lines.append(f"Observations are {kind}: converted to float32.")
    lines += [f"`{name}` ({type(leaf).__name__}) is left out." for name, leaf in packer.left_out]
    return " ".join(lines) or None


def _reward_threshold(vector: VectorEnv[Any, Any, Any]) -> float | None:
    """`spec.reward_threshold`, wherever this class of vector environment keeps its spec."""
    spec = vector.unwrapped.spec
    if spec is None and isinstance(vector, SyncVectorEnv):
        spec = vector.envs[0].spec
    return None if spec is None or spec.reward_threshold is None else float(spec.reward_threshold)


def _suggestion(name: str, message: str) -> str:
    """A similar registered id, unless Gymnasium's message names one."""
    if "Did you mean" in message or "`" in message.replace(f"`{name}`", ""):
        return ""
    near = difflib.get_close_matches(name, gymnasium.registry, n=1)
    return f" (did you mean `{near[0]}`?)" if near else ""


def _register(name: str) -> None:
    """Imports the package that registers `name`; Gymnasium 1.x does not do so by itself."""
    namespace = name.rpartition("/")[0]
    if namespace not in _NAMESPACES or any(s.namespace == namespace for s in gymnasium.registry.values()):
        return
    module_name, extra = _NAMESPACES[namespace]
    try:
        with _deferred("seaborn"):
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"`env`: `{name}` is not installed: `pip install 'distdqn[{extra}]'` ({one_line(error)})."
        ) from error
    if namespace == "MinAtar":
        module.register_envs()


class _DeferredModule(ModuleType):
    """Imports the module of its name at the first use of an attribute."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def _deferred(name: str) -> Iterator[None]:
    """Defers the import of the module `name` by modules that are imported meanwhile.

    MinAtar imports seaborn for the colours of its pictures: 1.3 s and 100 MB in every actor.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = _DeferredModule(name)
    try:
        yield
    finally:
        del sys.modules[name]
