"""Roles as Ray actors, and what they print."""

import contextlib
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import ray
from ray._private import state
from ray._private.ray_logging import global_worker_stdstream_dispatcher as ray_output
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError
from typing_extensions import override

from distdqn.cluster.connection import Cluster, is_gone
from distdqn.cluster.control import Control
from distdqn.cluster.reaper import MARK
from distdqn.cluster.resources import Placement, describe_holders
from distdqn.config.config import RunOptions
from distdqn.errors import ClusterError, DistdqnError
from distdqn.training.backend import (
    Backend,
    CallFailed,
    ClusterCapacity,
    Handle,
    MakeParts,
    Parts,
    Ref,
    role_name,
)

# Parts of Ray's messages.
_NO_INPUT = "At least one of the input arguments for this task could not be computed"
_DEAD_NODE = re.compile(r"its node has died\. Node Id: (\w+)")  # also of a process that was not up yet
_PROCESS = re.compile(r"\(pid=(\d+), ip=([^,)]+)")
_NOISE = re.compile(r"\x1b\[[0-9;]*m| Some common causes include:.*", re.DOTALL)  # colors, and seven lines

_NICENESS = {"actor": 5, "evaluator": 5}  # on a private Ray: the learner comes first
_POLL_SECONDS = 0.2  # between two looks at whether a private Ray is still there
_PENDING = ("DEPENDENCIES_UNREADY", "PENDING_CREATION")  # states of an actor that is not up
_MAX_BYTES = 1_000_000  # of a log, which then becomes `….log.1` and replaces the one before
_MAX_UNCLAIMED_LINES = 1000  # of a process whose role is not known yet
_NOT_A_ROLE = "ray"  # the log of Ray's own messages, and of processes whose role was never known


class RayBackend(Backend):
    """Roles as Ray actors named `<run>/actor-3` after the run's folder, in the run's own namespace.

    They are not detached, so they end with the run. Ray does not restart them: the supervisor does. Their
    logs go to the run's `folder`.
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
        ray_output.add_handler(self._namespace, self._logs.write)

    @override
    def start(self, role: str, index: int, restarts: int) -> tuple[Handle, Ref]:
        name = f"{self._run}/{role_name(role, index)}" + (f".{restarts}" if restarts else "")
        parts: Parts = (Control, ()) if role == "control" else self._make_parts(role, index, restarts)
        if role == "control":
            self._control = name
        options = {**self._placement.ray_options(role, index), "max_restarts": 0, "max_task_retries": 0}
        remote = ray.remote(parts[0]).options(**options, name=name, namespace=self._namespace)
        handle = remote.remote(*parts[1])
        ref = handle.__ray_call__.remote(_identify, _NICENESS.get(role, 0))
        self._roles[handle], self._identify_calls[ref] = (role, index), handle
        return handle, ref

    @override
    def missing(self, handle: Handle) -> str | None:
        with self._needing_ray():
            return None if self.has_process(handle) else self._placement.missing(*self._roles[handle])

    @override
    def has_process(self, handle: Handle) -> bool:
        with self._needing_ray():
            entry = state.actors(handle._actor_id.hex())
            if entry.get("State") not in _PENDING:
                return True
            address = entry["Address"]  # of the actor's process, or of a node in whose queue it waits
            queues = {(node["NodeID"], node["NodeManagerPort"]) for node in ray.nodes()}
            return bool(address["IPAddress"]) and (address["NodeID"], address["Port"]) not in queues

    @override
    def holders(self) -> str:
        with self._needing_ray():
            return describe_holders()

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
        with self._needing_ray():
            if not refs:
                time.sleep(timeout_seconds)
                return []
            first, _ = ray.wait(refs, num_returns=1, timeout=timeout_seconds, fetch_local=False)
            if not first or len(refs) == 1:
                return list(first)
            return list(ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)[0])

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
        deadline = time.monotonic() + timeout_seconds
        # Ray ends a driver whose node ends while it fetches an object, so this waits for the call first.
        while not self.wait([ref], min(_POLL_SECONDS, timeout_seconds)):
            if time.monotonic() >= deadline:
                break
        with self._needing_ray():
            try:
                value = ray.get(ref, timeout=max(0.0, deadline - time.monotonic()))
            except RayError as error:
                why = _NOISE.sub("", str(error)) or type(error).__name__
                self._logs.write_failure(role_name(*role) if role else None, why)
                if isinstance(cause := getattr(error, "cause", None), DistdqnError):
                    raise cause from None  # the user's to fix: another process would fail in the same way
                node = found[1] if (found := _DEAD_NODE.search(why)) else None
                is_lost = isinstance(error, ActorUnavailableError)
                raise CallFailed(why, _NO_INPUT in why, node, is_lost) from error
        if role is not None:
            self._logs.register(role_name(*role), value)
        return value

    @override
    def end(self, handle: Handle) -> None:
        self._roles.pop(handle, None)
        self._identify_calls = {ref: each for ref, each in self._identify_calls.items() if each is not handle}
        if not is_gone():
            ray.kill(handle)

    @override
    def capacity(self) -> ClusterCapacity:
        with self._needing_ray():
            return self._placement.capacity()

    @override
    def request_resources(self, roles: list[str]) -> None:
        self._placement.request_nodes(roles)

    @override
    def describe(self) -> dict[str, Any]:
        return {"address": self._cluster.address, "namespace": self._namespace, "control": self._control}

    def close(self) -> None:
        """Ends every role, releases what was reserved, and writes the rest of the logs."""
        with contextlib.suppress(ClusterError):  # it is gone, and the request with it
            self.request_resources([])
        for handle in [*self._roles]:
            self.end(handle)
        if not is_gone():
            self._placement.close()
        ray_output.remove_handler(self._namespace)
        self._logs.close()

    @contextlib.contextmanager
    def _needing_ray(self) -> Iterator[None]:
        """Raises `ClusterError` for what Ray raises if it does not answer."""
        if is_gone():  # else Ray tries to reach it for a minute
            raise self._gone("its processes have ended")
        try:
            yield
        except (RayError, RuntimeError, OSError) as error:
            raise self._gone(error) from error
        except SystemError as error:  # what a signal handler has raised inside Ray's compiled code
            raise error.__cause__ or error from None

    def _gone(self, why: object) -> ClusterError:
        return ClusterError(
            f"The Ray at {self._cluster.address} is gone: {why} (start it again, or another one; "
            "`--resume auto` resumes from the newest checkpoint)."
        )


def _identify(_role: Any, niceness: int) -> dict[str, Any]:
    """Called in the role's process."""
    if MARK in os.environ:
        os.nice(niceness)
        # A private Ray's processes block SIGTERM. What an environment starts must not inherit that, and it
        # does not inherit a handler, either. Off the main thread the signal stays blocked.
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, lambda *_: None)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    node, ip = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
    return {"pid": os.getpid(), "host": socket.gethostname(), "node": node, "ip": ip}


