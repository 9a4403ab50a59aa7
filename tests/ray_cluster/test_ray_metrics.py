"""What can be seen of a run from outside: its logs, its numbers, its names."""

import json
import time
import urllib.request

import pytest
from ray_cluster.clusters import HeldCluster

from distdqn.cluster.ray_backend import RoleLogs

_ABOUT = {"ip": "10.0.0.1", "pid": 7, "host": "one"}


def _batch(*lines, ip="10.0.0.1", pid="7"):
    return {"ip": ip, "pid": pid, "lines": list(lines)}


def test_lines_of_a_role_go_to_its_file_also_those_printed_before_it_was_known(tmp_path):
    logs = RoleLogs(tmp_path / "logs")
    logs.write(_batch("first"))
    logs.register("actor-3", _ABOUT)
    logs.write(_batch("second", "third"))
    assert (tmp_path / "logs" / "actor-3.log").read_text() == "first\nsecond\nthird\n"


def test_processes_with_the_same_number_on_two_nodes_are_told_apart(tmp_path):
    logs = RoleLogs(tmp_path)
    logs.register("actor-0", _ABOUT)
    logs.register("actor-1", {**_ABOUT, "ip": "10.0.0.2"})
    logs.write(_batch("here"))
    logs.write(_batch("there", ip="10.0.0.2"))
    assert [(tmp_path / f"actor-{i}.log").read_text() for i in (0, 1)] == ["here\n", "there\n"]


def test_lines_that_no_role_claims_go_to_the_file_of_ray(tmp_path):
    logs = RoleLogs(tmp_path)
    logs.write(_batch("died young"))
    logs.write(_batch("out of memory", pid="raylet"))
    logs.close()
    assert (tmp_path / "ray.log").read_text() == "out of memory\n(process 7 on 10.0.0.1) died young\n"


def test_log_of_a_role_that_never_stops_printing_stays_bounded(tmp_path):
    logs = RoleLogs(tmp_path)
    logs.register("actor-0", _ABOUT)
    for i in range(300):
        logs.write(_batch(*[f"{i:05} {'x' * 94}" for _ in range(100)]))  # 30 batches, of 10,000 bytes: 3 MB
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["actor-0.log", "actor-0.log.1"]
    assert all(0 < file.stat().st_size <= 1_000_000 for file in files)
    assert files[0].read_text().splitlines()[-1].startswith("00299 ")


def test_failure_is_written_to_the_role_whose_process_it_names(tmp_path):
    logs = RoleLogs(tmp_path)
    logs.register("replay-0", _ABOUT)
    why = "ray::Replay.sample() (pid=7, ip=10.0.0.1, actor_id=1)\nValueError: odd\n"
    logs.write_failure(None, why)
    logs.write_failure(None, "nobody's")
    assert (tmp_path / "replay-0.log").read_text() == why
    assert len(list(tmp_path.iterdir())) == 1


def test_logs_that_cannot_be_written_stop_nothing(tmp_path):
    (tmp_path / "logs").write_text("a file in the way")
    logs = RoleLogs(tmp_path / "logs")
    logs.register("actor-0", _ABOUT)
    logs.write(_batch("unheard"))
    logs.close()


# A real run on a cluster of two nodes: slow.


@pytest.fixture(scope="module")
def watched(start_run):
    """A run on two nodes, with the metrics and names that Ray lists of it."""
    cluster = HeldCluster({"num_cpus": 3}, {"num_cpus": 3}, RAY_metrics_report_interval_ms="1000")
    patch = pytest.MonkeyPatch()
    for name in ("PYTHONPATH", "RAY_metrics_report_interval_ms"):
        patch.setenv(name, cluster.environment[name])
    try:
        run = start_run(
            *("--address", cluster.address, "--env", "toy_talk:Talker", "--actors", 2),
            *("--max-env-steps", 10**9, "--max-seconds", 60),
        )
        run.wait_until(lambda: run.is_learning() and run.read("status.json")["counters"]["evaluations"])
        cluster.ask("ray.init(address=cluster.address, log_to_driver=False); answer = None")
        ports = [node["MetricsExportPort"] for node in cluster.ask("answer = ray.nodes()")]
        run.names = cluster.ask("answer = ray.util.list_named_actors(True)")
        run.wait_until(
            lambda: all("ray_distdqn_" + name in _read_all(ports) for name in ("loss", "env_steps"))
        )
        run.metrics = _read_all(ports)
        time.sleep(2.0)  # for the last lines to come
        run.process.terminate()
        assert run.wait() == 143, run.output()
        yield run
    finally:
        patch.undo()
        cluster.close()


def _read_all(ports):
    """What the metrics ports of all nodes tell."""
    texts = []
    for port in ports:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            texts.append(page.read().decode())
    return "".join(texts)


@pytest.mark.slow
def test_numbers_of_a_run_stand_on_the_metrics_port_of_its_node(watched):
    found = {}
    for line in watched.metrics.splitlines():
        if line.startswith("ray_distdqn_") and 'run="run"' in line:
            name, _, value = line.rpartition(" ")
            found[name.partition("{")[0].removeprefix("ray_distdqn_")] = float(value)
    wanted = {"env_steps", "learner_steps", "env_steps_per_second", "learner_steps_per_second", "replay_size"}
    wanted |= {"train_return_mean", "actor_restarts", "actors_wait_fraction", "learner_wait_fraction", "loss"}
    assert set(found) >= wanted
    lines = [json.loads(line) for line in (watched.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert found["env_steps"] in {line["env_steps"] for line in lines}
    assert found["learner_steps"] > 0


@pytest.mark.slow
def test_roles_of_a_run_carry_its_name_where_ray_lists_them(watched):
    names = {each["name"] for each in watched.names if each["namespace"].startswith("run-")}
    assert names >= {"run/learner", "run/replay-0", "run/evaluator", "run/actor-0", "run/actor-1"}


@pytest.mark.slow
def test_logs_of_roles_on_every_node_come_into_the_folder_of_the_run(watched):
    nodes = {role["role"]: role for role in watched.read("status.json")["roles"]}
    assert {"actor-0", "actor-1"} <= set(nodes)
    for name in ("actor-0", "actor-1", "evaluator"):
        text = (watched.run_dir / "logs" / f"{name}.log").read_text()
        assert "built and ready" in text
        assert "reset and complaining" in text
    assert watched.output().count("reset and complaining") == 1  # where the run looks at it first
