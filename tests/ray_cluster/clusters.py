"""A real Ray cluster of several nodes, in a process of its own that does what it is asked."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_HOLDER = """
import json, sys

answers, sys.stdout = sys.stdout, sys.stderr  # Ray prints what its processes log, at any moment
import ray
from ray.cluster_utils import Cluster
from ray._private.utils import write_ray_address

few = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
head, *others = json.loads(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={**few, **head})
nodes = [cluster.head_node, *(cluster.add_node(**few, **each) for each in others)]
write_ray_address(cluster.address)  # as `ray start` does
answer = cluster.address
while True:
    print(json.dumps(answer), file=answers, flush=True)
    if not (line := sys.stdin.readline()):
        break
    exec(json.loads(line))
ray.shutdown()
cluster.shutdown()
"""

# Runs a piece of Python and says how joining the cluster went.
_CLIENT = """
import json, sys, time
from distdqn.cluster.connection import connected
from distdqn.errors import DistdqnError

begin, told = time.monotonic(), {}
try:
    tell = lambda why: told.update(why=why)
    with connected(json.loads(sys.argv[1]), roles=json.loads(sys.argv[2]), tell=tell) as cluster:
        exec(sys.argv[3])
except DistdqnError as error:
    told |= {"code": error.exit_code, "lines": error.mistakes}
told["seconds"] = time.monotonic() - begin
print(json.dumps(told))
"""


class HeldCluster:
    """Nodes of a Ray cluster on this machine, each with the resources given."""

    def __init__(self, *nodes, **settings):
        self.folder = Path(tempfile.mkdtemp(prefix="dq-", dir=os.environ.get("CI_FOLDER", "/tmp")))
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        # Nodes may be given GPUs that are not there, unless this hides those, too.
        inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        self.environment = {**inherited, "RAY_TMPDIR": str(self.folder), "PYTHONPATH": path, **settings}
        self.errors = self.folder / "errors"
        with self.errors.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _HOLDER, json.dumps(nodes)],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,
            )
        try:
            self.address = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, source):
        """Runs a piece of Python beside the cluster; returns what it leaves in `answer`."""
        self.process.stdin.write(json.dumps(source) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def join(self, address, roles=1, source="", **settings):
        """Joins from a process of its own and runs a piece of Python there; returns what it told."""
        client = subprocess.run(
            [sys.executable, "-c", _CLIENT, json.dumps(address), json.dumps(roles), source],
            env=self.environment | settings,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert client.returncode == 0, client.stderr
        return json.loads(client.stdout.splitlines()[-1]) | {"errors": client.stderr}

    def _answer(self):
        line = self.process.stdout.readline()
        assert line, f"It ended:\n{self.errors.read_text()}"
        return json.loads(line)

    def close(self):
        """Ends all nodes."""
        self.process.stdin.close()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.stdout.close()
            shutil.rmtree(self.folder, ignore_errors=True)
