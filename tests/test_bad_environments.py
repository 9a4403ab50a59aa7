"""Environments that cannot be learned from, in whole runs of one process: exit codes and words."""

import json

import pytest
from light_run import light_parts

from distdqn.run import main

_OPTIONS = "--mode serial --actors 1 --envs-per-actor 2 --min-replay-size 64"
_OPTIONS += " --target-return none --max-env-steps 2000"


@pytest.fixture
def ends_with(tmp_path, capsys, monkeypatch):
    """Runs the program, with a learner that only counts; checks its exit code and its last line on stderr."""
    monkeypatch.setattr("distdqn.runner.role_parts", light_parts)

    def run(name, exit_code, words):
        run_dir = tmp_path / "run"
        options = [*_OPTIONS.split(), "--env", f"toy_faults:{name}", "--run-dir", str(run_dir)]
        assert main(options) == exit_code
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("distdqn: error: ")
        assert words in line
        assert json.loads((run_dir / "status.json").read_text())["state"] == "failed"

    return run


def test_fault_21_serial_run_ends_when_nothing_but_nan_comes(ends_with):
    ends_with("make_nan_later", 6, "first a reward of nan")


@pytest.mark.parametrize(("name", "error"), [("make_raising", "Arithmetic"), ("make_unlevelled", "Value")])
def test_fault_22_serial_run_ends_when_the_environment_always_raises(ends_with, name, error):
    ends_with(name, 5, f"raised 5 consecutive errors, the last one {error}Error")


def test_fault_24_serial_run_ends_when_observations_are_not_of_their_space(ends_with):
    ends_with(
        "make_wrong_dtype", 5, "expected an array of float32 with shape (3,) and got an array of float64"
    )
