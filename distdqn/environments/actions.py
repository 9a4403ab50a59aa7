"""Actions of several choices as one number, and masks of them."""

import math
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete

from distdqn.errors import ConfigError, EnvironmentFault
from distdqn.types import AnyArray, BoolArray, IntArray

_MAX_COMBINATIONS = 4096


class NumberedActions:
    """The actions of `space` by number, from 0. The last of several choices changes fastest.

    `ConfigError` if DQN cannot offer the actions of this space.
    """

    choices: tuple[int, ...] = ()  # sizes of several choices; none for `Discrete`

    def __init__(self, space: Any) -> None:
        self._shape, self._dtype = space.shape, space.dtype
        self._start: Any = 0
        cure = "wrap it so that it offers a fixed list of actions"
        if isinstance(space, Discrete):
            self.count, self._start = int(space.n), int(space.start)
        elif isinstance(space, MultiDiscrete | MultiBinary):
            self.choices = (2,) * math.prod(space.shape)
            if isinstance(space, MultiDiscrete):
                self.choices, self._start = tuple(space.nvec.ravel().tolist()), space.start
            self.count = math.prod(self.choices)
            if self.count > _MAX_COMBINATIONS:
                raise ConfigError(
                    f"`env`: its actions are {space} with {self.count:,} combinations, and DQN can offer at "
                    f"most {_MAX_COMBINATIONS:,} ({cure})."
                )
        else:
            raise ConfigError(f"`env`: its actions are {space}, and DQN needs `Discrete` actions ({cure}).")

    def decode(self, actions: IntArray) -> IntArray:
        """What the environments take, `[E]` or `[E, *shape]`, for action numbers `[E]`."""
        if not self.choices:
            return actions + self._start  # type: ignore[no-any-return]
        digits = np.stack(np.unravel_index(actions, self.choices), axis=1)  # [E, choices]
        values: IntArray = digits.reshape(len(actions), *self._shape) + self._start
        return values.astype(self._dtype)


def expand_mask(mask: AnyArray, choices: tuple[int, ...], is_by_choice: bool = False) -> BoolArray:
    """Whether each action is allowed, `[E, A]`.

    A `mask` `[E, ...]` is not 0 where an action is allowed, or a value of each of the choices in turn. If
    `is_by_choice`, it is the latter, which its size may not tell. `EnvironmentFault` if that fits neither, or
    both.
    """
    flat: BoolArray = mask.reshape(len(mask), -1) != 0
    size, actions, values = flat.shape[1], math.prod(choices), sum(choices)
    if not choices or (size == actions and (len(choices) == 1 or (actions != values and not is_by_choice))):
        return flat
    if size != values or (actions == values and not is_by_choice):
        raise EnvironmentFault(
            f"The environment's `action_mask` has {size} numbers, and its actions are choices of {choices} "
            f"(return {actions} numbers, one for each combination, or a tuple with a mask for each choice)."
        )
    allowed = np.ones((len(mask), 1), np.bool_)
    for part in np.split(flat, np.cumsum(choices)[:-1], axis=1):
        allowed = (allowed[:, :, None] & part[:, None, :]).reshape(len(mask), -1)
    return allowed
