"""Command lines, made from models of options by `cyclopts`, and that of `run`."""

import functools
import inspect
import itertools
import sys
import textwrap
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from cyclopts import App, Group, Parameter
from cyclopts.exceptions import CoercionError, MissingArgumentError, UnknownOptionError
from cyclopts.help import ColumnSpec, DefaultFormatter, DescriptionRenderer, HelpEntry, NameRenderer
from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from distdqn.config.config import HEADINGS, Config
from distdqn.config.model import (
    NOT_RESUMED,
    InvalidOptions,
    Options,
    Text,
    alternatives,
    bounds,
    did_you_mean,
    read_options,
    read_preset,
    unknown_option,
    values_from_text,
)
from distdqn.config.validation import check_seeds
from distdqn.errors import INTERRUPTED, ConfigError, DistdqnError, collecting

M = TypeVar("M", bound=Options)

_ALIASES = {"--lr": "--learning-rate", "--gamma": "--discount", "--batch": "--batch-size"}

# In the short `--help`.
_FIRST = (
    *("env", "actors", "mode", "max_env_steps", "target_return", "seed", "run_dir"),
    *("learning_rate", "batch_size", "preset"),
)


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
    if isinstance(value, tuple | list | dict):
        return "none" if not value else ",".join(str(number) for number in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_mistakes(error: DistdqnError) -> int:
    """Prints a line for each mistake on stderr, below a failed role's traceback; returns the exit code."""
    if len(error.details.splitlines()) > 1:
        print(error.details.rstrip(), file=sys.stderr)
    for mistake in error.mistakes:
        print(f"distdqn: error: {mistake}", file=sys.stderr)
    return error.exit_code


class Command(Generic[M]):
    """A command line of the options of `model`, which `read` returns, and of `others`.

    `usage` is the command and what follows it. The option `positional` is given without its name. Help shows
    `headings` in this order, and then all others.
    """

    def __init__(
        self,
        usage: str,
        description: str,
        model: type[M],
        *others: type[Options],
        positional: str = "",
        headings: Iterable[str] = (),
    ) -> None:
        self._usage, self._description = usage, description
        self._model = model
        self._positional = positional
        owners: list[type[Options]] = [*others, model]
        self._owners = {name: owner for owner in owners for name in owner.model_fields}
        self.fields = {name: owner.model_fields[name] for name, owner in self._owners.items()}
        self.names: dict[str, list[str]] = {heading: [] for heading in headings}  # of options, by heading
        for name, owner in self._owners.items():
            self.names.setdefault(owner.heading_of(name), []).append(name)

    def read(self, arguments: Sequence[str] | None) -> M:
        """The options of a command line, see `collect`; a `ConfigError` lists all mistakes."""
        values, mistakes = self.collect(arguments)
        with collecting(mistakes):
            options = self._model(**values)
        if mistakes:
            raise ConfigError(mistakes)
        return options

    def collect(self, arguments: Sequence[str] | None) -> tuple[dict[str, Any], list[str]]:
        """Options by name, whose values are not checked yet, and a line for each that cannot be read.

        None stands for the arguments of this process. `--help` prints every option and ends the process.
        """
        given, mistakes = sys.argv[1:] if arguments is None else arguments, []
        tokens = [_ALIASES.get(name := token.partition("=")[0], name) + token[len(name) :] for token in given]
        if {"--help", "-h"} & set(tokens):
            self.print_options(self.names)
            sys.exit(0)
        app = self._app(self.names)
        while True:
            try:
                _, bound, unused, _ = app.parse_known_args(tokens)
                break
            except MissingArgumentError as error:
                mistakes.append(f"`{error.keyword}` needs a value (see `--help`).")
                del tokens[len(tokens) - 1 - tokens[::-1].index(str(error.keyword))]
            except UnknownOptionError as error:  # in place of the positional one
                mistakes.append(unknown_option(error.token.value, self.fields, flag))
                tokens.remove(error.token.value)
            except CoercionError as error:
                if error.token is None:
                    raise
                keyword, value = error.token.keyword, error.token.value
                mistakes.append(f"`{keyword}` must be `true` or `false`, not `{value}`.")
                tokens.remove(f"{keyword}={value}")
        # What follows an unknown option may be its value: no mistake of its own.
        unknown = [token for token in unused if token.startswith("-")] or unused
        mistakes[:0] = [unknown_option(token, self.fields, flag) for token in unknown]
        return values_from_text(self.fields, bound.arguments), mistakes

    def print_options(self, headings: Iterable[str]) -> None:
        """Prints the options below some headings, each with its meaning and default."""
        self._app(headings).help_print([])

    def _app(self, headings: Iterable[str]) -> App:
        app = App(
            usage=f"Usage: {self._usage}",
            help=self._description,
            help_flags=[],
            version_flags=[],
            help_format="plaintext",
            help_formatter=DefaultFormatter(column_specs=_columns),
            default_parameter=Parameter(allow_repeating=True),
        )
        groups = [Group(heading, sort_key=place) for place, heading in enumerate(headings)]
        parameters = [self._parameter(name, group) for group in groups for name in self.names[group.name]]

        def receive(**_options: Any) -> None: ...

        receive.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        app.default(receive)
        return app

    def _parameter(self, name: str, group: Group) -> inspect.Parameter:
        """An option as a parameter that takes text, which the model then checks."""
        info, has_opposite = self.fields[name], self._owners[name].has_opposites
        kind, is_switch = info.annotation, info.annotation is bool
        # Given more than once, arguments and lists of texts add up; of all others the last one counts.
        adds_up = any(
            typing.get_origin(each) is dict or Text in typing.get_args(each) for each in alternatives(kind)
        )
        text, nothing = (list[str], []) if adds_up else (str, "")
        has_default = not info.is_required() and (has_opposite or not is_switch)
        shown = Parameter(
            help=meaning(info),
            group=group,
            metavar=_metavar(kind),
            negative=None if has_opposite and is_switch else (),
            show_default=has_default and (lambda _: default_text(info.default)),
        )
        return inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_ONLY if name == self._positional else inspect.Parameter.KEYWORD_ONLY,
            default=False if is_switch else nothing,
            annotation=Annotated[bool if is_switch else text, shown],
        )


