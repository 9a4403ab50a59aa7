"""A process that imports TensorFlow while a private Ray starts; the learner's process is forked from it.

Both take seconds, and Ray starts the learner's process only once it runs itself. What Ray then starts in
place of Python is a client without imports. It hands its arguments, environment and output over to the
waiting process, and ends when the fork ends. Without that process it becomes Python as usual.

This file is also the program of both, and the client uses the standard library only.
"""

import array
import contextlib
import importlib
import json
import os
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

_MAX_BYTES = 10_000_000  # of arguments and environment


class Preload:
    """Starts the process, in the environment of this one; `py_executable` lets Ray use it, once."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="distdqn-")  # of this user alone
        place = str(Path(self._folder) / "socket")
        self.py_executable = shlex.join([sys.executable, "-IS", __file__, "fork", place])
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(place)
            listener.listen(1)
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, __file__, "wait", place, str(listener.fileno()), json.dumps(sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[listener.fileno()],
            )

    def close(self) -> None:
        """Ends the process, whose fork has ended or will not be made."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _wait(place: str, listener: socket.socket, path: list[str]) -> None:
    """Imports what the learner needs, and becomes the process that the first client asks for."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # as in all processes of a private Ray
    sys.path[:] = path
    # Not Ray: it reads variables of the learner's environment when it is imported.
    from distdqn.networks.tensorflow_setup import import_tensorflow

    import_tensorflow()
    for name in ("learner", "update"):
        importlib.import_module(f"distdqn.learning.{name}")
    client, _ = listener.accept()
    listener.close()
    shutil.rmtree(Path(place).parent)  # now: if the driver is killed, nobody else does it
    streams = array.array("i")
    content, ancillary, _, _ = client.recvmsg(_MAX_BYTES, socket.CMSG_SPACE(3 * streams.itemsize))
    while not content.endswith(b"\n"):
        content += client.recv(_MAX_BYTES)
    for _, _, data in ancillary:
        streams.frombytes(data)
    if child := os.fork():
        client.sendall(b"\1")  # from now on, the client must start no other process
        _, status = os.waitpid(child, 0)
        client.sendall(bytes([os.waitstatus_to_exitcode(status) & 0xFF]))
        os._exit(0)
    client.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    told = json.loads(content)
    os.environ.clear()
    os.environ.update(told["environment"])
    os.chdir(told["folder"])
    sys.argv = told["arguments"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


def _fork(place: str, arguments: list[str]) -> None:
    """Lets the waiting process fork; this one ends as the fork does."""
    told = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}  # noqa: PTH109
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as server:
        server.connect(place)
        content = json.dumps(told).encode() + b"\n"
        streams = array.array("i", [0, 1, 2])
        sent = server.sendmsg([content], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        server.sendall(content[sent:])
        if server.recv(1):
            status = server.recv(1)
            sys.exit(status[0] if status else 1)
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606


if __name__ == "__main__":
    if sys.argv[1] == "wait":
        _wait(sys.argv[2], socket.socket(fileno=int(sys.argv[3])), json.loads(sys.argv[4]))
    else:
        _fork(sys.argv[2], sys.argv[3:])
