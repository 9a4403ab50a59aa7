"""What the supervisor needs of whatever runs the roles: start, call, wait, fetch, end.

Ray provides it in `distdqn.distributed.ray_backend`; tests provide a fake with a clock of
its own. A handle stands for a role's process, a reference for a result to come.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Handle = Any

Ref = Any


class CallFailed(Exception):
    """A call ended without a result; the text says why, with the traceback if there is one.

    Attributes:
        lacks_input: it never began, for what it was to be given could not be had.
        node: of the cluster, whose death took the process, where that is told.
        is_lost: a message was lost on its way; it may have been made all the same.
    """

    def __init__(
        self, why: str, lacks_input: bool = False, node: str | None = None, is_lost: bool = False
    ) -> None:
        super().__init__(why)
        self.lacks_input = lacks_input
        self.node = node
        self.is_lost = is_lost


@dataclass(frozen=True)
class ClusterCapacity:
    """What a cluster has to offer a run.

    Attributes:
        actors: more that would find room now.
        cpus: in all.
        free_cpus: not in use.
        cpus_per_role: what one process asks for.
        is_growing: whether new nodes are on their way.
    """

    actors: int
    cpus: float
    free_cpus: float
    cpus_per_role: float
    is_growing: bool


@dataclass(frozen=True)
class ResourceRequest:
    """What a run asks of nodes besides CPUs.

    Attributes:
        learner_gpus: GPUs of the learner; a part of one is shared with others.
        learner_resources: custom resources of the learner's node, by name.
        actor_resources: custom resources for each actor, and for the evaluator, which acts, too.
    """

    learner_gpus: float = 0.0
    learner_resources: Mapping[str, float] = field(default_factory=dict)
    actor_resources: Mapping[str, float] = field(default_factory=dict)

    def of(self, role: str) -> dict[str, float]:
        """What a role asks for besides CPUs, by Ray's names."""
        match role:
            case "learner":
                gpus = {"GPU": self.learner_gpus} if self.learner_gpus else {}
                return {**gpus, **self.learner_resources}
            case "actor" | "evaluator":
                return dict(self.actor_resources)
            case _:
                return {}


NO_RESOURCES = ResourceRequest()


class Backend(Protocol):
    """Starts roles and calls their methods without ever blocking in a call.

    What it asks the cluster itself, and not a role, raises `ClusterError` if that is gone.
    """

    def start(self, role: str, index: int, restarts: int) -> Handle:
        """Starts a role's process; returns before it is up."""
        ...

    def identify(self, handle: Handle) -> Ref:
        """Asks the role's process who it is: `{"pid": ..., "host": ..., "node": ...}`."""
        ...

    def missing(self, handle: Handle) -> str | None:
        """What the cluster has too little of to give the role a place, or None."""
        ...

    def lost_nodes(self) -> set[str]:
        """Nodes that the cluster had and has lost."""
        ...

    def call(self, handle: Handle, method: str, *arguments: Any, returns: int = 1) -> tuple[Ref, ...]:
        """Queues a call; references among `arguments` are passed on as what they stand for."""
        ...

    def wait(self, refs: list[Ref], timeout_seconds: float) -> list[Ref]:
        """Those of `refs` that are there, in the order given, once one is or the time is up."""
        ...

    def state(self, ref: Ref) -> Literal["under way", "failed", "done"]:
        """How a call stands; its result is not fetched."""
        ...

    def get(self, ref: Ref, timeout_seconds: float = 10.0) -> Any:
        """A result, waiting for it for a while.

        Raises:
            CallFailed: the call failed, its process died, or the time is up.
            DistdqnError: the call raised it.
        """
        ...

    def end(self, handle: Handle) -> None:
        """Ends a role's process at once."""
        ...

    def capacity(self) -> ClusterCapacity:
        """What the cluster has to offer now."""
        ...

    def request_resources(self, roles: list[str]) -> None:
        """Asks a cluster that can grow for room for these in all; none of them takes that back."""
        ...

    def describe(self) -> dict[str, Any]:
        """For `status.json`: the cluster, the run's namespace there, and who takes commands in it."""
        ...
