"""Runs beside others: several at once on one machine, and one on a cluster that another program fills."""

import os
import signal
import subprocess
import sys
import tempfile

import psutil
import pytest
from faults.clusters import Nodes

pytestmark = pytest.mark.slow

_RUNS = 4

# Another program on a cluster: an actor with three CPUs.
_HOLDER = """
import ray, sys
ray.init(address=sys.argv[1], namespace="theirs", log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=3)
class Simulator:
    def ready(self):
        return True

simulator = Simulator.remote()
print(ray.get(simulator.ready.remote()), flush=True)
sys.stdin.readline()
"""


def test_fault_42_four_runs_started_at_once_never_meet_and_end_with_four_results(start_run):
    options = ("--actors", 1, "--max-env-steps", 10**9, "--target-return", "none")
    with tempfile.TemporaryDirectory(prefix="dq-", dir=os.environ.get("CI_FOLDER", "/tmp")) as folder:
        runs = [start_run(*options, RAY_TMPDIR=folder) for _ in range(_RUNS)]
        for run in runs:
            run.wait_until(run.is_learning, 240)
        statuses = [run.read("status.json") for run in runs]
        assert len({status["ray"]["address"] for status in statuses}) == _RUNS
        for status in statuses:
            pids = {role["role"]: role["pid"] for role in status["roles"]}
            niceness = {role: psutil.Process(pid).nice() - os.nice(0) for role, pid in pids.items() if pid}
            assert (niceness["learner"], niceness["replay-0"], niceness["actor-0"]) == (0, 0, 5)
        for run in runs:
            run.process.send_signal(signal.SIGINT)
        assert [run.wait(60) for run in runs] == [130] * _RUNS, "\n".join(run.output() for run in runs)
    for summary in [run.read("summary.json") for run in runs]:
        assert summary["reason"] == "interrupted"
        assert summary["learner_steps"] > 0
        assert not any(summary[f"{role}_restarts"] for role in ("actor", "learner", "replay"))
    assert [run.left() for run in runs] == [[]] * _RUNS


def test_fault_43_run_that_waits_for_cpus_says_after_ten_seconds_which_command_has_them(start_light_run):
    nodes = Nodes(cpus=4)
    command = [sys.executable, "-c", _HOLDER, nodes.address]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    try:
        with subprocess.Popen(command, **pipes) as other:
            assert other.stdout.readline() == "True\n"
            options = ("--address", nodes.address, "--actors", 1, "--max-env-steps", 3_000)
            run = start_light_run(*options, "--target-return", "none", LIGHT_CPUS="1")
            run.wait_until(lambda: "Learning has not started, 1" in run.output(), 60)
            (line, *_) = [each for each in run.output().splitlines() if "has not started, 1" in each]
            assert "waits for resources, it needs 1 CPU" in line
            assert "of 1 nodes, none has more than 0 CPU free" in line
            assert f"(process {other.pid} on " in line
            assert "namespace theirs) has 3 CPU" in line
            other.stdin.close()
        assert run.wait(120) == 0, run.output()  # it goes on with what the other has left
    finally:
        nodes.close()
