"""A trained policy from a run, a file or a checkpoint: `distdqn.load`."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from distdqn.checkpoints.resume import locate_checkpoints
from distdqn.config.config import Arguments, EnvironmentOptions, Names
from distdqn.config.model import Options, Text
from distdqn.environments.registry import EnvironmentMaker, inspect_environment, make_vector_environment
from distdqn.environments.spaces import NumberedActions, ObservationPacker, expand_mask, leaves, value_at
from distdqn.errors import ConfigError, EnvironmentFault, NoCheckpoint, collecting, restoring
from distdqn.networks.numpy_policy import (
    Policy,
    describe_layers,
    load_policy,
    make_policy,
    weights_from_learner,
    weights_from_tree,
)
from distdqn.reporting.run_directory import read_options, read_status
from distdqn.types import BoolArray, EnvironmentSpec, FloatArray, IntArray, PolicyWeights

_OF_ENVIRONMENT = ("env", "env_kwargs", "wrapper", "max_episode_steps")


class PolicyOptions(Options):
    """A network that a run has trained, and the environment if it is another one than the run's."""

    run_dir: Text
    """Folder of a run, or a policy's `.npz` file; with `--checkpoint` also a folder or URL of checkpoints."""
    final: bool = False
    """Use the run's last network instead of its best."""
    checkpoint: Annotated[int, Field(ge=0)] | Literal["newest", "best"] | None = None
    """Use the network of a checkpoint instead: of that number, of the `newest`, or the `best` by evaluation
    that the newest holds."""
    env: Text | Callable[..., Any] | None = None
    """Another environment than the run's, without the run's arguments; none means the run's."""
    env_kwargs: Arguments | None = None
    """Its arguments, as in `size=5` or as JSON, in place of the run's."""
    wrapper: Names | None = None
    """Its wrappers, each as `module:Name,size=5`, in place of the run's."""
    max_episode_steps: Annotated[int, Field(ge=1)] | None = None
    """Its time limit in place of the run's."""

    def chosen_environment(self) -> dict[str, Any]:
        """What replaces the run's options of its environment."""
        return self.model_dump(include={*_OF_ENVIRONMENT}, exclude_none=True, warnings=False)


