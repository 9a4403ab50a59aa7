"""What a run finds around it, and what `auto` and `none` become. Nothing resolves options after this."""

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from distdqn.config.config import Config, resolved
from distdqn.environments.registry import inspect_environment
from distdqn.environments.sources import EnvironmentSource, why_forgotten
from distdqn.errors import ConfigError, DistdqnError, collecting
from distdqn.networks.checks import check_importable, check_torso, choose_torso
from distdqn.replay.shards import replay_bytes, shard_capacities
from distdqn.reporting.run_directory import check_folder
from distdqn.training.limits import available_bytes, available_cpus
from distdqn.types import EnvironmentSpec

_MAX_CALL_BYTES = 64 * 2**20  # of the batches of one learner call
_MAX_ROLLOUT_BYTES = 32 * 2**20  # of the observations of one rollout
_NO_LIMIT = 10**15  # env steps
_ROLLOUT_COPIES = 9  # of those observations in an actor at once, measured
# Measured; Clark et al. (2024), arXiv:2411.03820; Bellemare et al. (2017).
_ATOMS = {"value": None, "quantile": 11, "implicit": 8, "categorical": 51}


def check_surroundings(
    env: EnvironmentSource,
    run_dir: str | None,
    network: str | Callable[..., Any] | None = None,
    is_resuming: bool = False,
    masks: bool = True,
) -> EnvironmentSpec:
    """Checks what a run needs besides its options; returns what the rest of it needs of its environment.

    A folder `run_dir` that `is_resuming` may hold a run. `masks`: see `inspect_environment`. `ConfigError`
    lists all mistakes in environment, network and folder; `EnvironmentFault`: the first cannot be built.
    """
    mistakes: list[str] = []
    with collecting(mistakes):
        check_folder(run_dir, is_resuming)
    with collecting(mistakes):
        if isinstance(network, str):
            check_importable(network)
    try:
        spec = inspect_environment(env, masks)
    except DistdqnError as error:
        if not mistakes:
            raise
        mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return spec


