"""Connects this process to Ray: to a cluster that runs already, or to a private Ray that it starts."""

import contextlib
import logging
import os
import secrets
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, worker
from ray._private.ray_logging import global_worker_stdstream_dispatcher as ray_output

from distdqn.cluster.discovery import Target, check, choose_target, probe
from distdqn.cluster.reaper import Reaper
from distdqn.errors import ClusterError

# Each role computes with one thread; the learner's number is an option.
THREAD_SETTINGS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}  # Ray lets a role that requests no GPU use all of them
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Cluster:
    """The Ray that this process is connected to."""

    address: str  # of its head
    is_private: bool  # started for this run, on this machine
    cpus_per_role: float  # 0 on a Ray of one machine that this process started: roles share the cores there


@contextlib.contextmanager
def connected(
    address: str | None,
    roles: int,
    hide_gpus: bool = True,
    tell: Callable[[str], None] = lambda _why: None,
) -> Iterator[Cluster]:
    """Connects to Ray for `roles` processes. At the end, stops a private Ray and leaves any other running.

    Args:
        address: `auto`, `host:port`, `local` for a private Ray, or None for the Ray that this process is
            connected to already, else RAY_ADDRESS if it is set, else a private Ray.
        roles: number of processes that the run will start.
        hide_gpus: whether a private Ray and all its processes see no GPU.
        tell: called with a text that says which Ray is joined and why, before joining it.

    Raises:
        ClusterError: it cannot be reached, or a private Ray cannot have its token.
        ConfigError: a run cannot use the kind of address in RAY_ADDRESS.
    """
    if ray.is_initialized():
        tell("the one this process is connected to already")
        yield _describe(is_private=False)
        return
    target = choose_target(address)
    tell(target.why)
    handlers, reaper = _signal_handlers(), None
    try:
        if target.address is None:
            reaper = _start_private(max(os.cpu_count() or 1, roles), hide_gpus)
        else:
            _join(target)
        ray_output.remove_handler("ray_print_logs")  # `RoleLogs` writes into files what roles print
        yield _describe(is_private=target.address is None)
    finally:
        ray.shutdown()
        if reaper is not None:
            reaper.dismiss()
        for number, handler in handlers.items():  # Ray replaces SIGTERM's
            signal.signal(number, handler)


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """Connects to the Ray of a running run, to give it a command.

    Raises:
        ClusterError: it does not answer.
    """
    is_loopback = address.startswith("127.0.0.1:")  # a private Ray's, which Ray would replace
    try:
        probe(address, _CONNECT_SECONDS)  # Ray itself tries for minutes
        with loopback_only() if is_loopback else contextlib.nullcontext():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"The run's Ray at {address} does not answer: {error} (the run has ended, or this machine is no "
            "node of its cluster)."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _join(target: Target) -> None:
    """Connects to a running cluster."""
    with contextlib.suppress(ImportError, AttributeError, TypeError):  # a Ray that is different inside
        check(target)
    try:
        ray.init(address=target.address, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ClusterError(f"The Ray cluster at {target.address} cannot be joined: {lines[0]}") from error


def _start_private(cpus: int, hide_gpus: bool) -> Reaper:
    """Starts a Ray that only this machine can reach, and only with this user's token.

    Returns:
        What ends its processes if this process is killed.
    """
    try:
        guard_token()
    except OSError as error:
        raise ClusterError(
            f"A private Ray needs its token in ~/.ray/auth_token: {error} (name another file by "
            "RAY_AUTH_TOKEN_PATH, or run without a token by RAY_AUTH_MODE=disabled)."
        ) from error
    threads = {name: value for name, value in THREAD_SETTINGS.items() if name not in os.environ}
    reaper = Reaper()
    settings = {**threads, **(NO_GPU if hide_gpus else {}), **reaper.variables}
    try:
        with _environment(settings), loopback_only():
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, logging_level=logging.ERROR)
    except BaseException:
        reaper.release()  # Ray itself leaves its agents behind
        raise
    return reaper


def guard_token() -> None:
    """Makes sure that nobody else can read the token that a private Ray will use.

    Ray writes a missing token itself, readable for everybody. So it is written here first.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return  # used instead, and the user's to guard
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", prefix="auth_token-", dir=path.parent) as file:  # mode 0600
            file.write(secrets.token_hex(32))
            file.flush()
            # A link appears with its whole content, and unlike a rename replaces no token of another run.
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(file.name)
    info = path.lstat()
    if stat.S_ISREG(info.st_mode) and info.st_uid == os.getuid() and info.st_mode & 0o077:
        path.chmod(stat.S_IMODE(info.st_mode) & 0o700)


@contextlib.contextmanager
def loopback_only() -> Iterator[None]:
    """Makes a Ray that is started inside listen on 127.0.0.1 only, unless the user has set otherwise.

    Ray replaces 127.0.0.1 by the machine's own address and then listens on every interface. It does neither
    if RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 tells it that there are no clusters. It reads that variable when it
    is imported, so the constant is set here, and set back for a cluster that is joined later.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    if "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ:
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _signal_handlers() -> dict[signal.Signals, Any]:
    """The handlers of the signals that Ray may replace; none outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def _describe(is_private: bool) -> Cluster:
    """The connected cluster."""
    node = worker.global_worker.node
    is_one_machine = node is not None and node.is_head()  # started by this process
    address = ray.get_runtime_context().gcs_address
    return Cluster(address, is_private, cpus_per_role=0.0 if is_one_machine else 1.0)


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for processes that are started inside."""
    replaced = {name: os.environ[name] for name in settings if name in os.environ}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            del os.environ[name]
        os.environ.update(replaced)