class LoadedPolicy:
    """A trained network that acts greedily, without TensorFlow unless it has a user's own Keras layers.

    An observation is one of the environment's own space, or a batch, in which every part of a `Dict` or
    `Tuple` has a leading axis `B`, as in Gymnasium's vector environments.
    """

    def __init__(
        self, weights: PolicyWeights, environment: EnvironmentOptions, spec: EnvironmentSpec
    ) -> None:
        self.weights, self.environment = weights, environment
        self.spec = spec  # of the environment, as the network was trained on it
        self._policy = make_policy(weights)
        with contextlib.closing(make_vector_environment(environment, 1)) as vector:
            self._space = vector.single_observation_space
            self._actions = NumberedActions(vector.single_action_space)
            self._packer = ObservationPacker(self._space, self._actions, spec.mask is not None)

    def __repr__(self) -> str:
        steps, layers = self.weights.learner_steps, describe_layers(self.weights)
        spec = self.spec
        return f"LoadedPolicy({spec.name}, {spec.actions} actions, layers: {layers}, {steps:,} learner steps)"

    def act(self, observation: Any, action_mask: Any = None) -> int | IntArray:
        """The greedy action, of equal ones the first, as the environment takes it.

        Args:
            observation: one, or a batch.
            action_mask: `[A]` or `[B, A]`, not 0 where an action is allowed; for choices also as in `info`.

        Returns:
            An `int`, or an array of a `MultiDiscrete` or `MultiBinary` space; of a batch `[B, ...]`.

        Raises:
            ConfigError: the observation or the mask does not fit the environment.
        """
        q_values = self.q_values(observation, action_mask)
        actions = self._actions.decode(np.atleast_2d(q_values).argmax(axis=1))
        if q_values.ndim == 2:
            return actions
        return actions[0] if self._actions.choices else int(actions[0])

    def q_values(self, observation: Any, action_mask: Any = None) -> FloatArray:
        """Q-values `[A]`, or `[B, A]` of a batch, minus infinity where not allowed; see `act`."""
        leading = self._leading_axes(observation)
        allowed = None if action_mask is None else self._allowed(action_mask, *leading)
        packed = self._packer.pack(observation, allowed, is_batch=bool(leading))  # [B, *observation_shape]
        q_values = self._policy.q_values(packed)
        if allowed is not None:
            q_values = np.where(allowed, q_values, np.float32(-np.inf))
        return q_values if leading else q_values[0]

    def _leading_axes(self, observation: Any) -> tuple[int, ...]:
        """`(B,)` of a batch, `()` of one observation; `ConfigError` if it is neither."""
        found: set[tuple[int, ...]] = set()
        with contextlib.suppress(LookupError, TypeError, ValueError):
            for path, leaf in leaves(self._space):
                if leaf.shape is not None:  # else it is left out
                    shape = np.shape(value_at(observation, path))
                    axes = len(shape) - len(leaf.shape)
                    found.add(shape[:axes] if axes in (0, 1) and shape[axes:] == leaf.shape else (-1, -1))
            (leading,) = found
            if len(leading) < 2:
                return leading
        space = " ".join(str(self._space).split())
        raise ConfigError(f"`observation` must be one of {space}, or a batch of them.")

    def _allowed(self, mask: Any, batch: int = 1) -> BoolArray:
        """The mask as `[B, A]`."""
        is_tuple, actions = isinstance(mask, tuple), self.spec.actions
        with contextlib.suppress(EnvironmentFault, TypeError, ValueError):
            parts = [np.reshape(part, (batch, -1)) for part in (mask if is_tuple else [mask])]
            allowed = expand_mask(np.concatenate(parts, axis=1), self._actions.choices, is_tuple)
            if allowed.shape == (batch, actions) and allowed.any(axis=1).all():
                return allowed
        raise ConfigError(
            f"`action_mask` must be {actions} numbers for each observation, not all of them 0 (1 for each "
            "action that is allowed)."
        )


def load(
    run_dir: Path | str,
    *,
    checkpoint: int | str | None = None,
    final: bool = False,
    env: str | Callable[..., Any] | None = None,
    **environment: Any,
) -> LoadedPolicy:
    """The best network of a run, or its last if `final`, or that of a `checkpoint`, ready to act.

    Args:
        run_dir: folder of a run, or a policy's `.npz` file; with `checkpoint` also a folder or URL of
            checkpoints.
        checkpoint: a number, `newest` or `best`.
        final: take the run's last network.
        env: another environment than the run's. A file needs it where no `config.json` of its run is.
        environment: `env_kwargs`, `wrapper` and `max_episode_steps` in place of those of the run.

    Raises:
        ConfigError: the folder holds no policy, there is no such environment, or the two do not fit.
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    given: dict[str, Any] = {"run_dir": str(run_dir), "checkpoint": checkpoint, "final": final, "env": env}
    return LoadedPolicy(*find_policy(PolicyOptions(**given, **environment)))


def find_policy(options: PolicyOptions) -> tuple[PolicyWeights, EnvironmentOptions, EnvironmentSpec]:
    """The network in a run, a file or a checkpoint, its environment, and how the network saw that.

    Arguments are those of one environment alone. Raises the errors of `load`.
    """
    mistakes: list[str] = []
    path, checkpoint, chosen = Path(options.run_dir), options.checkpoint, options.chosen_environment()
    is_file = path.suffix == ".npz" and not path.is_dir()
    folder = path.parent if is_file else path
    recorded = read_options(folder).model_dump()
    with collecting(mistakes):
        if is_file and (options.final or checkpoint is not None):
            raise ConfigError(f"`run_dir`: {path} is one network (leave out `final` and `checkpoint`).")
        if checkpoint is None:
            name = "final.npz" if options.final else "policy.npz"
            weights = _read_policy(path if is_file else path / name)
        else:
            weights, recorded = _read_checkpoint(options.run_dir, checkpoint)
    with collecting(mistakes):
        if not mistakes or recorded.get("env") or "env" in chosen:
            source = find_environment(folder, recorded, chosen)
    if mistakes:
        raise ConfigError(mistakes)
    return weights, source, _find_spec(weights, source)


def find_player(
    options: PolicyOptions, is_random: bool
) -> tuple[Policy | None, EnvironmentOptions, EnvironmentSpec]:
    """A run's policy, None if actions are to be random; and environment and spec as from `find_policy`."""
    if not is_random:
        weights, source, spec = find_policy(options)
        return make_policy(weights), source, spec
    folder = Path(options.run_dir)
    recorded = read_options(folder).model_dump()
    source = find_environment(folder, recorded, options.chosen_environment())
    return None, source, inspect_environment(source)


