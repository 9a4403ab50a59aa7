"""Which Ray a run joins and why, and its messages when it can join none."""

import importlib.metadata
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time

import pytest
from ray_cluster.clusters import HeldCluster

from distdqn.cluster import connection
from distdqn.cluster.connection import choose_target
from distdqn.cluster.private_ray import NodeEnded
from distdqn.cluster.reaper import private_addresses
from distdqn.errors import ClusterError, ConfigError

SECONDS = 3 * 30.0  # in which a run must give up


@pytest.fixture
def listener():
    """Something that accepts connections and is no Ray; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without a cluster and without settings; returns the file that names a cluster."""
    import ray  # noqa: F401
    from ray._private import services

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    # There may be other people's on the machine of the tests.
    monkeypatch.setattr(services, "find_gcs_addresses", frozenset)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


# Row 32.


def test_fault_32_private_ray_is_the_default_and_the_line_says_why(machine):  # noqa: ARG001
    target = choose_target(None)
    assert (target.address, target.why) == (None, "a private one on this machine, as no cluster is named")


def test_fault_32_stray_cluster_is_named_and_left_alone(machine, listener):
    machine.write_text(listener)
    target = choose_target(None)
    assert target.address is None
    assert f"the cluster at {listener}, which `ray start` left on this machine, is not used" in target.why
    assert "`--address auto` joins it" in target.why


def test_fault_32_stray_cluster_that_has_ended_is_not_mentioned(machine):
    machine.write_text("127.0.0.1:9")
    assert choose_target(None).why == "a private one on this machine, as no cluster is named"


@pytest.mark.parametrize(
    ("address", "variable", "joined", "why"),
    [
        ("10.0.0.1:6379", None, "10.0.0.1:6379", "the cluster at 10.0.0.1:6379, as `--address` says"),
        ("10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.1:6379", "as `--address` says"),
        (None, "10.0.0.2:6379", "10.0.0.2:6379", "the cluster at 10.0.0.2:6379, as RAY_ADDRESS says"),
        ("auto", "10.0.0.2:6379", "10.0.0.2:6379", "as RAY_ADDRESS says"),
        (
            "local",
            "10.0.0.2:6379",
            None,
            "a private one on this machine, as `--local` says, not the cluster at 1",
        ),
        ("local", None, None, "a private one on this machine, as `--local` says"),
        (None, "local", None, "a private one on this machine, as RAY_ADDRESS says"),
    ],
)
def test_fault_32_named_cluster_is_joined_and_the_line_says_who_named_it(
    machine,  # noqa: ARG001
    monkeypatch,
    address,
    variable,
    joined,
    why,
):
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    target = choose_target(address)
    assert target.address == joined
    assert why in target.why


def test_cluster_of_a_submitted_job_is_told_apart(machine, monkeypatch):  # noqa: ARG001
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert choose_target(None).why.endswith("as RAY_ADDRESS says, set by `ray job submit`")


_AUTO = [("auto", None), ("auto", "auto"), (None, "auto")]  # `--address` and RAY_ADDRESS


@pytest.mark.parametrize(("address", "variable"), _AUTO)
def test_fault_32_auto_joins_the_cluster_of_this_machine(machine, listener, monkeypatch, address, variable):
    machine.write_text(listener)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    target = choose_target(address)
    assert (target.address, target.is_found) == (listener, True)
    assert f"the cluster at {listener}, which runs on this machine" in target.why


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("address", "variable"), _AUTO)
def test_fault_43_auto_guesses_among_no_clusters_and_finds_no_private_one(monkeypatch, address, variable):
    from ray._private import services

    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: {"10.0.0.1:1", "10.0.0.2:2", "127.0.0.1:3"})
    monkeypatch.setattr(connection, "private_addresses", lambda: {"127.0.0.1:3"})
    with pytest.raises(ClusterError, match=r"several Ray clusters .* `--address`: 10.0.0.1:1, 10.0.0.2:2"):
        choose_target(address)
    monkeypatch.setattr(connection, "private_addresses", lambda: {"127.0.0.1:3", "10.0.0.1:1"})
    assert choose_target(address).address == "10.0.0.2:2"


