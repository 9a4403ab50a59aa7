"""`python -m distdqn.tune --space FILE`: search options with Ray Tune."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from distdqn.config.command_line import command, config_yaml
from distdqn.config.config import Config, Count
from distdqn.config.model import Options, Text, read_options, unknown_option, values_from_text
from distdqn.config.validation import check_address
from distdqn.errors import ConfigError, collecting
from distdqn.reporting.run_directory import make_default_folder

_DISTRIBUTIONS = ("choice", "uniform", "loguniform", "randint", "lograndint", "quniform")
_OURS = ("mode", "run_dir", "resume", "checkpoint_dir", "address")  # each trial has its own


class TuneOptions(Options):
    """What is searched, how, and where the results go."""

    space: Text
    """YAML, TOML or JSON file of options, each with a value, or with one of Ray Tune's distributions, as in
    `learning_rate: {loguniform: [0.0001, 0.01]}` and `n_step: {choice: [1, 3]}`."""
    trials: Count = 20
    """Number of runs, each in mode `serial` with one CPU, as many at once as the cluster has CPUs."""
    search: Literal["random", "optuna"] = "random"
    """`random`, or `optuna`: by what earlier trials found."""
    scheduler: Literal["asha", "none"] = "asha"
    """`asha` ends trials early that are worse than others at the same env steps; `none` ends none."""
    output: Text | None = None
    """Folder for the trials and the best options; none means `runs/tune-<time>`."""
    address: Annotated[Text, AfterValidator(check_address)] | None = None
    """Ray cluster to join, as in `run`."""


@command("distdqn tune --space FILE [OPTION VALUE ...]", TuneOptions)
def main(options: TuneOptions) -> None:
    """Search options for the largest mean return, and write the best ones as a file for `run --config`."""
    fixed, searched = _read_space(options.space)
    # Importing Ray takes seconds, and mistakes are reported without it.
    from distdqn.cluster.tuning import search
    from distdqn.tune import run_trial  # `__main__` is another module in the process of a trial

    output = (Path(options.output) if options.output else make_default_folder("tune")).absolute()
    best, score, failed = search(run_trial, fixed, searched, options, output)
    file = output / "best.yaml"
    file.write_text(config_yaml(Config(**fixed, **best)))
    found = ", ".join(f"{name} {value}" for name, value in best.items())
    print(f"Best of {options.trials} trials ({failed} failed): last mean return {score:.4g} with {found}.")
    print(f"Train with these options: distdqn run --config {file}")


def _read_space(path: str) -> tuple[dict[str, Any], dict[str, tuple[str, list[Any]]]]:
    """Options with one value, and those to search, each with a distribution's name and its arguments.

    `ConfigError` if there is nothing to search, or if options are wrong, also at an end of a distribution.
    """
    fixed, mistakes = values_from_text(Config.model_fields, read_options(path)), []
    searched: dict[str, tuple[str, list[Any]]] = {}
    for name, value in list(fixed.items()):
        if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in _DISTRIBUTIONS:
            ((kind, arguments),) = fixed.pop(name).items()
            searched[name] = kind, arguments
            if not isinstance(arguments, list) or not arguments:
                mistakes.append(f"`space`: `{name}` needs a list, as in `{name}: {{choice: [1, 3]}}`.")
            else:
                read = [values_from_text(Config.model_fields, {name: each})[name] for each in arguments]
                searched[name] = kind, read
        if name not in Config.model_fields:
            mistakes.append(f"`space`: {unknown_option(name, Config.model_fields)}")
        elif name in _OURS:
            mistakes.append(f"`space`: each trial has a `{name}` of its own (leave it out).")
    if not searched:
        mistakes.append(f"`space`: {path} searches nothing (give an option a distribution; see `--help`).")
    if mistakes:
        raise ConfigError(mistakes)
    for end in (0, -1):
        with collecting(mistakes):
            Config(**fixed, **{name: _end(*drawn, end) for name, drawn in searched.items()})
    if mistakes:
        raise ConfigError([f"`space`: {mistake}" for mistake in dict.fromkeys(mistakes)])
    return fixed, searched


def _end(kind: str, arguments: list[Any], index: int) -> Any:
    """The first or the last value of a distribution."""
    if kind == "choice":
        return arguments[index]
    return arguments[:2][index] - (1 if index and kind in ("randint", "lograndint") else 0)


def run_trial(options: dict[str, Any], folder: Path, report: Callable[[float, int], None]) -> None:
    """One run in this process; `report` gets the mean return and env steps of each evaluation."""
    from distdqn.runner import train

    class Report:
        def on_report(self, metrics: dict[str, Any]) -> None:
            if metrics["eval_return_mean"] is not None:
                report(metrics["eval_return_mean"], metrics["env_steps"])

    train(Config(**options, mode="serial", run_dir=str(folder)), callbacks=[Report()], quiet=True)


if __name__ == "__main__":
    sys.exit(main())
