"""The fleet on Ray: every role is a Ray actor, wrapped here and nowhere else."""

import contextlib
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import ray
from ray._private import state
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError

from distdqn.cluster import resources as capacity
from distdqn.cluster.connection import Cluster
from distdqn.cluster.resources import Placement
from distdqn.cluster.role_logs import RoleLogs
from distdqn.errors import ClusterError, DistdqnError
from distdqn.training.backend import NO_RESOURCES, CallFailed, ClusterCapacity, Handle, Ref, ResourceRequest
from distdqn.training.builders import Blueprint

_NO_INPUT = "At least one of the input arguments for this task could not be computed"

_ITS_NODE = re.compile(r"its node has died\. Node Id: (\w+)")  # also of a process that was not up yet

_PENDING = ("DEPENDENCIES_UNREADY", "PENDING_CREATION")  # states of an actor that is not up

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # Ray puts some into its messages

_ADVICE = re.compile(r" Some common causes include:.*", re.DOTALL)  # seven lines of it

_FETCH_SECONDS = 10.0  # for a result that is there already, perhaps on another node


class RayBackend:
    """Roles as Ray actors called `<run>/actor-3` after the run's folder, in a namespace of its own.

    They are not detached, so they end with the run, and Ray does not restart them:
    the supervisor does.
    """

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        blueprint: Callable[[str, int, int], Blueprint],
        resource_request: ResourceRequest = NO_RESOURCES,
    ) -> None:
        self._cluster = cluster
        self._run = folder.resolve().name
        self._namespace = f"{self._run}-{uuid.uuid4().hex[:8]}"  # another run's folder may have the same name
        self._blueprint = blueprint
        self._placement = Placement(cluster, resource_request)
        self._logs = RoleLogs(folder / "logs")
        self._places: dict[Handle, tuple[str, int]] = {}  # role and index
        self._introductions: dict[Ref, Handle] = {}  # calls that will tell who a process is
        self._control: str | None = None  # name of the process that takes commands
        self._has_asked = False  # whether a wish for a larger cluster stands
        self._logs.open(self._namespace)

    def start(self, role: str, index: int, restarts: int) -> Handle:
        """See `Backend`."""
        blueprint = self._blueprint(role, index, restarts)
        name = f"{self._run}/{_name(role, index)}" + ("" if restarts == 0 else f".{restarts}")
        if role == "control":
            self._control = name
        options = {
            **self._placement.options(role, index),
            "name": name,
            "namespace": self._namespace,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        handle = ray.remote(blueprint.role).options(**options).remote(**blueprint.arguments)
        self._places[handle] = role, index
        return handle

    def identify(self, handle: Handle) -> Ref:
        """See `Backend`."""
        ref = handle.__ray_call__.remote(_about_process)
        self._introductions[ref] = handle
        return ref

    def missing(self, handle: Handle) -> str | None:
        """See `Backend`."""
        with self._asking_the_head():
            entry = state.actors(handle._actor_id.hex())
            if entry.get("State") not in _PENDING or _is_process(entry["Address"]):
                return None
            return self._placement.missing(*self._places[handle])

    def lost_nodes(self) -> set[str]:
        """See `Backend`."""
        with self._asking_the_head():
            return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}

    def call(self, handle: Handle, method: str, *arguments: Any, returns: int = 1) -> tuple[Ref, ...]:
        """See `Backend`."""
        refs = getattr(handle, method).options(num_returns=returns).remote(*arguments)
        return tuple(refs) if returns > 1 else (refs,)

    def wait(self, refs: list[Ref], timeout_seconds: float) -> list[Ref]:
        """See `Backend`."""
        if not refs:
            time.sleep(timeout_seconds)
            return []
        try:
            first, _ = ray.wait(refs, num_returns=1, timeout=timeout_seconds)
            if not first:
                return []
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        except OSError as error:
            raise self._gone(error) from error
        return list(ready)

    def state(self, ref: Ref) -> Literal["under way", "failed", "done"]:
        """See `Backend`."""
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
        """See `Backend`."""
        place = self._places.get(self._introductions.pop(ref, None))
        try:
            value = ray.get(ref, timeout=timeout_seconds)
        except RayError as error:
            why = _ADVICE.sub("", _COLOUR.sub("", str(error))) or type(error).__name__
            self._logs.add_failure(_name(*place) if place else None, why)
            if isinstance(cause := getattr(error, "cause", None), DistdqnError):
                raise cause from None  # the user's to mend: another process would do no better
            node = found[1] if (found := _ITS_NODE.search(why)) else None
            is_lost = isinstance(error, ActorUnavailableError)
            raise CallFailed(why, _NO_INPUT in why, node, is_lost) from error
        except OSError as error:
            raise self._gone(error) from error
        if place is not None:
            self._logs.know(_name(*place), value)
        return value

    def end(self, handle: Handle) -> None:
        """See `Backend`."""
        self._places.pop(handle, None)
        self._introductions = {ref: each for ref, each in self._introductions.items() if each is not handle}
        ray.kill(handle)

    def capacity(self) -> ClusterCapacity:
        """See `Backend`."""
        with self._asking_the_head():
            return capacity.measure_capacity(self._placement.needs("actor"))

    def request_resources(self, roles: list[str]) -> None:
        """See `Backend`."""
        if roles or self._has_asked:
            capacity.request([self._placement.needs(role) for role in roles])
            self._has_asked = bool(roles)

    def describe(self) -> dict[str, Any]:
        """See `Backend`."""
        about = {"address": self._cluster.address, "namespace": self._namespace}
        return {**about, "control": self._control}

    def close(self) -> None:
        """Gives back what was reserved, and writes the last of the logs. All roles have been ended."""
        self._placement.end()
        self._logs.close(self._namespace)

    @contextlib.contextmanager
    def _asking_the_head(self) -> Iterator[None]:
        """Turns what Ray raises when the head does not answer into what the user can act on.

        Raises:
            ClusterError: it does not.
        """
        try:
            yield
        except (RayError, RuntimeError, OSError) as error:
            raise self._gone(error) from error

    def _gone(self, error: Exception) -> ClusterError:
        """What is left to say when the Ray on this machine does not answer any more."""
        return ClusterError(
            f"The Ray at {self._cluster.address} is gone: {error} (start it again, or another one; "
            "`--resume auto` goes on from the newest checkpoint)."
        )


def _name(role: str, index: int) -> str:
    return f"{role}-{index}" if role in ("actor", "replay") else role


def _is_process(address: dict[str, Any]) -> bool:
    """Whether this is the address of a process, and not that of a node in whose queue an actor waits."""
    queues = {(node["NodeID"], node["NodeManagerPort"]) for node in ray.nodes()}
    return bool(address["IPAddress"]) and (address["NodeID"], address["Port"]) not in queues


def _about_process(_role: Any) -> dict[str, Any]:
    node = ray.get_runtime_context().get_node_id()
    about = {"pid": os.getpid(), "host": socket.gethostname(), "node": node}
    return {**about, "ip": ray.util.get_node_ip_address()}
