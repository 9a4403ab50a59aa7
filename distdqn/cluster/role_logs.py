"""What the roles print, in a file for each role: `logs/actor-3.log` in the run's folder.

Ray sends what a process writes to its standard output and error to the process that started the run, with the
node's address and the process's id. So the other nodes need no access to the run's folder.
"""

import contextlib
import re
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ray._private.ray_logging import global_worker_stdstream_dispatcher as ray_output

_MAX_BYTES = 1_000_000  # of a file, which then becomes `….log.1` and replaces the one before
_MAX_UNCLAIMED_LINES = 1000  # of a process whose role is not known yet
_NOT_A_ROLE = "ray"  # the file of Ray's own messages, and of processes whose role was never known
_PROCESS = re.compile(r"\(pid=(\d+), ip=([^,)]+)")  # in Ray's description of an error

Source = tuple[str, str]  # address of the node, id of the process


class RoleLogs:
    """Writes lines into the file of the role that printed them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[Source, str] = {}
        self._unclaimed: dict[Source, deque[str]] = {}
        self._lock = threading.Lock()  # lines come on a thread of Ray's

    def open(self, name: str) -> None:
        """Starts to receive lines from Ray, as a handler of this name."""
        ray_output.add_handler(name, self.write)

    def close(self, name: str) -> None:
        """Stops receiving lines, and writes those of processes whose role was never known."""
        ray_output.remove_handler(name)
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
            if (name := self._names.get(source)) is not None:
                self._append(name, batch["lines"])
            elif source[1].isdigit():
                self._unclaimed.setdefault(source, deque(maxlen=_MAX_UNCLAIMED_LINES)).extend(batch["lines"])
            else:  # Ray's own
                self._append(_NOT_A_ROLE, batch["lines"])

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