def test_fault_43_private_ray_is_recognized_by_its_environment():
    command = [sys.executable, "-c", "input()", "--gcs-address=127.0.0.1:77"]
    run = subprocess.Popen(command, stdin=subprocess.PIPE, env={"DISTDQN_PRIVATE_RAY": "mark"})
    try:
        assert "127.0.0.1:77" in private_addresses()
    finally:
        run.communicate(b"\n")
    assert "127.0.0.1:77" not in private_addresses()


def test_fault_31_auto_without_a_cluster_says_how_to_get_one(machine):  # noqa: ARG001
    with pytest.raises(
        ClusterError, match=r"no Ray cluster runs on this machine \(start one with `ray start"
    ):
        choose_target("auto")


@pytest.mark.parametrize("variable", ["ray://10.0.0.1:10001", "http://10.0.0.1:8265"])
def test_ray_client_in_ray_address_is_refused_with_advice(machine, monkeypatch, variable):  # noqa: ARG001
    monkeypatch.setenv("RAY_ADDRESS", variable)
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS must not be .* `ray job submit"):
        choose_target(None)


# Row 31, the whole command.


@pytest.mark.parametrize("source", ["--address", "RAY_ADDRESS"])
def test_fault_31_closed_port_ends_in_one_line_and_exit_code_3(start_run, monkeypatch, source):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"  # closed from here on
    if source == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", address)
    name = "`--address`" if source == "--address" else source
    begin = time.monotonic()
    run = start_run(*(("--address", address) if source == "--address" else ()))
    assert run.wait(SECONDS) == 3, run.output()
    assert time.monotonic() - begin < SECONDS
    first, head, error = run.output().splitlines()
    assert first == f"Ray: the cluster at {address}, as {name} says"
    assert head.startswith("distdqn  CartPole-v1")
    assert error.startswith(f"distdqn: error: No Ray cluster answers at {address} (")
    assert source in error
    assert "connection refused" in error
    assert "no token is present here" in error
    assert run.left() == []


def test_ray_client_as_address_ends_with_exit_code_2_before_ray_is_loaded(start_run):
    run = start_run("--address", "ray://127.0.0.1:10001")
    assert run.wait(SECONDS) == 2
    (line,) = run.output().splitlines()
    assert "`address` must not be `ray://127.0.0.1:10001`" in line
    assert "`ray job submit" in line


# Row 31, with a real head: slow.


@pytest.fixture(scope="module")
def cluster():
    held = HeldCluster({"num_cpus": 2})
    yield held
    held.close()


@pytest.mark.slow
@pytest.mark.parametrize(("address", "variable"), [("auto", ""), (None, "the address")])
def test_fault_32_real_cluster_is_joined_and_said_so(cluster, address, variable):
    told = cluster.join(address, RAY_ADDRESS=cluster.address if variable else "")
    source = "as RAY_ADDRESS says" if variable else "which runs on this machine (`--address auto`)"
    assert told["why"] == f"the cluster at {cluster.address}, {source}"


@pytest.mark.slow
def test_fault_32_local_forces_a_private_ray_beside_a_real_cluster(cluster):
    source = "told['here'] = cluster.is_private, cluster.address"
    told = cluster.join("local", source=source, RAY_ADDRESS=cluster.address)
    assert told["here"][0] is True
    assert told["here"][1] != cluster.address
    assert told["why"].endswith(
        f"as `--local` says, not the cluster at {cluster.address} that RAY_ADDRESS names"
    )


# Changes what the head tells of itself to new processes; `answer` is what it told before.
_TELL = """
from ray.experimental import internal_kv
if not ray.is_initialized():
    ray.init(address=cluster.address, log_to_driver=False)
answer = internal_kv._internal_kv_get("CLUSTER_METADATA", namespace="cluster").decode()
internal_kv._internal_kv_put("CLUSTER_METADATA", {!r}, namespace="cluster")
"""