def command(
    usage: str, model: type[M], positional: str = ""
) -> Callable[[Callable[[M], None]], Callable[..., int]]:
    """Makes the `main` of a command from a function of its options, whose docstring says what it does.

    `main` takes the words of a command line, or None for those of this process. It prints a line for each
    mistake and returns the exit code.
    """

    def decorate(function: Callable[[M], None]) -> Callable[..., int]:
        command_line = Command(usage, inspect.getdoc(function) or "", model, positional=positional)

        @functools.wraps(function)
        def main(arguments: Sequence[str] | None = None) -> int:
            try:
                function(command_line.read(arguments))
            except DistdqnError as error:
                return print_mistakes(error)
            except KeyboardInterrupt:
                return INTERRUPTED
            return 0

        return main

    return decorate


def _columns(console: Any, options: Any, entries: list[HelpEntry]) -> tuple[ColumnSpec, ...]:  # noqa: ARG001
    """The columns of help: options, none of them broken by the end of the line, and their meaning."""
    width = max(len(label) for entry in entries for label in entry.display_labels)
    names = ColumnSpec(renderer=NameRenderer(width), style="cyclopts.name", max_width=width)
    return names, ColumnSpec(renderer=DescriptionRenderer())


def _metavar(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "{" + ",".join(typing.get_args(kind)) + "}"
    return "N" if {int, float} & set(alternatives(kind)) else "TEXT"


Seeds = Annotated[Text, AfterValidator(check_seeds)]


class RunOnly(Options):
    """What the command line of `run` has besides the options of `Config`."""

    heading = "run"

    config: str | None = None
    """YAML, TOML or JSON file of options, for example the `config.json` of another run."""
    preset: str | None = None
    """Options of a published algorithm: `apex`, `btr`, `double`, `dqn`, `iqn`, `lecture`, `munchausen`, `qr`
    or `rainbow`; those of `--config` and of the command line replace them."""
    seeds: Seeds | None = None
    """First and last of several seeds, as in `0-9`: one run each, one after the other, in a folder each, and
    a plot of all."""
    local: bool = False
    """Short for `--address local`."""
    print_config: bool = False
    """Print all options as YAML for `--config`, and stop."""
    debug: bool = False
    """Show the tracebacks of mistakes, and at the end when each stage of the run was reached."""
    quiet: bool = False
    """Show nothing but mistakes."""
    verbose: bool = False
    """Show every line of metrics, and no panel."""
    json_: bool = False
    """Show nothing but the summary, as JSON, and mistakes."""


_USAGE, _DESCRIPTION = "distdqn run [OPTION VALUE ...]", "Train a distributed DQN on a Gymnasium environment."

RUN_COMMAND = Command(_USAGE, _DESCRIPTION, Config, RunOnly, headings=HEADINGS)

_GROUPS = textwrap.fill(", ".join(heading.split()[0] for heading in HEADINGS), 80)

_HELP = f"""Usage: {_USAGE}

{_DESCRIPTION}

  distdqn run --env CartPole-v1 --actors 4
  distdqn run --config runs/NAME/config.json --seed 1

`--help GROUP` lists the options of a group, `--help all` every option. Groups:
{_GROUPS}.
"""


def parse_run(
    arguments: Sequence[str], check: Callable[[dict[str, Any]], list[str]] = lambda _: []
) -> tuple[Config, RunOnly]:
    """Options from the run to resume, a preset, a file and the command line; each replaces those before it.

    If they have mistakes, `check` receives all values, right or not, and returns further mistakes.
    A `ConfigError` lists all of them.
    """
    given, mistakes = RUN_COMMAND.collect(arguments)
    own = {name: given.pop(name) for name in RunOnly.model_fields if name in given}
    only = RunOnly.model_construct(**own)
    with collecting(mistakes):
        only = RunOnly(**own)
    if only.local:
        if "address" in given:
            mistakes.append("`--local` and `--address` exclude each other (give one of them).")
        given["address"] = "local"
    read: dict[str, dict[str, Any]] = {"resume": {}, "preset": {}, "config": {}}
    for source, reader in (("preset", read_preset), ("config", read_options)):
        with collecting(mistakes):
            if (named := getattr(only, source)) is not None:
                read[source] = values_from_text(Config.model_fields, reader(named))
    resumed = Path(str(given.get("resume"))) / "config.json"
    if not mistakes and given.get("resume") and resumed.is_file():
        read["resume"] = {
            name: value for name, value in read_options(resumed).items() if name not in NOT_RESUMED
        }
    values = read["resume"] | read["preset"] | read["config"] | given
    try:
        config = Config(**values)
    except InvalidOptions as error:
        in_file = read["config"].keys() - given.keys()
        for name, line in error.single.items():
            mistakes.append(f"{only.config}: {line}" if name in in_file else line)
        mistakes += error.contradictions
    if mistakes:
        raise ConfigError([*mistakes, *check(values)])
    return config, only


def prints_run_help(arguments: Sequence[str]) -> bool:
    """Prints help on the words after `--help`, if that is asked for; whether it is.

    Without a word it lists a few options and the headings of all. The beginning of a heading stands for the
    options below it, and `all` for all of them. `ConfigError` if there is no such heading.
    """
    asked = list(itertools.dropwhile(lambda token: token not in ("--help", "-h"), arguments))
    if not asked:
        return False
    topic = " ".join(itertools.takewhile(lambda token: not token.startswith("-"), asked[1:]))
    if topic:
        shown = [heading for heading in HEADINGS if topic == "all" or heading.startswith(topic)]
        if not shown:
            hint = did_you_mean(topic, [heading.split()[0] for heading in HEADINGS])
            raise ConfigError(f"`--help` has no group `{topic}` ({hint}).")
        RUN_COMMAND.print_options(shown)
    else:
        print(_HELP)
        for name in _FIRST:
            about = textwrap.shorten(meaning(RUN_COMMAND.fields[name]), 60, placeholder=" ...")
            print(f"  {flag(name):17} {about}")
    return True


def config_yaml(config: Config) -> str:
    """Every option as YAML under its heading, valid input for `--config`."""
    import yaml  # 20 ms that most runs do not need

    parts = []
    for heading, names in RUN_COMMAND.names.items():
        values = {name: value for name, value in config.to_json().items() if name in names}
        parts.append(f"# {heading}\n" + yaml.safe_dump(values, sort_keys=False))
    return "\n".join(parts)
