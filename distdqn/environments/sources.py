"""What makes an environment: imported names, their arguments, wrappers and time limits."""

import functools
import inspect
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gymnasium.vector import VectorEnv

from distdqn.config.config import EnvironmentOptions
from distdqn.config.model import did_you_mean, import_named
from distdqn.config.validation import parse_name
from distdqn.errors import ConfigError

# An id, `module:Name`, a function, or one of these with arguments, wrappers and a time limit.
EnvironmentSource = str | Callable[..., Any] | EnvironmentOptions


def environment_options(env: EnvironmentSource) -> EnvironmentOptions:
    """An environment with its arguments, wrappers and time limit."""
    return env if isinstance(env, EnvironmentOptions) else EnvironmentOptions(env=env)


def environment_name(env: EnvironmentSource) -> str:
    """The name to show to the user."""
    env = environment_options(env).env
    return env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__)


def why_forgotten(env: EnvironmentSource) -> str | None:
    """Why another process cannot import a function by its recorded name; None if it can, or needs not."""
    options = environment_options(env)
    if isinstance(options.env, str):
        return None
    name, arguments = options.recorded_env()
    function, is_whole = options.env, True
    if isinstance(function, functools.partial):
        is_whole = not function.args and function.keywords.keys() <= arguments.keys()
        function = function.func
    module_name, _, path = name.partition(":")
    try:
        found = operator.attrgetter(path)(sys.modules[module_name])
    except (KeyError, AttributeError):
        found = None
    if found == function and is_whole and module_name != "__main__":
        return None
    return (
        f"`env` is `{name}`, which `evaluate` cannot make again (define a function in a module, or give "
        "`evaluate` its `--env`)."
    )


@dataclass(frozen=True)
class Called:
    """What is called to make or wrap an environment."""

    option: str  # that names it
    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    takes_environment: bool = True  # as its first argument

    def __call__(self, *environment: Any) -> Any:
        """What it makes."""
        return self.function(*environment, **self.arguments)

    @property
    def is_of_vector(self) -> bool:
        """Whether it is for vector environments."""
        return isinstance(self.function, type) and issubclass(self.function, VectorEnv)

    def mistake(self) -> str | None:
        """A line about arguments that it lacks or does not take; None if they fit."""
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):  # some builtins have none
            return None
        try:
            signature.bind(*[None] * self.takes_environment, **self.arguments)
        except TypeError as error:
            what, argument, *_ = str(error).split("'")
            option = "--env-kwargs " if self.option == "env" else f"--{self.option} {self.name},"
            if "missing" in what:
                cure = f"needs the argument `{argument}` (give `{option}{argument}=VALUE`)"
            else:
                cure = f"takes no argument `{argument}` ({did_you_mean(argument, signature.parameters)})"
            return f"`{self.option}`: `{self.name}` {cure}."
        return None


def import_all(option: str, texts: Sequence[str]) -> list[Called]:
    """What texts of an option name, such as wrappers; `ConfigError` if one cannot be imported."""
    found = []
    for name, arguments in map(parse_name, texts):
        if not callable(function := import_named(option, name)):
            raise ConfigError(f"`{option}`: there is no `{name}` (name a class or a function).")
        found.append(Called(option, name, function, arguments, takes_environment=option == "wrapper"))
    return found


def takes_number(found: EnvironmentSource) -> bool:
    """Whether it makes a vector environment with as many environments as its argument `num_envs` says."""
    if isinstance(found, type) and issubclass(found, VectorEnv):
        return True
    try:
        return callable(found) and "num_envs" in inspect.signature(found).parameters
    except (TypeError, ValueError):
        return False
