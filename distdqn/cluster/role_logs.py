"""What the roles print, in a file for each: `logs/actor-3.log` in the run's folder.

Ray brings it here from every node: what a process writes to its standard output and error is
sent to the process that started the run, with the node and the number of the one that wrote
it. So the run's folder need not be reachable from there.
"""

import contextlib
import re
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MAX_BYTES = 1_000_000  # of a file, after which it becomes `….log.1`, in place of the one before

_MAX_WAITING = 1000  # lines of a process that has not said yet who it is

_NOT_A_ROLE = "ray"  # the file for what Ray itself tells, and for processes that never said

_WHERE = re.compile(r"\(pid=(\d+), ip=([^,)]+)")  # in Ray's account of an error

Source = tuple[str, str]  # address of the node, number of the process


def ray_output() -> Any | None:
    """What hands on the lines that come, to handlers; None in a Ray that keeps it elsewhere."""
    try:
        from ray._private.ray_logging import global_worker_stdstream_dispatcher
    except ImportError:
        return None
    return global_worker_stdstream_dispatcher


class RoleLogs:
    """Writes lines to the file of the role that printed them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[Source, str] = {}
        self._waiting: dict[Source, deque[str]] = {}
        self._lock = threading.Lock()  # lines come on a thread of Ray's

    def open(self, name: str) -> None:
        """Begins to take in what Ray brings, known to Ray by this name."""
        if (output := ray_output()) is not None:
            output.add_handler(name, self.take)

    def close(self, name: str) -> None:
        """Ends that, and writes what nobody has claimed."""
        if (output := ray_output()) is not None:
            output.remove_handler(name)
        with self._lock:
            for (ip, pid), lines in self._waiting.items():
                self._write(_NOT_A_ROLE, [f"(process {pid} on {ip}) {line}" for line in lines])
            self._waiting.clear()

    def know(self, name: str, about: Mapping[str, Any]) -> None:
        """Takes in who a process is, and writes what it has printed so far."""
        source = (str(about["ip"]), str(about["pid"]))
        with self._lock:
            self._names[source] = name
            self._write(name, self._waiting.pop(source, ()))

    def take(self, batch: Mapping[str, Any]) -> None:
        """Takes in lines as Ray hands them over."""
        source = (str(batch.get("ip")), str(batch.get("pid")))
        with self._lock:
            if (name := self._names.get(source)) is not None:
                self._write(name, batch["lines"])
            elif source[1].isdigit():
                self._waiting.setdefault(source, deque(maxlen=_MAX_WAITING)).extend(batch["lines"])
            else:  # Ray's own
                self._write(_NOT_A_ROLE, batch["lines"])

    def add_failure(self, name: str | None, why: str) -> None:
        """Writes why a call failed; `name` is the role's, if it is known, else `why` may tell."""
        if name is None and (found := _WHERE.search(why)) is not None:
            name = self._names.get((found[2], found[1]))
        if name is not None:
            with self._lock:
                self._write(name, [why.rstrip()])

    def _write(self, name: str, lines: Any) -> None:
        text = "".join(f"{line}\n" for line in lines)
        path = self._folder / f"{name}.log"
        with contextlib.suppress(OSError):  # a full disk: training goes on
            if text:
                self._folder.mkdir(parents=True, exist_ok=True)
                if path.exists() and path.stat().st_size + len(text) > _MAX_BYTES:
                    path.replace(path.with_name(f"{name}.log.1"))
                with path.open("a", encoding="utf-8", errors="replace") as file:
                    file.write(text[-_MAX_BYTES:])
