"""The command line of `run`, made from the fields of `Config`."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn

from distdqn.config.config import OPTION_TYPES, Config
from distdqn.config.option_types import choices
from distdqn.config.presets import PRESETS, SOURCES
from distdqn.errors import ConfigError, DistdqnError


class Parser(argparse.ArgumentParser):
    """A parser whose complaints end where all mistakes do."""

    def error(self, message: str) -> NoReturn:
        """Hands argparse's complaint to the one place that prints mistakes."""
        raise ConfigError(f"{message[0].upper()}{message[1:]} (see `--help`).")


def parse_run_options(arguments: Sequence[str]) -> tuple[dict[str, str], bool]:
    """The options given, as text by name, and whether `--debug` is among them.

    Raises:
        ConfigError: unknown options, or one without its value. Its attribute `texts`
            holds the options that were understood.
    """
    parser = make_run_parser()
    known, unknown = parser.parse_known_args(arguments)
    texts = {name: str(value) for name, value in vars(known).items() if value is not None and name != "debug"}
    if unknown:
        # What follows an unknown option may be its value: no mistake of its own.
        flags = [text for text in unknown if text.startswith("-")]
        raise UnknownOptions([_unknown(parser, text) for text in flags or unknown], texts)
    return texts, known.debug


class UnknownOptions(ConfigError):
    """Options that do not exist; `texts` are the ones that do."""

    def __init__(self, mistakes: list[str], texts: dict[str, str]) -> None:
        super().__init__(mistakes)
        self.texts = texts


def make_run_parser() -> argparse.ArgumentParser:
    """The parser of `run`; every option defaults to None, which means `Config`'s default."""
    parser = Parser(
        prog="distdqn run",
        description="Train a distributed DQN on a Gymnasium environment.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    groups: dict[str, Any] = {}
    for option in fields(Config):
        name = option.metadata["group"]
        group = groups.setdefault(name, None) or parser.add_argument_group(name)
        groups[name] = group
        flag = "--" + option.name.replace("_", "-")
        text = f"{option.metadata['help']} (default: {default_text(option.default)})".replace("%", "%%")
        if option.name == "address":
            either = group.add_mutually_exclusive_group()
            either.add_argument(flag, metavar=_metavar(option), help=text)
            either.add_argument(
                "--local", dest="address", action="store_const", const="local", help="a private Ray"
            )
        elif isinstance(option.default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            group.add_argument(flag, metavar=_metavar(option), help=text)
    parser.add_argument(
        "--preset",
        metavar="{" + ",".join(PRESETS) + "}",
        help="the algorithm of a paper; other options given replace single ones of it",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks of mistakes, too")
    return parser


def _metavar(option: Any) -> str:
    if words := choices(OPTION_TYPES[option.name]):
        return "{" + ",".join(words) + "}"
    return "N" if option.metadata["allowed"] else "TEXT"


def default_text(value: Any) -> str:
    """A default as one would type it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(number) for number in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def presets_table() -> str:
    """What each preset sets, as the README's Markdown table."""
    rows = ["| preset | sets | from |", "|---|---|---|"]
    for name, options in PRESETS.items():
        settings = ", ".join(f"`{key} {default_text(value)}`" for key, value in options.items())
        rows.append(f"| `{name}` | {settings} | {SOURCES[name]} |")
    return "\n".join(rows)


def options_table() -> str:
    """The options as the README's Markdown table."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for option in fields(Config):
        flag = "--" + option.name.replace("_", "-")
        rows.append(f"| `{flag}` | `{default_text(option.default)}` | {option.metadata['help']} |")
    return "\n".join(rows)


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


def _unknown(parser: argparse.ArgumentParser, text: str) -> str:
    """One line on an unknown option, with the nearest one there is."""
    flags = [flag for action in parser._actions for flag in action.option_strings]
    near = difflib.get_close_matches(text.split("=")[0], flags, n=1)
    hint = f"did you mean `{near[0]}`?" if near else "see `--help`"
    return f"Unknown option `{text}` ({hint})."
