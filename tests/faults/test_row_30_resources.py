"""A run on a real cluster that has no room for all of it, until a node comes."""

import signal

import pytest
from faults.clusters import Nodes

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes():
    """Room for learner, replay, evaluator and one actor."""
    nodes = Nodes(cpus=4)
    yield nodes
    nodes.close()


@pytest.mark.long
def test_fault_30_run_with_room_for_one_actor_begins_and_adds_the_others_on_a_node_that_joins(
    start_light_run, nodes
):
    options = ("--actors", 3, "--min-actors", 1, "--start-timeout-seconds", 15, "--max-env-steps", 10**9)
    run = start_light_run("--address", nodes.address, *options, "--target-return", "none", LIGHT_CPUS="1")
    run.wait_until(lambda: "the rest is added when nodes join" in run.output(), 60)
    assert run.is_learning()
    assert run.read("status.json")["actors"] == {"wanted": 3, "acting": 1}
    (line,) = [line for line in run.output().splitlines() if "have found resources" in line]
    assert "4 of 6 processes have found resources on the cluster, which has 4 CPUs, 0 of them free" in line

    nodes.add(2, "any")
    run.wait_until(lambda: run.read("status.json")["actors"] == {"wanted": 3, "acting": 3}, 60)
    run.process.send_signal(signal.SIGINT)

    assert run.wait(30) == 130, run.output()
    summary = run.read("summary.json")
    assert [summary[f"{role}_restarts"] for role in ("actor", "learner", "replay")] == [0, 0, 0]
