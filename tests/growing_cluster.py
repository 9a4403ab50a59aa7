"""A Ray cluster on this machine that gets nodes when they are asked for, and lets idle ones go.

Ray brings a provider of nodes that are processes of this machine. It is named as an external
one, as the short way to it needs a file that Ray's package lacks. Nothing of another Ray on
the machine is touched.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

_PROVIDER = "growing_cluster.LateNodes"
_LATE_SECONDS = 12.0  # until a node that is asked for begins to start
_HEAD = "ray.head.default"  # the provider knows no other name
_LISTS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")


class LateNodes(FakeMultiNodeProvider):
    """Ray's provider of nodes that are processes; they take a while, as those of a cloud do."""

    def create_node_with_resources_and_labels(self, *arguments):
        time.sleep(_LATE_SECONDS)
        super().create_node_with_resources_and_labels(*arguments)


class GrowingCluster:
    """A head with `head_cpus`, and up to `most_nodes` nodes of one CPU each.

    Attributes:
        address: of the head.
        environment: for processes that are to join.
    """

    def __init__(self, head_cpus, most_nodes):
        # Short, as the paths of unix sockets are limited.
        self._folder = Path(tempfile.mkdtemp(prefix="dq-", dir=os.environ.get("CI_FOLDER", "/tmp")))
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        from ray._private.services import get_node_ip_address

        self.address = f"{get_node_ip_address()}:{port}"
        self.environment = {**os.environ, "RAY_TMPDIR": str(self._folder)}
        config = self._folder / "cluster.json"
        config.write_text(json.dumps(self._config(head_cpus, most_nodes)))
        self._output = (self._folder / "output").open("w")
        self._process = subprocess.Popen(
            [
                *(Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={port}"),
                *(f"--num-cpus={head_cpus}", f"--autoscaling-config={config}", "--include-dashboard=false"),
                *("--object-store-memory=80000000", "--dashboard-agent-listen-port=0"),
                *("--min-worker-port=0", "--max-worker-port=0", f"--ray-client-server-port={port + 1}"),
            ],
            env={
                **self.environment,
                "RAY_FAKE_CLUSTER": "1",
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "RAY_enable_autoscaler_v2": "1",
                "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
                "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # nodes end soon after their head
            },
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._await_head()

    def nodes(self):
        """How many nodes are alive."""
        source = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
        source += "; print(sum(node['Alive'] for node in ray.nodes()))"
        command = [sys.executable, "-c", source, self.address]
        told = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return int(told.stdout.splitlines()[-1])

    def close(self):
        """Ends the head and every node."""
        children = []
        if self._process.poll() is None:
            children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for child in children:
            if child.is_running():
                child.kill()
        psutil.wait_procs(children, 5)
        self._output.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _config(self, head_cpus, most_nodes):
        node = {"resources": {"CPU": 1, "object_store_memory": 80 << 20}, "node_config": {}}
        return {
            "cluster_name": "growing",
            "max_workers": most_nodes,
            "head_node_type": _HEAD,
            "provider": {
                "type": "external",
                "module": _PROVIDER,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                "gcs_address": self.address,
                "launch_multiple": True,
                "head_node_id": FAKE_HEAD_NODE_ID,
            },
            "available_node_types": {
                _HEAD: {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0},
                "actor": {**node, "min_workers": 0, "max_workers": most_nodes},
            },
            "upscaling_speed": 10.0,
            "idle_timeout_minutes": 0.1,
            "file_mounts_sync_continuously": False,
            **{name: {} for name in ("auth", "docker", "file_mounts")},
            **{f"{name}_commands": [] for name in _LISTS},
            **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        }

    def _await_head(self):
        deadline = time.monotonic() + 60.0
        host, _, port = self.address.rpartition(":")
        with socket.socket() as probe:
            while probe.connect_ex((host, int(port))):
                output = (self._folder / "output").read_text()
                assert self._process.poll() is None, output
                assert time.monotonic() < deadline, output
                time.sleep(0.2)
