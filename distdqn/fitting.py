"""What the environment's observations ask of the options, before anything slow starts."""

import dataclasses
import os

import numpy as np

from distdqn.acting.environments import EnvironmentSpec
from distdqn.builders import batch_size, resolve_torso
from distdqn.config import Config
from distdqn.errors import ConfigError
from distdqn.replay.shards import shard_capacities
from distdqn.replay.sizes import replay_bytes
from distdqn.torsos import check_torso

_MOST_BATCH_BYTES = 64 * 2**20  # of one learner call, on its way from replay to the learner


def fit_to_observations(config: Config, spec: EnvironmentSpec) -> tuple[Config, list[str]]:
    """The options as the environment's observations allow them.

    Args:
        config: as the user gave it.
        spec: of the environment.

    Returns:
        The options a run is made with, and a line for each thing the user should know.

    Raises:
        ConfigError: replay would not fit into this machine's memory, or the images into
            the convolutions.
    """
    notes = [] if spec.conversion is None else [spec.conversion]
    mistakes = []
    torso = resolve_torso(config, spec)
    try:
        check_torso(torso, spec.observation_shape)
    except ConfigError as error:
        mistakes += error.mistakes
    if config.spectral_norm and torso == "dense":
        mistakes.append(
            "`spectral_norm` is for convolutions, and observations of the shape "
            f"{spec.observation_shape} have none (leave it out, or name a `torso`)."
        )
    batch = batch_size(config, spec.is_image)
    if batch > config.capacity:  # a batch size that was named is held against it earlier
        mistakes.append(
            f"`batch_size` ({batch}) exceeds `capacity` ({config.capacity}): no batch could be all different "
            "(lower `batch_size`)."
        )
    needed, available = _replay_bytes(config, spec), _machine_bytes()
    if available is not None and needed > available:
        mistakes.append(
            f"`capacity` ({config.capacity}) needs {_gigabytes(needed)} for observations of the shape "
            f"{spec.observation_shape}, and this machine has {_gigabytes(available)} (lower `capacity`)."
        )
    if mistakes:
        raise ConfigError(mistakes)
    observation_bytes = int(np.prod(spec.observation_shape)) * np.dtype(spec.observation_dtype).itemsize
    most = max(1, _MOST_BATCH_BYTES // (2 * batch * observation_bytes))
    if config.updates_per_call > most:
        notes.append(
            f"`updates_per_call` is {most} instead of {config.updates_per_call}: "
            f"more batches of such observations would exceed {_MOST_BATCH_BYTES >> 20} MB."
        )
        config = dataclasses.replace(config, updates_per_call=most)
    return config, notes


def _replay_bytes(config: Config, spec: EnvironmentSpec) -> int:
    """What replay takes of this machine's memory, or of one like it: on a cluster one shard at least."""
    shards = [
        replay_bytes(capacity, spec, config.sampler == "prioritized")
        for capacity in shard_capacities(config.capacity, config.replay_shards)
    ]
    named = config.address or os.environ.get("RAY_ADDRESS")
    return sum(shards) if named in (None, "", "local") else max(shards)


def _machine_bytes() -> int | None:
    """This machine's memory, where the system tells it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GB"
