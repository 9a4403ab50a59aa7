"""From a name to an environment: Gymnasium ids, `module:Name`, Atari, MinAtar; and what DQN needs of it."""

import contextlib
import difflib
import functools
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit

from distdqn.config.model import import_named
from distdqn.environments.sources import (
    Called,
    EnvironmentSource,
    environment_name,
    environment_options,
    import_all,
    takes_number,
)
from distdqn.environments.spaces import NumberedActions, ObservationPacker, mask_from_info
from distdqn.errors import ConfigError, DistdqnError, EnvironmentFault, one_line
from distdqn.networks.checks import choose_torso
from distdqn.types import EnvironmentSpec, ObservationPart

# Returns must be those of the game, so the actor clips rewards. An actor has one process, so one thread.
_ATARI_SETTINGS: dict[str, Any] = {"reward_clipping": False, "num_threads": 1}
_CODE_STEPS, _MAX_CODE = 100, 32  # a small image with no larger numbers in so many steps holds codes
# By namespace: the package that registers it, and the extra of this package that installs it.
_NAMESPACES = {"ALE": ("ale_py", "atari"), "MinAtar": ("minatar.gym", "minatar")}


class EnvironmentMaker:
    """Makes copies of one environment, in its own vector class if it has one.

    `ConfigError` if the environment or a wrapper does not exist, or they do not fit each other.
    """

    note: str | None = None  # a line for the user

    def __init__(self, env: EnvironmentSource) -> None:
        options = environment_options(env)
        self._found: Any = resolve_environment(options.env)
        self._name = environment_name(options)
        self._arguments = dict(options.env_kwargs)
        self._limit = options.max_episode_steps
        self._wrappers = import_all("wrapper", options.wrapper)
        self._of_one = [wrapper for wrapper in self._wrappers if not wrapper.is_of_vector]
        self._is_vector = takes_number(self._found)
        self._is_id = isinstance(self._found, str)
        spec = gymnasium.spec(str(self._found)) if self._is_id else None
        if spec is not None and spec.vector_entry_point is not None:
            self._is_vector = not self._of_one
            if self._of_one:
                unused = f"the vector class of `{self._name}` is not used"
                self.note = f"`wrapper` needs single environments: {unused}."
        elif self._is_vector and self._of_one:
            raise ConfigError(
                f"`wrapper`: `{self._of_one[0].name}` is for single environments, and `{self._name}` is a "
                "vector environment (name a `gymnasium.vector.VectorWrapper`)."
            )
        if self._is_vector:  # no wrapper can end its episodes
            limit, unit = "max_episode_steps", 1
            if spec is not None and str(spec.vector_entry_point).startswith("ale_py."):
                self._arguments = _ATARI_SETTINGS | self._arguments
                limit, unit = "max_num_frames_per_episode", self._arguments.get("frameskip", 4)
            if self._limit is not None:
                self._arguments[limit] = self._limit * unit

    def make(self, environments: int) -> VectorEnv[Any, Any, Any]:
        """As many environments, stepped together."""
        vector: VectorEnv[Any, Any, Any]
        copies = len(self._wrappers) > len(self._of_one)  # else observations are packed at once
        if self._is_vector:
            make = functools.partial(gymnasium.make_vec, self._found) if self._is_id else self._found
            vector = make(num_envs=environments, **self._arguments)
        else:
            vector = SyncVectorEnv([self._make_one] * environments, copy=copies)
        for wrapper in self._wrappers:
            vector = wrapper(vector) if wrapper.is_of_vector else vector
        if not isinstance(vector, VectorEnv) or vector.num_envs != environments:
            raise EnvironmentFault(
                f"The environment `{self._name}` has an argument `num_envs`, and did not make a "
                f"`gymnasium.vector.VectorEnv` of {environments} for it (rename the argument, or follow it)."
            )
        return vector

    def mistakes(self) -> list[str]:
        """A line for each argument that the environment or a wrapper lacks or does not take."""
        function, arguments = self._found, self._arguments
        if isinstance(function, str):
            spec = gymnasium.spec(function)
            entry_point: Any = spec.vector_entry_point if self._is_vector else spec.entry_point
            function = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
            arguments = spec.kwargs | arguments
        if self._is_vector:
            arguments = {"num_envs": 1, **arguments}
        called = Called("env", self._name, function, arguments, takes_environment=False)
        return [line for each in [called, *self._wrappers] if (line := each.mistake()) is not None]

    def _make_one(self) -> gymnasium.Env[Any, Any]:
        if self._is_id:
            # The wrapper below ends episodes.
            limit: dict[str, Any] = {"max_episode_steps": -1} if self._limit else {}
            environment = gymnasium.make(self._found, **limit, **self._arguments)
        else:
            environment = self._found(**self._arguments)
        if isinstance(environment, VectorEnv):
            raise ConfigError(
                f"`env`: `{self._name}` makes a vector environment without an argument `num_envs` (add it)."
            )
        for wrapper in self._of_one:
            environment = wrapper(environment)
        return environment if self._limit is None else TimeLimit(environment, self._limit)


