"""A process that outlives the one that started a private Ray, and ends what is left of it.

A driver that is killed ends nothing. What Ray has started ends by itself then, within seconds, but for
two agents, which try for a minute to report to a process that is gone. They belong to this Ray if the
variables that a `Reaper` gives stand in their environment, as in that of whatever they start.

This file is also the program of that process, so it needs the standard library alone.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_MARK = "DISTDQN_PRIVATE_RAY"

_PATIENCE_SECONDS = 5.0  # roles are gone after three

_LOOKS, _SECONDS_BETWEEN = 50, 0.2


class Reaper:
    """Ends the processes of a private Ray if this process ends without having ended them.

    It waits for the end of a pipe, which comes however this process ends. It has a session of its own,
    so that no signal to a terminal or a group of processes reaches it, and holds nothing else open.
    Where there is no /proc, nothing is started: on macOS, Ray has a process like it.

    Attributes:
        variables: for the environment of the processes that it is to end.
    """

    def __init__(self, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        mark = os.urandom(16).hex()
        # SPT_NOENV, known to setproctitle: the titles Ray gives its processes shall not overwrite the mark.
        self.variables = {_MARK: mark, "SPT_NOENV": "1"}
        self._process: subprocess.Popen[bytes] | None = None
        if Path("/proc/self/environ").exists():
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-IS", __file__, mark, str(patience_seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )

    def dismiss(self) -> None:
        """Ends it, as this process has ended that Ray in order."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()  # with no data: closes the pipe, and waits

    def release(self) -> None:
        """Has it end now what is left, as if this process had been killed; does not wait for that."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()


def _marked(mark: str) -> list[int]:
    """Ids of the processes that were started with this mark, as far as they are this user's."""
    entry, found = f"{_MARK}={mark}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # somebody else's, or gone
            if entry in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def _main(mark: str, patience_seconds: float) -> None:
    """Waits for the end of the pipe, gives Ray's processes time to end by themselves, and ends the rest."""
    sys.stdin.buffer.read()
    time.sleep(patience_seconds)
    for _ in range(_LOOKS):
        if not (left := _marked(mark)):
            break
        # Looked up just now, so no number is that of another process yet: those are given in turns.
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(_SECONDS_BETWEEN)


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]))
