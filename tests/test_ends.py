"""Every way out of a run saves what was learned, and nothing that only shows or logs ends one."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from light_run import CountingLearner, light_parts
from run_contents import FILES, OPTIONAL

from distdqn.acting.evaluator import Evaluator
from distdqn.checkpoints.store import Store
from distdqn.errors import EnvironmentFault, RoleFailure
from distdqn.networks.numpy_policy import load_policy
from distdqn.run import main

_SERIAL = ["--mode", "serial", "--target-return", "none"]

# The command in a process of its own, with a learner that only counts.
_LIGHT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import distdqn.runner, distdqn.run, light_run
distdqn.runner.role_parts = light_run.light_parts
sys.exit(distdqn.run.main())
"""


@pytest.fixture
def light_run(tmp_path, monkeypatch):
    """Runs the command here, serially, with a learner that only counts; returns exit code and folder."""
    monkeypatch.setattr("distdqn.runner.role_parts", light_parts)

    def run(*options):
        return main([*_SERIAL, "--run-dir", str(tmp_path), *options]), tmp_path

    return run


def read(folder, name):
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize("fault", ["error", "stop"])
def test_fault_37_last_evaluation_that_fails_or_is_stopped_loses_nothing(
    light_run, monkeypatch, capsys, fault
):
    def evaluate(_evaluator, weights, *_):
        assert weights.learner_steps  # it is that of the last weights
        if fault == "error":
            raise EnvironmentFault("It fails.")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30.0)

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    code, folder = light_run("--max-env-steps", "2000", "--eval-period", "1000000")
    reason = "max_env_steps" if fault == "error" else "interrupted"
    assert code == (0 if fault == "error" else 130)
    assert (read(folder, "summary.json")["reason"], read(folder, "status.json")["state"]) == (reason, reason)
    assert {path.name for path in folder.iterdir()} - OPTIONAL == FILES
    assert Store(str(folder / "checkpoints")).newest_whole()[0].number > 0
    said = "The last weights could not be evaluated: It fails." in capsys.readouterr().out
    assert said == (fault == "error")


def test_fault_35_interrupted_serial_run_resumes_from_where_it_was(light_run, monkeypatch):
    evaluate = Evaluator.evaluate

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", interrupted)
        code, folder = light_run("--max-env-steps", "9000", "--eval-period", "500")
    steps = read(folder, "summary.json")["learner_steps"]
    assert (code, read(folder, "status.json")["state"]) == (143, "terminated")
    assert Store(str(folder / "checkpoints")).newest_whole()[0].number == steps >= 500

    code, _ = light_run("--max-env-steps", "9000", "--resume", "auto")
    assert (code, read(folder, "summary.json")["env_steps"]) == (0, 9000)
    assert read(folder, "summary.json")["learner_steps"] > steps


def test_fault_36_budget_of_seconds_bounds_the_command_with_its_last_evaluation(light_run, monkeypatch):
    evaluate = Evaluator.evaluate

    def slow(evaluator, weights, episodes, number, seconds=None):
        time.sleep(1.0 if seconds is None else min(1.0, seconds))
        return evaluate(evaluator, weights, episodes, number, seconds)

    monkeypatch.setattr(Evaluator, "evaluate", slow)
    begin = time.monotonic()
    age = time.time() - psutil.Process().create_time()  # the budget counts from the start of the process
    options = ("--max-env-steps", "10000000", "--max-seconds", str(age + 8.0), "--eval-period", "1000")
    code, folder = light_run(*options)
    assert (code, read(folder, "summary.json")["reason"]) == (0, "max_seconds")
    assert time.monotonic() - begin < 8.0 + 2.0
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval_learner_steps"] == read(folder, "summary.json")["learner_steps"]


def test_best_policy_is_there_while_the_run_trains(light_run, monkeypatch, tmp_path):
    evaluate, seen = Evaluator.evaluate, []

    def looking(evaluator, weights, *arguments):
        policy = tmp_path / "policy.npz"
        seen.append(load_policy(policy).weights_version if policy.exists() else None)
        return evaluate(evaluator, weights, *arguments)

    monkeypatch.setattr(Evaluator, "evaluate", looking)
    light_run("--max-env-steps", "4000", "--eval-period", "500")
    assert seen[0] is None
    assert seen[1:]
    assert None not in seen[1:]


@pytest.mark.parametrize("stream", [1, 2])
def test_fault_38_run_whose_output_nobody_reads_ends_as_any_other(tmp_path, stream):
    command = [sys.executable, "-c", _LIGHT, *_SERIAL, "--run-dir", "run", "--max-env-steps", "3000"]
    shell = f"exec {shlex.join(command)} {stream}>&-"
    ended = subprocess.run(["/bin/sh", "-c", shell], cwd=tmp_path, capture_output=True, timeout=120)
    assert ended.returncode == 0, ended
    assert read(tmp_path / "run", "status.json")["state"] == "max_env_steps"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line) for line in lines)


@pytest.mark.slow
def test_fault_38_run_whose_reader_goes_away_trains_on(tmp_path):
    command = [sys.executable, "-c", _LIGHT, *_SERIAL, "--run-dir", "run", "--max-env-steps", "20000"]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    run.stdout.readline()
    run.stdout.close()
    assert run.wait(120) == 0
    assert read(tmp_path / "run", "summary.json")["env_steps"] == 20_000


@pytest.mark.parametrize("error", [ValueError("A bug."), RoleFailure("A role failed.")])
def test_fault_of_this_program_is_shown_although_the_run_was_being_ended(
    light_run, monkeypatch, tmp_path, error
):
    learn = CountingLearner.learn

    def failing(learner, *arguments):
        if learner._steps < 500:
            return learn(learner, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)
        raise error

    monkeypatch.setattr(CountingLearner, "learn", failing)
    if isinstance(error, ValueError):
        with pytest.raises(ValueError, match="A bug"):
            light_run()
    else:
        assert light_run()[0] == 143
    assert load_policy(tmp_path / "final.npz").learner_steps >= 500
    state = "failed" if isinstance(error, ValueError) else "terminated"
    assert read(tmp_path, "status.json")["state"] == state
