"""`python -m distdqn.export`: a run's network in the format of another runtime, compared with it."""

import contextlib
import importlib.util
import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distdqn.acting.exploration import random_actions
from distdqn.config.command_line import command
from distdqn.config.model import Text
from distdqn.environments.vector import FaultLog, VectorEnvironment
from distdqn.errors import ConfigError, DistdqnError, one_line
from distdqn.loading import LoadedPolicy, PolicyOptions, load
from distdqn.networks.numpy_policy import load_policy, make_policy, policy_bytes
from distdqn.networks.tensorflow_setup import import_tensorflow
from distdqn.types import AnyArray

_SUFFIXES = {"policy": ".npz", "saved-model": "", "litert": ".tflite", "onnx": ".onnx"}
_ENVIRONMENTS, _STEPS = 10, 100  # that the compared observations are from
_TOLERANCE = 1e-4  # times the Q-value, or times 1


class ExportOptions(PolicyOptions):
    """The network to export, the format and the file."""

    to: Literal["policy", "saved-model", "litert", "onnx"]
    """Format: the NumPy file of this package, or one whose function returns `action` and `q_values`."""
    output: Text | None = None
    """File to write, a folder for `saved-model`; none means `policy` with the suffix of the format, here."""


@command("distdqn export RUN_DIR --to FORMAT [OPTION VALUE ...]", ExportOptions, positional="run_dir")
def main(options: ExportOptions) -> None:
    """Write a run's best network in the format of another runtime, and compare the two."""
    print(export(options))


def export(options: ExportOptions) -> str:
    """Writes the export unless it differs from the policy, a `DistdqnError`; returns a line about the two."""
    path = Path(options.output or f"policy{_SUFFIXES[options.to]}")
    if path.exists():
        raise ConfigError(f"`output`: {path} exists already (name another).")
    if options.to == "onnx" and not all(map(importlib.util.find_spec, ("tf2onnx", "onnxruntime"))):
        raise ConfigError("`to`: `onnx` needs packages that are missing: `pip install 'distdqn[onnx]'`.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            policy = load(**options.model_dump(include={*PolicyOptions.model_fields}))
            written = Path(folder) / f"policy{_SUFFIXES[options.to]}"
            line = _compare(policy, _write(policy, options.to, written))
            written.rename(path)
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"`output`: cannot write {path}: {why} (name another place).") from error
    return f"{path}: {line}."


def _write(policy: LoadedPolicy, to: str, path: Path) -> Callable[[AnyArray], dict[str, Any]]:
    """Writes the export to `path`; returns the function in it."""
    if to == "policy":
        path.write_bytes(policy_bytes(policy.weights))
        q_values = make_policy(load_policy(path)).q_values
        return lambda observation: {"q_values": (found := q_values(observation)), "action": found.argmax(1)}
    import_tensorflow(threads=1)
    from distdqn.networks.export import export_policy

    try:
        return export_policy(policy.weights, policy.spec, to, path)
    except Exception as error:  # the layers may be the user's
        why = f"{type(error).__name__}: {one_line(error)[:300]}"
        raise DistdqnError(f"`to`: `{to}` cannot hold this network (name another): {why}") from error


def _compare(policy: LoadedPolicy, exported: Callable[[AnyArray], dict[str, Any]]) -> str:
    """A line about the differences; `DistdqnError` if they exceed rounding."""
    observation = _random_observations(policy)
    expected, found = make_policy(policy.weights).q_values(observation), exported(observation)  # [B, A]
    difference = np.max(np.abs(found["q_values"] - expected) / np.maximum(1.0, np.abs(expected)))
    equal = np.mean(found["action"] == expected.argmax(axis=1))
    line = (
        f"on {len(observation):,} observations of random steps, Q-values differ by at most {difference:.1e} "
        f"times max(1, |Q|), and {equal:.1%} of the actions are equal"
    )
    if not difference <= _TOLERANCE:
        raise DistdqnError(f"`to`: the export differs from the policy: {line} (choose another format).")
    return line


def _random_observations(policy: LoadedPolicy) -> AnyArray:
    """Packed observations `[B, *observation_shape]` of random allowed actions in the environment."""
    env, spec, generator = policy.environment, policy.spec, np.random.default_rng(0)
    mask, faults = spec.mask, FaultLog(env, max_failures=5)
    environments = VectorEnvironment(env, _ENVIRONMENTS, itertools.count(), faults, has_mask=mask is not None)
    with contextlib.closing(environments):
        steps = environments.empty_steps(_STEPS)
        for row in range(_STEPS):
            allowed = mask.read(environments.observation) if mask else None
            environments.step(random_actions(_ENVIRONMENTS, spec.actions, generator, allowed), steps, row)
    return steps.observation.reshape(-1, *spec.observation_shape)


if __name__ == "__main__":
    sys.exit(main())
