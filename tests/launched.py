"""Processes of the program that end by themselves: exit codes, lines, time and loaded modules."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import distdqn

# Promised: one second for options, two for environments. Asserted: three times that.
OPTIONS_SECONDS, ENVIRONMENT_SECONDS = 3 * 1.0, 3 * 2.0

RECORDER = """
import atexit, os, sys

def write():
    with open(os.environ["LOADED_MODULES"], "w") as file:
        file.write("\\n".join(sys.modules))

atexit.register(write)
"""

ENVIRONMENTS = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

BOX = Box(-1.0, 1.0, (2,), np.float32)

class Plain(gymnasium.Env):
    observation_space = BOX
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, True, False, {}

class ManyActions(Plain):
    action_space = MultiDiscrete([2, 3])

class DictObservations(Plain):
    observation_space = Dict(left=BOX, right=BOX)

class TupleObservations(Plain):
    observation_space = Tuple((BOX, BOX))

class Pixels(Plain):
    observation_space = Box(0, 255, (84, 84, 4), np.uint8)

class FirstAxisPixels(Plain):
    observation_space = Box(0, 255, (4, 84, 84), np.uint8)

class AllWrong(Plain):
    observation_space = Dict(left=BOX)
    action_space = BOX

class Broken(Plain):
    def __init__(self):
        raise RuntimeError("the licence of the simulator\\nhas run out")
"""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    lines: list[str]  # of stderr
    seconds: float
    loaded: set[str]  # top-level modules


Launch = Callable[..., Ended]


def assert_refused(
    ended: Ended, code: int, *mistakes: str, most_seconds: float = ENVIRONMENT_SECONDS
) -> None:
    """One line per mistake, each holding the text given, in that order, and nothing else."""
    assert len(ended.lines) == len(mistakes), "\n".join(ended.lines)
    for line, text in zip(ended.lines, mistakes, strict=True):
        assert line.startswith("distdqn: error: ")
        assert text in line
    assert ended.code == code
    assert ended.out == ""
    assert not ended.loaded & {"ray", "tensorflow", "keras"}
    assert "sys" in ended.loaded  # the record was made
    assert ended.seconds < most_seconds


RUN = ("-m", "distdqn.run")


def make_launch(tmp_path: Path) -> Launch:
    """Starts `python -m` with the arguments given, in a folder with the module `playground`."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(RECORDER)
    work = tmp_path / "work"
    work.mkdir()
    (work / "playground.py").write_text(ENVIRONMENTS)
    record = tmp_path / "loaded"
    root = Path(distdqn.__file__).resolve().parents[1]

    def start(*arguments: str) -> Ended:
        path = os.pathsep.join([str(hooks), str(root)])
        begin = time.monotonic()
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=work,
            env={**os.environ, "PYTHONPATH": path, "LOADED_MODULES": str(record)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        seconds = time.monotonic() - begin
        loaded = {name.split(".")[0] for name in record.read_text().split()}
        return Ended(result.returncode, result.stdout, result.stderr.splitlines(), seconds, loaded)

    return start
