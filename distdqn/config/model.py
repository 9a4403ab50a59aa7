"""What every model of options shares: text becomes values, and mistakes become words."""

import difflib
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from distdqn.errors import ConfigError

RENAMED = {
    "capacity": "replay_capacity",
    "min_size": "min_replay_size",
    "publish_period": "weights_update_period",
    "importance_exponent_start": "importance_sampling_exponent_start",
    "importance_exponent_end": "importance_sampling_exponent_end",
    "munchausen_least": "munchausen_clip",
    "early_end_reward": "failure_reward",
    "output_kernel_reach": "output_init_scale",
}

Text = Annotated[str, Field(min_length=1)]

_OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than_equal")
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most"}


def option(heading: str, default: Any, meaning: str) -> Any:
    """A field of `Options`.

    Args:
        heading: what it stands under in `--help`.
        default: `...` if there is none.
        meaning: its help text.
    """
    return Field(default, description=meaning, json_schema_extra={"heading": heading})


class InvalidOptions(ConfigError):
    """Everything that is wrong with some options.

    Args:
        single: mistakes in one option, by its name.
        contradictions: between several.
    """

    def __init__(self, single: dict[str, str], contradictions: list[str]) -> None:
        super().__init__([*single.values(), *contradictions])
        self.single = single
        self.contradictions = contradictions


class Options(BaseModel):
    """Options of a command, each with its type, range, default and meaning.

    Raises:
        InvalidOptions: lists all mistakes.
    """

    has_opposites: ClassVar[bool] = False  # `--x` and `--no-x`, since a file may switch x on

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    if not typing.TYPE_CHECKING:  # checkers derive the arguments from the fields

        def __init__(self, **given: Any) -> None:
            single = {}
            try:
                super().__init__(**given)
            except ValidationError as error:
                single = _mistakes(type(self), given, error)
            values = {name: field.default for name, field in type(self).model_fields.items()} | given
            others = self.contradictions({k: v for k, v in values.items() if k not in single})
            if single or others:
                raise InvalidOptions(single, others)

    @classmethod
    def contradictions(cls, options: Mapping[str, Any]) -> list[str]:  # noqa: ARG003
        """A line for each contradiction between options.

        Args:
            options: those that are right by themselves.
        """
        return []

    @classmethod
    def from_text(cls, given: Mapping[str, Any]) -> Self:
        """Options by name, as a command line or a file gives them: text is parsed.

        Raises:
            InvalidOptions: lists all mistakes.
        """
        return cls(**values_from_text(option_types(cls), given))


@functools.cache
def option_types(model: type[Options]) -> dict[str, Any]:
    """The type of each option, ranges included."""
    return typing.get_type_hints(model, include_extras=True)


def values_from_text(kinds: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options given, text among them parsed as `kinds` says; what cannot be parsed stays text."""
    return {
        name: _parse(kinds[name], value) if name in kinds and isinstance(value, str) else value
        for name, value in given.items()
    }


def heading_of(info: FieldInfo) -> str:
    """What an option stands under in `--help`."""
    extra = info.json_schema_extra
    return str(extra["heading"]) if isinstance(extra, dict) else ""


def choices(kind: Any) -> tuple[str, ...]:
    """The values that an option's type lists; none if it allows others."""
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint for a name that does not exist: the nearest one that does."""
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean `{near[0]}`?" if near else "see `--help`"


def unknown_option(name: str, names: Iterable[str]) -> str:
    """A line on an option that does not exist, or no longer under this name."""
    if name in RENAMED and RENAMED[name] in names:
        return f"`{name}` is now `{RENAMED[name]}`."
    return f"Unknown option `{name}` ({did_you_mean(name, names)})."


def alternatives(kind: Any) -> list[Any]:
    """The alternatives of a union without their ranges, or the type itself."""
    if typing.get_origin(kind) is Annotated:
        return alternatives(typing.get_args(kind)[0])
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return [part for each in typing.get_args(kind) for part in alternatives(each)]
    return [kind]


def _parse(kind: Any, text: str) -> Any:
    """`text` as a value of an option's type; `text` itself if it is none."""
    parts = alternatives(kind)
    if types.NoneType in parts and text.lower() == "none":
        return None
    if bool in parts:
        return {"true": True, "false": False}.get(text.lower(), text)
    for part in parts:
        try:
            if typing.get_origin(part) is tuple:
                return tuple(_parse_item(each) for each in text.split(","))
            if part in (int, float):
                return part(text)
        except ValueError:
            continue
    return text


def _parse_item(text: str) -> Any:
    """`128`, or `5000:0.1` as a pair.

    Raises:
        ValueError: it is neither.
    """
    first, colon, second = text.partition(":")
    return (int(first), float(second)) if colon else int(first)


def _mistakes(model: type[Options], given: Mapping[str, Any], error: ValidationError) -> dict[str, str]:
    """One line for each option that is wrong, in the order of the fields."""
    found: dict[str, str] = {}
    for each in error.errors():
        name, kind = str(each["loc"][0]), option_types(model).get(str(each["loc"][0]))
        if each["type"] == "extra_forbidden":
            found[name] = unknown_option(name, model.model_fields)
        elif each["type"] == "missing":
            found[name] = f"`{name}` is missing (see `--help`)."
        elif each["type"] in _OUT_OF_RANGE:
            found[name] = f"`{name}` must be {range_in_words(kind)}, not `{each['input']}`."
        elif name not in found:
            found[name] = f"`{name}` must be {type_in_words(kind)}, not `{given[name]}`."
    return found


def type_in_words(kind: Any) -> str:
    """`a whole number or `auto``: an option's type without its range."""
    if words := choices(kind):
        return f"one of {', '.join(f'`{word}`' for word in words)}"
    return " or ".join(dict.fromkeys(word for part in alternatives(kind) for word in _part_in_words(part)))


def _part_in_words(part: Any) -> list[str]:
    if part is types.NoneType:
        return ["`none`"]
    if typing.get_origin(part) is Literal:
        return [f"`{word}`" for word in typing.get_args(part)]
    if typing.get_origin(part) is tuple:
        is_points = int not in alternatives(typing.get_args(part)[0])
        return ["points like `0:1,5000:0.1`" if is_points else "whole numbers separated by commas"]
    names = {int: "a whole number", float: "a number", bool: "`true` or `false`"}
    return [names.get(part, "text")]


def range_in_words(kind: Any) -> str:
    """`at least 1, at most 10`: the range of the numbers that an option's type holds."""
    bounds = [
        f"{word} {getattr(limit, name):g}"
        for limit in _limits(kind)
        for name, word in _BOUNDS.items()
        if hasattr(limit, name)
    ]
    return ", ".join(bounds)


def _limits(kind: Any) -> list[Any]:
    """The limits of the first part of a type that has any."""
    for each in typing.get_args(kind):
        if found := [limit for limit in getattr(each, "metadata", ()) if _BOUNDS.keys() & set(dir(limit))]:
            return found
        if found := _limits(each):
            return found
    return []
