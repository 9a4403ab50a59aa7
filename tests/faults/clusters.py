"""Clusters of several nodes on this machine, whose nodes can be killed."""

import contextlib

_STORE_BYTES = 80 * 2**20
# A node that is silent for three seconds is dead; by default, it takes about a quarter of a minute.
_QUICK_DEATHS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


class Nodes:
    """A head, with `cpus` of its own, and the nodes that are added to it.

    Attributes:
        address: of the head.
    """

    def __init__(self, cpus=0, **settings):
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": cpus,
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
                "_system_config": {**_QUICK_DEATHS, **settings},
            },
        )
        self.address = self._cluster.address

    def add(self, cpus, kind):
        """Starts a node that has a resource called `kind`, and waits until the head knows it."""
        return self._cluster.add_node(num_cpus=cpus, resources={kind: cpus}, object_store_memory=_STORE_BYTES)

    def kill(self, node):
        """Kills everything of a node."""
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_head(self):
        """Kills everything of the head."""
        self._cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)

    def close(self):
        with contextlib.suppress(Exception):  # of what is dead already
            self._cluster.shutdown()


def raylet_of(node):
    """Process id of a node's raylet, the parent of all roles on it."""
    return node.all_processes["raylet"][0].process.pid