def make_vector_environment(env: EnvironmentSource, environments: int) -> VectorEnv[Any, Any, Any]:
    """Copies of one environment; see `EnvironmentMaker`."""
    return EnvironmentMaker(env).make(environments)


def resolve_environment(env: str | Callable[..., Any]) -> str | Callable[..., Any]:
    """A registered id, or a function that makes one environment.

    `module:Name` imports the module; an attribute of that name is preferred to an id. Atari and
    MinAtar need no module. `ConfigError` if nothing has this name, or its package is not installed.
    """
    if not isinstance(env, str):
        return env
    name = env.rpartition(":")[2]
    if name != env and callable(found := import_named("env", env)):
        made: Callable[..., Any] = found
        return made
    _register(name)
    try:
        gymnasium.spec(name)
    except gymnasium.error.Error as error:
        message = one_line(error).rstrip(".") + _suggestion(name, str(error))
        raise ConfigError(f"`env`: {message}.") from error
    return name


def inspect_environment(env: EnvironmentSource, masks: bool = True) -> EnvironmentSpec:
    """Builds the environment once, resets it, and checks that DQN can learn it.

    Only if `masks`, the `action_mask` of `info` counts. `ConfigError` if the environment does not exist,
    lacks an argument, or has spaces that DQN cannot use; `EnvironmentFault` if its constructor fails.
    """
    maker = EnvironmentMaker(env)
    name = environment_name(env)
    try:
        vector = maker.make(1)
    except DistdqnError:
        raise
    except gymnasium.error.DependencyNotInstalled as error:
        raise ConfigError(f"`env`: {one_line(error)}") from error
    except Exception as error:
        if isinstance(error, TypeError) and (mistakes := maker.mistakes()):
            raise ConfigError(mistakes) from error
        raise EnvironmentFault(
            f"The environment `{name}` cannot be built: {type(error).__name__}: {one_line(error)}"
        ) from error
    with contextlib.closing(vector):
        actions = NumberedActions(vector.single_action_space)
        mode_note = autoreset_mode(vector, name)[1]
        info: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # the actors find what is wrong, as they check all outputs
            info = dict(vector.reset(seed=0)[1])
        mask = mask_from_info(info, 1, actions.choices) if masks else None
        packer = ObservationPacker(vector.single_observation_space, actions, mask is not None)
        if 0 in packer.shape:
            raise ConfigError(
                f"`env`: its observations are {vector.single_observation_space}, which holds no number (wrap "
                "it so that it shows something)."
            )
        lines = [maker.note, mode_note, _conversion(vector.single_observation_space, packer)]
        if actions.choices:
            what = f"Actions are {vector.single_action_space}"
            lines.append(f"{what}: offered as one number for each of {actions.count} combinations.")
        spec = EnvironmentSpec(
            name=name,
            observation_shape=packer.shape,
            actions=actions.count,
            reward_threshold=_reward_threshold(vector),
            observation_dtype=packer.dtype.name,
            observation_low=packer.low,
            observation_high=packer.high,
            conversion=" ".join(filter(None, lines)) or None,
            parts=packer.parts,
            is_discrete=packer.is_discrete,
        )
        return _scaled_codes(spec, vector, packer)


