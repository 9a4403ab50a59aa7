"""`distdqn run` as a process that can be killed, and the files and processes that it leaves."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from distdqn.checkpoints.store import Store
from distdqn.errors import NoCheckpoint

_TAIL_BYTES = 16_384  # of metrics, more than a few lines


class Driver:
    """`python -m distdqn.run` with a private Ray that has its own folder for files."""

    def __init__(
        self,
        run_dir: Path,
        options: Sequence[object],
        variables: Mapping[str, str] | None = None,
        streams: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts the command.

        Args:
            run_dir: folder of the run.
            options: of the command, apart from `--run-dir`.
            variables: of its environment, in addition to those of this process.
            streams: arguments of `Popen` for an output that `output` does not return.
        """
        self.run_dir = run_dir
        # A short path: Ray puts unix sockets below it, whose paths are limited to 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="dq-", dir="/tmp"))
        self._output = (self._folder / "output").open("w+", encoding="utf-8")
        self._text: str | None = None  # all it printed, once its files are gone
        self._others: set[psutil.Process] = set()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "distdqn.run", "--run-dir", str(run_dir), *map(str, options)],
            env={**os.environ, "RAY_TMPDIR": str(self._folder), **(variables or {})},
            start_new_session=True,  # so that Ctrl-C here reaches this program alone
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": self._output,
                "stderr": subprocess.STDOUT,
                **(streams or {}),
            },
        )

    def output(self) -> str:
        """All it printed so far."""
        return Path(self._output.name).read_text(encoding="utf-8") if self._text is None else self._text

    def resumed_from(self) -> int | None:
        """The number of the checkpoint that it resumes, once it has reported that."""
        _, found, rest = self.output().partition("Resumes from checkpoint ")
        return int(rest.partition(" ")[0]) if found else None

    def last_metrics(self) -> dict[str, Any]:
        """The last complete line of the run's metrics, empty if there is none."""
        path = self.run_dir / "metrics.jsonl"
        if not path.exists():
            return {}
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
        return json.loads(lines[-1]) if lines else {}

    def wait_until(self, condition: Callable[[], bool], seconds: float, poll: float = 0.02) -> bool:
        """Waits until `condition()`; returns False if the time was up or the command ended before."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(poll)
        return False

    def kill(self) -> None:
        """Kills the driver only, with SIGKILL; the processes that it started end by themselves."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._others |= set(psutil.Process(self.process.pid).children(recursive=True))
        self.process.kill()
        self.process.wait()

    def close(self) -> int:
        """Ends every remaining process by its id; returns how many there were."""
        if self.process.poll() is None:
            self.kill()
        left = self.remaining()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):  # psutil recognizes a reused id
                process.kill()
        psutil.wait_procs(left, 10)
        self._text = self.output()
        self._output.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        return len(left)

    def remaining(self) -> list[psutil.Process]:
        """Processes of the run, apart from the command itself."""
        found = self._others | self._marked()
        return [each for each in found if each.pid != self.process.pid and _is_alive(each)]

    def _marked(self) -> set[psutil.Process]:
        """Processes with the folder of this Ray in their command line or environment."""
        mark, found = str(self._folder), set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if mark in " ".join(process.cmdline()) or process.environ().get("RAY_TMPDIR") == mark:
                    found.add(process)
        return found


def close_when_terminated() -> None:
    """Makes SIGTERM end this program like Ctrl-C, so that it ends the processes that it started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def heed_signals() -> None:
    """Lets the runs that this process starts heed what it ignores itself, as under `nohup`."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def newest_whole(run_dir: Path) -> int | None:
    """The newest complete checkpoint of a run, or None. A damaged one is an error."""
    try:
        ref, passed_over = Store(str(run_dir / "checkpoints")).newest_whole()
    except NoCheckpoint:
        return None
    if passed_over:
        raise RuntimeError(f"A checkpoint that exists is not whole: {passed_over}")
    return ref.number


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
