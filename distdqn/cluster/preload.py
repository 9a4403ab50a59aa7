"""Processes that import what roles need while a private Ray starts, and from which theirs are forked.

A role's process of its own needs two seconds of a CPU to start, the learner's six. What Ray starts in place
of Python is a client without imports. It hands its arguments, environment and output over to a waiting
process, and ends when the fork ends. Where none waits, it becomes Python as usual.

This file is also the program of both, and the client uses the standard library only.
"""

import array
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path

LEARNER = {"DISTDQN_PRELOAD": "learner"}  # set for the process of the learner
# Not Ray: it reads variables of a role's environment when it is imported. But what Ray imports.
_MODULES = {
    "role": ("gymnasium", "distdqn.acting.actor", "distdqn.acting.evaluator", "distdqn.replay.replay"),
    "learner": ("distdqn.learning.learner", "distdqn.learning.update"),
}
_OF_RAY = ("asyncio", "google.protobuf.json_format", "jsonschema", "msgpack", "psutil", "requests", "yaml")
_MAX_BYTES = 10_000_000  # of arguments and environment


class Preload:
    """Starts the two processes in the environment of this one, with sockets in `folder`, of this user alone.

    Attributes:
        command: what Ray starts in place of Python.
    """

    def __init__(self, folder: str) -> None:
        self.command = [sys.executable, "-IS", __file__, "fork", folder]
        self._processes = [self._start(folder, kind) for kind in _MODULES]

    def _start(self, folder: str, kind: str) -> "subprocess.Popen[bytes]":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(Path(folder) / kind))
            listener.listen(1024)
            return subprocess.Popen(  # noqa: S603
                [sys.executable, __file__, "wait", kind, str(listener.fileno()), json.dumps(sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[listener.fileno()],
            )

    def close(self) -> None:
        """Ends both processes, whose forks have ended or will not be made."""
        for process in self._processes:
            process.kill()
            process.wait()


def _wait(kind: str, listener: socket.socket, path: list[str]) -> None:
    """Imports what a role needs, and becomes a role's process in a fork for each client."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # as in all processes of a private Ray
    sys.path[:] = path
    if kind == "learner":
        from distdqn.networks.tensorflow_setup import import_tensorflow

        import_tensorflow()
    for name in _MODULES[kind]:
        importlib.import_module(name)
    for name in _OF_RAY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # so that collections in the forks leave these pages shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    while True:
        client, _ = listener.accept()
        if not os.fork():
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _become(client)
            return
        client.close()


def _become(client: socket.socket) -> None:
    """Makes this fork the process that the client asks for."""
    streams = array.array("i")
    content, ancillary, _, _ = client.recvmsg(_MAX_BYTES, socket.CMSG_SPACE(3 * streams.itemsize))
    while not content.endswith(b"\n"):
        content += client.recv(_MAX_BYTES)
    for _, _, data in ancillary:
        streams.frombytes(data)
    os.setsid()  # Ray ends the process group of a role that has died
    client.sendall(b"\1")  # from now on, the client must start no other process
    client.detach()  # stays open until this process ends
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    told = json.loads(content)
    os.environ.clear()
    os.environ.update(told["environment"])
    os.chdir(told["folder"])
    importlib.import_module("numpy").random.seed()  # else all forks draw the same numbers
    sys.argv = told["arguments"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


def _fork(folder: str, arguments: list[str]) -> None:
    """Lets the waiting process fork; this one ends as the fork does.

    `arguments` are those of Ray's `setup_worker.py`, whose work is done here where it is simple.
    """
    begin = "--serialized-runtime-env-context="
    text = next((each.removeprefix(begin) for each in arguments if each.startswith(begin)), "{}")
    context = {"py_executable": sys.executable, "env_vars": {}, **json.loads(text)}
    variables, python = context.pop("env_vars"), context.pop("py_executable")
    is_simple = python == sys.executable and not any(context.values()) and "$" not in text
    if is_simple and "--language=PYTHON" in arguments and arguments[1].endswith(".py"):
        kind = "learner" if LEARNER.items() <= variables.items() else "role"
        passed_on = [each for each in arguments[1:] if not each.startswith((begin, "--language="))]
        told = {"arguments": passed_on, "environment": {**os.environ, **variables}, "folder": os.getcwd()}  # noqa: PTH109
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as server:
            server.connect(str(Path(folder) / kind))
            content = json.dumps(told).encode() + b"\n"
            streams = array.array("i", [0, 1, 2])
            sent = server.sendmsg([content], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
            server.sendall(content[sent:])
            if server.recv(1):
                server.recv(1)  # until the fork ends
                sys.exit()
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606


if __name__ == "__main__":
    if sys.argv[1] == "wait":
        _wait(sys.argv[2], socket.socket(fileno=int(sys.argv[3])), json.loads(sys.argv[4]))
    else:
        _fork(sys.argv[2], sys.argv[3:])