def _scaled_codes(
    spec: EnvironmentSpec, vector: VectorEnv[Any, Any, Any], packer: ObservationPacker
) -> EnvironmentSpec:
    """Scales small images that hold codes by the largest number seen, not by the 255 of their space."""
    lone = ObservationPart("observation", "image", spec.observation_shape, 0, 0, spec.observation_high)
    parts = spec.parts or ((lone,) if spec.is_image else ())
    images = [part for part in parts if part.kind == "image" and part.high == 255]
    small = [part for part in images if choose_torso(part.shape, is_image=True) != "nature"]
    if not small:
        return spec
    seen = _largest_numbers(vector, packer, small)
    codes = {part.name: high for part, high in zip(small, seen, strict=True) if 0 < high <= _MAX_CODE}
    if not codes:
        return spec
    told = ", ".join(f"`{name}` holds numbers up to {high}" for name, high in codes.items())
    line = f"{told} in {_CODE_STEPS} random steps: the network scales by that, not by 255."
    spec = replace(spec, conversion=" ".join(filter(None, [spec.conversion, line])))
    scaled = tuple(replace(part, high=float(codes.get(part.name, part.high))) for part in parts)
    return replace(spec, parts=scaled) if spec.parts else replace(spec, code_high=scaled[0].high)


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


def autoreset_mode(vector: VectorEnv[Any, Any, Any], name: str) -> tuple[AutoresetMode, str | None]:
    """When `vector` resets an environment whose episode ended, and a line if it does not say so itself.

    `EnvironmentFault` if it names a mode that does not exist.
    """
    mode = vector.metadata.get("autoreset_mode")
    line = f"`{name}` names no `autoreset_mode` in its `metadata`: taken for `NEXT_STEP`."
    try:
        return AutoresetMode(mode or AutoresetMode.NEXT_STEP), None if mode else line
    except ValueError as error:
        modes = ", ".join(f"`AutoresetMode.{each.name}`" for each in AutoresetMode)
        raise EnvironmentFault(
            f"The environment `{name}` has a wrong `autoreset_mode` in its `metadata`: `{mode}` (set one of "
            f"{modes})."
        ) from error


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
    """A similar registered id, unless Gymnasium's message names something else than `name`."""
    if "Did you mean" in message or not all(name.startswith(each) for each in re.findall("`(.*?)`", message)):
        return ""
    near = difflib.get_close_matches(name, gymnasium.registry, n=1)
    if near and not re.search(r"-v\d+$", name):  # else Gymnasium has looked for similar names
        return f" (did you mean `{near[0]}`?)"
    return f" (if a package of your own registers it, give `package:{name}`)"


def _register(name: str) -> None:
    """Imports the package that registers `name`; Gymnasium 1.x does not do so by itself."""
    namespace = name.rpartition("/")[0]
    if namespace not in _NAMESPACES or any(s.namespace == namespace for s in gymnasium.registry.values()):
        return
    module_name, extra = _NAMESPACES[namespace]
    # MinAtar imports seaborn for the colours of its pictures: 1.3 s and 100 MB in every actor.
    deferred = sys.modules.setdefault("seaborn", _DeferredModule("seaborn"))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"`env`: `{name}` is not installed: `pip install 'distdqn[{extra}]'` ({one_line(error)})."
        ) from error
    finally:
        if isinstance(deferred, _DeferredModule):
            del sys.modules["seaborn"]
    if namespace == "MinAtar":
        module.register_envs()


class _DeferredModule(ModuleType):
    """Imports the module of its name at the first use of an attribute."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)
