"""Processes of the program that end by themselves: exit codes, lines, time and loaded modules."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import distdqn

# Promised: one second for options, two for environments. Asserted of CPU time, as other tests may run: three
# times that.
OPTIONS_SECONDS, ENVIRONMENT_SECONDS = 3 * 1.0, 3 * 2.0

RECORDER = """
import atexit, os, sys

def write():
    with open(os.environ["LOADED_MODULES"], "w") as file:
        file.write("\\n".join(sys.modules))

atexit.register(write)
"""

# Starts `python -m` as a fork of a process that has imported what is light.
FORKER = """
import json, os, runpy, sys, traceback
import distdqn.evaluate, distdqn.runner
from distdqn.config import command_line

def answer(record, module, *arguments):
    sys.argv, sys.path[0] = [module, *arguments], os.getcwd()
    if module != "distdqn":
        sys.modules.pop(module, None)  # it would warn of a module that is imported twice
    code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    with open(record, "w") as file:
        file.write("\\n".join(sys.modules))
    return code

print("ready", flush=True)
for line in sys.stdin:
    work, out, err, *call = json.loads(line)
    if not (child := os.fork()):
        os.chdir(work)
        for number, name in enumerate((os.devnull, out, err)):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        code = answer(*call)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status, used = os.wait4(child, 0)
    print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, flush=True)
"""

ENVIRONMENTS = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Text

BOX = Box(-1.0, 1.0, (2,), np.float32)

class Plain(gymnasium.Env):
    observation_space = BOX
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, True, False, {}

class ManyActions(Plain):
    action_space = MultiDiscrete([100, 100])

class Talking(Plain):
    observation_space = Text(4)

class Pixels(Plain):
    observation_space = Box(0, 255, (84, 84, 4), np.uint8)

class FirstAxisPixels(Plain):
    observation_space = Box(0, 255, (4, 84, 84), np.uint8)

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
    seconds: float  # of CPU
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


Fork = Callable[..., tuple[int, float, str, str]]


@contextlib.contextmanager
def forker() -> Iterator[Fork]:
    """Gives a function for `python -m` in a folder, which skips the start of Python and the imports."""
    command = [sys.executable, "-c", FORKER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=_environment(), text=True, **pipes) as process:
        assert process.stdout.readline() == "ready\n"

        def fork(work: Path, record: Path, *call: str) -> tuple[int, str, str]:
            files = [str(record.with_name(name)) for name in ("out", "err")]
            process.stdin.write(json.dumps([str(work), *files, str(record), *call]) + "\n")
            process.stdin.flush()
            code, seconds = process.stdout.readline().split()
            return int(code), float(seconds), *(Path(name).read_text() for name in files)

        yield fork
        process.stdin.close()


def _environment(*folders: Path, **variables: str) -> dict[str, str]:
    root = Path(distdqn.__file__).resolve().parents[1]
    path = os.pathsep.join(map(str, (*folders, root)))
    return {**os.environ, "PYTHONPATH": path, **variables}


def make_launch(tmp_path: Path, fork: Fork) -> Launch:
    """Starts `python` with the arguments given, in a folder with the module `playground`.

    `python -m` is a fork, unless it is to be a `fresh` process.
    """
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(RECORDER)
    work = tmp_path / "work"
    work.mkdir()
    (work / "playground.py").write_text(ENVIRONMENTS)
    record = tmp_path / "loaded"

    def run(*arguments: str) -> tuple[int, float, str, str]:
        before = os.times()
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=work,
            env=_environment(hooks, LOADED_MODULES=str(record)),
            capture_output=True,
            text=True,
            timeout=60,
        )
        after = os.times()
        seconds = sum(after[2:4]) - sum(before[2:4])  # of processes that have ended
        return result.returncode, seconds, result.stdout, result.stderr

    def start(*arguments: str, fresh: bool = False) -> Ended:
        if fresh or arguments[0] != "-m":
            code, seconds, out, err = run(*arguments)
        else:
            code, seconds, out, err = fork(work, record, *arguments[1:])
        loaded = {name.split(".")[0] for name in record.read_text().split()}
        return Ended(code, out, err.splitlines(), seconds, loaded)

    return start
