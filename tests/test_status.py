"""`status`: what it shows of runs in every state, from their files alone."""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_contents import LINE

from distdqn import status

ROLES = [{"role": role, "pid": 1, "host": "here", "restarts": 0} for role in ("learner", "actor-0")]


def make_run(folder: Path, state: str, lines: list[dict[str, Any]]) -> Path:
    """The files of a run with a budget of 50,000 env steps; its metrics end in half a line."""
    options = {"env": "CartPole-v1", "mode": "async", "max_env_steps": 50_000, "max_seconds": None}
    (folder / "run.json").write_text(json.dumps({"resolved_options": options | {"target_return": 475.0}}))
    content = {"state": state, "written_at": time.time() - 2.0, "seconds": 61.0, "roles": ROLES, "ray": None}
    (folder / "status.json").write_text(json.dumps(content))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"wall_seconds": 61')
    (folder / "run.lock").touch()
    return folder


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    """A run that this process owns, after an evaluation."""
    lines = [LINE | {"wall_seconds": 30.0, "env_steps": 10_000, "eval_return_mean": 488.0}, LINE]
    folder = make_run(tmp_path, "running", lines)
    lock = os.open(folder / "run.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield folder
    os.close(lock)


def show(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    code = status.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_running_run_shows_progress_and_roles(
    running: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    code, output, _ = show(capsys, running)

    assert code == 0
    assert "CartPole-v1  async" in output
    assert "running since " in output
    assert "last sign of life 2 s ago" in output
    assert "50%" in output
    assert "25 k of 50 k env steps" in output
    assert "evaluation 488.0  best 488.0  goal 475" in output
    assert re.search(r"0:01:00 · +0:00:50 left", output)  # 15,000 in 30 s, and 25,000 to do
    assert "up on here" in output


def test_run_whose_process_is_gone_is_killed_and_has_no_roles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, _ = show(capsys, make_run(tmp_path, "running", [LINE]))

    assert code == 0
    assert "killed since " in output
    assert "up on here" not in output


def test_ended_run_shows_why_and_when(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, output, _ = show(capsys, make_run(tmp_path, "goal_reached", [LINE]))

    assert f"goal_reached since {time.strftime('%Y-%m-%d')}" in output
    assert "last sign" not in output
    assert "25 k of 50 k env steps" in output
    assert " left" not in output


def test_run_without_metrics_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = show(capsys, make_run(tmp_path, "max_seconds", []))

    assert (code, "It has written no metrics yet." in output) == (0, True)


def test_json_is_one_line_with_the_status_and_the_last_line_of_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path, "saving", [LINE | {"env_steps": 1}, LINE])

    _, output, _ = show(capsys, folder, "--json")

    (line,) = output.splitlines()
    written = json.loads((folder / "status.json").read_text())
    assert json.loads(line) == written | {"state": "killed", "metrics": LINE}


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_folder_without_a_run_is_refused_in_one_line(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "status.json").write_text(content)

    code, _, errors = show(capsys, tmp_path)

    assert code == 2
    (line,) = errors.splitlines()
    assert line.startswith(f"distdqn: error: `run`: {tmp_path} holds no run")


def test_damaged_files_of_a_run_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path, "running", [{"env_steps": 3}])

    code, _, errors = show(capsys, folder)

    assert (code, len(errors.splitlines())) == (4, 1)
    assert "is damaged, or another release wrote it" in errors


def test_status_needs_neither_tensorflow_nor_ray_nor_gymnasium(running: Path) -> None:
    program = (
        f"import sys; from distdqn import status; status.main([{str(running)!r}]);"
        "assert not {'tensorflow', 'ray', 'gymnasium', 'keras'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
