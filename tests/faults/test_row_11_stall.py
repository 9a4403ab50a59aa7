"""Runs on a real Ray in which nothing goes on."""

import re

import pytest
from faults.clusters import Nodes

from distdqn.checkpoints.store import Store

pytestmark = pytest.mark.slow


def test_fault_11_run_whose_actors_find_no_place_says_so_saves_and_gives_up(start_light_run, ray_session):
    # Of the 2 CPUs, learner and replay take 0.9 each.
    address = ray_session.get_runtime_context().gcs_address
    options = ("--address", address, "--actors", 2, "--stall-timeout-seconds", 5)

    run = start_light_run(*options, LIGHT_CPUS="0.9")

    assert run.wait(60) == 3, run.output()
    error = run.output().strip().splitlines()[-1]
    assert error.startswith("distdqn: error: No progress for 5 s: ")
    assert "actor-0 waits for resources" in error
    assert "it needs 0.9 CPU on one node; of 1 nodes, none has more than 0.2 CPU free" in error
    assert "the learner waits for 1,000 transitions in replay, 0 are stored" in error
    assert list((run.run_dir / "checkpoints").glob("checkpoint-*.json"))


@pytest.fixture
def nodes():
    nodes = Nodes()
    yield nodes
    nodes.close()


@pytest.mark.long
def test_fault_11_run_whose_learner_has_lost_its_node_tells_what_it_waits_for_each_30_seconds(
    start_light_run, nodes
):
    first = nodes.add(2, "core")  # learner and replay
    nodes.add(2, "edge")  # evaluator and actor
    options = ("--actors", 1, "--target-return", "none", "--max-env-steps", 10**9, "--checkpoint-seconds", 1)
    places = ("--learner-resources", "core=1", "--actor-resources", "edge=1")
    run = start_light_run(
        "--address", nodes.address, *options, *places, "--stall-timeout-seconds", 32, LIGHT_CPUS="1"
    )
    run.wait_until(run.is_learning, 60)
    run.wait_until(lambda: list((run.run_dir / "checkpoints").glob("checkpoint-*.json")), 30)

    nodes.kill(first)
    code = run.wait(150)

    lacking = r"learner waits for resources, it needs 1 CPU, 1 core on one node; of \d nodes, none has"
    assert code == 3, run.output()
    (line,) = [line for line in run.output().splitlines() if "No progress for" in line]
    error = run.output().strip().splitlines()[-1]
    assert line.lstrip().startswith("No progress for 30 s: ")
    assert error.startswith("distdqn: error: No progress for 32 s: ")
    # Nobody has asked the others for anything since.
    assert re.search(lacking, line)
    assert re.search(lacking, error)
    assert Store(str(run.run_dir / "checkpoints")).newest_whole()[1] == []
