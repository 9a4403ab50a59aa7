"""A distributed DQN on Ray and Keras: `distdqn.train(distdqn.Config(actors=4))`.

Importing this package loads neither TensorFlow nor Ray; what is named here is loaded when
it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distdqn.config.config import Config
    from distdqn.errors import ClusterError, ConfigError, DistdqnError, EnvironmentFault, RoleFailure
    from distdqn.runner import train

_HOMES = {
    "ClusterError": "errors",
    "Config": "config.config",
    "ConfigError": "errors",
    "DistdqnError": "errors",
    "EnvironmentFault": "errors",
    "RoleFailure": "errors",
    "train": "runner",
}

__all__ = [
    "ClusterError",
    "Config",
    "ConfigError",
    "DistdqnError",
    "EnvironmentFault",
    "RoleFailure",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `distdqn` has no attribute `{name}`")
    return getattr(importlib.import_module(f"distdqn.{_HOMES[name]}"), name)