def find_environment(folder: Path, recorded: dict[str, Any], chosen: dict[str, Any]) -> EnvironmentOptions:
    """The environment that options of the run in `folder` name, `chosen` ones in place of the `recorded`.

    `ConfigError` if none is named, or there is no such environment.
    """
    kept = [name for name in _OF_ENVIRONMENT if name != "env_kwargs" or "env" not in chosen]
    found = {name: recorded.get(name) for name in kept} | chosen
    values: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
    if "env" not in values:
        file = folder / "config.json"
        raise ConfigError(f"`run_dir`: {file} does not name an environment (give `--env`).")
    if isinstance(values["env"], str) and "<" in values["env"]:  # `<lambda>` or `<locals>`
        raise ConfigError(f"`env` was `{values['env']}`, which no module names (give `--env module:Name`).")
    source = EnvironmentOptions(**values)
    EnvironmentMaker(source)  # finds what does not exist
    return source


def _read_policy(path: Path) -> PolicyWeights:
    """The network in a file of a run; `ConfigError` if it is missing or damaged."""
    try:
        return load_policy(path)
    except FileNotFoundError as error:
        status = read_status(path.parent)
        why = "" if status is None else f"; its run is `{status.state}`"
        what = f"{path.parent} holds no `{path.name}`{why}"
        raise ConfigError(f"`run_dir`: {what} (name another run, or give `--checkpoint newest`).") from error


def _read_checkpoint(place: str, checkpoint: int | str) -> tuple[PolicyWeights, dict[str, Any]]:
    """The network in a checkpoint, and its run's options; `CheckpointError` if there is none."""
    with restoring(f"`checkpoint`: {place}"):
        store, numbers = locate_checkpoints(place)
        number = checkpoint if isinstance(checkpoint, int) else numbers[-1]
        if number not in numbers:
            there = ", ".join(map(str, numbers))
            raise NoCheckpoint(f"`checkpoint`: {place} holds no checkpoint {number} (name one of {there}).")
        document = store.read_manifest(number)
    with restoring(f"Checkpoint {number} of {place}"):
        options: dict[str, Any] = document["about"]["config"]
        if checkpoint != "best":
            return weights_from_learner(store.read_tree(document["learner"])), options
        if document["goal"]["best_weights"] is None:
            raise NoCheckpoint(f"`checkpoint`: {place} holds no evaluated network yet (give a number).")
        return weights_from_tree(store.read_tree(document["goal"]["best_weights"])), options


def _find_spec(weights: PolicyWeights, source: EnvironmentOptions) -> EnvironmentSpec:
    """The environment as the network saw it, with masks or without them.

    `ConfigError` if it does not fit the network, or if the network cannot be evaluated.
    """
    policy = None
    for masks in (True, False):
        spec = inspect_environment(source, masks)
        observation = np.zeros((1, *spec.observation_shape), spec.observation_dtype)
        with restoring("The network"):
            policy = policy or make_policy(weights)
            with contextlib.suppress(ValueError):
                if policy.q_values(observation).shape == (1, spec.actions):
                    return spec
    raise ConfigError(
        f"`env`: the network of this run does not fit `{spec.name}`, whose observations have the shape "
        f"{spec.observation_shape} and which has {spec.actions} actions (name the run's environment)."
    )
