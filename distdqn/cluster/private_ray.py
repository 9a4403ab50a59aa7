"""How the processes of a private Ray are started, where Ray itself has no setting for it."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ray._private import services

from distdqn.cluster.preload import Preload

_NODE_SECONDS = 180.0  # for the node to report to the head; 30 in Ray, too few beside other work
_POLL_SECONDS = 0.2


class NodeEnded(Exception):
    """The node of a private Ray has ended while it started."""


@contextlib.contextmanager
def adapted_start(preload: Preload | None = None) -> Iterator[None]:
    """Starts Ray's processes inside so that SIGTERM does not end them, and waits longer for the node.

    The roles' processes are forked from those of `preload`, if there is one.

    A batch system sends SIGTERM to every process. If the node ends before this process has saved what was
    learned, Ray ends the driver at once. `NodeEnded` if the node has ended by itself, as it does if its
    agents need more than about 20 s to start.
    """
    before = services.ConsolePopen, services.get_node
    nodes: list[subprocess.Popen[bytes]] = []

    def get_node(*place: Any) -> Any:
        deadline = time.monotonic() + _NODE_SECONDS
        while True:
            try:
                return before[1](*place)
            except RuntimeError as error:  # it has not reported yet
                if any(node.poll() is not None for node in nodes):
                    raise NodeEnded("its node has ended, as it does if this machine is too busy") from error
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_POLL_SECONDS)

    def start(command: list[str], *, preexec_fn: Callable[[], None], **options: Any) -> Any:
        """A process in a session of its own that blocks SIGTERM, as do those that it starts."""

        def prepare() -> None:
            preexec_fn()
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

        if preload is not None:
            command = [each.replace(*_worker_command(preload)) for each in command]
        process: Any = subprocess.Popen(command, preexec_fn=prepare, start_new_session=True, **options)  # noqa: S603
        process.terminate = process.kill
        if command[0].endswith("raylet"):
            nodes.append(process)
        return process

    services.ConsolePopen, services.get_node = start, get_node
    try:
        yield
    finally:
        services.ConsolePopen, services.get_node = before


def _worker_command(preload: Preload) -> tuple[str, str]:
    """How Ray's node starts Python for a role, and what replaces that."""
    option = "--python_worker_command="
    ours = subprocess.list2cmdline(preload.command)
    return f"{option}{subprocess.list2cmdline([sys.executable])} ", f"{option}{ours} "
