"""The fleet on Ray: every role is a Ray actor, wrapped here and nowhere else."""

import os
import re
import socket
import time
from collections.abc import Callable
from typing import Any, Literal

import ray
from ray._private import state
from ray.exceptions import GetTimeoutError, RayError

from distdqn.builders import Blueprint
from distdqn.distributed import capacity
from distdqn.distributed.cluster import THREAD_SETTINGS, Cluster
from distdqn.distributed.fleet import CallFailed, Handle, Ref, Room
from distdqn.errors import DistdqnError

_NO_INPUT = "At least one of the input arguments for this task could not be computed"
_PENDING = ("DEPENDENCIES_UNREADY", "PENDING_CREATION")  # states of an actor that is not up
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # Ray puts some into its messages
_ADVICE = re.compile(r" Some common causes include:.*", re.DOTALL)  # seven lines of it
_FETCH_SECONDS = 10.0  # for a result that is there already, perhaps on another node


class RayFleet:
    """Roles as named Ray actors in a namespace of the run's own.

    They are not detached, so they end with the run, and Ray does not restart them:
    the supervisor does.
    """

    def __init__(
        self, cluster: Cluster, namespace: str, blueprint: Callable[[str, int, int], Blueprint]
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._blueprint = blueprint
        self._needs: dict[Handle, dict[str, float]] = {}
        self._control: str | None = None  # name of the process that takes commands
        self._has_asked = False  # whether a wish for a larger cluster stands

    def start(self, role: str, index: int, incarnation: int) -> Handle:
        """See `Fleet`."""
        blueprint = self._blueprint(role, index, incarnation)
        name = f"{role}-{index}" if role in ("actor", "replay") else role
        name = name if incarnation == 0 else f"{name}.{incarnation}"
        if role == "control":
            self._control = name
        options: dict[str, Any] = {
            "name": name,
            "namespace": self._namespace,
            "num_cpus": 0 if role == "control" else self._cluster.cpus_per_role,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        if not self._cluster.is_private:  # a private Ray has inherited them from this process
            options["runtime_env"] = {"env_vars": THREAD_SETTINGS}
        handle = ray.remote(blueprint.role).options(**options).remote(**blueprint.arguments)
        self._needs[handle] = {"CPU": options["num_cpus"]}
        return handle

    def identify(self, handle: Handle) -> Ref:
        """See `Fleet`."""
        return handle.__ray_call__.remote(_about_process)

    def missing(self, handle: Handle) -> str | None:
        """See `Fleet`."""
        entry = state.actors(handle._actor_id.hex())
        is_pending = entry.get("State") in _PENDING
        if not is_pending or entry["Address"]["IPAddress"]:  # that of the process it was given
            return None
        free = list(state.available_resources_per_node().values())
        needs = self._needs[handle]
        if any(all(node.get(name, 0.0) >= amount for name, amount in needs.items()) for node in free):
            return None
        wanted = ", ".join(f"{amount:g} {name}" for name, amount in needs.items())
        most = {name: max((node.get(name, 0.0) for node in free), default=0.0) for name in needs}
        there = ", ".join(f"{amount:g} {name}" for name, amount in most.items())
        return f"needs {wanted} on one node; of {len(free)} nodes, none has more than {there} free"

    def lost_nodes(self) -> set[str]:
        """See `Fleet`."""
        return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}

    def call(self, handle: Handle, method: str, *arguments: Any, returns: int = 1) -> tuple[Ref, ...]:
        """See `Fleet`."""
        refs = getattr(handle, method).options(num_returns=returns).remote(*arguments)
        return tuple(refs) if returns > 1 else (refs,)

    def wait(self, refs: list[Ref], timeout_seconds: float) -> list[Ref]:
        """See `Fleet`."""
        if not refs:
            time.sleep(timeout_seconds)
            return []
        first, _ = ray.wait(refs, num_returns=1, timeout=timeout_seconds)
        if not first:
            return []
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        return list(ready)

    def state(self, ref: Ref) -> Literal["under way", "failed", "done"]:
        """See `Fleet`."""
        if not ray.wait([ref], timeout=0, fetch_local=False)[0]:
            return "under way"
        try:
            ray.get(ref, timeout=0)  # an error is here already, and what is here is not copied
        except GetTimeoutError:
            return "done"  # on another node
        except RayError:
            return "failed"
        return "done"

    def get(self, ref: Ref, timeout_seconds: float = _FETCH_SECONDS) -> Any:
        """See `Fleet`."""
        try:
            return ray.get(ref, timeout=timeout_seconds)
        except RayError as error:
            if isinstance(cause := getattr(error, "cause", None), DistdqnError):
                raise cause from None  # the user's to mend: another process would do no better
            why = _ADVICE.sub("", _COLOUR.sub("", str(error))) or type(error).__name__
            raise CallFailed(why, lacks_input=_NO_INPUT in why) from error

    def end(self, handle: Handle) -> None:
        """See `Fleet`."""
        self._needs.pop(handle, None)
        ray.kill(handle)

    def room(self) -> Room:
        """See `Fleet`."""
        return capacity.measure_room({"CPU": self._cluster.cpus_per_role})

    def ask_for(self, roles: list[str]) -> None:
        """See `Fleet`."""
        if roles or self._has_asked:
            capacity.request([{"CPU": self._cluster.cpus_per_role} for _ in roles])
            self._has_asked = bool(roles)

    def about(self) -> dict[str, Any]:
        """See `Fleet`."""
        about = {"address": self._cluster.address, "namespace": self._namespace}
        return {**about, "control": self._control}


def _about_process(_role: Any) -> dict[str, Any]:
    node = ray.get_runtime_context().get_node_id()
    return {"pid": os.getpid(), "host": socket.gethostname(), "node": node}
