"""`python -m distdqn.check ENV`: what a run makes of an environment, and what is odd or slow about it."""

import contextlib
import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv, VectorEnv

from distdqn.config.command_line import command
from distdqn.config.config import Config, EnvironmentOptions, Positive
from distdqn.environments.registry import inspect_environment, make_vector_environment
from distdqn.errors import one_line
from distdqn.networks.numpy_policy import describe_layers, load_policy
from distdqn.networks.tensorflow_setup import import_tensorflow
from distdqn.types import EnvironmentSpec, Tree

_TIMED_STEPS, _TIMED_SECONDS = 1_000, 2.0  # most of both, to time an environment
_SLOW_FRACTION = 0.5  # of an actor's time inside the environments
_LARGE_REWARD = 10.0  # mean size of a step's reward above which learning is less stable


class CheckOptions(EnvironmentOptions):
    """The environment to check."""

    seconds: Positive = 10.0
    """Seconds of training, in one process."""


@command("distdqn check ENV [OPTION VALUE ...]", CheckOptions, positional="env")
def main(options: CheckOptions) -> None:
    """Look at an environment as a run will: spaces, speed, Gymnasium's checks, some seconds of training."""
    for line in check(options):
        print(line, flush=True)


def check(options: CheckOptions) -> Iterator[str]:
    """Sentences about an environment, as they are found.

    `ConfigError` if DQN cannot use it, `EnvironmentFault` if it returns wrong values or keeps raising errors.
    """
    spec = inspect_environment(options, options.action_masks)
    yield from _describe_spaces(spec)
    with contextlib.closing(make_vector_environment(options, 1)) as vector:
        yield f"A step takes {1_000.0 * _seconds_per_step(vector):.2g} ms, measured with random actions."
        yield from _gymnasium_warnings(vector, options)
    import_tensorflow(threads=1)  # its seconds are no training
    from distdqn.runner import train

    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        budget: Tree = {"max_env_steps": 10**9, "max_seconds": options.seconds, "target_return": None}
        budget |= {"mode": "serial", "actors": 1, "run_dir": str(run_dir), "report_period": 64}
        given = {name: getattr(options, name) for name in EnvironmentOptions.model_fields}
        summary = train(Config(**given, **budget), quiet=True)
        metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()]
        if summary["learner_steps"]:
            weights = load_policy(run_dir / "final.npz")
            count = sum(array.size for array in weights.arrays)
            yield f"Network: {describe_layers(weights)}; {count:,} numbers."
    yield from _judge(summary, metrics, options.seconds)


def _describe_spaces(spec: EnvironmentSpec) -> Iterator[str]:
    kind = "bytes" if spec.is_image else "numbers"
    yield f"{spec.name}: {spec.actions} actions; an observation is {kind}, shape {spec.observation_shape}."
    if spec.conversion:
        yield spec.conversion
    if spec.mask is not None:
        yield "Actions that its `action_mask` does not allow are never taken."
    if spec.reward_threshold is not None:
        yield f"It counts as solved at a mean return of {spec.reward_threshold:g}."


def _seconds_per_step(vector: VectorEnv[Any, Any, Any]) -> float:
    """Mean seconds of a step of one environment with random actions, resets included."""
    vector.reset(seed=0)
    vector.action_space.seed(0)
    begin, steps = time.perf_counter(), 0
    while steps < _TIMED_STEPS and time.perf_counter() - begin < _TIMED_SECONDS:
        vector.step(vector.action_space.sample())
        steps += 1
    return (time.perf_counter() - begin) / steps


def _gymnasium_warnings(vector: VectorEnv[Any, Any, Any], options: EnvironmentOptions) -> Iterator[str]:
    """What Gymnasium's own checker finds in a single environment, if there is one."""
    base, single = vector.unwrapped, None
    if isinstance(base, SyncVectorEnv):
        single = base.envs[0].unwrapped
    elif isinstance(options.env, str) and options.env in gymnasium.registry:
        single = gymnasium.make(options.env, **options.env_kwargs).unwrapped
    if single is None:
        return
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            check_env(single, skip_render_check=True)
        except Exception as error:  # it raises any kind
            yield f"Gymnasium's checker fails: {type(error).__name__}: {one_line(error)}"
    for text in dict.fromkeys(str(each.message) for each in found):
        plain = re.sub(r"\x1b\[\d+m|^WARN: ", "", re.sub(r"\x1b\[\d+m", "", text)).strip()
        yield f"Gymnasium's checker warns: {plain}"


def _judge(summary: Tree, metrics: Sequence[Tree], seconds: float) -> Iterator[str]:
    """What some seconds of training show."""
    steps, learner_steps, episodes = (summary[key] for key in ("env_steps", "learner_steps", "episodes"))
    counts = f"{steps:,} env steps, {learner_steps:,} learner steps, {episodes:,} episodes"
    yield f"{seconds:g} s of training in one process: {counts}."
    returns = summary["train_returns"]
    if not episodes:
        yield f"No episode ended in {steps:,} env steps: if none ever does, give `--max-episode-steps`."
    if returns:
        tenth = max(1, len(returns) // 10)
        first, last = np.mean(returns[:tenth]), np.mean(returns[-tenth:])
        yield f"Returns of training episodes: {first:.4g} at first, {last:.4g} at the end."
    lengths = [line["train_length_mean"] for line in metrics if line["train_length_mean"]]
    if returns and lengths and (size := abs(float(np.mean(returns))) / lengths[-1]) > _LARGE_REWARD:
        yield f"Rewards are about {size:.3g} a step: `--reward-scale {1.0 / size:.1g}` steadies learning."
    fractions = [line["actor_env_fraction"] for line in metrics if line["actor_env_fraction"] is not None]
    if fractions and (fraction := float(np.mean(fractions))) > _SLOW_FRACTION:
        yield f"An actor spends {fraction:.0%} of its time in the environment: use more `--actors`."
    for name, what in (("not_finite_steps", "steps with NaN or infinity"), ("env_faults", "errors")):
        if summary[name]:
            yield f"The environment had {summary[name]:,} {what}."
    if not learner_steps:
        yield "Learning did not start: give more `--seconds`."


if __name__ == "__main__":
    sys.exit(main())
