"""Hosts made of namespaces: what the tests of a launched cluster stand on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from cluster.hosts import address, running_hosts, why_not

pytestmark = pytest.mark.slow

_LOGIN = (
    "ssh -q -i ~/.ssh/cluster_key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
    f"-o ConnectTimeout=5 {address(1)}"
)

_OWNER = """
import sys, time
from pathlib import Path
from cluster.hosts import running_hosts

with running_hosts(Path(sys.argv[1]), 2, []) as hosts:
    for host in hosts:
        host.start()
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _possible():
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture
def hosts(tmp_path):
    with running_hosts(tmp_path, 2, []) as found:
        for host in found:
            (host.home / ".bashrc").touch()
            host.start()
        yield found


def test_host_is_logged_in_to_from_another_one_and_keeps_its_own_files(hosts):
    (hosts[1].home / "note").write_text("mine\n")
    hosts[1].run("touch /tmp/its-own /dev/shm/its-own")

    assert hosts[0].run(f"{_LOGIN} 'hostname; cat note; ls /tmp'").split() == [
        "h1",
        "mine",
        "home",
        "its-own",
    ]
    assert "its-own" not in hosts[0].run("ls /tmp /dev/shm")


def test_host_that_is_killed_is_unreachable_and_starts_again_with_its_home(hosts):
    hosts[1].run("touch kept /tmp/lost")
    hosts[1].kill()

    assert not hosts[1].is_on()
    with pytest.raises(AssertionError, match="exit 255"):
        hosts[0].run(_LOGIN)

    hosts[1].start()
    assert hosts[0].run(f"{_LOGIN} 'ls; ls /tmp'").split() == ["kept", "home"]


def test_hosts_end_with_the_process_that_made_them_however_it_ends(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout.readline() == "up\n"
        started = psutil.Process(owner.pid).children(recursive=True)
        owner.send_signal(signal.SIGKILL)
        owner.wait()

    _, left = psutil.wait_procs(started, timeout=10)
    assert len(started) >= 2 * 2 + 1  # a host and its sshd, twice, and the switch
    assert left == []
