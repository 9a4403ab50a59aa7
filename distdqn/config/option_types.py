"""Types and ranges of options: what text means, and whether a value fits."""

import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Range:
    """Allowed numbers: from `low` to `high`, `low` itself excluded if `above` is set."""

    low: float
    high: float = float("inf")
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        start = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        return start if self.high == float("inf") else f"{start}, at most {self.high:g}"


class Unreadable:
    """Text that is not of its option's type; no option takes it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


def choices(kind: Any) -> tuple[str, ...]:
    """The words that an option's type allows, if it is nothing but words."""
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _are_points(part: Any) -> bool:
    """Whether an option's type is points of a schedule: pairs of env steps and value."""
    return typing.get_origin(typing.get_args(part)[0]) is tuple


def numbers_in(value: Any) -> tuple[float, ...]:
    """The numbers of an option's value that its range is about; of points, their values."""
    values = value if isinstance(value, tuple) else (value,)
    return tuple(each[1] if isinstance(each, tuple) else each for each in values)


def _parts(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type itself."""
    is_union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    return typing.get_args(kind) if is_union else (kind,)


def is_of(kind: Any, value: Any) -> bool:
    """Whether `value` is of an option's type; whole numbers pass for real ones."""
    for part in _parts(kind):
        if part is types.NoneType:
            fits = value is None
        elif typing.get_origin(part) is Literal:
            fits = isinstance(value, str)
            if fits and len(_parts(kind)) > 1:
                fits = value in typing.get_args(part)
        elif typing.get_origin(part) is tuple:
            fits = isinstance(value, tuple) and all(
                isinstance(v, tuple) and len(v) == 2 and is_of(int, v[0]) and is_of(float, v[1])
                if _are_points(part)
                else is_of(int, v)
                for v in value
            )
        elif part is float:
            fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        elif part is int:
            fits = isinstance(value, int) and not isinstance(value, bool)
        else:
            fits = isinstance(part, type) and isinstance(value, part)
        if fits:
            return True
    return False


def describe(kind: Any) -> str:
    """An option's type in words."""
    words = []
    for part in _parts(kind):
        if part is types.NoneType:
            words.append("`none`")
        elif typing.get_origin(part) is Literal:
            words += [f"`{choice}`" for choice in typing.get_args(part)]
        elif typing.get_origin(part) is tuple:
            words.append(
                "points like `0:1,5000:0.1`" if _are_points(part) else "whole numbers separated by commas"
            )
        else:
            words.append(
                {int: "a whole number", float: "a number", bool: "`true` or `false`"}.get(part, "text")
            )
    return " or ".join(words)


def parse(kind: Any, text: str) -> Any:
    """`text` as an option's type.

    Raises:
        ValueError: it is not; the message says what is wanted.
    """
    for part in _parts(kind):
        try:
            if part is types.NoneType:
                if text.lower() == "none":
                    return None
            elif typing.get_origin(part) is tuple:
                if _are_points(part) and text.lower() != "none":
                    return tuple(_point(point) for point in text.split(","))
                if not _are_points(part):
                    return tuple(int(number) for number in text.split(","))
            elif part is bool:
                if text.lower() in ("true", "false"):
                    return text.lower() == "true"
            elif part in (int, float):
                return part(text)
            elif typing.get_origin(part) is Literal and len(_parts(kind)) > 1:
                if text in typing.get_args(part):
                    return text
            elif text.lower() != "none" or types.NoneType not in _parts(kind):
                return text
        except ValueError:
            continue
    raise ValueError(describe(kind))


def parse_amounts(text: str) -> dict[str, float]:
    """`fast=1,simulator=0.5` as amounts of custom resources by name.

    Raises:
        ValueError: it is no such text, or Ray would refuse it; the message says what is wrong.
    """
    amounts: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.strip().rpartition("=")
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if not name or not 0.0 < amount < math.inf or name in amounts:
            raise ValueError(f"must be like `fast=1,simulator=0.5`, each name once, not `{text}`")
        if amount > 1 and amount != int(amount):
            raise ValueError(f"must ask for a part of one or for whole numbers, not `{part.strip()}`")
        if name in ("CPU", "GPU", "memory", "object_store_memory"):
            raise ValueError(f"must name custom resources, not `{name}` (the GPU's option is `learner_gpus`)")
        amounts[name] = amount
    return amounts


def _point(text: str) -> tuple[int, float]:
    """`5000:0.1` as numbers.

    Raises:
        ValueError: it is no such pair.
    """
    env_steps, _, value = text.partition(":")
    return int(env_steps), float(value)
