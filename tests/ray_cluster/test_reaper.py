"""What a killed process leaves behind, and what ends it: plain processes, without Ray."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

# Starts a process as Ray does, prints the ids of it and of its reaper, and calls the methods it is told.
_STARTER = """
import os, subprocess, sys
from distdqn.cluster.reaper import Reaper

reaper = Reaper(patience_seconds=float(sys.argv[1]))
command = [sys.executable, "-IS", "-c", "import time; time.sleep(60)"]
child = subprocess.Popen(
    command, env={**os.environ, **reaper.variables}, stdout=subprocess.DEVNULL, start_new_session=True
)
print(child.pid, reaper._process.pid, reaper.folder, flush=True)
while word := sys.stdin.readline().strip():
    getattr(reaper, word)()
    print(word, flush=True)
"""


class _Started:
    """A process that has started another, both, and the reaper."""

    def __init__(self, patience_seconds):
        self.starter = psutil.Popen(
            [sys.executable, "-c", _STARTER, str(patience_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        child, watcher, folder = self.starter.stdout.readline().split()
        self.child, self.watcher = psutil.Process(int(child)), psutil.Process(int(watcher))
        self.folder = Path(folder)
        assert self.folder.stat().st_mode & 0o077 == 0  # nobody else may put a socket there

    def tell(self, word):
        """Has a method of its reaper called, and waits until that has returned."""
        self.starter.stdin.write(f"{word}\n")
        self.starter.stdin.flush()
        assert self.starter.stdout.readline() == f"{word}\n"

    def close(self):
        for process in (self.starter, self.child, self.watcher):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.starter.communicate()


@pytest.fixture
def start():
    with contextlib.ExitStack() as stack:

        def start(patience_seconds=0.0):
            started = _Started(patience_seconds)
            stack.callback(started.close)
            return started

        yield start


def _is_alive(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _ends(*processes, within=5.0):
    deadline = time.monotonic() + within
    while any(map(_is_alive, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_processes_that_a_killed_group_leaves_behind_are_ended_and_none_of_another(start):
    killed, other = start(patience_seconds=0.5), start()

    os.killpg(killed.starter.pid, signal.SIGKILL)
    assert killed.starter.stdout.read() == ""  # nothing holds its output open
    assert _is_alive(killed.child)  # it is given half a second

    assert _ends(killed.child, killed.watcher)
    assert not killed.folder.exists()
    assert other.folder.exists()
    assert all(map(_is_alive, (other.starter, other.child, other.watcher)))


def test_what_is_left_of_a_run_in_order_is_ended_at_once_with_the_reaper(start):
    started, other = start(), start()

    started.tell("finish")

    assert not started.watcher.is_running()
    assert not started.folder.exists()
    assert not _is_alive(started.child)
    assert all(map(_is_alive, (started.starter, other.child, other.watcher)))


def test_processes_of_a_failed_start_are_ended_while_their_starter_lives(start):
    started = start()

    started.tell("release")

    assert _ends(started.child, started.watcher)
    assert not started.folder.exists()
    assert _is_alive(started.starter)
