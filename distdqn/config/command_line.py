"""Command lines, made from models of options by `cyclopts`."""

import inspect
import sys
import typing
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Generic, TypeVar

from cyclopts import App, Group, Parameter
from cyclopts.exceptions import CoercionError, MissingArgumentError
from cyclopts.help import ColumnSpec, DefaultFormatter, DescriptionRenderer, HelpEntry, NameRenderer
from pydantic.fields import FieldInfo

from distdqn.config.model import RENAMED, Options, alternatives, bounds, did_you_mean, values_from_text
from distdqn.errors import ConfigError, DistdqnError

M = TypeVar("M", bound=Options)


def flag(name: str) -> str:
    """An option as typed."""
    return "--" + name.strip("_").replace("_", "-")


def meaning(field: FieldInfo) -> str:
    """The docstring of an option in one line, with its range."""
    text = " ".join((field.description or "").split())
    return f"{text.removesuffix('.')} ({', '.join(limits)})." if (limits := bounds(field)) else text


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
        positional: the option that is given without its name, if there is one.
    """

    def __init__(
        self, usage: str, description: str, model: type[M], *others: type[Options], positional: str = ""
    ) -> None:
        self._usage = usage
        self._description = description
        self._model = model
        self._positional = positional
        models: list[type[Options]] = [*others, model]
        self._owners = {name: each for each in models for name in each.model_fields}
        self.fields = {name: owner.model_fields[name] for name, owner in self._owners.items()}

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

    def collect(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Options by name, whose values are not checked yet, and a line for each that cannot be read."""
        tokens, mistakes = list(arguments), []
        app = self._app(self.fields)
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
        return values_from_text(self.fields, bound.arguments), [*map(self._unknown, unknown), *mistakes]

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
            self.print_options(self.fields)
        return is_asked

    def print_options(self, names: Iterable[str]) -> None:
        """Prints some options, each with its meaning and default, headings in the order of the names."""
        self._app(names).help_print([])

    def _app(self, names: Iterable[str]) -> App:
        app = App(
            usage=f"Usage: {self._usage}",
            help=self._description,
            help_flags=[],
            version_flags=[],
            help_format="plaintext",
            help_formatter=DefaultFormatter(column_specs=_columns),
            default_parameter=Parameter(allow_repeating=True),
        )
        groups: dict[str, Group] = {}
        parameters = []
        for name in names:
            heading = self._owners[name].heading_of(name)
            group = groups.setdefault(heading, Group(heading, sort_key=len(groups)))
            parameters.append(self._parameter(name, group))

        def receive(**_options: Any) -> None: ...

        receive.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        app.default(receive)
        return app

    def _parameter(self, name: str, group: Group) -> inspect.Parameter:
        """An option as a parameter that takes text, which the model then checks."""
        info, has_opposite = self.fields[name], self._owners[name].has_opposites
        kind, is_switch = info.annotation, info.annotation is bool
        has_default = not info.is_required() and (has_opposite or not is_switch)
        shown = Parameter(
            help=meaning(info),
            group=group,
            metavar=_metavar(kind),
            negative=None if has_opposite else (),
            show_default=has_default and (lambda _: default_text(info.default)),
        )
        return inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_ONLY if name == self._positional else inspect.Parameter.KEYWORD_ONLY,
            default=False if is_switch else "",
            annotation=Annotated[bool if is_switch else str, shown],
        )


def _columns(console: Any, options: Any, entries: list[HelpEntry]) -> tuple[ColumnSpec, ...]:  # noqa: ARG001
    """The columns of help: options, none of them broken by the end of the line, and their meaning."""
    width = max(len(label) for entry in entries for label in entry.display_labels)
    names = ColumnSpec(renderer=NameRenderer(width), style="cyclopts.name", max_width=width)
    return names, ColumnSpec(renderer=DescriptionRenderer())


def _metavar(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "{" + ",".join(typing.get_args(kind)) + "}"
    return "N" if {int, float} & set(alternatives(kind)) else "TEXT"
