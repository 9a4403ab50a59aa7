"""Actions of several choices are one number each, and their masks those of the numbers."""

import itertools

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from toy_actors import make_actor, make_vector, step_once
from toy_sources import Chooses

from distdqn.environments.registry import inspect_environment
from distdqn.environments.spaces import NumberedActions, expand_mask
from distdqn.errors import ConfigError, EnvironmentFault
from distdqn.types import RolloutRequest


@pytest.mark.parametrize(
    "space",
    [
        MultiDiscrete([2, 3]),
        MultiDiscrete([4], start=[7]),
        MultiDiscrete([[2, 1], [3, 2]], start=[[0, 5], [1, 0]]),
        MultiBinary(3),
        MultiBinary((2, 2)),
        Discrete(5, start=-2),
    ],
    ids=str,
)
def test_every_action_of_the_space_has_one_number(space):
    actions = NumberedActions(space)
    values = actions.decode(np.arange(actions.count))

    assert all(space.contains(value) for value in values)
    assert len({tuple(np.ravel(value)) for value in values}) == actions.count
    slow = itertools.product(*map(range, actions.choices or (actions.count,)))
    start = np.ravel(getattr(space, "start", 0))
    assert np.array_equal(values.reshape(actions.count, -1), np.array(list(slow)) + start)


@pytest.mark.parametrize("space", [MultiDiscrete([64, 65]), MultiBinary(13)], ids=str)
def test_fault_26_more_than_4096_combinations_are_refused(space):
    with pytest.raises(ConfigError, match="DQN can offer at most 4,096"):
        NumberedActions(space)
    assert NumberedActions(MultiDiscrete([64, 64])).count == 4096


def test_fault_26_continuous_actions_are_refused():
    with pytest.raises(ConfigError, match="DQN needs `Discrete` actions"):
        NumberedActions(Box(0, 1, (2,)))


def test_environment_gets_the_choices_of_each_number():
    source = lambda: Chooses([2, 3], start=[0, 4])  # noqa: E731
    vector = make_vector(source, 6, seed=0)
    rewards = step_once(vector, range(6))[0].reward

    assert rewards.tolist() == [[4, 5, 6, 14, 15, 16]]
    spec = inspect_environment(source)
    assert spec.actions == 6
    assert "MultiDiscrete([2 3], start=[0 4]): offered as one number for each of 6" in spec.conversion


# The first choice must be 1; the second must not be 1. Numbers 3 and 5 of [2, 3], the first one slowest.
FIRST, SECOND = np.array([0, 1], np.int8), np.array([1, 0, 1], np.int8)
WHOLE = np.array([0, 0, 0, 1, 0, 1], np.int8)
MASKS = {
    "combinations": {"mask": WHOLE},
    "combinations in rows": {"mask": WHOLE.reshape(2, 3)},
    "tuple": {"mask": (FIRST, SECOND)},
    "one after the other": {"mask": np.concatenate([FIRST, SECOND])},
    "list": {"mask": [*FIRST.tolist(), *SECOND.tolist()]},
    "observation of combinations": {"in_observation": WHOLE},
    "observation of choices": {"in_observation": np.concatenate([FIRST, SECOND])},
}


@pytest.mark.parametrize("given", MASKS.values(), ids=MASKS)
def test_masks_of_choices_allow_the_combinations_of_what_they_allow(given):
    source = lambda: Chooses([2, 3], **given)  # noqa: E731
    spec = inspect_environment(source)
    vector = make_vector(source, 2, seed=0, has_mask="mask" in given)

    assert spec.mask.read(vector.observation).tolist() == [WHOLE.tolist()] * 2
    report, chunk = make_actor(source, spec, envs_per_actor=4).rollout(RolloutRequest(0, 10**9))
    assert report.env_faults == 0
    assert set(chunk.action.tolist()) == {3, 5}


def test_mask_that_may_be_of_choices_or_of_combinations_is_refused():
    ambiguous = np.ones(4, np.int8)
    with pytest.raises(EnvironmentFault, match="or a tuple with a mask for each choice"):
        inspect_environment(lambda: Chooses([2, 2], mask=ambiguous))
    with pytest.raises(EnvironmentFault, match="has 5 numbers, and its actions are choices of"):
        inspect_environment(lambda: Chooses([2, 2], mask=np.ones(5, np.int8)))

    told = inspect_environment(lambda: Chooses([2, 2], mask=(FIRST, FIRST)))
    assert told.mask.shape == (4,)


@pytest.mark.parametrize("choices", [(2, 3), (2, 2), (1, 2, 3), (4,), (1, 1)], ids=str)
def test_expanded_mask_agrees_with_a_slow_twin(choices):
    generator = np.random.default_rng(0)
    masks = [generator.integers(2, size=(5, n)) for n in choices]
    combinations = list(itertools.product(*map(range, choices)))
    slow = [
        [all(mask[e][value] for mask, value in zip(masks, each, strict=True)) for each in combinations]
        for e in range(5)
    ]

    assert expand_mask(np.concatenate(masks, axis=1), choices, is_by_choice=True).tolist() == slow
