"""Resources: what a role requests, what the nodes have free, and what an autoscaler is asked for."""

import contextlib
import json
import textwrap
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ray import available_resources, cluster_resources, get_runtime_context
from ray._private import ray_constants, state
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.gcs_pb2 import ActorTableData
from ray.exceptions import RayError
from ray.experimental import internal_kv
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from distdqn.cluster import preload
from distdqn.cluster.connection import NO_GPU, THREAD_SETTINGS, Cluster
from distdqn.config.config import RunOptions
from distdqn.config.validation import parse_amounts
from distdqn.errors import ClusterError
from distdqn.training.backend import ClusterCapacity

_ROUNDING = 1e-6  # Ray counts resources in units of 0.0001
_MAX_HOLDERS = 3  # named in a message
_MAX_COMMAND = 60  # characters of a command that are shown
_PAIR = ("learner", "replay")  # placed together where possible; in the order of the placement group's bundles

Resources = dict[str, float]  # amounts by Ray's names: `CPU`, `GPU` and custom ones


class Placement:
    """Decides with which of Ray's options a role's process is started, and looks for resources for it."""

    def __init__(self, cluster: Cluster, options: RunOptions) -> None:
        self._cluster = cluster
        self._options = options
        self._group: Any = None  # Ray's placement group for learner and replay
        self._has_requested_nodes = False

    def request(self, role: str) -> Resources:
        """What a role's process requests on its node."""
        amounts = {"CPU": 0.0 if role == "control" else self._cluster.cpus_per_role}
        if role == "learner":
            amounts["GPU"] = self._options.learner_gpus
            amounts |= parse_amounts(self._options.learner_resources or "")
        elif role in ("actor", "evaluator"):  # both step environments
            amounts |= parse_amounts(self._options.actor_resources or "")
        return {name: amount for name, amount in amounts.items() if amount}

    def ray_options(self, role: str, index: int) -> dict[str, Any]:
        """The options for Ray to start `learner`, `replay`, `actor`, `evaluator` or `control`."""
        request = self.request(role)
        cpus, gpus = request.pop("CPU", 0.0), request.pop("GPU", 0.0)
        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "resources": request}
        if not self._cluster.is_private or self._options.learner_gpus:  # else the process inherits them
            options["runtime_env"] = {"env_vars": {**THREAD_SETTINGS, **({} if gpus else NO_GPU)}}
        if role == "learner" and self._cluster.has_preload:
            options["runtime_env"] = {"env_vars": preload.LEARNER}
        if not self._cluster.cpus_per_role:  # there is one machine only
            return options
        if role not in _PAIR or index > 0:
            return {**options, "scheduling_strategy": "SPREAD"}
        if self._group is None:
            self._group = placement_group([self.request(each) for each in _PAIR], "PACK")
        strategy = PlacementGroupSchedulingStrategy(self._group, _PAIR.index(role))
        return {**options, "scheduling_strategy": strategy}

    def missing(self, role: str, index: int) -> str | None:
        """What the cluster lacks to start a role, in words, or None."""
        roles: Sequence[str] = [role]
        if self._group is not None and role in _PAIR and index == 0:
            if placement_group_table(self._group)["state"] == "CREATED":
                return None
            roles = _PAIR
        requests = [self.request(each) for each in roles]
        free = list(state.available_resources_per_node().values())
        for request in requests:
            if not _fit(free, [request]):
                most = {name: max((node.get(name, 0.0) for node in free), default=0.0) for name in request}
                return (
                    f"needs {_words(request)} on one node; of {len(free)} nodes, none has more than "
                    f"{_words(most)} free"
                )
        if not _fit(free, requests):
            both = " and ".join(map(_words, requests))
            return f"needs {both} for learner and replay; the {len(free)} nodes do not have both free"
        return None

    def capacity(self) -> ClusterCapacity:
        """The connected cluster's resources."""
        per_actor = self.request("actor")
        free = state.available_resources_per_node().values()
        fitting = [
            min((int(node.get(name, 0.0) / each + _ROUNDING) for name, each in per_actor.items()), default=0)
            for node in free
        ]
        return ClusterCapacity(
            actors=sum(fitting),
            cpus=cluster_resources().get("CPU", 0.0),
            free_cpus=sum(node.get("CPU", 0.0) for node in free),
            cpus_per_role=per_actor.get("CPU", 0.0),
            is_growing=_is_growing(),
        )

    def request_nodes(self, roles: Sequence[str]) -> None:
        """Asks the cluster's autoscaler, if it has one, for nodes for these roles; none withdraw the request.

        A request stays until the same driver makes another. `ClusterError` if the head does not answer.
        """
        if not roles and not self._has_requested_nodes:
            return
        try:
            is_autoscaler_v2(fetch_from_server=True)  # Ray caches the answer, then asks the right autoscaler
            request_resources(bundles=[self.request(role) for role in roles])
        except (RayError, RuntimeError) as error:
            raise ClusterError(f"The cluster cannot be asked for nodes: {error}") from error
        self._has_requested_nodes = bool(roles)

    def close(self) -> None:
        """Releases what was reserved."""
        if self._group is not None:
            with contextlib.suppress(RayError):  # the cluster is gone, and the group with it
                remove_placement_group(self._group)
            self._group = None


