"""Which Ray a run uses: one that is there already, one it is told of, or a private one."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distdqn.cluster.discovery import Target, check, choose_target, limit_waiting
from distdqn.cluster.reaper import Reaper
from distdqn.cluster.role_logs import ray_output
from distdqn.errors import ClusterError

# Set before `import ray`, unless the user has set them.
_RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # every result is looked at, or not wanted any more
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run` uploads the working directory
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning on every start
}

# Every role computes with one thread of its own; the learner's count is an option.
THREAD_SETTINGS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}  # to Ray, a role without GPUs is free to use all there are

_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}

_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Cluster:
    """The Ray this run is connected to.

    Attributes:
        address: of its head.
        is_private: started for this run, on this machine.
        cpus_per_role: what each role asks of it, and waits for. Nothing where this process has
            started it, on one machine: there roles share the cores as any processes do.
    """

    address: str
    is_private: bool
    cpus_per_role: float


@contextlib.contextmanager
def connected(
    address: str | None,
    roles: int,
    hide_gpus: bool = True,
    tell: Callable[[str], None] = lambda _why: None,
) -> Iterator[Cluster]:
    """Connects to Ray for `roles` processes; at the end leaves it as it was found.

    Args:
        address: `auto`, `host:port`, `local` for a private one, or None: what is
            connected already, else RAY_ADDRESS if set, else a private one.
        roles: how many processes the run will start.
        hide_gpus: a private Ray and all its processes shall know of no GPU.
        tell: told which Ray is joined, and why, in words, as soon as that is chosen.

    Raises:
        ClusterError: it cannot be reached, or a private one cannot have its token.
        ConfigError: RAY_ADDRESS is of a kind that a run cannot use.
    """
    for name, value in _RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    limit_waiting(address)
    import ray

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
        if (output := ray_output()) is not None:
            output.remove_handler("ray_print_logs")  # not on the terminal: see `RoleLogs`
        yield _describe(is_private=target.address is None)
    finally:
        ray.shutdown()
        if reaper is not None:
            reaper.dismiss()
        for number, handler in handlers.items():  # connecting to Ray replaces SIGTERM's
            signal.signal(number, handler)


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """Connects to the Ray of a run that is under way, to give it a command.

    Raises:
        ClusterError: it does not answer.
    """
    for name, value in _RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), _CONNECT_SECONDS):  # Ray itself would try for long
            pass
        # A private Ray listens on this machine alone, under an address that Ray would replace.
        with loopback_alone() if host == "127.0.0.1" else contextlib.nullcontext():
            ray.init(address=address, **_QUIET)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"The Ray of the run at {address} does not answer, so it is over, or this is no machine of its "
            f"cluster: {error}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _join(target: Target) -> None:
    """Connects to a cluster that is there."""
    import ray

    with contextlib.suppress(ImportError, AttributeError, TypeError):  # in a Ray made up differently inside
        check(target)
    try:
        ray.init(address=target.address, **_quiet())
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ClusterError(f"The Ray cluster at {target.address} cannot be joined: {lines[0]}") from error


def _start_private(cpus: int, hide_gpus: bool) -> Reaper:
    """Starts a Ray that only this machine reaches, and only who can read this user's token.

    Returns:
        What ends its processes should this one be killed.
    """
    import ray

    try:
        guard_token()
    except OSError as error:
        raise ClusterError(
            f"A private Ray needs its token in ~/.ray/auth_token: {error} (RAY_AUTH_TOKEN_PATH may name "
            "a file with a token elsewhere; RAY_AUTH_MODE=disabled does without)."
        ) from error
    unset = {name: value for name, value in THREAD_SETTINGS.items() if name not in os.environ}
    reaper = Reaper()
    settings = {**unset, **(NO_GPU if hide_gpus else {}), **reaper.variables}
    try:
        with _environment(settings), loopback_alone():
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **_quiet())
    except BaseException:
        reaper.release()  # Ray itself leaves its agents behind
        raise
    return reaper


def guard_token() -> None:
    """Sees to it that the token a private Ray is going to use is no one else's to read.

    Ray writes a missing one itself, for everybody to read; so it is written here before.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return  # used instead, and the user's to guard
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        descriptor, new = tempfile.mkstemp(prefix="auth_token-", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
            # Whole from the first moment, and unlike a rename never over another run's.
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(new)
        finally:
            Path(new).unlink()
    about = path.lstat()
    if stat.S_ISREG(about.st_mode) and about.st_uid == os.getuid() and about.st_mode & 0o077:
        path.chmod(stat.S_IMODE(about.st_mode) & 0o700)


@contextlib.contextmanager
def loopback_alone() -> Iterator[None]:
    """A Ray started meanwhile listens on 127.0.0.1 alone, unless the user has set otherwise.

    Ray puts the machine's own address in place of any 127.0.0.1 it is given, and then
    listens on every interface. It does neither while it thinks that there are no clusters, as
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 says. It reads that when it is imported, which may have
    been long ago: hence the value read, and hence put back for a cluster to be joined later.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    if "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ:
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _signal_handlers() -> dict[signal.Signals, Any]:
    """What handles the signals that Ray may take over; nothing off the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def _quiet() -> dict[str, object]:
    """Settings that keep Ray's own messages off the terminal, while what roles print comes here."""
    return {**_QUIET, "log_to_driver": ray_output() is not None}


def _describe(is_private: bool) -> Cluster:
    """The connected cluster."""
    import ray
    from ray._private import worker

    node = worker.global_worker.node
    is_one_machine = node is not None and node.is_head()  # started by this process
    address = ray.get_runtime_context().gcs_address
    return Cluster(address, is_private, cpus_per_role=0.0 if is_one_machine else 1.0)


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Environment variables for processes started meanwhile."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
