"""What a run needs of whatever runs its roles: start, call, wait, get, end.

`distdqn.cluster.ray_backend` provides it with Ray, `LocalBackend` in this process. A handle stands for a
role's process, a reference for a result to come.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from typing_extensions import override

from distdqn.training.limits import available_cpus

Handle = Any
Ref = Any
Parts = tuple[type[Any], tuple[Any, ...]]  # a role's class and its arguments
MakeParts = Callable[[str, int, int], Parts]  # of a role's name, its index and its number of restarts


def role_name(role: str, index: int) -> str:
    """The name of a role's process in messages, files and Ray, as in `actor-3` and `learner`."""
    return f"{role}-{index}" if index or role in ("actor", "replay") else role


class CallFailed(Exception):
    """A call ended without a result; the text says why, with the traceback if there is one."""

    def __init__(
        self, why: str, lacks_input: bool = False, node: str | None = None, is_lost: bool = False
    ) -> None:
        super().__init__(why)
        self.lacks_input = lacks_input  # it never started, because one of its arguments is lost
        self.node = node  # of the cluster, whose death ended the process, if that is known
        self.is_lost = is_lost  # a message was lost: the call may have been made all the same


@dataclass(frozen=True)
class ClusterCapacity:
    """The resources that a cluster has for a run."""

    actors: int  # more actors that would fit now
    cpus: float
    free_cpus: float
    cpus_per_role: float  # 0 where roles share the cores of one machine
    is_growing: bool  # new nodes are starting


class Backend(Protocol):
    """Starts roles and calls their methods. No call blocks.

    What asks the cluster itself, and not a role, raises `ClusterError` if the cluster is gone. Where there is
    no cluster, nothing is missing and every result exists already.
    """

    def start(self, role: str, index: int, restarts: int) -> tuple[Handle, Ref]:
        """Starts a role's process and asks it for `{"pid": ..., "host": ..., "node": ...}`.

        Returns before it is up.
        """
        ...

    def missing(self, handle: Handle) -> str | None:
        """The resources that the cluster lacks to start the role, or None."""
        return None

    def has_process(self, handle: Handle) -> bool:
        """Whether the role has a process, whose class may still be under construction there."""
        return True

    def holders(self) -> str:
        """Who has the cluster's resources, in words."""
        return ""

    def lost_nodes(self) -> set[str]:
        """Nodes that the cluster had and has lost."""
        return set()

    def call(self, handle: Handle, method: str, *arguments: Any, returns: int = 1) -> tuple[Ref, ...]:
        """Queues a call; a reference among `arguments` is passed as its result."""
        ...

    def wait(self, refs: list[Ref], timeout_seconds: float) -> list[Ref]:
        """Those of `refs` that are ready, in the order given, once one is or the time is up."""
        return refs

    def state(self, ref: Ref) -> Literal["running", "failed", "done"]:
        """The state of a call; its result is not fetched."""
        return "done"

    def get(self, ref: Ref, timeout_seconds: float = 10.0) -> Any:
        """A result, waiting for at most `timeout_seconds`; raises a `DistdqnError` that the call raised.

        `CallFailed` if the call failed otherwise, its process died, or the time is up.
        """
        ...

    def end(self, handle: Handle) -> None:
        """Ends a role's process at once."""
        return

    def capacity(self) -> ClusterCapacity:
        """The cluster's resources now."""
        return ClusterCapacity(0, float(available_cpus()), 0.0, 0.0, is_growing=False)

    def request_resources(self, roles: list[str]) -> None:
        """Asks an autoscaling cluster for resources for these roles in all; none withdraw the request."""
        return

    def describe(self) -> dict[str, Any] | None:
        """For `status.json`: the cluster, the run's namespace, and the process that takes commands."""
        return None


@dataclass(eq=False)
class _Result:
    """The reference to a result that exists already."""

    value: Any


class LocalBackend(Backend):
    """Roles as plain objects in this process. A call runs at once, and its errors are raised as they are."""

    def __init__(self, make_parts: MakeParts) -> None:
        self._make_parts = make_parts

    @override
    def start(self, role: str, index: int, restarts: int) -> tuple[Handle, Ref]:
        role_class, arguments = self._make_parts(role, index, restarts)
        process = {"pid": os.getpid(), "host": socket.gethostname(), "node": None}
        return role_class(*arguments), _Result(process)

    @override
    def call(self, handle: Handle, method: str, *arguments: Any, returns: int = 1) -> tuple[Ref, ...]:
        values = [each.value if isinstance(each, _Result) else each for each in arguments]
        result = getattr(handle, method)(*values)
        return tuple(map(_Result, result)) if returns > 1 else (_Result(result),)

    @override
    def get(self, ref: Ref, timeout_seconds: float = 10.0) -> Any:
        return ref.value