def describe_holders() -> str:
    """Whose Ray actors have the cluster's resources, those with most CPUs first; it needs no dashboard."""
    held: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)  # by job and namespace
    actors = state.state._connect_and_get_accessor().get_actor_table
    for entry in [*actors(None, "ALIVE"), *actors(None, "PENDING_CREATION")]:
        actor = ActorTableData.FromString(entry)
        if actor.resource_mapping:  # in a placement group, two names such as `CPU_group_0_<id>` mean one CPU
            amounts = {name.split("_group_")[0]: each for name, each in actor.required_resources.items()}
            amounts.pop("bundle", None)
            held[actor.job_id.hex(), actor.ray_namespace].update(amounts)
    jobs = {job["JobID"]: job for job in state.jobs()}
    others = cluster_resources().get("CPU", 0.0) - available_resources().get("CPU", 0.0)
    parts = []
    for (job_id, namespace), amounts in sorted(held.items(), key=lambda each: -each[1]["CPU"])[:_MAX_HOLDERS]:
        others -= amounts["CPU"]
        who = "this run"
        if job_id != get_runtime_context().get_job_id() and (job := jobs.get(job_id)):
            command = textwrap.shorten(job["Entrypoint"], _MAX_COMMAND, placeholder=" ...")
            place = f"process {job['DriverPid']} on {job['DriverIPAddress']}"
            who = f"`{command}` ({place}, namespace {namespace})"
        parts.append(f"{who} has {_words(amounts)}")
    return "; ".join(parts + [f"others have {others:g} CPU"] * (others > _ROUNDING))


def _is_growing() -> bool:
    """Whether the cluster has an autoscaler that is starting nodes."""
    try:
        if is_autoscaler_v2(fetch_from_server=True):
            status = get_cluster_status(get_runtime_context().gcs_address)
            return bool(status.pending_launches or status.pending_nodes)
        text = internal_kv._internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS)
        report: dict[str, Any] = (json.loads(text) if text else {}).get("autoscaler_report") or {}
    except (RayError, RuntimeError, ValueError, AttributeError):
        return False
    return bool(report.get("pending_nodes") or report.get("pending_launches"))


def _fit(free: Sequence[Mapping[str, float]], requests: Sequence[Resources]) -> bool:
    """Whether the nodes have all these requests free at the same time."""
    if not requests:
        return True
    first, *others = requests
    return any(
        all(node.get(name, 0.0) + _ROUNDING >= amount for name, amount in first.items())
        and _fit(
            [*free[:i], {name: node[name] - first.get(name, 0.0) for name in node}, *free[i + 1 :]], others
        )
        for i, node in enumerate(free)
    )


def _words(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items())
