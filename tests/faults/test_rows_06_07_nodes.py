"""A run on a cluster whose nodes die and come, and then its head; with real nodes, one after another."""

import re
import time

import psutil
import pytest
from faults.clusters import Nodes, raylet_of

from distdqn.checkpoints.store import Store

pytestmark = pytest.mark.slow

_OPTIONS = ("--actors", 2, "--target-return", "none", "--checkpoint-seconds", 1, "--max-failures", 2)
_LIGHT = {"LIGHT_CPUS": "1", "LIGHT_WEIGHTS_BYTES": "400000"}  # too large to travel in a message


def _status(run):
    return run.read("status.json") or {"counters": {"learner_steps": 0}, "roles": []}


def _pids(run):
    """Of the roles; the process that takes commands needs no CPU and may be anywhere."""
    return {entry["role"]: entry["pid"] for entry in _status(run)["roles"] if entry["role"] != "control"}


def _down(run):
    return {role for role, pid in _pids(run).items() if pid is None}


def _roles_on(run, node):
    parent = raylet_of(node)
    return {role for role, pid in _pids(run).items() if pid and psutil.Process(pid).ppid() == parent}


def _numbers(run):
    return Store(str(run.run_dir / "checkpoints")).numbers()


def _learns_on(run, updates=300):
    """Waits until some hundred updates more are made, and another checkpoint."""
    steps, numbers = _status(run)["counters"]["learner_steps"], _numbers(run)
    run.wait_until(lambda: _status(run)["counters"]["learner_steps"] > steps + updates, 60)
    run.wait_until(lambda: set(_numbers(run)) - set(numbers), 60)


def _is_complete(run):
    return len(_pids(run)) == 5 and all(_pids(run).values())


@pytest.fixture(scope="module")
def seen(start_light_run):
    """What happened, in the order in which it did."""
    facts = {}
    nodes = Nodes()
    try:
        _kill_nodes(nodes, start_light_run, facts)
    finally:
        nodes.close()
    nodes = Nodes(cpus=5)
    try:
        options = (*_OPTIONS, "--max-env-steps", facts["at the end"]["counters"]["env_steps"] + 2000)
        after = start_light_run(
            *options, "--address", nodes.address, "--resume", "auto", run_dir=facts["run_dir"], **_LIGHT
        )
        facts["code after"] = after.wait(60)
        facts["output after"], facts["summary after"] = after.output(), after.read("summary.json")
    finally:
        nodes.close()
    return facts


def _kill_nodes(nodes, start_light_run, facts):
    first = nodes.add(2, "core")  # learner and replay
    nodes.add(2, "edge")  # evaluator and actor-0
    places = ("--learner-resources", "core=1", "--actor-resources", "edge=1")
    options = (*_OPTIONS, *places, "--max-env-steps", 10**9, "--address", nodes.address)
    run = start_light_run(*options, **_LIGHT)
    run.wait_until(run.is_learning, 60)
    second = nodes.add(1, "edge")  # actor-1
    run.wait_until(lambda: _is_complete(run), 30)
    _learns_on(run)
    facts["roles"] = [_roles_on(run, first), _roles_on(run, second)]

    nodes.kill(second)
    run.wait_until(lambda: _down(run) == {"actor-1"}, 45)
    _learns_on(run)
    facts["second is dead"] = _status(run)
    third = nodes.add(1, "edge")
    run.wait_until(lambda: _is_complete(run), 30)
    facts["third has come"] = _status(run)
    facts["roles on the third"] = _roles_on(run, third)

    _learns_on(run)
    facts["before"] = _status(run)
    nodes.kill(first)
    run.wait_until(lambda: "learner" in _down(run), 45)  # the others are missed once they are asked
    nodes.add(2, "core")
    run.wait_until(lambda: _is_complete(run), 45)
    _learns_on(run)
    facts["fourth has come"] = _status(run)
    facts["output"] = run.output()

    facts["at the end"] = _status(run)
    begin = time.monotonic()
    nodes.kill_head()
    run.wait_until(lambda: run.process.poll() is not None, 120)
    facts["seconds until the driver ended"] = time.monotonic() - begin
    facts["code"], facts["last words"] = run.process.returncode, run.output()[len(facts["output"]) :]
    ref, facts["passed over"] = Store(str(run.run_dir / "checkpoints")).newest_whole()
    facts["newest"] = ref.number
    facts["run_dir"] = run.run_dir


def test_fault_6_actors_of_a_dead_node_are_lost_and_the_rest_go_on(seen, record_property):
    record_property("injected", 2)  # with the node of learner and replay
    for name in ("lost_rollouts", "lost_transitions", "lost_learner_steps"):
        record_property(name, seen["fourth has come"]["counters"][name])
    first, second = seen["roles"]
    assert (first, second) == ({"learner", "replay-0"}, {"actor-1"})
    assert seen["second is dead"]["counters"]["learner_restarts"] == 0
    roles = {entry["role"]: entry for entry in seen["second is dead"]["roles"]}
    assert roles["actor-1"]["pid"] is None
    assert roles["actor-1"]["restarts"] >= 1


def test_actors_of_a_dead_node_come_back_on_one_that_joins_later(seen):
    assert seen["roles on the third"] == {"actor-1"}
    assert seen["third has come"]["counters"]["actor_restarts"] >= 1


def test_learner_and_replay_of_a_dead_node_are_put_back_elsewhere(seen):
    before, after = seen["before"]["counters"], seen["fourth has come"]["counters"]
    # Once more for each process that was given a place there before Ray knew that the node is dead.
    assert after["learner_restarts"] >= 1
    assert after["replay_restarts"] >= 1
    assert 0 <= after["lost_learner_steps"] < before["learner_steps"]
    assert 0 <= after["lost_transitions"] < before["env_steps"]
    assert seen["fourth has come"]["weights_version"][0] == after["learner_restarts"]
    assert "was lost with its node" in seen["output"]


def test_fault_7_run_whose_head_dies_goes_on_with_a_new_cluster(seen, record_property):
    steps = seen["at the end"]["counters"]["learner_steps"]
    record_property("lost_learner_steps", max(0, steps - seen["newest"]))
    assert seen["passed over"] == []
    assert f"Resumes from checkpoint {seen['newest']}" in seen["output after"]
    assert seen["code after"] == 0, seen["output after"]
    assert seen["summary after"]["learner_steps"] > seen["newest"]


def test_driver_ends_without_a_traceback_when_the_head_of_its_cluster_dies(seen):
    assert seen["seconds until the driver ended"] < 90.0
    assert "Traceback" not in seen["last words"]
    last = (seen["last words"].strip().splitlines() or [""])[-1]
    says_so = bool(re.match(r"distdqn: error: The Ray at .* is gone: .*`--resume auto` resumes", last))
    assert (seen["code"], says_so) in [(3, True), (1, False)], last  # or Ray has ended it
