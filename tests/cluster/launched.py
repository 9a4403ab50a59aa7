"""A cluster as `cluster.yaml` makes it, launched over SSH on hosts made of namespaces."""

import contextlib
import json
import sys
import time
from pathlib import Path

import ray
import yaml
from cluster.cluster_file import ROOT, load_cluster_file, on_premises, with_versions
from cluster.hosts import HOME, address, running_hosts
from cluster.wheelhouse import write_wheelhouse

USER, HEAD = 0, 1  # the host on which the user types commands, and the head
_FILE = f"{HOME}/onprem.yaml"
_DASHBOARD = "http://127.0.0.1:8265"
_RUNS = f"{HOME}/runs"
_PORT_ANSWERS = "for _ in $(seq 200); do (exec 3<>/dev/tcp/127.0.0.1/8265) && exit; sleep 0.1; done; exit 1"

# Asks until so many nodes are alive. `ray status` would be half a minute late.
_COUNT_NODES = """
import sys, time
from ray._raylet import GcsClient

client, deadline = GcsClient(address=sys.argv[1]), time.monotonic() + 90
while (found := sum(node.state == 0 for node in client.get_all_node_info().values())) < int(sys.argv[2]):
    if time.monotonic() > deadline:
        sys.exit(f"{found} nodes")
    time.sleep(0.2)
"""


class LaunchedCluster:
    """Hosts, and what a user does with them from host 0.

    Attributes:
        hosts: all of them; those after the head are workers.
    """

    def __init__(self, hosts, wheels):
        self.hosts = hosts
        self._tunnel = None
        base = Path(sys.base_prefix) / "bin"
        for host in hosts:
            (host.home / ".bashrc").write_text(f"export PATH={base}:$PATH PYTHONDONTWRITEBYTECODE=1\n")
            (host.home / ".config" / "pip").mkdir(parents=True)
            pip = f"[global]\nno-index = true\nfind-links = {wheels}\ndisable-pip-version-check = true\n"
            (host.home / ".config" / "pip" / "pip.conf").write_text(pip)
        settings = f"PATH={Path(sys.prefix) / 'bin'}:$PATH RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0"
        (hosts[USER].home / ".bashrc").write_text(f"export {settings} RAY_ADDRESS={_DASHBOARD}\n")

    def up(self, on, head_cpus, worker_cpus):
        """`ray up`, while the hosts `on` are switched on; waits until all of those have joined."""
        for number in (USER, HEAD, *on):
            self.hosts[number].start()
        workers = [address(host.number) for host in self.hosts[HEAD + 1 :]]
        auth = {"ssh_user": "root", "ssh_private_key": "~/.ssh/cluster_key"}
        config = on_premises(load_cluster_file(), address(HEAD), workers, auth, head_cpus, worker_cpus)
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        file = self.hosts[USER].home / "onprem.yaml"
        file.write_text(yaml.safe_dump(with_versions(config, python, ray.__version__)))
        self.user("umask 077; ray get-auth-token --generate >/dev/null")
        self.user(f"cd {ROOT} && ray up -y {_FILE}", 240)
        self._tunnel = self.hosts[USER].popen(f"exec ray dashboard {_FILE} >dashboard.log 2>&1")
        (self.hosts[HEAD].home / "count.py").write_text(_COUNT_NODES)
        self.hosts[HEAD].run(f"python count.py {address(HEAD)}:6379 {1 + len(on)}", 120)
        self.user(_PORT_ANSWERS, 30)

    def user(self, command, timeout_seconds=120.0):
        """What a user's command prints."""
        return self.hosts[USER].run(command, timeout_seconds)

    def submit(self, job, run, *options, wait=False):
        """`ray job submit` of a run with these options; what it prints, to its end if waited for."""
        words = ["ray", "job", "submit", "--submission-id", job, *([] if wait else ["--no-wait"]), "--"]
        words += ["python", "-m", "distdqn.run", "--run-dir", f"{_RUNS}/{run}", "--resume", "auto"]
        return self.user(" ".join(map(str, [*words, *options])), 240)

    def run_dir(self, run):
        """A run's folder, as this process sees it."""
        return self.hosts[HEAD].home / "runs" / run

    def status(self, run):
        """`status.json` of a run, or None while there is none."""
        path = self.run_dir(run) / "status.json"
        return json.loads(path.read_text()) if path.exists() else None

    def wait_until(self, run, job, condition, timeout_seconds=240.0):
        """Waits until `condition` holds for the status of a run, which is this job; returns the status."""
        deadline = time.monotonic() + timeout_seconds
        while not ((status := self.status(run)) and condition(status)):
            assert time.monotonic() < deadline, f"Too late:\n{status}\n{self.user(f'ray job logs {job}')}"
            time.sleep(0.2)
        return status

    def down(self):
        """`ray down`."""
        self._tunnel.kill()
        self._tunnel.wait()
        return self.user(f"ray down -y {_FILE}")


@contextlib.contextmanager
def launchable_cluster(folder, hosts):
    """Hosts that are off, with everything that `cluster.yaml` takes from outside."""
    (wheels := folder / "wheels").mkdir()
    write_wheelhouse(wheels)
    with running_hosts(folder, hosts, [Path(sys.prefix), Path(sys.base_prefix), ROOT, wheels]) as running:
        yield LaunchedCluster(running, wheels)
