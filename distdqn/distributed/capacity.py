"""What a Ray cluster has room for, and what it is asked to grow to."""

import json
from typing import Any

from ray import cluster_resources, get_runtime_context
from ray._private import ray_constants, state
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.exceptions import RayError
from ray.experimental import internal_kv

from distdqn.distributed.fleet import Room
from distdqn.errors import ClusterError

_ROUNDING = 1e-6  # Ray counts resources in units of 0.0001


def measure_room(per_actor: dict[str, float]) -> Room:
    """What the connected cluster has for actors that need `per_actor` each."""
    free = state.available_resources_per_node().values()
    fitting = [
        min(
            (int(node.get(name, 0.0) / amount + _ROUNDING) for name, amount in per_actor.items() if amount),
            default=0,
        )
        for node in free
    ]
    return Room(
        actors=sum(fitting),
        cpus=cluster_resources().get("CPU", 0.0),
        free_cpus=sum(node.get("CPU", 0.0) for node in free),
        cpus_per_role=per_actor["CPU"],
        is_growing=_is_growing(),
    )


def request(bundles: list[dict[str, float]]) -> None:
    """Asks the cluster's autoscaler, if it has one, for nodes on which these would fit.

    The request stands until the next one of whoever it is; without bundles, none does.

    Raises:
        ClusterError: its head does not answer.
    """
    try:
        is_autoscaler_v2(fetch_from_server=True)  # Ray remembers it, and asks the autoscaler there is
        request_resources(bundles=bundles)
    except (RayError, RuntimeError) as error:
        raise ClusterError(f"The cluster cannot be asked for nodes: {error}") from error


def _is_growing() -> bool:
    """Whether the cluster's autoscaler has nodes on their way; one that has none says no."""
    try:
        if is_autoscaler_v2(fetch_from_server=True):
            status = get_cluster_status(get_runtime_context().gcs_address)
            return bool(status.pending_launches or status.pending_nodes)
        text = internal_kv._internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS)
        report: dict[str, Any] = (json.loads(text) if text else {}).get("autoscaler_report") or {}
    except (RayError, RuntimeError, ValueError, AttributeError):
        return False
    return bool(report.get("pending_nodes") or report.get("pending_launches"))
