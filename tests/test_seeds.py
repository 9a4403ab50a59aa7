"""`distdqn run --seeds`: a process and a folder for each seed, and a plot of all."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distdqn.config.command_line import parse_run
from distdqn.run import main


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were started; those of seeds leave a summary, and that of seed 2 misses its goal."""
    commands: list[list[str]] = []

    def call(command: list[str]) -> int:
        commands.append(command[2:])
        if "--seed" in command:
            run_dir = Path(command[command.index("--run-dir") + 1])
            run_dir.mkdir()
            (run_dir / "summary.json").touch()
            return 8 if command[command.index("--seed") + 1] == "2" else 0
        return 0

    monkeypatch.setattr(subprocess, "call", call)
    return commands


def test_each_seed_runs_with_the_same_options_and_then_all_are_drawn(
    started: list[list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "all"

    assert main(["--seeds", "1-2", "--run-dir", str(folder), "--lr", "0.005", "--json"]) == 8

    config = str(folder / "config.yaml")
    own = [["--seed", seed, "--run-dir", f"{folder}/seed-{seed}", "--json"] for seed in ("1", "2")]
    assert started[:-1] == [["distdqn.run", "--config", config, *each] for each in own]
    assert started[-1] == ["distdqn.plot", str(folder), "--output", str(folder / "plot.png")]
    assert parse_run(["--config", config])[0].learning_rate == 0.005


def test_seeds_that_are_done_are_not_run_again(started: list[list[str]], tmp_path: Path) -> None:
    arguments = ["--run-dir", str(tmp_path)]
    main(["--seeds", "0-1", *arguments])
    started.clear()

    main(["--seeds", "0-3", *arguments])

    assert [command[4] for command in started[:-1]] == ["2", "3"]


def test_folder_with_seeds_of_other_options_is_refused(
    started: list[list[str]], tmp_path: Path, capsys: Any
) -> None:
    arguments = ["--seeds", "0-0", "--run-dir", str(tmp_path)]
    main(arguments)
    started.clear()

    assert main([*arguments, "--lr", "0.1"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "holds seeds of other options" in line
    assert started == []


@pytest.mark.usefixtures("started")
def test_seeds_that_failed_at_their_start_may_run_with_other_options(tmp_path: Path) -> None:
    arguments = ["--seeds", "0-0", "--run-dir", str(tmp_path)]
    main(arguments)
    (tmp_path / "seed-0" / "summary.json").unlink()
    (tmp_path / "seed-0").rmdir()

    assert main([*arguments, "--lr", "0.1"]) == 0
    assert "learning_rate: 0.1" in (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize("seeds", ["3", "5-1", "a-b", "-1-2"])
def test_seeds_that_are_no_range_are_refused_in_one_line(seeds: str, capsys: Any) -> None:
    assert main([f"--seeds={seeds}"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert f"`seeds` must be like `0-9`, not `{seeds}`" in line


def test_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").touch()

    assert main(["--seeds", "0-1", "--run-dir", str(tmp_path / "file" / "runs")]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot write to" in line


@pytest.mark.slow
def test_real_seeds_leave_runs_and_a_plot(tmp_path: Path) -> None:
    options = "--seeds 0-1 --run-dir all --mode serial --max-env-steps 300 --min-replay-size 100"
    command = [sys.executable, "-m", "distdqn.run", *options.split(), "--target-return", "none"]

    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)

    assert ended.returncode == 0, ended.stderr
    names = {path.name for path in (tmp_path / "all").iterdir()}
    assert names == {"config.yaml", "plot.png", "seed-0", "seed-1"}