@pytest.mark.slow
def test_fault_31_other_versions_are_refused_with_both_named(cluster):
    about = {"ray_version": "2.99.1", "python_version": "3.13.9", "ray_init_cluster": False}
    before = cluster.ask(_TELL.format(json.dumps(about)))
    try:
        told = cluster.join(cluster.address)
    finally:
        cluster.ask(_TELL.format(before))

    assert (told["code"], told["errors"]) == (3, "")
    (line,) = told["lines"]
    assert f"The cluster at {cluster.address} runs Ray 2.99.1 and Python 3.13.9" in line
    ours = f"Ray {importlib.metadata.version('ray')} and Python {platform.python_version()}"
    assert f"this process {ours}" in line
    assert told["seconds"] < SECONDS


@pytest.mark.slow
def test_fault_31_port_of_something_else_is_refused_in_time(cluster, listener):
    told = cluster.join(listener, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")  # else Ray tries another address
    assert (told["code"], told["errors"]) == (3, "")
    assert f"The server at {listener} does not answer like the head of a Ray cluster" in told["lines"][0]
    assert told["seconds"] < SECONDS


@pytest.mark.slow
def test_fault_31_machine_that_is_no_node_is_told_how_to_become_one(cluster):
    """The last test with this cluster, whose only raylet is killed in it."""
    cluster.ask("nodes[0].kill_raylet()")
    told = cluster.join(cluster.address)
    assert (told["code"], told["errors"]) == (3, "")
    assert f"No node of the cluster at {cluster.address} runs on this machine" in told["lines"][0]
    assert "`ray start --address=" in told["lines"][0]
    assert "`ray job submit" in told["lines"][0]
    assert told["seconds"] < SECONDS


# A private Ray: slow.


@pytest.mark.slow
def test_fault_10_ctrl_c_while_ray_is_starting_says_so_and_ends_it(start_run):
    run = start_run()
    run.wait_until(lambda: any("raylet" in command for command in run.seen.values()))
    assert not run.is_learning()
    run.process.send_signal(signal.SIGINT)
    assert run.wait(30.0) == 130, run.output()
    first, head, *waiting, last = run.output().splitlines()
    assert first == "Ray: a private one on this machine, as no cluster is named"
    assert head.startswith("distdqn  CartPole-v1")
    assert waiting in ([], ["Learning has not started: Ray is starting."])  # the latter on a slow machine
    assert last == "Interrupted before training started: there is nothing to save."
    assert run.read("status.json")["state"] == "interrupted"
    run.wait_until(lambda: not run.left(), 15.0)


def test_fault_42_private_ray_that_does_not_start_is_one_line_and_leaves_no_reaper(monkeypatch):
    import ray

    def fail(**_options):
        raise Exception("The current node timed out during startup.\nMore.")  # noqa: TRY002 - as Ray does

    monkeypatch.setattr(ray, "init", fail)
    reapers = []
    monkeypatch.setattr(connection.Reaper, "release", lambda self: reapers.append(self))
    with pytest.raises(ClusterError, match=r"does not start: The current node timed out during startup \("):
        connection._start_private(1, hide_gpus=True)
    (reaper,) = reapers
    reaper.finish()


def test_fault_42_node_of_a_private_ray_may_report_late(monkeypatch):
    from ray._private import services

    from distdqn.cluster import private_ray

    answers = iter([RuntimeError("no such node"), RuntimeError("no such node"), {"id": "n"}])

    def get_node(_address, _node):
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(private_ray.time, "sleep", lambda _seconds: None)
    with private_ray.adapted_start():
        assert services.get_node("here", "n") == {"id": "n"}
    assert services.get_node is get_node


def test_fault_42_private_ray_whose_node_ends_on_a_busy_machine_is_started_again(monkeypatch):
    import ray

    starts = []

    def start(**_options):
        starts.append(os.environ["DISTDQN_PRIVATE_RAY"])
        if len(starts) < 3:
            raise NodeEnded("its node has ended")

    monkeypatch.setattr(ray, "init", start)
    connection._start_private(1, hide_gpus=True).finish()
    assert len(set(starts)) == 3  # each with a reaper of its own

    starts[:] = []
    monkeypatch.setattr(connection, "_STARTS", 2)
    with pytest.raises(ClusterError, match="does not start: its node has ended"):
        connection._start_private(1, hide_gpus=True)
