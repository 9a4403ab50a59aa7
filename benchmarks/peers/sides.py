"""What is compared: for each task the commands of distdqn and of its peer, and what is read of each."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from venvs import HERE, variables

Json = dict[str, Any]

ACTORS = 4
EPISODES = 100  # of the last weights, where training ends by time
SETTLE_SECONDS = 10.0  # from the first update to the begin of a measurement, as in sb3_pong.py
START_SECONDS = 60.0  # most that a command needs until its measurement begins
NEVER = 10**12


class RunFailed(Exception):
    """A command failed; says why in one line."""


@dataclass(frozen=True)
class Figure:
    """One number of a run."""

    name: str  # in the raw figures
    title: str
    digits: int = 1
    better: str | None = None  # `less`, `more`, or None where a ratio would say nothing
    scale: float = 1.0  # of what is shown


@dataclass(frozen=True)
class Settings:
    """Settings of one comparison."""

    seconds: float
    threads: int | None = None  # of the peer; None: its own choice


@dataclass(frozen=True)
class Task:
    """One comparison of distdqn with a peer."""

    title: str
    peer: str  # name of its virtual environment
    peer_title: str
    script: str
    seconds: float  # default of `--seconds`; what they bound depends on the task
    figures: Sequence[Figure]
    measure: Callable[[int, Settings], Json]  # one run of distdqn
    needs_goal: bool = False  # whether a run without the goal has no time to compare

    def run_peer(self, python: Path, seed: int, settings: Settings) -> Json:
        """One run of the peer; its figures."""
        command = [python, HERE / self.script, "--seed", seed]
        if not self.needs_goal:
            command += ["--seconds", settings.seconds]
        if self.script in ("sb3_pong.py", "rllib_cartpole.py"):
            command += ["--started", time.time()]
        output, seconds = run(command, variables(settings.threads))
        return {**json.loads(output.strip().splitlines()[-1]), "command_seconds": seconds}


def run(command: Sequence[object], environment: dict[str, str], limit: float = 900.0) -> tuple[str, float]:
    """Output and duration of a command; `RunFailed` if it fails or exceeds the limit, when it is ended."""
    begin = time.monotonic()
    process = subprocess.Popen(
        [str(each) for each in command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=limit)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()  # closes the pipes
        if isinstance(error, subprocess.TimeoutExpired):
            raise RunFailed(f"no end after {limit:.0f} s") from error
        raise
    if process.returncode not in (0, 8):  # 8: distdqn missed its goal
        last = (errors.strip().splitlines() or ["no output"])[-1]
        raise RunFailed(f"exit code {process.returncode}: {last[:300]}")
    return output, time.monotonic() - begin


def own_variables() -> dict[str, str]:
    """The environment of distdqn's processes, which start a Ray of their own."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def train(seed: int, run_dir: Path, *options: object) -> float:
    """Runs `python -m distdqn.run`; returns the seconds of the command."""
    command = [sys.executable, "-m", "distdqn.run", "--run-dir", run_dir, "--seed", seed, *options]
    return run([*command, "--actors", ACTORS, "--report-seconds", 0.5], own_variables())[1]


def solve(seed: int, _settings: Settings) -> Json:
    """The default run of distdqn."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = train(seed, Path(folder) / "run")
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text(encoding="utf-8"))
    names = ("solved", "train_seconds", "env_steps", "learner_steps", "eval_return_mean")
    return {**{name: summary[name] for name in names}, "command_seconds": seconds}


def learn_pong(seed: int, settings: Settings) -> Json:
    """distdqn on Pong with the algorithm and the numbers of sb3_pong.py, without evaluations."""
    options = "--env ALE/Pong-v5 --preset dqn --hidden-sizes 512 --learning-rate 1e-4 --batch-size 32"
    options += " --samples-per-insert 8 --reward-clip 1 --replay-capacity 10000 --min-replay-size 2000"
    # Short rollouts and calls, so that neither side is far ahead when the measurement begins or ends.
    options += " --envs-per-actor 8 --rollout-length 4 --updates-per-call 8"
    options += f" --target-return none --eval-period {NEVER} --checkpoint-seconds none"
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        limit = settings.seconds + SETTLE_SECONDS + START_SECONDS
        seconds = train(seed, run_dir, *options.split(), "--max-seconds", limit, "--max-env-steps", 10**9)
        figures = rates(read_metrics(run_dir), SETTLE_SECONDS, settings.seconds)
    return {**figures, "command_seconds": seconds}


def learn_cartpole(seed: int, settings: Settings) -> Json:
    """distdqn with its defaults, but for no goal, for some seconds in all; then greedy episodes."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        options = ("--target-return", "none", "--max-env-steps", 10**9, "--max-seconds", settings.seconds)
        seconds = train(seed, run_dir, *options)
        lines = read_metrics(run_dir)
        command = [sys.executable, "-m", "distdqn.evaluate", run_dir, "--final", "--episodes", EPISODES]
        evaluation = json.loads(run([*command, "--seed", seed], own_variables())[0].splitlines()[-1])
    last = {name: lines[-1][name] for name in ("env_steps", "learner_steps")}
    figures = rates(lines, 0.0, settings.seconds)
    return {**figures, **last, "eval_return_mean": evaluation["mean"], "command_seconds": seconds}


