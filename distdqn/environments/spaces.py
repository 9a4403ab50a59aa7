"""Spaces as arrays: an observation as one array, an action as one number, a mask of the actions allowed.

In an observation, discrete parts are one-hot, boxes flat, and images as they are.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple, flatdim

from distdqn.errors import ConfigError, EnvironmentFault
from distdqn.types import AnyArray, BoolArray, IntArray, ObservationPart

_MAX_COMBINATIONS = 4096  # of choices, which make one action each
MASK = "action_mask"  # of the actions that are allowed, in `info` or as a part of a `Dict` observation

Path = tuple[Any, ...]  # keys and positions, from the whole space to one part
_Encoder = Callable[[AnyArray], AnyArray]  # values [E, ...] of one part to numbers [E, K]


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

    def encode(self, values: IntArray) -> IntArray:
        """Action numbers `[E]` of what the environments take; the inverse of `decode`."""
        if not self.choices:
            return values - self._start  # type: ignore[no-any-return]
        digits = (values - self._start).reshape(len(values), -1)  # [E, choices]
        numbers: IntArray = np.ravel_multi_index(tuple(digits.T), self.choices)
        return numbers


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


def leaves(space: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The spaces without parts inside `space`, in its own order, each with its path."""
    if isinstance(space, Dict | Tuple):
        inner = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)
        for key, each in inner:
            yield from leaves(each, (*path, key))
    else:
        yield path, space


def value_at(observation: Any, path: Path) -> Any:
    """The part of an observation, or of a batch of them, at `path`."""
    for key in path:
        observation = observation[key]
    return observation


def name_of(path: Path) -> str:
    """A path in words, as in `goal.position`."""
    return ".".join(map(str, path)) or "observation"


def is_image(space: Any) -> bool:
    """Whether a space is one of pixels or maps of bits: uint8 or bool with two or three axes."""
    return isinstance(space, Box) and space.dtype in (np.uint8, np.bool_) and len(space.shape) in (2, 3)


class ObservationPacker:
    """Packs observations of `space` into one array.

    A lone `Box` stays as it is. All else becomes a vector of float32 or, with an image beside other parts, a
    vector of bytes, four for each float32. If `has_mask`, `info` says which actions are allowed. That, or the
    part of an observation that says so, comes last.
    """

    def __init__(self, space: gymnasium.Space[Any], actions: NumberedActions, has_mask: bool = False) -> None:
        found = list(leaves(space))
        mask_sizes = {actions.count, sum(actions.choices)}
        self.left_out = [(name_of(path), leaf) for path, leaf in found if not _size(leaf)]
        self._mask_path = next((path for path, leaf in found if _is_mask(path, leaf, mask_sizes)), None)
        self.has_mask = has_mask or self._mask_path is not None
        kept = [(path, leaf) for path, leaf in found if path != self._mask_path and _size(leaf)]
        self.dtype = np.dtype(np.uint8 if any(is_image(leaf) for _, leaf in kept) else np.float32)
        self.is_discrete = bool(kept) and not any(isinstance(leaf, Box) for _, leaf in kept)
        self._leaves: list[tuple[Path, _Encoder, ObservationPart]] = []
        self._actions = actions
        end = 0
        for path, leaf in kept:
            part = self._make_part(path, leaf, end)
            self._leaves.append((path, _encoder(leaf), part))
            end = part.end
        self.shape: tuple[int, ...] = (end + actions.count * self._width if self.has_mask else end,)
        self.low, self.high = -math.inf, math.inf
        self.parts: tuple[ObservationPart, ...] = ()
        lone: Any = kept[0][1] if len(kept) == 1 and not self.has_mask else None
        self._is_plain = isinstance(lone, Box)
        if self._is_plain:
            self.shape = lone.shape
            self.low, self.high = float(lone.low.min()), float(lone.high.max())
        elif lone is not None:
            self.low, self.high = 0.0, 1.0
        else:
            self.parts = tuple(part for _, _, part in self._leaves)
            if self.has_mask:
                self.parts += (ObservationPart(MASK, "mask", (actions.count,), end, self.shape[0]),)

    def pack(
        self,
        observation: Any,
        mask: AnyArray | None = None,
        ended: BoolArray | None = None,
        is_batch: bool = True,
    ) -> AnyArray:
        """Packed observations `[E, *shape]`.

        `ValueError` if a discrete part is outside its space, `EnvironmentFault` if no action is allowed.

        Args:
            observation: of a vector environment, or, unless `is_batch`, of one environment.
            mask: `[E, A]`, not 0 where `info` allows the action; None: all are allowed.
            ended: `[E]`, where it is the last of an episode. There, a mask that allows nothing allows all.
            is_batch: whether the parts of `observation` have a leading axis `E`.
        """

        def read(path: Path) -> AnyArray:
            value = np.asarray(value_at(observation, path))
            return value if is_batch else value[None]

        if self._is_plain:
            return read(self._leaves[0][0]).astype(self.dtype)
        columns = [self._numbers(encode(read(path)), part.kind) for path, encode, part in self._leaves]
        if self.has_mask:
            if self._mask_path is not None:
                mask = expand_mask(read(self._mask_path), self._actions.choices)
            allowed = _allowed(mask, ended, (len(columns[0]), self._actions.count))
            columns.append(self._numbers(allowed, "mask"))
        return np.concatenate(columns, axis=1)

    @property
    def reads_mask(self) -> bool:
        """Whether a part of the observation, and not `info`, says which actions are allowed."""
        return self._mask_path is not None

    @property
    def _width(self) -> int:
        """Numbers of the packed array that one float32 takes."""
        return 4 // self.dtype.itemsize

    def _make_part(self, path: Path, space: Any, begin: int) -> ObservationPart:
        if is_image(space):
            high = float(space.high.max())
            return ObservationPart(name_of(path), "image", space.shape, begin, begin + _size(space), high)
        end = begin + _size(space) * self._width
        return ObservationPart(name_of(path), "vector", (_size(space),), begin, end)

    def _numbers(self, values: AnyArray, kind: str) -> AnyArray:
        """A part `[E, K]` as float32, or as bytes where the packed array has them."""
        if self.dtype == np.float32 or kind == "image":
            return values.astype(self.dtype)
        return np.ascontiguousarray(values, np.float32).view(np.uint8)


