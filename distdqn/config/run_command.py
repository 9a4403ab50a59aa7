"""The command line of `run`: options from a preset, a file and the command line, and help in groups."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distdqn.config.command_line import Command, default_text, flag, meaning
from distdqn.config.config import HEADINGS, RUN, Config
from distdqn.config.files import preset_names, preset_source, read_options, read_preset
from distdqn.config.model import InvalidOptions, Options, Text, did_you_mean, values_from_text
from distdqn.errors import ConfigError


class RunOnly(Options):
    """What the command line of `run` has besides the options of `Config`."""

    heading = RUN

    config: Text | None = None
    """YAML, TOML or JSON file of options, for example the `config.json` of another run."""
    preset: Text | None = None
    """Options of a published algorithm: `apex`, `double`, `dqn`, `lecture`, `munchausen`, `qr` or `rainbow`;
    those of `--config` and of the command line replace them."""
    local: bool = False
    """Short for `--address local`."""
    print_config: bool = False
    """Print all options as YAML for `--config`, and stop."""
    debug: bool = False
    """Show the tracebacks of mistakes, too."""


_USAGE, _DESCRIPTION = "distdqn run [OPTION VALUE ...]", "Train a distributed DQN on a Gymnasium environment."

RUN_COMMAND = Command(_USAGE, _DESCRIPTION, Config, RunOnly)

_HELP = f"""Usage: {_USAGE}

{_DESCRIPTION}

  distdqn run --env CartPole-v1 --actors 4
  distdqn run --preset apex --env Acrobot-v1
  distdqn run --config runs/NAME/config.json --seed 1

Options come in groups: `--help GROUP` lists one, `--help all` every option.
"""

_PAGE = """# Options

A run takes its options from the defaults, then from `--preset NAME`, then from `--config FILE`, then from the
command line; each replaces those before it. A file is YAML, TOML or JSON and names options with underscores
(`batch_size: 64`), as the `config.json` of every run does. `--print-config` prints all options as YAML for
`--config`. In Python, options are the arguments of `distdqn.Config`.

After a change of an option, write this page again: `python -m distdqn.config.run_command > docs/options.md`.
"""


@dataclass(frozen=True)
class RunArguments:
    """Options of a run as they are given, not checked yet."""

    values: dict[str, Any]  # by name
    files: dict[str, str]  # the file that an option comes from, if it does
    mistakes: list[str]  # in how options are given, one line each
    prints_config: bool = False

    def config(self) -> Config:
        """The options of the run.

        Raises:
            ConfigError: lists all mistakes.
        """
        mistakes = list(self.mistakes)
        try:
            config = Config(**self.values)
        except InvalidOptions as error:
            for name, line in error.single.items():
                mistakes.append(f"{self.files[name]}: {line}" if name in self.files else line)
            mistakes += error.contradictions
        if mistakes:
            raise ConfigError(mistakes)
        return config


def parse_run(arguments: Sequence[str]) -> RunArguments:
    """Options from a preset, a file and the command line; each replaces those before it."""
    given, mistakes = RUN_COMMAND.collect(arguments)
    only = {name: given.pop(name, None) for name in RunOnly.model_fields}
    if only["local"]:
        if "address" in given:
            mistakes.append("`--local` and `--address` exclude each other (give one of them).")
        given["address"] = "local"
    read: list[dict[str, Any]] = []
    sources = (read_preset, only["preset"]), (lambda name: read_options(Path(name)), only["config"])
    for read_source, name in sources:
        try:
            read.append(values_from_text(Config.model_fields, read_source(name)) if name is not None else {})
        except ConfigError as error:
            mistakes += error.mistakes
            read.append({})
    files = dict.fromkeys(read[1].keys() - given.keys(), str(only["config"]))
    return RunArguments(read[0] | read[1] | given, files, mistakes, bool(only["print_config"]))


def config_yaml(config: Config) -> str:
    """Every option as YAML under its heading, valid input for `--config`."""
    import yaml  # 20 ms that most runs do not need

    values = config.to_json()
    parts = [
        f"# {heading}\n" + yaml.safe_dump({name: values[name] for name in names}, sort_keys=False)
        for heading, names in _names_by_heading(Config).items()
    ]
    return "\n".join(parts)


def help_topic(arguments: Sequence[str]) -> str | None:
    """What help is asked for on: the words after `--help`; None if none is."""
    position = next((i for i, token in enumerate(arguments) if token in ("--help", "-h")), None)
    if position is None:
        return None
    words = itertools.takewhile(lambda token: not token.startswith("-"), arguments[position + 1 :])
    return " ".join(words)


def print_run_help(topic: str) -> None:
    """Prints the headings of options, those under one of them, or all of them.

    Args:
        topic: empty, the beginning of a heading, or `all`.

    Raises:
        ConfigError: there is no such heading.
    """
    by_heading = _names_by_heading(RunOnly, Config)
    if not topic:
        print(_HELP)
        for heading, about in HEADINGS.items():
            print(f"  {heading.split()[0]:12} {about}")
        return
    shown = [names for heading, names in by_heading.items() if topic == "all" or heading.startswith(topic)]
    if not shown:
        hint = did_you_mean(topic, [heading.split()[0] for heading in HEADINGS])
        raise ConfigError(f"`--help` has no group `{topic}` ({hint}).")
    RUN_COMMAND.print_options(itertools.chain(*shown))


def options_page() -> str:
    """The page docs/options.md."""
    rows = []
    for heading, names in _names_by_heading(RunOnly, Config).items():
        about = HEADINGS[heading]
        rows += [f"\n## {heading.capitalize()}\n", f"{about[0].upper()}{about[1:]}.\n"]
        rows += ["| option | default | meaning |", "|---|---|---|"]
        for name in names:
            info = RUN_COMMAND.fields[name]
            rows.append(f"| `{flag(name)}` | `{default_text(info.default)}` | {meaning(info)} |")
    rows += ["\n## Presets\n", "| preset | sets | from |", "|---|---|---|"]
    for name in preset_names():
        settings = ", ".join(f"`{key} {default_text(value)}`" for key, value in read_preset(name).items())
        rows.append(f"| `{name}` | {settings} | {preset_source(name)} |")
    return _PAGE + "\n".join(rows) + "\n"


def _names_by_heading(*models: type[Options]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {heading: [] for heading in HEADINGS}
    for model in models:
        for name in model.model_fields:
            names[model.heading_of(name)].append(name)
    return names


if __name__ == "__main__":
    print(options_page(), end="")
