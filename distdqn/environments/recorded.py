"""Recorded episodes: a dataset in the format of Minari, and its steps as those of an environment."""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.random import Generator

from distdqn.config.offline import OfflineOptions
from distdqn.environments.registry import make_vector_environment
from distdqn.environments.sources import EnvironmentSource
from distdqn.environments.spaces import MASK, NumberedActions, ObservationPacker, leaves, mask_from_info
from distdqn.environments.vector import EpisodeEnd
from distdqn.errors import UNEXPECTED, ConfigError, one_line
from distdqn.types import AnyArray, EnvironmentSpec, Steps


def import_minari(option: str) -> Any:
    """The package `minari`; `ConfigError` if it is not installed."""
    if not all(map(importlib.util.find_spec, ("minari", "h5py"))):
        raise ConfigError(f"`{option}`: Minari is not installed (`pip install 'distdqn[offline]'`).")
    import minari

    return minari


def open_dataset(option: str, dataset_id: str) -> Any:
    """A Minari dataset of this machine; `ConfigError` if there is none, or it cannot be read."""
    minari = import_minari(option)
    try:
        return minari.load_dataset(dataset_id)
    except FileNotFoundError as error:
        place = minari.storage.get_dataset_path(dataset_id)
        cure = "`minari list local` lists those that are; record it, or `minari download` it"
        raise ConfigError(f"`{option}`: there is no dataset {place} ({cure}).") from error
    except (ImportError, NotImplementedError, AssertionError, OSError, *UNEXPECTED) as error:
        raise ConfigError(f"`{option}`: `{dataset_id}` cannot be read: {one_line(error)}.") from error


def check_dataset(env: EnvironmentSource, spec: EnvironmentSpec, option: str, dataset_id: str) -> int:
    """The steps of a dataset; `ConfigError` if it is not one of this environment, or holds no step."""
    dataset = open_dataset(option, dataset_id)
    with contextlib.closing(make_vector_environment(env, 1)) as vector:
        found = ("observations", dataset.observation_space, vector.single_observation_space)
        spaces = [found, ("actions", dataset.action_space, vector.single_action_space)]
    # The order of parts counts: packed observations have it.
    lines = [
        f"its {what} are {_line(recorded)}, and those of `{spec.name}` are {_line(own)}"
        for what, recorded, own in spaces
        if [*leaves(recorded)] != [*leaves(own)]
    ]
    if not lines and not dataset.total_steps:
        lines.append("it holds no steps")
    if not lines and spec.mask is not None:
        packer = ObservationPacker(dataset.observation_space, NumberedActions(dataset.action_space))
        if not packer.reads_mask and MASK not in (dataset[0].infos or {}):
            lines.append(f"it lacks the `{MASK}` of `info` (record it anew, or give `--no-action-masks`)")
    if lines:
        raise ConfigError(f"`{option}`: `{dataset_id}` does not fit: {'; '.join(lines)}.")
    return int(dataset.total_steps)


def _line(space: Any) -> str:
    return " ".join(str(space).split())


class RecordedEpisodes:
    """The steps of a dataset, one after another: all episodes in a random order, then again in that order.

    One episode at a time is in memory. An episode that was recorded without an end is truncated.
    """

    def __init__(self, options: OfflineOptions, spec: EnvironmentSpec, generator: Generator) -> None:
        self._dataset = open_dataset("offline", str(options.offline))
        self._has_mask = spec.mask is not None
        self._actions = NumberedActions(self._dataset.action_space)
        self._packer = ObservationPacker(self._dataset.observation_space, self._actions, self._has_mask)
        self.restart(generator)

    def restart(self, generator: Generator) -> None:
        """Continues with the first episode of another order."""
        self._order = self._episodes(generator.permutation(len(self._dataset)))
        self._episode, self._return = self.empty_steps(0), 0.0
        self._at = 0  # the next step of the episode

    def empty_steps(self, length: int) -> Steps:
        """`length` vector steps of one environment, to be filled."""
        return Steps.empty(length, 1, self._packer.shape, self._packer.dtype)

    def take(self, count: int) -> tuple[Steps, list[EpisodeEnd]]:
        """The next `count` steps `[count, 1]`, and the episodes that end in them."""
        steps, ends = self.empty_steps(0), []
        while len(steps) < count:
            if self._at == len(self._episode):
                self._episode, self._return = next(self._order)
                self._at = 0
            more = self._episode[self._at : self._at + count - len(steps)]
            self._at += len(more)
            steps = steps.followed_by(more)
            if self._at == len(self._episode):
                ends.append(EpisodeEnd(len(steps) - 1, 0, self._return, len(self._episode)))
        return steps, ends

    def _episodes(self, order: AnyArray) -> Iterator[tuple[Steps, float]]:
        """The episodes `[C]` in this order, without an end, each with its return."""
        while True:
            for index in order.tolist():
                if len(episode := self._dataset[index]):
                    yield self._steps(episode), float(np.sum(episode.rewards))

    def _steps(self, episode: Any) -> Steps:
        """An episode of `T` steps, `[T, 1]`."""
        length = len(episode)
        is_last = np.arange(length + 1) == length  # [T + 1]
        mask = None
        if self._has_mask:
            mask = mask_from_info(episode.infos or {}, length + 1, self._actions.choices)  # [T + 1, A]
        packed = self._packer.pack(episode.observations, mask, is_last)  # [T + 1, ...]
        steps = self.empty_steps(length)
        steps.observation[:, 0], steps.next_observation[:, 0] = packed[:-1], packed[1:]
        steps.action[:, 0], steps.reward[:, 0] = self._actions.encode(episode.actions), episode.rewards
        steps.terminated[:, 0], steps.truncated[:, 0] = episode.terminations, episode.truncations
        steps.truncated[-1, 0] |= not steps.terminated[-1, 0]
        steps.is_transition[:] = True
        return steps
