"""One run on hosts that `ray up` starts: a host dies, another joins, the job is stopped and submitted again.

One fixture collects all facts in the order in which they happen; the tests assert them.
"""

import json
import os
import shutil
import stat
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from cluster.hosts import why_not
from cluster.launched import HEAD, launchable_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_LATE = 4  # the host that is off when the cluster is launched
_OPTIONS = ("--actors", 4, "--max-env-steps", 10**8, "--checkpoint-seconds", 5)
_OPTIONS += ("--start-timeout-seconds", 300)  # its roles wait until a host is set up


def hosts_of(status):
    """How many roles there are on each host."""
    return Counter(entry["host"] for entry in status["roles"] if entry["host"])


def is_complete(status):
    """Whether every role has started, and none waits for resources."""
    return bool(status["roles"]) and all(entry["host"] for entry in status["roles"])


def steps(status):
    return status["counters"]["learner_steps"]


@pytest.fixture(scope="module")
def cluster():
    """Five hosts; short paths, for the sockets below them."""
    if reason := why_not():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="dq-", dir=os.environ.get("CI_FOLDER", "/tmp")))
    try:
        with launchable_cluster(folder, hosts=5) as found:
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def seen(cluster):
    """What happened."""
    facts = {}
    begin = time.monotonic()

    def note(what):
        print(f"{time.monotonic() - begin:6.1f} s  {what}", flush=True)

    def wait_until(condition):
        return cluster.wait_until("run", "first", condition)

    # Seven CPUs for seven roles: each host gets some, and what a dead host had waits for another.
    cluster.up(on=(2, 3), head_cpus=3, worker_cpus=2)
    note("three hosts joined")
    facts["listening"] = cluster.hosts[HEAD].run("ss -ltnH")
    cluster.submit("first", "run", *_OPTIONS, "--target-return", "none")
    learning = wait_until(lambda status: steps(status) > 0 and is_complete(status))
    facts["learning"] = learning
    note(f"learning on {dict(hosts_of(learning))}")

    victim = min((2, 3), key=lambda number: is_needed(learning, f"h{number}"))
    cluster.hosts[victim].kill()
    cluster.hosts[_LATE].start()
    facts["victim"] = f"h{victim}"
    note(f"{facts['victim']} killed, another host switched on")
    facts["recovered"] = wait_until(
        lambda status: is_complete(status) and facts["victim"] not in hosts_of(status)
    )
    note(f"roles moved: {dict(hosts_of(facts['recovered']))}")
    facts["resumed"] = wait_until(lambda status: steps(status) > steps(facts["recovered"]) + 500)
    note("learning resumed")

    cluster.user("ray job stop first")
    note(f"job stopped: {cluster.status('run')['state']}")
    facts["output"] = cluster.submit("second", "run", *_OPTIONS, wait=True)
    facts["summary"] = json.loads((cluster.run_dir("run") / "summary.json").read_text())
    resumed = next((line for line in facts["output"].splitlines() if "Resumes from" in line), "")
    note(f"{resumed} {facts['summary']['reason']}: {facts['summary']['eval_return_mean']}")
    cluster.down()
    facts["left on the head"] = cluster.hosts[HEAD].programs()
    note("ray down")
    return facts


def is_needed(status, host):
    """Whether the host has the learner or replay, for which the run would have to wait."""
    return any(entry["host"] == host and not entry["role"].startswith("actor") for entry in status["roles"])


def test_run_has_a_role_on_every_host_of_the_launched_cluster(seen):
    assert set(hosts_of(seen["learning"])) == {"h1", "h2", "h3"}


@pytest.mark.usefixtures("seen")
def test_token_is_its_owners_alone_on_every_host(cluster):
    for host in cluster.hosts:
        token = host.home / ".ray" / "auth_token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700


def test_dashboard_of_the_launched_cluster_listens_on_loopback_only(seen):
    listening = [line.split()[3] for line in seen["listening"].splitlines()]

    assert [address for address in listening if address.endswith(":8265")] == ["127.0.0.1:8265"]


def test_roles_of_a_killed_host_move_to_a_host_that_is_switched_on(seen):
    hosts = hosts_of(seen["recovered"])

    moved = [entry for entry in seen["recovered"]["roles"] if entry["host"] == f"h{_LATE}"]

    assert set(hosts) == {"h1", "h2", "h3", f"h{_LATE}"} - {seen["victim"]}
    assert is_complete(seen["recovered"])
    assert all(entry["restarts"] > 0 for entry in moved)


def test_run_continues_to_learn_when_a_host_is_killed(seen):
    assert seen["resumed"]["state"] == "running"
    assert steps(seen["resumed"]) > steps(seen["recovered"])


def test_job_that_is_stopped_and_resubmitted_resumes_and_ends_solved(seen):
    assert "Resumes from checkpoint" in seen["output"]
    assert (seen["summary"]["solved"], seen["summary"]["reason"]) == (True, "goal_reached")
    assert seen["summary"]["eval_return_mean"] >= 475.0
    assert seen["summary"]["learner_steps"] > steps(seen["learning"])


def test_ray_down_leaves_nothing_of_ray_on_the_head(seen):
    assert seen["left on the head"] <= {"sshd", "bash", "sleep"}  # the dashboard's tunnel ends a little later
