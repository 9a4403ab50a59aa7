"""The README's main command, for real: a process with a Ray of its own."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from light_run import light_parts
from run_contents import FILES, METRICS, OPTIONAL

from distdqn.checkpoints.store import Store
from distdqn.config.command_line import parse_run
from distdqn.networks.numpy_policy import NumpyPolicy, load_policy
from distdqn.run import main

_SUMMARY = {
    "solved",
    "reason",
    "eval_return_mean",
    "eval_return_min",
    "eval_episodes",
    "env_steps",
    "learner_steps",
    "train_seconds",
    "total_seconds",
    "timeline",
    "seed",
    "actors",
}

# Nothing but Keras and Gymnasium: what a user without distdqn would write.
_PLAIN_EVALUATOR = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "distdqn":
            raise ImportError("distdqn is not installed here")

sys.meta_path.insert(0, Refuse())

import json
import gymnasium
import keras
import numpy as np

policy = keras.saving.load_model(sys.argv[1])
final = keras.saving.load_model(sys.argv[2])
environments = gymnasium.make_vec("CartPole-v1", num_envs=100)
observation, _ = environments.reset(seed=987654)
probe = observation[:8]
returns = np.zeros(100)
playing = np.ones(100, bool)
while playing.any():
    action = np.asarray(policy(observation)).argmax(axis=-1)
    observation, reward, terminated, truncated, _ = environments.step(action)
    returns += reward * playing
    playing &= ~(terminated | truncated)
print(json.dumps({
    "returns": returns.tolist(),
    "probe": probe.tolist(),
    "policy": np.asarray(policy(probe)).tolist(),
    "final": np.asarray(final(probe)).tolist(),
    "layers": sorted({type(layer).__module__.split(".")[0] for layer in policy.layers}),
    "distdqn": "distdqn" in sys.modules,
}))
"""


@pytest.fixture(scope="module")
def solved(start_run):
    """The README's main command, run to its end."""
    run = start_run("--actors", 4)
    run.wait_until(run.is_learning)
    run.driver_maps = Path(f"/proc/{run.process.pid}/maps").read_text()
    run.wait()
    run.left_at_end = run.left()
    return run


