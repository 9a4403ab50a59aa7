"""`python -m distdqn.record`: episodes of a run's network as a Minari dataset."""

import contextlib
import copy
import importlib.metadata
import sys
import warnings
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Tuple
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import iterate

from distdqn.acting.exploration import epsilon_greedy_actions, random_actions
from distdqn.config.command_line import command
from distdqn.config.config import Count, Fraction, Seed
from distdqn.config.model import Text
from distdqn.environments.recorded import check_dataset, import_minari, open_dataset
from distdqn.environments.registry import autoreset_mode, make_vector_environment
from distdqn.environments.spaces import MASK, NumberedActions, ObservationPacker, mask_from_info
from distdqn.errors import UNEXPECTED, ConfigError, one_line
from distdqn.loading import PolicyOptions, find_player
from distdqn.networks.numpy_policy import Policy
from distdqn.seeding import make_generator, make_integer_seed
from distdqn.types import BoolArray, EnvironmentSpec, IntArray

_MAX_STEPS = 27_000  # of an episode, as in an evaluation


class RecordOptions(PolicyOptions):
    """What to play, and the dataset to write."""

    dataset: Text
    """Id of the dataset, as in `cartpole/mixed-v0`; Minari keeps it below `MINARI_DATASETS_PATH`."""
    append: bool = False
    """Add the episodes to a dataset that exists already."""
    episodes: Count = 100
    """Episodes to play."""
    epsilon: Fraction = 0.0
    """Probability of a random action."""
    random: bool = False
    """Take random actions; the run needs no network."""
    seed: Seed = 0
    """Fixes the episodes, together with their numbers in the dataset; evaluations play none of them."""


@command("distdqn record RUN_DIR --dataset ID [OPTION VALUE ...]", RecordOptions, positional="run_dir")
def main(options: RecordOptions) -> None:
    """Play a run's best network and write the episodes as a Minari dataset, for `run --offline ID`."""
    minari, returns = import_minari("dataset"), []
    policy, source, spec = find_player(options, options.random)
    dataset: Any = None
    first = 0
    if options.append:
        check_dataset(source, spec, "dataset", options.dataset)
        dataset = open_dataset("dataset", options.dataset)
        first = len(dataset)
    with contextlib.closing(make_vector_environment(source, 1)) as vector:
        recorder = Recorder(vector, spec, policy, options)
        for number in range(first, first + options.episodes):
            episode = minari.data_collector.EpisodeBuffer(**recorder.play(number))
            returns.append(sum(episode.rewards))
            try:
                if dataset is None:
                    dataset = recorder.create(minari, episode)
                else:
                    dataset.update_dataset_from_buffer([episode])
            except (NotImplementedError, OSError, *UNEXPECTED) as error:
                why = f"cannot write `{options.dataset}`: {one_line(error)}"
                raise ConfigError(f"`dataset`: {why}") from error
    written = f"{len(returns)} episodes, mean return {np.mean(returns):g}"
    print(f"{options.dataset}: {written}; {len(dataset)} episodes and {dataset.total_steps:,} steps in all")


class Recorder:
    """Plays episodes in a lone environment and keeps them as it returned them, in its own spaces."""

    def __init__(
        self,
        vector: VectorEnv[Any, Any, Any],
        spec: EnvironmentSpec,
        policy: Policy | None,
        options: RecordOptions,
    ) -> None:
        self._vector, self._spec, self._policy, self._options = vector, spec, policy, options
        self._mode = autoreset_mode(vector, spec.name)[0]
        self._actions = NumberedActions(vector.single_action_space)
        self._packer = ObservationPacker(
            vector.single_observation_space, self._actions, spec.mask is not None
        )

    def create(self, minari: Any, episode: Any) -> Any:
        """A new dataset with one episode; images stay as they are to the bit."""
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of what it could say besides
            return minari.create_dataset_from_buffers(
                self._options.dataset,
                [episode],
                observation_space=self._vector.single_observation_space,
                action_space=self._vector.single_action_space,
                algorithm_name=f"distdqn {importlib.metadata.version('distdqn')}",
                description=f"{self._spec.name}, first with epsilon {self._options.epsilon:g}",
                jpeg_encoding=False,
            )

    def play(self, number: int) -> dict[str, Any]:
        """The episode with this number, as the fields of Minari's `EpisodeBuffer`."""
        seed = make_integer_seed(self._options.seed, "environment", number)
        generator = make_generator(self._options.seed, "exploration", number)
        batch, info = self._vector.reset(seed=seed)
        observations, masks = [self._single(batch)], [self._told_mask(info)]
        actions, rewards, terminations, truncations = [], [], [], []
        is_open = True
        while is_open:
            action = self._choose(batch, masks[-1], generator)
            batch, reward, terminated, truncated, info = self._vector.step(self._actions.decode(action))
            actions.append(np.array(self._actions.decode(action)[0]))
            rewards.append(float(reward[0]))
            terminations.append(bool(terminated[0]))
            truncations.append(bool(truncated[0]) or (len(rewards) == _MAX_STEPS and not terminated[0]))
            is_open = not (terminations[-1] or truncations[-1])
            if not is_open and self._mode is AutoresetMode.SAME_STEP and len(rewards) < _MAX_STEPS:
                final = info["final_obs"]
                if not isinstance(final, np.ndarray):  # a batch of a space with parts
                    final = list(iterate(self._vector.observation_space, final))
                observations.append(copy.deepcopy(final[0]))
                masks.append(self._told_mask(info.get("final_info", {})))
            else:
                observations.append(self._single(batch))
                masks.append(self._told_mask(info))
        return {
            "seed": seed,
            "observations": _columns(self._vector.single_observation_space, observations),
            "actions": actions,
            "rewards": rewards,
            "terminations": terminations,
            "truncations": truncations,
            "infos": None if masks[0] is None else {MASK: masks},
        }

    def _single(self, batch: Any) -> Any:
        """A copy of the observation in a batch of one, whose buffer the environment may use again."""
        return copy.deepcopy(next(iter(iterate(self._vector.observation_space, batch))))

    def _told_mask(self, info: dict[str, Any]) -> BoolArray | None:
        """The allowed actions `[A]` of `info`; None if the network sees no mask, or an observation has it."""
        if not self._packer.has_mask or self._packer.reads_mask:
            return None
        told = mask_from_info(info, 1, self._actions.choices)  # [1, A]
        return np.ones(self._actions.count, np.bool_) if told is None else told[0].astype(np.bool_)

    def _choose(self, batch: Any, mask: BoolArray | None, generator: np.random.Generator) -> IntArray:
        """The number of the next action, `[1]`."""
        packed = self._packer.pack(batch, None if mask is None else mask[None])  # [1, ...]
        allowed = None if self._spec.mask is None else self._spec.mask.read(packed)  # [1, A]
        if self._policy is None:
            return random_actions(1, self._actions.count, generator, allowed)
        epsilon = np.full(1, self._options.epsilon, np.float32)
        return epsilon_greedy_actions(self._policy.q_values(packed), epsilon, generator, allowed)


def _columns(space: Any, values: list[Any]) -> Any:
    """Observations as nested lists: those of a space with parts by part."""
    if isinstance(space, Dict):
        return {key: _columns(each, [value[key] for value in values]) for key, each in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_columns(each, [value[i] for value in values]) for i, each in enumerate(space.spaces))
    return values


if __name__ == "__main__":
    sys.exit(main())
