"""What a Ray cluster has room for, and what it is asked to grow to."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ray import cluster_resources, get_runtime_context
from ray._private import ray_constants, state
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.exceptions import RayError
from ray.experimental import internal_kv
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from distdqn.cluster.connection import NO_GPU, THREAD_SETTINGS, Cluster
from distdqn.errors import ClusterError
from distdqn.training.backend import ClusterCapacity, ResourceRequest

_ROUNDING = 1e-6  # Ray counts resources in units of 0.0001


def measure_capacity(per_actor: dict[str, float]) -> ClusterCapacity:
    """What the connected cluster has for actors that need `per_actor` each."""
    free = state.available_resources_per_node().values()
    fitting = [
        min(
            (int(node.get(name, 0.0) / amount + _ROUNDING) for name, amount in per_actor.items() if amount),
            default=0,
        )
        for node in free
    ]
    return ClusterCapacity(
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


_PAIR = ("learner", "replay")  # the roles of the group, in the order of its bundles


class Placement:
    """Turns a role into the options with which Ray starts its process."""

    def __init__(self, cluster: Cluster, resource_request: ResourceRequest) -> None:
        self._cluster = cluster
        self._resource_request = resource_request
        self._pair: Any = None

    def options(self, role: str, index: int) -> dict[str, Any]:
        """What Ray is told of a role's process.

        Args:
            role: `learner`, `replay`, `actor` or `evaluator`.
            index: which of them.
        """
        asked = self.needs(role)
        options: dict[str, Any] = {"num_cpus": asked.pop("CPU")}
        if gpus := asked.pop("GPU", 0.0):
            options["num_gpus"] = gpus
        if asked:
            options["resources"] = asked
        if not self._cluster.is_private or self._resource_request.learner_gpus:  # else they inherit it
            options["runtime_env"] = {"env_vars": {**THREAD_SETTINGS, **({} if gpus else NO_GPU)}}
        if self._cluster.cpus_per_role:  # else it is all one machine
            options["scheduling_strategy"] = self._strategy(role, index)
        return options

    def needs(self, role: str) -> dict[str, float]:
        """What a role's process takes of its node, by Ray's names."""
        cpus = 0.0 if role == "control" else self._cluster.cpus_per_role
        return {"CPU": cpus, **self._resource_request.of(role)}

    def missing(self, role: str, index: int) -> str | None:
        """What the cluster has too little of to give a role a place, or None."""
        bundles = [self.needs(role)]
        if self._pair is not None and role in _PAIR and index == 0:
            if placement_group_table(self._pair)["state"] == "CREATED":
                return None
            bundles = [self.needs(each) for each in _PAIR]
        free = list(state.available_resources_per_node().values())
        for needs in bundles:
            if not any(_has(node, needs) for node in free):
                most = {name: max((node.get(name, 0.0) for node in free), default=0.0) for name in needs}
                return (
                    f"needs {_words(needs)} on one node; of {len(free)} nodes, none has more than "
                    f"{_words(most, needs)} free"
                )
        if not _have_both(free, bundles[0], bundles[-1]) and len(bundles) > 1:
            both = " and ".join(_words(needs) for needs in bundles)
            return f"needs {both} for learner and replay; the {len(free)} nodes have no room for both"
        return None

    def _strategy(self, role: str, index: int) -> Any:
        if role not in _PAIR or index > 0:
            return "SPREAD"
        if self._pair is None:
            self._pair = placement_group([self.needs(each) for each in _PAIR], "PACK")
        return PlacementGroupSchedulingStrategy(self._pair, placement_group_bundle_index=_PAIR.index(role))

    def end(self) -> None:
        """Gives back what was reserved."""
        if self._pair is not None:
            with contextlib.suppress(RayError):  # the cluster is gone, and the group with it
                remove_placement_group(self._pair)
            self._pair = None


def _has(node: Mapping[str, float], needs: Mapping[str, float]) -> bool:
    """Whether a node has as much free."""
    return all(node.get(name, 0.0) >= amount for name, amount in needs.items())


def _have_both(free: Sequence[Mapping[str, float]], one: dict[str, float], other: dict[str, float]) -> bool:
    """Whether nodes have room for both, on one node or on two."""
    together = {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {*one, *other}}
    fitting = [(_has(node, one), _has(node, other)) for node in free]
    apart = any(a and b for i, (a, _) in enumerate(fitting) for j, (_, b) in enumerate(fitting) if i != j)
    return apart or any(_has(node, together) for node in free)


def _words(amounts: Mapping[str, float], named: Mapping[str, float] | None = None) -> str:
    """Amounts in words; those of which `named` has none are left out."""
    named = amounts if named is None else named
    return ", ".join(f"{amounts[name]:g} {name}" for name, amount in named.items() if amount)