Source = tuple[str, str]  # address of the node, id of the process


class RoleLogs:
    """What the roles print, in a file for each role: `logs/actor-3.log` in the run's folder.

    Ray sends what a process writes to its standard output and error to the process that started the run. So
    the other nodes need no access to the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[Source, str] = {}
        self._unclaimed: dict[Source, deque[str]] = {}
        self._lock = threading.Lock()  # lines come on a thread of Ray's

    def close(self) -> None:
        """Writes the lines of processes whose role was never known."""
        with self._lock:
            for (ip, pid), lines in self._unclaimed.items():
                self._append(_NOT_A_ROLE, [f"(process {pid} on {ip}) {line}" for line in lines])
            self._unclaimed.clear()

    def register(self, name: str, process: Mapping[str, Any]) -> None:
        """Notes a role's process, given its `ip` and `pid`, and writes what it has printed so far."""
        source = (str(process["ip"]), str(process["pid"]))
        with self._lock:
            self._names[source] = name
            self._append(name, self._unclaimed.pop(source, ()))

    def write(self, batch: Mapping[str, Any]) -> None:
        """Writes `lines` of the process `pid` on the node `ip`, as Ray delivers them."""
        source = (str(batch.get("ip")), str(batch.get("pid")))
        with self._lock:
            name = self._names.get(source, None if source[1].isdigit() else _NOT_A_ROLE)
            if name is not None:
                self._append(name, batch["lines"])
            else:
                self._unclaimed.setdefault(source, deque(maxlen=_MAX_UNCLAIMED_LINES)).extend(batch["lines"])

    def write_failure(self, name: str | None, why: str) -> None:
        """Writes why a call failed; without `name`, into the file of the process that `why` mentions."""
        if name is None and (found := _PROCESS.search(why)) is not None:
            name = self._names.get((found[2], found[1]))
        if name is not None:
            with self._lock:
                self._append(name, [why.rstrip()])

    def _append(self, name: str, lines: Iterable[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        path = self._folder / f"{name}.log"
        with contextlib.suppress(OSError):  # a full disk does not stop training
            if text:
                self._folder.mkdir(parents=True, exist_ok=True)
                if path.exists() and path.stat().st_size + len(text) > _MAX_BYTES:
                    path.replace(path.with_name(f"{name}.log.1"))
                with path.open("a", encoding="utf-8", errors="replace") as file:
                    file.write(text[-_MAX_BYTES:])
