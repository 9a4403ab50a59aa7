"""The process that imports TensorFlow before Ray asks for the learner's."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distdqn.cluster import preload
from distdqn.cluster.preload import Preload

SHOWN = """
import json, os, sys
has_tensorflow = "tensorflow" in sys.modules
shown = [sys.argv[1:], os.environ["TOLD"], os.getcwd(), sys.path[0], has_tensorflow, os.getppid()]
print(json.dumps(shown), __name__, file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Tells on standard error what it was started with, and ends with the exit code that it is given."""
    (tmp_path / "shown.py").write_text(SHOWN)
    return tmp_path / "shown.py"


@pytest.fixture
def waiting() -> Iterator[Preload]:
    process = Preload()
    yield process
    process.close()


def start(py_executable: str, program: Path, code: int) -> Any:
    """As Ray starts a worker."""
    command = f"exec {py_executable} {program} {code} 'a b'"
    environment = {"PATH": os.environ["PATH"], "TOLD": "x y"}
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env=environment,
        cwd=program.parent,
        check=False,
        timeout=120,
    )


def expected(program: Path, code: int, has_tensorflow: bool) -> str:
    loaded = "true" if has_tensorflow else "false"
    return f'[["{code}", "a b"], "x y", "{program.parent}", "{program.parent}", {loaded}, '


def test_first_process_is_a_fork_with_tensorflow_and_the_next_is_python(
    waiting: Preload, program: Path
) -> None:
    first, second = (start(waiting.py_executable, program, code) for code in (7, 3))

    for ended, code, is_fork in ((first, 7, True), (second, 3, False)):
        assert ended.returncode == code, ended.stderr
        assert ended.stderr.startswith(expected(program, code, is_fork)), ended.stderr
        assert (f" {waiting._process.pid}] __main__" in ended.stderr) == is_fork


def test_without_the_process_the_client_becomes_python(program: Path) -> None:
    ended = start(f"{sys.executable} -IS {preload.__file__} fork /no/such/socket", program, 5)

    assert ended.returncode == 5
    assert ended.stderr.startswith(expected(program, 5, False))


def test_process_that_fails_leaves_the_client_to_become_python(program: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "path", ["/nowhere"])  # it finds no `distdqn`
    process = Preload()
    monkeypatch.undo()

    ended = start(process.py_executable, program, 4)
    process.close()

    assert (ended.returncode, ended.stderr.startswith(expected(program, 4, False))) == (4, True)


def test_close_leaves_no_process_and_no_folder_behind() -> None:
    process = Preload()
    folder = Path(process._folder)
    assert folder.stat().st_mode & 0o077 == 0  # nobody else may send it a program

    process.close()

    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(process._process.pid, 0)
