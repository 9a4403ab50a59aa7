"""Roles as Ray actors."""

import contextlib
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import ray
from ray._private import state
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError
from typing_extensions import override

from distdqn.cluster.connection import Cluster
from distdqn.cluster.resources import Placement, measure_capacity, request_nodes
from distdqn.cluster.role_logs import RoleLogs
from distdqn.config.config import RunOptions
from distdqn.errors import ClusterError, DistdqnError
from distdqn.training.backend import Backend, CallFailed, ClusterCapacity, Handle, MakeParts, Ref

# Parts of Ray's messages.
_NO_INPUT = "At least one of the input arguments for this task could not be computed"
_DEAD_NODE = re.compile(r"its node has died\. Node Id: (\w+)")  # also of a process that was not up yet
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_ADVICE = re.compile(r" Some common causes include:.*", re.DOTALL)  # seven lines

_PENDING = ("DEPENDENCIES_UNREADY", "PENDING_CREATION")  # states of an actor that is not up


class RayBackend(Backend):
    """Roles as Ray actors named `<run>/actor-3` after the run's folder, in the run's own namespace.

    They are not detached, so they end with the run. Ray does not restart them: the supervisor does.

    Args:
        cluster: that the process is connected to.
        folder: of the run.
        make_parts: class and arguments of a role.
        options: the resources that roles request.
    """

    def __init__(self, cluster: Cluster, folder: Path, make_parts: MakeParts, options: RunOptions) -> None:
        self._cluster = cluster
        self._run = folder.resolve().name
        self._namespace = f"{self._run}-{uuid.uuid4().hex[:8]}"  # another run's folder may have the same name
        self._make_parts = make_parts
        self._placement = Placement(cluster, options)
        self._logs = RoleLogs(folder / "logs")
        self._roles: dict[Handle, tuple[str, int]] = {}  # role and index
        self._identify_calls: dict[Ref, Handle] = {}
        self._control: str | None = None  # name of the process that takes commands
        self._has_requested_nodes = False
        self._logs.open(self._namespace)

    @override
    def start(self, role: str, index: int, restarts: int) -> Handle:
        role_class, arguments = self._make_parts(role, index, restarts)
        name = f"{self._run}/{_name(role, index)}" + (f".{restarts}" if restarts else "")
        if role == "control":
            self._control = name
        options = {
            **self._placement.ray_options(role, index),
            "name": name,
            "namespace": self._namespace,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        handle = ray.remote(role_class).options(**options).remote(*arguments)
        self._roles[handle] = role, index
        return handle

    @override
    def identify(self, handle: Handle) -> Ref:
        ref = handle.__ray_call__.remote(_identify)
        self._identify_calls[ref] = handle
        return ref

    @override
    def missing(self, handle: Handle) -> str | None:
        with self._needing_ray():
            entry = state.actors(handle._actor_id.hex())
            if entry.get("State") not in _PENDING or _is_process(entry["Address"]):
                return None
            return self._placement.missing(*self._roles[handle])

    @override
    def lost_nodes(self) -> set[str]:
        with self._needing_ray():
            return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}

    @override
    def call(self, handle: Handle, method: str, *arguments: Any, returns: int = 1) -> tuple[Ref, ...]:
        refs = getattr(handle, method).options(num_returns=returns).remote(*arguments)
        return tuple(refs) if returns > 1 else (refs,)

    @override
    def wait(self, refs: list[Ref], timeout_seconds: float) -> list[Ref]:
        if not refs:
            time.sleep(timeout_seconds)
            return []
        with self._needing_ray():
            first, _ = ray.wait(refs, num_returns=1, timeout=timeout_seconds)
            return list(ray.wait(refs, num_returns=len(refs), timeout=0)[0]) if first else []

    @override
    def state(self, ref: Ref) -> Literal["running", "failed", "done"]:
        if not ray.wait([ref], timeout=0, fetch_local=False)[0]:
            return "running"
        try:
            ray.get(ref, timeout=0)  # an error is on this node, and a result on this node is not copied
        except GetTimeoutError:
            return "done"  # on another node
        except RayError:
            return "failed"
        return "done"

    @override
    def get(self, ref: Ref, timeout_seconds: float = 10.0) -> Any:
        role = self._roles.get(self._identify_calls.pop(ref, None))
        try:
            value = ray.get(ref, timeout=timeout_seconds)
        except RayError as error:
            why = _ADVICE.sub("", _COLOR.sub("", str(error))) or type(error).__name__
            self._logs.write_failure(_name(*role) if role else None, why)
            if isinstance(cause := getattr(error, "cause", None), DistdqnError):
                raise cause from None  # the user's to fix: another process would fail in the same way
            node = found[1] if (found := _DEAD_NODE.search(why)) else None
            is_lost = isinstance(error, ActorUnavailableError)
            raise CallFailed(why, _NO_INPUT in why, node, is_lost) from error
        except OSError as error:
            raise self._gone(error) from error
        if role is not None:
            self._logs.register(_name(*role), value)
        return value

    @override
    def end(self, handle: Handle) -> None:
        self._roles.pop(handle, None)
        self._identify_calls = {ref: each for ref, each in self._identify_calls.items() if each is not handle}
        ray.kill(handle)

    @override
    def capacity(self) -> ClusterCapacity:
        with self._needing_ray():
            return measure_capacity(self._placement.request("actor"))

    @override
    def request_resources(self, roles: list[str]) -> None:
        if roles or self._has_requested_nodes:
            request_nodes([self._placement.request(role) for role in roles])
            self._has_requested_nodes = bool(roles)

    @override
    def describe(self) -> dict[str, Any]:
        return {"address": self._cluster.address, "namespace": self._namespace, "control": self._control}

    def close(self) -> None:
        """Releases what was reserved and writes the rest of the logs, after all roles have been ended."""
        self._placement.close()
        self._logs.close(self._namespace)

    @contextlib.contextmanager
    def _needing_ray(self) -> Iterator[None]:
        """Raises `ClusterError` for what Ray raises if it does not answer."""
        try:
            yield
        except (RayError, RuntimeError, OSError) as error:
            raise self._gone(error) from error

    def _gone(self, error: Exception) -> ClusterError:
        return ClusterError(
            f"The Ray at {self._cluster.address} is gone: {error} (start it again, or another one; "
            "`--resume auto` resumes from the newest checkpoint)."
        )


def _name(role: str, index: int) -> str:
    return f"{role}-{index}" if role in ("actor", "replay") else role


def _is_process(address: dict[str, Any]) -> bool:
    """Whether this is the address of a process, not that of a node in whose queue the actor waits."""
    queues = {(node["NodeID"], node["NodeManagerPort"]) for node in ray.nodes()}
    return bool(address["IPAddress"]) and (address["NodeID"], address["Port"]) not in queues


def _identify(_role: Any) -> dict[str, Any]:
    """Called in the role's process."""
    node, ip = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
    return {"pid": os.getpid(), "host": socket.gethostname(), "node": node, "ip": ip}
