"""A distributed DQN on Ray and Keras: `distdqn.train(distdqn.Config(actors=4))`.

Importing this package loads neither TensorFlow nor Ray; what takes long is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from distdqn.errors import ClusterError, ConfigError, DistdqnError, EnvironmentFault, RoleFailure

if TYPE_CHECKING:
    from distdqn.config.config import Config
    from distdqn.loading import load
    from distdqn.reporting.callbacks import Callback
    from distdqn.runner import train

_HOMES = {
    "Callback": "reporting.callbacks",
    "Config": "config.config",
    "load": "loading",
    "train": "runner",
}

__all__ = [
    "Callback",
    "ClusterError",
    "Config",
    "ConfigError",
    "DistdqnError",
    "EnvironmentFault",
    "RoleFailure",
    "load",
    "train",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `distdqn` has no attribute `{name}`")
    return getattr(importlib.import_module(f"distdqn.{_HOMES[name]}"), name)