def resolve(config: Config, spec: EnvironmentSpec, recorded_steps: int = 0) -> Config:
    """The options with a value in place of each `auto` and `none` that stands for one.

    What has no effect beside the other options stays as it is, and so does `actors auto`, which follows the
    cluster. If all env steps are recorded, replay is first filled with the `recorded_steps` of the dataset.
    """
    batch_size = config.batch_size or (64 if spec.is_image else 128)
    torso: str = config.torso
    if torso == "auto" and config.network is None:
        fitting = [choose_torso(shape, spec.is_image) for shape in spec.torso_shapes]
        torso = next((each for each in ("nature", "small") if each in fitting), "dense")
    # In the other modes, results must not depend on the machine.
    has_machine = config.mode == "async" and (
        config.address == "local" or not (config.address or os.environ.get("RAY_ADDRESS"))
    )
    is_free = config.mode == "async" and config.network is None and torso != "dense"
    is_free = is_free and not config.learner_gpus
    threads = available_cpus() if is_free and has_machine else 1
    may_choose = is_free and not config.spectral_norm
    step_bytes = config.envs_per_actor * _observation_bytes(spec)
    batch_bytes = 2 * batch_size * _observation_bytes(spec)
    values: dict[str, Any] = {
        "rollout_length": min(config.rollout_length, max(1, _MAX_ROLLOUT_BYTES // step_bytes)),
        "torso": torso,
        "atoms": config.atoms or _ATOMS[config.head],
        "batch_size": batch_size,
        # An update of convolutions takes ten times as long as one of dense layers. Mnih et al. (2015)
        # sample a batch of 32 every four env steps.
        "samples_per_insert": config.samples_per_insert or batch_size / (8.0 if spec.is_image else 1.0),
        # With images, an env step is an eighth as many updates, and learning takes many more env steps.
        "learning_rate_schedule": config.learning_rate_schedule
        or ("constant" if spec.is_image else "linear"),
        "target_return": spec.reward_threshold if config.target_return == "auto" else config.target_return,
        # The exploratory actions in a window of several steps bias what it says of the greedy policy: where
        # states are told apart exactly, that costs more than the longer windows gain.
        "watkins": spec.is_discrete if config.watkins is None else config.watkins,
        # While the learner waits for transitions, actors have the CPUs, so its threads never starve them.
        "learner_threads": threads if config.learner_threads == "auto" else config.learner_threads,
        "evaluators": 1 if config.evaluators == "auto" and not has_machine else config.evaluators,
        # `auto` is left where the learner may choose.
        "precision": "float32" if config.precision == "auto" and not may_choose else config.precision,
        "updates_per_call": min(config.updates_per_call, max(1, _MAX_CALL_BYTES // batch_bytes)),
    }
    if config.is_offline:
        # The dataset is read again and again; each shard has a reader.
        values |= {"actors": config.replay_shards, "max_env_steps": _NO_LIMIT}
        values["min_replay_size"] = max(config.min_replay_size, min(recorded_steps, config.replay_capacity))
    return config.model_copy(update=values)


def describe_resolution(config: Config, result: Config, spec: EnvironmentSpec) -> list[str]:
    """One line for each thing about `resolve(config, spec)` that the user should know."""
    lines = [line for line in (spec.conversion, why_forgotten(config)) if line is not None]
    bounds = (
        ("updates_per_call", "batches", _MAX_CALL_BYTES),
        ("rollout_length", "steps", _MAX_ROLLOUT_BYTES),
    )
    for name, what, most in bounds:
        if (found := getattr(result, name)) < (given := getattr(config, name)):
            why = f"more {what} of such observations would exceed {most >> 20} MB"
            lines.append(f"`{name}` is {found} instead of {given}: {why}.")
    return lines


def _observation_bytes(spec: EnvironmentSpec) -> int:
    return math.prod(spec.observation_shape) * np.dtype(spec.observation_dtype).itemsize


def check_fit(config: Config, spec: EnvironmentSpec) -> None:
    """Raises all mistakes of resolved options beside the environment and this machine's memory."""
    mistakes: list[str] = []
    shape, capacity = spec.observation_shape, config.replay_capacity
    if config.network is None and not spec.parts:  # among several parts, a small image gets a smaller torso
        with collecting(mistakes):
            check_torso(config.torso, shape)
    if config.spectral_norm and config.torso == "dense":
        mistakes.append(
            f"`spectral_norm` is for convolutions, and observations of the shape {shape} have none "
            "(leave it out, or name a `torso`)."
        )
    has_others = config.network is not None or config.spectral_norm or config.torso == "dense"
    if config.precision == "bfloat16" and has_others:
        mistakes.append(
            "`precision bfloat16` is for the convolutions of a `torso`, without `spectral_norm` (leave it "
            "out; layers of your own have a `dtype`)."
        )
    if (batch_size := resolved(config.batch_size)) > capacity:  # a given batch size is checked earlier
        mistakes.append(
            f"`batch_size` ({batch_size}) exceeds `replay_capacity` ({capacity}): no batch could be all "
            "different (lower `batch_size`)."
        )
    (replay, rollouts), available = _needed_bytes(config, spec), available_bytes()
    if available is not None and replay + rollouts > available:
        mistakes.append(
            f"`replay_capacity` ({capacity}) needs {_gigabytes(replay)} for observations of the shape "
            f"{shape}, and rollouts need {_gigabytes(rollouts)}, and this machine has "
            f"{_gigabytes(available)} (lower `replay_capacity`, or `actors` and `envs_per_actor`)."
        )
    if mistakes:
        raise ConfigError(mistakes)


def _needed_bytes(config: Config, spec: EnvironmentSpec) -> tuple[int, int]:
    """Memory of replay and of rollouts on this machine, or on one like it: on a cluster of one role each."""
    steps = config.rollout_length * config.envs_per_actor
    rollout = _ROLLOUT_COPIES * steps * _observation_bytes(spec)
    actors = (config.min_actors or 1) if config.actors == "auto" else config.actors
    shards = [
        replay_bytes(capacity, spec, config.sampler == "prioritized")
        for capacity in shard_capacities(config.replay_capacity, config.replay_shards)
    ]
    named = config.address or os.environ.get("RAY_ADDRESS")
    return (sum(shards), actors * rollout) if named in (None, "", "local") else (max(shards), rollout)


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GB"
