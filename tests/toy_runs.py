"""The folder of a run that never trained, with the policy of an untrained network."""

import json
from pathlib import Path
from typing import Any

from distdqn.config.config import Config
from distdqn.environments.registry import inspect_environment
from distdqn.learning.learner import Learner
from distdqn.networks.numpy_policy import policy_bytes
from distdqn.training.resolve import resolve


def write_run(folder: Path, env: Any, **options: Any) -> Path:
    """A folder with `policy.npz`, and with `config.json` if `env` is a name."""
    spec = inspect_environment(env)
    config = resolve(Config(env=env, actors=1, **options), spec)
    (folder / "policy.npz").write_bytes(policy_bytes(Learner(config, spec).publish()))
    if isinstance(env, str):
        (folder / "config.json").write_text(json.dumps({"env": env}))
    return folder