def _is_mask(path: Path, space: Any, sizes: set[int]) -> bool:
    """Whether a part says which actions are allowed."""
    return path == (MASK,) and isinstance(space, MultiBinary | Box) and math.prod(space.shape) in sizes


def _size(space: Any) -> int:
    """Numbers that stand for a value of `space`; 0 if none can."""
    return flatdim(space) if isinstance(space, Box | Discrete | MultiBinary | MultiDiscrete) else 0


def _encoder(space: Any) -> _Encoder:
    """The function from values `[E, ...]` of `space` to numbers `[E, K]`."""
    if isinstance(space, Discrete):
        return _one_hot(np.array([space.n]), np.array([space.start]))
    if isinstance(space, MultiDiscrete):
        return _one_hot(space.nvec.ravel(), space.start.ravel())
    return lambda values: values.reshape(len(values), -1)


def _one_hot(sizes: IntArray, start: IntArray) -> _Encoder:
    """Each of `[E, M]` values as one-hot numbers, one group of `sizes` `[M]` after the other."""
    offsets = np.cumsum(sizes) - sizes  # [M]

    def encode(values: AnyArray) -> AnyArray:
        position = values.reshape(len(values), -1).astype(np.int64) - start  # [E, M]
        if ((position < 0) | (position >= sizes)).any():
            raise ValueError(f"A discrete observation is outside its space: {values.tolist()}.")
        numbers = np.zeros((len(values), int(sizes.sum())), np.float32)
        np.put_along_axis(numbers, position + offsets, 1.0, axis=1)
        return numbers

    return encode


def _allowed(mask: AnyArray | None, ended: BoolArray | None, size: tuple[int, int]) -> BoolArray:
    """Whether each action is allowed, `[E, A] = size`; see `ObservationPacker.pack`."""
    if mask is None:
        return np.ones(size, np.bool_)
    allowed: BoolArray = mask.reshape(size) != 0
    allows_none = ~allowed.any(axis=1)  # [E]
    if (allows_none if ended is None else allows_none & ~ended).any():
        raise EnvironmentFault(
            f"The environment's `{MASK}` allows no action (end the episode where nothing can be done)."
        )
    allowed[allows_none] = True
    return allowed


def mask_from_info(
    info: Mapping[str, Any], environments: int, choices: tuple[int, ...] = ()
) -> AnyArray | None:
    """The allowed actions `[E, A]` that a vector environment's `info` tells; None if it tells none.

    An environment that tells none allows all. `choices`: see `NumberedActions`.
    """
    mask = info.get(MASK)
    if mask is None:
        return None
    told = np.asarray(info.get(f"_{MASK}", np.ones(environments, np.bool_)))  # [E]
    is_tuple = isinstance(mask, tuple)
    if is_tuple:
        mask = np.concatenate(mask, axis=1)
    elif np.asarray(mask).dtype == object:  # lists or tuples, or of environments that do not all tell one
        first = next(each for each in mask if each is not None)
        is_tuple = np.ndim(next(iter(first))) > 0 if len(first) else False
        size = len(_flat(first))
        mask = np.array([np.ones(size) if each is None else _flat(each) for each in mask])
    return np.where(told[:, None], expand_mask(np.asarray(mask), choices, is_tuple), True)


def _flat(mask: Any) -> AnyArray:
    """The numbers of a mask, or of a tuple of masks, one after the other."""
    if not isinstance(mask, tuple | list):
        return np.ravel(mask)
    return np.concatenate([_flat(each) for each in mask])
