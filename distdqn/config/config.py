"""The options of a run as one checked value.

Each is written once, in `run_options` or `algorithm_options`: type, default, range and help.
The command line, the README's table and a run's `config.json` all come from there.
"""

import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from distdqn.config.algorithm_options import ActingOptions, LearningOptions, ReplayOptions, SharedOptions
from distdqn.config.option_types import Unreadable, parse
from distdqn.config.presets import preset_options
from distdqn.config.run_options import RunOptions
from distdqn.config.validation import contradictions, mistake_in
from distdqn.errors import ConfigError

__all__ = [
    "ActingOptions",
    "Config",
    "LearningOptions",
    "ReplayOptions",
    "RunOptions",
    "SharedOptions",
    "resolved",
]

T = TypeVar("T")


def resolved(value: T | None) -> T:
    """An option that `distdqn.training.resolve.resolve` has given a value.

    Raises:
        ValueError: it has none.
    """
    if value is None:
        raise ValueError("An option without a value was read: `resolve` comes first.")
    return value


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions, ActingOptions, ReplayOptions, LearningOptions):
    """The options of one run. Mistakes raise one `ConfigError` that lists them all."""

    def __post_init__(self) -> None:
        for name in ("hidden_sizes", "epsilon_points", "learning_rate_points"):
            if isinstance(given := getattr(self, name), list):  # as JSON has them
                pairs = (tuple(each) if isinstance(each, list) else each for each in given)
                object.__setattr__(self, name, tuple(pairs))
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        found = {
            option.name: mistake_in(
                option.name, OPTION_TYPES[option.name], option.metadata["allowed"], values[option.name]
            )
            for option in fields(self)
        }
        right = {name: value for name, value in values.items() if not found[name]}
        mistakes = [*filter(None, found.values()), *contradictions(right)]
        if mistakes:
            raise ConfigError(mistakes)

    @classmethod
    def from_text(cls, texts: Mapping[str, str]) -> "Config":
        """A config from options as text, by name; `preset` among them is looked up first.

        Raises:
            ConfigError: lists every text that is not of its option's type, and all else
                that is wrong.
        """
        mistakes: list[str] = []
        values: dict[str, Any] = {}
        try:
            values = preset_options(texts.get("preset"))
        except ConfigError as error:
            mistakes = error.mistakes
        for name in texts.keys() - {"preset"}:
            try:
                values[name] = parse(OPTION_TYPES[name], texts[name])
            except ValueError:
                values[name] = Unreadable(texts[name])
        try:
            config = cls(**values)
        except ConfigError as error:
            mistakes = mistakes + error.mistakes
        if mistakes:
            raise ConfigError(mistakes)
        return config

    @classmethod
    def from_preset(cls, preset: str, **options: Any) -> "Config":
        """The options of a preset, and `options` in place of some of them."""
        return cls(**{**preset_options(preset), **options})

    def to_json(self) -> dict[str, Any]:
        """Every option as JSON can hold it; a function stands as `module:Name`."""
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        if not isinstance(self.env, str):
            name = getattr(self.env, "__qualname__", type(self.env).__qualname__)
            values["env"] = f"{self.env.__module__}:{name}"
        return values


OPTION_TYPES: dict[str, Any] = typing.get_type_hints(Config)