def sample(seed: int, settings: Settings) -> Json:
    """distdqn's replay in a process of its own."""
    command = [sys.executable, HERE / "distdqn_replay.py", "--seed", seed, "--seconds", settings.seconds]
    return json.loads(run(command, own_variables())[0].splitlines()[-1])


def read_metrics(run_dir: Path) -> list[Json]:
    """The lines of metrics of a run."""
    text = (run_dir / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def rates(lines: Sequence[Json], settle: float, seconds: float) -> Json:
    """Steps per second for some seconds, from `settle` seconds after the first line with an update on."""
    learning = [line for line in lines if line["learner_steps"]]
    if not learning:
        raise RunFailed("no update was made")
    begin = learning[0]["wall_seconds"] + settle
    measured = [line for line in learning if begin <= line["wall_seconds"] <= begin + seconds + 1.0]
    if len(measured) < 2:
        raise RunFailed("the run ended before the measurement")
    first, last = measured[0], measured[-1]
    period = last["wall_seconds"] - first["wall_seconds"]
    counts = {name: last[name] - first[name] for name in ("env_steps", "learner_steps")}
    return {
        "ready_seconds": learning[0]["wall_seconds"],
        **{f"{name}_per_second": count / period for name, count in counts.items()},
        "measured_seconds": period,
    }


_COMMAND = Figure("command_seconds", "command, seconds", 1, "less")
_READY = Figure("ready_seconds", "until the first update, seconds", 1, "less")
_ENV_RATE = Figure("env_steps_per_second", "env steps/s while learning", 0, "more")
_LEARNER_RATE = Figure("learner_steps_per_second", "updates/s", 1, "more")
_ENV_STEPS = Figure("env_steps", "env steps", 0, "less")

TASKS = {
    "cartpole": Task(
        title="CartPole-v1, the whole command until it is solved",
        peer="sb3",
        peer_title="Stable-Baselines3",
        script="sb3_cartpole.py",
        seconds=0.0,
        figures=(
            Figure("train_seconds", "first update until solved, seconds", 1, "less"),
            Figure("evaluation_seconds", "evaluations within that time, seconds", 1),
            _COMMAND,
            _ENV_STEPS,
            Figure("learner_steps", "updates", 0),
        ),
        measure=solve,
        needs_goal=True,
    ),
    "pong": Task(
        title="ALE/Pong-v5, the same DQN with the Nature network",
        peer="sb3",
        peer_title="Stable-Baselines3",
        script="sb3_pong.py",
        seconds=60.0,
        figures=(_ENV_RATE, _LEARNER_RATE),
        measure=learn_pong,
    ),
    "rllib": Task(
        title="CartPole-v1 for {seconds:g} seconds, each with its own settings",
        peer="rllib",
        peer_title="RLlib",
        script="rllib_cartpole.py",
        seconds=60.0,
        figures=(
            _READY,
            _ENV_RATE,
            _LEARNER_RATE,
            Figure("env_steps", "env steps in all", 0, "more"),
            Figure("eval_return_mean", "greedy return at the end", 1),
        ),
        measure=learn_cartpole,
    ),
    "replay": Task(
        title="Sampling from 100,000 transitions of CartPole-v1, in process",
        peer="cpprb",
        peer_title="cpprb",
        script="cpprb_replay.py",
        seconds=2.0,
        figures=tuple(
            Figure(f"{sampler}_{count}", f"{sampler}, {count} a call, million/s", 2, "more", 1e-6)
            for sampler in ("uniform", "prioritized")
            for count in ("512", "8192")
        ),
        measure=sample,
    ),
}
