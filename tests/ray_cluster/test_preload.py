"""The processes that import what roles need before Ray asks for theirs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distdqn.cluster.preload import LEARNER, Preload

SHOWN = """
import json, os, random, sys
loaded = [name for name in ("gymnasium", "tensorflow", "ray") if name in sys.modules]
drawn = [random.random()] + ([sys.modules["numpy"].random.rand()] if loaded else [])
told = [sys.argv, os.environ.get("TOLD"), os.getcwd(), sys.path[0], loaded, __name__, os.getppid(), drawn]
told += [os.getpgrp() == os.getpid()]
print(json.dumps(told), file=sys.stderr)
"""
LANGUAGE = "--language=PYTHON"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Tells on standard error what it was started with."""
    for name in ("setup_worker.py", "worker.py"):
        (tmp_path / name).write_text(SHOWN)
    return tmp_path / "worker.py"


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Preload]:
    process = Preload(str(tmp_path))
    yield process
    process.close()


def start(command: list[str], program: Path, *arguments: str) -> Any:
    """As Ray starts a worker: what it tells."""
    ended = subprocess.run(
        [*command, str(program.with_name("setup_worker.py")), str(program), "--id=a b", *arguments],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "TOLD": "x y"},
        cwd=program.parent,
        check=True,
        timeout=120,
    )
    return json.loads(ended.stderr.splitlines()[-1])


def context(**changes: Any) -> str:
    """An option as Ray gives it where a role has a runtime environment."""
    usual = {"command_prefix": [], "env_vars": {}, "py_executable": sys.executable, "java_jars": []}
    return f"--serialized-runtime-env-context={json.dumps(usual | changes)}"


def test_every_role_is_a_fork_that_draws_its_own_random_numbers(waiting: Preload, program: Path) -> None:
    first, second = (start(waiting.command, program, LANGUAGE) for _ in range(2))

    for told in (first, second):
        assert told[0] == [str(program), "--id=a b"]
        assert told[1:4] == ["x y", str(program.parent), str(program.parent)]
        assert told[4:7] == [["gymnasium"], "__main__", waiting._processes[0].pid]
        assert told[8]  # else Ray ends the waiting process, and all its forks, with the first role that dies
    assert not {*first[7]} & {*second[7]}


def test_process_of_the_learner_is_a_fork_with_tensorflow(waiting: Preload, program: Path) -> None:
    told = start(waiting.command, program, LANGUAGE, context(env_vars={**LEARNER, "TOLD": "more"}))

    assert told[0] == [str(program), "--id=a b"]
    assert (told[1], "tensorflow" in told[4], told[6]) == ("more", True, waiting._processes[1].pid)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--language=JAVA",),
        (LANGUAGE, context(py_executable="/usr/bin/other")),
        (LANGUAGE, context(command_prefix=["nice"])),
        (LANGUAGE, context(env_vars={"TOLD": "${HOME}"})),
    ],
)
def test_what_only_ray_can_start_becomes_python_as_usual(
    waiting: Preload, program: Path, arguments: tuple[str, ...]
) -> None:
    told = start(waiting.command, program, *arguments)

    assert told[0] == [str(program.with_name("setup_worker.py")), str(program), "--id=a b", *arguments]
    assert (told[4], told[6]) == ([], os.getpid())


def test_without_the_processes_the_client_becomes_python(program: Path) -> None:
    waiting = Preload(str(program.parent))
    waiting.close()

    told = start(waiting.command, program, LANGUAGE)

    assert told[0][0] == str(program.with_name("setup_worker.py"))
    assert (told[1], told[4], told[6]) == ("x y", [], os.getpid())


def test_processes_that_fail_leave_the_client_to_become_python(program: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "path", ["/nowhere"])  # they find no `distdqn`
    waiting = Preload(str(program.parent))
    monkeypatch.undo()

    told = start(waiting.command, program, LANGUAGE)
    waiting.close()

    assert (told[4], told[6]) == ([], os.getpid())


def test_close_leaves_no_waiting_process_behind(waiting: Preload) -> None:
    waiting.close()

    for process in waiting._processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)