@pytest.fixture(scope="module")
def played(solved):
    """What the plain evaluator says of the networks of the solved run."""
    networks = [str(solved.run_dir / name) for name in ("policy.keras", "final.keras")]
    result = subprocess.run(
        [sys.executable, "-I", "-c", _PLAIN_EVALUATOR, *networks],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=solved.run_dir,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_main_command_solves_cart_pole_and_exits_with_zero(solved):
    assert solved.process.returncode == 0, solved.output()
    summary = solved.read("summary.json")
    assert (summary["solved"], summary["reason"]) == (True, "goal_reached")
    assert summary["eval_return_mean"] >= 475.0
    assert summary["eval_episodes"] == 200


def test_main_command_prints_what_happened_and_no_traceback(solved):
    assert "Solved (goal_reached)" in solved.output()
    assert "Traceback" not in solved.output()


def test_summary_holds_every_key_with_a_value_that_makes_sense(solved):
    summary = solved.read("summary.json")
    assert set(summary) >= _SUMMARY
    assert (summary["seed"], summary["actors"]) == (0, 4)
    assert 0 < summary["train_seconds"] < summary["total_seconds"] < 150
    stages = [
        "options checked",
        "Ray started",
        "learner started",
        "update compiled",
        "training ended",
        "saved",
    ]
    assert [stage for stage in summary["timeline"] if stage in stages] == stages
    assert sorted(summary["timeline"].values()) == [*summary["timeline"].values()]
    assert 1_000 < summary["env_steps"] <= 200_000
    assert summary["learner_steps"] > 0
    assert summary["eval_return_min"] <= summary["eval_return_mean"] <= 500.0


def test_run_directory_holds_every_file_and_nothing_half_written(solved):
    names = {path.name for path in solved.run_dir.iterdir()}
    assert "learning_curve.png" in names
    assert names - OPTIONAL == FILES
    assert solved.read("config.json")["actors"] == 4
    assert solved.read("status.json")["state"] == "goal_reached"


def test_options_are_written_as_given_to_be_run_again_and_as_resolved(solved):
    config = parse_run(["--config", str(solved.run_dir / "config.json")])[0]
    assert (config.actors, config.batch_size, config.target_return, config.torso) == (4, None, "auto", "auto")
    record = solved.read("run.json")
    resolved = record["resolved_options"]
    assert (resolved["batch_size"], resolved["target_return"], resolved["torso"]) == (128, 475.0, "dense")
    assert record["command_line"][1:3] == ["-m", "distdqn.run"]
    assert "--actors" in record["command_line"]
    assert set(record) == {"resolved_options", "command_line", "git_revision", "git_diff", "host", "versions"}


def test_every_line_of_metrics_holds_every_key(solved):
    lines = [json.loads(line) for line in (solved.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) >= 3
    assert all(set(line) >= METRICS for line in lines)
    for key in ("wall_seconds", "env_steps", "learner_steps", "episodes"):
        values = [line[key] for line in lines]
        assert values == sorted(values)
    assert lines[-1]["env_steps"] <= solved.read("summary.json")["env_steps"]
    assert max(line["actors_alive"] for line in lines) == 4


@pytest.mark.slow
def test_policy_played_by_plain_keras_and_gymnasium_solves_cart_pole(played):
    assert not played["distdqn"]
    assert len(played["returns"]) == 100
    assert float(np.mean(played["returns"])) >= 475.0


def test_networks_are_made_of_keras_layers_alone(played):
    assert played["layers"] == ["keras"]
    assert np.shape(played["final"]) == np.shape(played["policy"]) == (8, 2)


def test_policy_without_tensorflow_agrees_with_the_keras_one(solved, played):
    policy = NumpyPolicy(load_policy(solved.run_dir / "policy.npz"))
    q_values = np.asarray(played["policy"])
    found = policy.q_values(np.asarray(played["probe"], np.float32))
    assert np.all(np.abs(found - q_values) <= 1e-5 * np.maximum(1.0, np.abs(q_values)))


def test_driver_process_never_loads_tensorflow(solved):
    assert "python" in solved.driver_maps
    assert "libtensorflow" not in solved.driver_maps


def test_no_process_of_the_run_is_left_after_its_end(solved):
    # 4 actors, replay, learner, evaluator and Ray's own: it did look.
    assert len(solved.seen) >= 4 + 3 + 2
    assert solved.left_at_end == []


_INTERRUPT = (signal.SIGINT, 130, "interrupted", 10.0)


@pytest.mark.parametrize(
    ("learner", "to", "number", "exit_code", "reason", "seconds"),
    [
        pytest.param("real", "driver", *_INTERRUPT, id="ctrl-c", marks=pytest.mark.slow),
        pytest.param("light", "group", *_INTERRUPT, id="ctrl-c-to-its-group"),
        pytest.param(
            "real",
            "every",
            signal.SIGTERM,
            143,
            "terminated",
            3.0,
            id="sigterm-to-every-process",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_fault_10_signal_ends_the_run_in_order_and_leaves_nothing_behind(
    start_run, start_light_run, learner, to, number, exit_code, reason, seconds
):
    start = start_run if learner == "real" else start_light_run
    run = start("--actors", 2, "--target-return", "none", "--max-env-steps", 10**12)
    run.wait_until(run.is_learning)
    begin = time.monotonic()
    if to == "group":  # as a terminal does
        os.killpg(run.process.pid, number)
    elif to == "every":  # as a batch system does
        driver = psutil.Process(run.process.pid)
        for process in (*driver.children(recursive=True), driver):
            process.send_signal(number)
    else:
        run.process.send_signal(number)
    assert run.wait(3 * 10.0) == exit_code, run.output()
    assert time.monotonic() - begin <= 3 * seconds
    assert run.left() == []
    summary = run.read("summary.json")
    assert (summary["reason"], summary["solved"]) == (reason, None)
    assert summary["learner_steps"] > 0
    assert {path.name for path in run.run_dir.iterdir()} - OPTIONAL == FILES
    for name in ("policy.keras", "final.keras"):
        if learner == "real":
            assert "model.weights.h5" in zipfile.ZipFile(run.run_dir / name).namelist()
    assert load_policy(run.run_dir / "policy.npz").arrays
    assert "Traceback" not in run.output()


@pytest.mark.slow
def test_fault_10_second_ctrl_c_ends_the_run_at_once_and_leaves_the_checkpoint_before(start_run):
    run = start_run(
        "--actors", 2, "--target-return", "none", "--max-env-steps", 10**12, "--checkpoint-seconds", 1
    )
    checkpoints = run.run_dir / "checkpoints"
    run.wait_until(lambda: checkpoints.exists() and any(Store(str(checkpoints)).numbers()), 120.0)
    (learner,) = (each["pid"] for each in run.read("status.json")["roles"] if each["role"] == "learner")
    os.kill(learner, signal.SIGSTOP)  # so that the end in order takes some seconds
    run.process.send_signal(signal.SIGINT)
    time.sleep(1.1)
    begin = time.monotonic()
    run.process.send_signal(signal.SIGINT)

    assert run.wait(30.0) == 130, run.output()
    assert time.monotonic() - begin <= 3 * 1.0
    assert run.left() == []
    ref, passed_over = Store(str(checkpoints)).newest_whole()
    assert (ref.number > 0, passed_over) == (True, [])
    assert "Traceback" not in run.output()


def test_goal_missed_within_the_budget_exits_with_eight(tmp_path, monkeypatch):
    monkeypatch.setattr("distdqn.runner.role_parts", light_parts)
    run_dir = tmp_path / "run"
    assert main(["--mode", "serial", "--max-env-steps", "2000", "--run-dir", str(run_dir)]) == 8
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["solved"], summary["reason"]) == (False, "max_env_steps")
    assert (summary["env_steps"], summary["train_seconds"]) == (2000, None)
    assert {path.name for path in run_dir.iterdir()} - OPTIONAL == FILES
