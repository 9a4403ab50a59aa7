"""Families of environments whose package must be imported before Gymnasium knows them."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import gymnasium

from distdqn.errors import ConfigError

# By namespace: the package, and our extra that installs it.
_FAMILIES = {"ALE": ("ale_py", "atari"), "MinAtar": ("minatar.gym", "minatar")}


def import_family(name: str) -> None:
    """Imports the package that registers `name`; Gymnasium 1.x does not do so by itself."""
    family = name.rpartition("/")[0]
    if family not in _FAMILIES or any(spec.namespace == family for spec in gymnasium.registry.values()):
        return
    module_name, extra = _FAMILIES[family]
    try:
        with _put_off("seaborn"):
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"`env`: `{name}` is not installed: `pip install 'distdqn[{extra}]'` ({one_line(error)})."
        ) from error
    if family == "MinAtar":
        module.register_envs()


class _PutOff(ModuleType):
    """Stands for a module until something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def _put_off(name: str) -> Iterator[None]:
    """What is imported meanwhile gets the module `name` when it first uses it.

    MinAtar imports seaborn for the colours of its pictures: 1.3 s and 100 MB in every
    actor, or a warning where it is missing.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = _PutOff(name)
    try:
        yield
    finally:
        del sys.modules[name]


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
