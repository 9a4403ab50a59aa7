"""A process that outlives the one that started a private Ray, and ends what Ray leaves behind.

A driver that is killed cannot clean up. Most of what Ray has started then ends by itself within seconds, but
its two agents try for a minute to report to a process that is gone. The processes of this Ray are recognized
by a variable in their environment, which whatever they start inherits.

This file is also the program of that process, so it uses the standard library only.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARK = "DISTDQN_PRIVATE_RAY"
_PATIENCE_SECONDS = 5.0  # roles need three to end by themselves
_ROUNDS, _ROUND_SECONDS = 50, 0.2


class Reaper:
    """Ends the processes of a private Ray if this process ends without doing so.

    It waits for the end of a pipe, which comes however this process ends. In its own session, no signal to a
    terminal or process group reaches it. Without /proc it is not started: Ray has such a process on macOS.
    """

    variables: dict[str, str]  # for the environment of the processes that it may end
    folder: str  # of this user alone; it is removed at the end
    preload: Any = None  # some of them, which this process has started

    def __init__(self, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        mark = self._mark = os.urandom(16).hex()
        # SPT_NOENV keeps setproctitle, with which Ray names its processes, from overwriting the mark.
        self.variables = {MARK: mark, "SPT_NOENV": "1"}
        self.folder = tempfile.mkdtemp(prefix="distdqn-")
        self._process: subprocess.Popen[bytes] | None = None
        if Path("/proc/self/environ").exists():
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-IS", __file__, mark, str(patience_seconds), self.folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )

    @property
    def is_watching(self) -> bool:
        """Whether it ends what this process leaves behind."""
        return self._process is not None

    def finish(self) -> None:
        """Kills now what this process has left of its Ray, and ends it."""
        if self.preload is not None:
            self.preload.close()
        if self._process is not None:
            _kill_all(self._mark)
            self._process.kill()
            self._process.communicate()  # closes the pipe and waits
        shutil.rmtree(self.folder, ignore_errors=True)

    def release(self) -> None:
        """Makes it act now, as if this process had been killed; does not wait for it."""
        if self.preload is not None:
            self.preload.close()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def private_addresses() -> set[str]:
    """The addresses of private Rays on this machine, as far as this user may see them: of one run alone."""
    found = set()
    for folder, environment in _environments():
        if f"{MARK}=".encode() in environment:
            with contextlib.suppress(OSError):  # gone
                arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                prefix = "--gcs-address="
                found |= {each.removeprefix(prefix) for each in arguments if each.startswith(prefix)}
    return found


def _environments() -> Iterator[tuple[Path, bytes]]:
    """The folder and the environment of each process that this user may see."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # another user's, or gone
            yield path.parent, path.read_bytes()


def _kill_all(mark: str) -> None:
    """Kills this user's processes with the mark until there are none, or for ten seconds."""
    entry = f"{MARK}={mark}".encode()
    for _ in range(_ROUNDS):
        marked = [folder for folder, environment in _environments() if entry in environment.split(b"\0")]
        for folder in marked:
            with contextlib.suppress(OSError):  # gone
                os.kill(int(folder.name), signal.SIGKILL)
        if not marked:
            break
        time.sleep(_ROUND_SECONDS)


if __name__ == "__main__":
    sys.stdin.buffer.read()  # until the end of the pipe
    time.sleep(float(sys.argv[2]))  # Ray's processes may end by themselves
    _kill_all(sys.argv[1])
    shutil.rmtree(sys.argv[3], ignore_errors=True)
