"""Command lines, made from models of options by `cyclopts`."""

import inspect
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Generic, TypeVar

from cyclopts import App, Group, Parameter
from cyclopts.help import ColumnSpec, DefaultFormatter, DescriptionRenderer, HelpEntry, NameRenderer
from cyclopts.exceptions import CoercionError, MissingArgumentError

from distdqn.config.model import (
    RENAMED,
    Options,
    alternatives,
    choices,
    did_you_mean,
    heading_of,
    option_types,
    values_from_text,
)
from distdqn.errors import ConfigError, DistdqnError

M = TypeVar("M", bound=Options)


def flag(name: str) -> str:
    """An option as typed."""
    return "--" + name.strip("_").replace("_", "-")


def default_text(value: Any) -> str:
    """A default as one would type it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(str(number) for number in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_mistakes(error: DistdqnError) -> int:
    """Prints one line for each mistake on stderr, a failed role's traceback above it.

    Returns:
        The exit code.
    """
    if len(error.details.splitlines()) > 1:
        print(error.details.rstrip(), file=sys.stderr)
    for mistake in error.mistakes:
        print(f"distdqn: error: {mistake}", file=sys.stderr)
    return error.exit_code


class Command(Generic[M]):
    """A command line whose options are models.

    Args:
        usage: the command and what follows it.
        description: what it does, in a sentence.
        model: what `read` returns.
        others: models of options that `read` leaves out.
        positional: options that are given without their names.
    """

    def __init__(
        self,
        usage: str,
        description: str,
        model: type[M],
        *others: type[Options],
        positional: Sequence[str] = (),
    ) -> None:
        self._usage = usage
        self._description = description
        self._model = model
        self._positional = positional
        models: list[type[Options]] = [*others, model]
        self.fields = {name: info for each in models for name, info in each.model_fields.items()}
        self.types = {name: kind for each in models for name, kind in option_types(each).items()}
        self._switched_off = {name for each in models if each.has_opposites for name in each.model_fields}

    def read(self, arguments: Sequence[str]) -> M:
        """The options of a command line.

        Raises:
            ConfigError: lists all mistakes.
        """
        values, mistakes = self.collect(arguments)
        try:
            options = self._model(**values)
        except ConfigError as error:
            mistakes += error.mistakes
        if mistakes:
            raise ConfigError(mistakes)
        return options

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Options by name, whose values are not checked yet.

        Raises:
            ConfigError: options are unknown, without a value or missing.
        """
        values, mistakes = self.collect(arguments)
        missing = [name for name, info in self.fields.items() if info.is_required() and name not in values]
        mistakes += [f"`{name}` is missing (see `--help`)." for name in missing]
        if mistakes:
            raise ConfigError(mistakes)
        return values

    def collect(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Options by name, whose values are not checked yet, and a line for each that cannot be read."""
        tokens, mistakes = list(arguments), []
        app = self._app(list(self.fields))
        while True:
            try:
                _, bound, unused, _ = app.parse_known_args(tokens)
                break
            except MissingArgumentError as error:
                mistakes.append(f"`{error.keyword}` needs a value (see `--help`).")
                del tokens[len(tokens) - 1 - tokens[::-1].index(str(error.keyword))]
            except CoercionError as error:
                if error.token is None:
                    raise
                keyword, value = error.token.keyword, error.token.value
                mistakes.append(f"`{keyword}` must be `true` or `false`, not `{value}`.")
                tokens.remove(f"{keyword}={value}")
        # What follows an unknown option may be its value: no mistake of its own.
        unknown = [token for token in unused if token.startswith("-")] or unused
        values = values_from_text(self.types, bound.arguments)
        return values, [*map(self._unknown, unknown), *mistakes]

    def _unknown(self, token: str) -> str:
        name = token.partition("=")[0]
        renamed = RENAMED.get(name.removeprefix("--").replace("-", "_"), "")
        if renamed in self.fields:
            return f"`{name}` is now `{flag(renamed)}`."
        return f"Unknown option `{token}` ({did_you_mean(name, [flag(each) for each in self.fields])})."

    def prints_help(self, arguments: Sequence[str]) -> bool:
        """Prints every option if that is asked for; whether it is."""
        is_asked = bool({"--help", "-h"} & set(arguments))
        if is_asked:
            self.print_options(list(self.fields))
        return is_asked

    def print_options(self, names: Sequence[str]) -> None:
        """Prints some options, each with its meaning and default, headings in the order of the names."""
        self._app(names).help_print([])

    def _app(self, names: Sequence[str]) -> App:
        app = App(
            usage=f"Usage: {self._usage}",
            help=self._description,
            help_flags=[],
            version_flags=[],
            help_format="plaintext",
            help_formatter=DefaultFormatter(column_specs=_columns),
            default_parameter=Parameter(allow_repeating=True),
        )
        headings = list(dict.fromkeys(heading_of(self.fields[name]) for name in names))
        groups = [Group(heading or "Options", sort_key=index) for index, heading in enumerate(headings)]
        shown = {name: groups[headings.index(heading_of(self.fields[name]))] for name in names}
        parameters = [self._parameter(name, group) for name, group in shown.items()]

        def receive(**_options: Any) -> None: ...

        receive.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            sorted(parameters, key=lambda parameter: parameter.kind)
        )
        app.default(receive)
        return app

    def _parameter(self, name: str, group: Group) -> inspect.Parameter:
        """An option as a parameter that takes text, which the model then checks."""
        info, kind = self.fields[name], self.types[name]
        has_default = not info.is_required() and (kind is not bool or name in self._switched_off)
        shown = Parameter(
            help=info.description,
            group=group,
            metavar=_metavar(kind),
            negative=None if name in self._switched_off else (),
            show_default=has_default and (lambda _: default_text(info.default)),
        )
        return inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_ONLY if name in self._positional else inspect.Parameter.KEYWORD_ONLY,
            default=False if kind is bool else "",
            annotation=Annotated[bool if kind is bool else str, shown],
        )


def _columns(console: Any, options: Any, entries: list[HelpEntry]) -> tuple[ColumnSpec, ...]:  # noqa: ARG001
    """The columns of help: options, none of them broken by the end of the line, and their meaning."""
    width = max(len(label) for entry in entries for label in entry.display_labels)
    names = ColumnSpec(renderer=NameRenderer(width), style="cyclopts.name", max_width=width)
    return names, ColumnSpec(renderer=DescriptionRenderer())


def _metavar(kind: Any) -> str:
    if words := choices(kind):
        return "{" + ",".join(words) + "}"
    return "N" if {int, float} & set(alternatives(kind)) else "TEXT"
