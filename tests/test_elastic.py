"""Real runs whose number of actors changes: by command, and with the cluster they are on."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from growing_cluster import GrowingCluster

import distdqn
from distdqn.checkpoints.store import Store

pytestmark = pytest.mark.slow

_PATHS = [str(Path(distdqn.__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
_SLOW = ("--env", "toy_slow:SlowCartPole", "--envs-per-actor", 1, "--rollout-length", 5)
_ENDLESS = ("--target-return", "none", "--max-env-steps", 10**9, "--max-seconds", 200)
# Learning takes little of a machine that eight actors share.
_EASY = ("--min-replay-size", 100, "--samples-per-insert", 1, "--updates-per-call", 1, "--batch-size", 32)
_MEASURED_SECONDS = 4.0


@pytest.fixture(scope="module", autouse=True)
def paths():
    """Where processes find this package and the environments of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(_PATHS))
        yield


def scale(run, actors):
    """Gives the command; returns exit code, output and seconds."""
    begin = time.monotonic()
    command = subprocess.run(
        [sys.executable, "-m", "distdqn.scale", str(run.run_dir), "--actors", str(actors)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return command.returncode, command.stdout + command.stderr, time.monotonic() - begin


def status_of(run):
    return run.read("status.json")


def actors_of(run):
    """Process of each actor that is up."""
    roles = status_of(run)["roles"]
    return {each["role"]: each["pid"] for each in roles if each["role"].startswith("actor") and each["pid"]}


def rate_of(run):
    """Env steps a second, over some seconds."""
    begin = status_of(run)
    run.wait_until(lambda: status_of(run)["seconds"] - begin["seconds"] >= _MEASURED_SECONDS)
    end = status_of(run)
    steps = end["counters"]["env_steps"] - begin["counters"]["env_steps"]
    return steps / (end["seconds"] - begin["seconds"])


@pytest.fixture(scope="module")
def scaled(start_run):
    """A run that went from one actor to eight and then to two; what was seen on the way."""
    options = ("--actors", 1, "--n-step", 1, "--epsilon-ladder", "--checkpoint-seconds", 1000)
    run = start_run(*_SLOW, *_ENDLESS, *_EASY, *options)
    run.wait_until(lambda: status_of(run) and (status_of(run)["ray"] or {}).get("control"), 120.0)
    run.wait_until(run.is_learning, 120.0)
    seen = {"rates": {1: rate_of(run)}, "commands": {}, "actors": {}}
    for actors in (8, 2):
        seen["commands"][actors] = scale(run, actors)
        run.wait_until(lambda actors=actors: len(actors_of(run)) == actors)
        seen["actors"][actors] = actors_of(run)
        seen["rates"][actors] = rate_of(run)
    run.process.send_signal(2)
    seen["exit code"] = run.wait()
    seen["too late"] = scale(run, 3)
    return run, seen


def test_command_changes_a_running_run_and_waits_until_it_has(scaled):
    _, seen = scaled
    for actors, (code, output, _) in seen["commands"].items():
        assert code == 0, output
        assert output.splitlines()[-1] == f"The run has {actors} actors."
        assert f"of {actors} actors running" in output


def test_no_accepted_transition_is_lost_when_actors_come_and_leave(scaled):
    run, seen = scaled
    assert seen["exit code"] == 130, run.output()
    counters = status_of(run)["counters"]
    # With one-step returns every env step is one transition: what the accepted rollouts brought is
    # what replay said that it held when it took in the last of them.
    assert counters["env_steps"] == counters["inserted"] > 1000
    assert counters["lost_rollouts"] == counters["lost_transitions"] == counters["actor_restarts"] == 0
    ref, _ = Store(str(run.run_dir / "checkpoints")).newest_whole()
    # It may have taken in what was under way at the end: two rollouts of five steps of two actors.
    held = sum(shard["index"]["inserted"] for shard in ref.document["replay"])
    assert 0 <= held - counters["inserted"] <= 2 * 2 * 5


def test_fault_33_actors_that_leave_are_gone_with_their_processes_within_ten_seconds(scaled):
    _, seen = scaled
    gone = seen["actors"][8].keys() - seen["actors"][2].keys()
    assert len(gone) == 6
    assert not any(psutil.pid_exists(seen["actors"][8][name]) for name in gone)
    assert seen["commands"][2][2] <= 3 * 10.0


def test_rates_follow_the_number_of_actors(scaled):
    _, seen = scaled
    rates = seen["rates"]
    assert rates[8] / rates[1] >= 4.0, rates
    assert 1.4 <= rates[2] / rates[1] <= 3.0, rates


def test_run_that_was_scaled_leaves_no_process_behind(scaled):
    run, _ = scaled
    run.wait_until(lambda: run.left() == [], 90.0)


def test_fault_33_command_for_a_run_that_is_over_ends_with_exit_3(scaled):
    code, output, seconds = scaled[1]["too late"]
    assert (code, "is over" in output) == (3, True)
    assert seconds < 10.0


# A cluster that grows and shrinks.


@pytest.fixture(scope="module")
def cluster():
    """A head with room for one actor beside the other roles, and up to three nodes for one each."""
    with contextlib.closing(GrowingCluster(head_cpus=4, most_nodes=3)) as growing:
        yield growing


def wait_for_nodes(cluster, count, seconds):
    """Waits until the cluster has so many nodes; how many it has in the end."""
    deadline = time.monotonic() + seconds
    while (nodes := cluster.nodes()) != count and time.monotonic() < deadline:
        time.sleep(1.0)
    return nodes


def run_on(cluster, folder, *options):
    """A run on the cluster as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "distdqn.run", "--address", cluster.address, "--run-dir", str(folder)]
        + [str(text) for text in (*_SLOW, *_ENDLESS, *_EASY, *options)],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def followed(cluster, tmp_path_factory):
    """The folder of a run of `auto` that had the cluster grow and was interrupted; what was seen."""
    folder = tmp_path_factory.mktemp("auto") / "run"
    seen = {"nodes before": cluster.nodes()}
    run = run_on(cluster, folder, "--actors", "auto", "--max-actors", 4)
    try:
        seen["nodes"] = wait_for_nodes(cluster, 4, 60.0)
        deadline = time.monotonic() + 60.0
        seen["acting"] = learner_steps = 0
        while (seen["acting"] != 4 or not learner_steps) and time.monotonic() < deadline:
            time.sleep(0.5)
            with contextlib.suppress(OSError, ValueError, TypeError):
                status = json.loads((folder / "status.json").read_text())
                seen["acting"] = status["actors"]["acting"]
                learner_steps = status["counters"]["learner_steps"]
        run.send_signal(2)
        seen["output"], _ = run.communicate(timeout=60)
    finally:
        run.kill()
    seen["exit code"] = run.returncode
    seen["nodes after"] = wait_for_nodes(cluster, 1, 90.0)
    return folder, seen


@pytest.mark.long
def test_cluster_grows_when_auto_asks_and_shrinks_when_the_run_ends(followed):
    _, seen = followed
    assert (seen["acting"], seen["exit code"]) == (4, 130), seen["output"]
    assert [seen[when] for when in ("nodes before", "nodes", "nodes after")] == [1, 4, 1]


@pytest.mark.long
def test_run_of_auto_goes_on_with_the_room_that_there_is_then(cluster, followed):
    folder, _ = followed
    options = ("--actors", "auto", "--max-actors", 1, "--eval-episodes", 1, "--max-env-steps", 101)
    run = run_on(cluster, folder, *options, "--resume", "auto")
    output, _ = run.communicate(timeout=120)
    assert (run.returncode, "Resumes from checkpoint" in output) == (0, True), output
    # An episode was open in the one environment of each of four actors.
    assert json.loads((folder / "summary.json").read_text())["episodes_lost"] == 4


@pytest.mark.long
def test_fault_30_run_that_has_no_room_on_a_real_cluster_ends_with_exit_3(cluster, tmp_path):
    run = run_on(cluster, tmp_path / "run", "--actors", 30, "--start-timeout-seconds", 8)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 3, output
    assert "33 are needed" in output.splitlines()[-1]


@pytest.mark.long
def test_fault_30_run_waits_for_nodes_of_a_real_cluster_that_are_on_their_way_and_says_so(cluster, tmp_path):
    assert wait_for_nodes(cluster, 1, 90.0) == 1
    options = ("--actors", 4, "--start-timeout-seconds", 6, "--max-env-steps", 2_000, "--eval-episodes", 1)
    run = run_on(cluster, tmp_path / "run", *options)
    output, _ = run.communicate(timeout=150)
    assert run.returncode == 0, output
    (line,) = [line for line in output.splitlines() if "have found resources" in line]
    assert "4 of 7 processes have found resources on the cluster, which has 4 CPUs" in line
    assert line.endswith("7 are needed; new nodes are starting.")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["env_steps"], summary["actor_restarts"]) == (2_000, 0)
