"""Packages of environments that nobody here wrote, trained as they are: `pip install '.[environments]'`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def train(run_dir: Path, *options: str) -> dict[str, object]:
    """The summary of a run."""
    command = [sys.executable, "-m", "distdqn.run", "--mode", "serial", "--run-dir", str(run_dir), *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads((run_dir / "summary.json").read_text())


@pytest.mark.parametrize(
    ("env", "env_steps"), [("MiniGrid-Empty-5x5-v0", "100000"), ("MiniGrid-DoorKey-5x5-v0", "300000")]
)
def test_minigrid_is_solved_with_defaults(env: str, env_steps: str, tmp_path: Path) -> None:
    pytest.importorskip("minigrid")

    summary = train(
        tmp_path, "--env", f"minigrid:{env}", "--target-return", "0.9", "--max-env-steps", env_steps
    )

    assert summary["solved"]


@pytest.mark.parametrize(
    ("package", "env", "env_steps"),
    [
        ("flappy_bird_gymnasium", "FlappyBird-v0", 5000),
        ("highway_env", "highway-fast-v0", 1500),
    ],
)
def test_package_trains_as_it_is(package: str, env: str, env_steps: int, tmp_path: Path) -> None:
    pytest.importorskip(package)

    budget = ["--max-env-steps", str(env_steps), "--target-return", "none"]
    summary = train(tmp_path, "--env", f"{package}:{env}", "--actors", "2", *budget)

    assert summary["env_steps"] == env_steps
    assert summary["learner_steps"]
