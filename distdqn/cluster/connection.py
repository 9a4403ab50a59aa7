"""Connects this process to Ray: to a cluster that runs already, or to a private Ray that it starts.

Ray itself tries an address that does not answer for minutes. So `_join` tests it first, in the order in
which joining can fail: does anything listen, is it Ray, does it accept this process's token, has it the same
versions, and is this machine one of its nodes.
"""

import atexit
import contextlib
import json
import logging
import os
import platform
import secrets
import signal
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ray
from ray._private import ray_constants, services, worker
from ray._private.ray_logging import global_worker_stdstream_dispatcher as ray_output

from distdqn.cluster.preload import Preload
from distdqn.cluster.private_ray import NodeEnded, adapted_start
from distdqn.cluster.reaper import Reaper, private_addresses
from distdqn.config.validation import check_address
from distdqn.errors import ClusterError, ConfigError
from distdqn.networks.tensorflow_setup import without_stderr
from distdqn.training.limits import available_cpus

# Each role computes with one thread; the learner's number is an option.
THREAD_SETTINGS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}  # Ray lets a role that requests no GPU use all of them
# For a private Ray beside other work on its machine. What the user has set stays.
_PRIVATE_SETTINGS = {
    "RAY_worker_niceness": "0",  # at Ray's 15, roles get next to nothing beside a busy process
    "RAY_worker_register_timeout_seconds": "300",  # 60 in Ray, for Python to start and to import Ray
    "RAY_gcs_server_port_wait_time_s": "120",  # 30 in Ray
}
_STARTS = 3  # of a private Ray whose node ends meanwhile
_CONNECT_SECONDS = 10.0
_SAME_MACHINE_SECONDS = 0.5
_NODE_SECONDS = 8.0  # for a node of this machine that is just starting
# For the head to answer once its port is open; Ray adds two waits of 5 s.
_HEAD_TIMEOUT, _HEAD_SECONDS = "py_gcs_connect_timeout_s", 5


@dataclass(frozen=True)
class Cluster:
    """The Ray that this process is connected to."""

    address: str  # of its head
    is_private: bool  # started for this run, on this machine
    cpus_per_role: float  # 0 on a Ray of one machine that this process started: roles share the cores there
    has_preload: bool = False  # whether a process waits that the learner's is forked from


@dataclass(frozen=True)
class Target:
    """The Ray to connect to."""

    address: str | None  # `host:port` of the head; None means a private Ray
    why: str  # which Ray it is and what chose it, in words
    source: str = ""  # the option or variable that named it
    is_found: bool = False  # found on this machine, not named


@contextlib.contextmanager
def connected(
    address: str | None, roles: int, hide_gpus: bool = True, tell: Callable[[str], None] = lambda _why: None
) -> Iterator[Cluster]:
    """Connects to Ray for `roles` processes. At the end, stops a private Ray and leaves any other running.

    In an interactive session a private Ray stays until the session ends: later runs use it. `ClusterError` if
    Ray cannot be reached, or a private one cannot have its token; `ConfigError`: see `choose_target`.

    Args:
        address: `auto`, `host:port`, `local` for a private Ray, or None for the Ray that this process is
            connected to already, else RAY_ADDRESS if it is set, else a private Ray.
        roles: number of processes that the run will start.
        hide_gpus: whether a private Ray and all its processes see no GPU.
        tell: called with a text that says which Ray is joined and why, before joining it.
    """
    if ray.is_initialized():
        tell("the one this process is connected to already")
        yield _describe(is_private=False)
        return
    target = choose_target(address)
    tell(target.why)
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM) if is_main}
    reaper = None
    try:
        if target.address is None:
            reaper = _start_private(max(available_cpus(), roles), hide_gpus)
        else:
            _join(target)
        ray_output.remove_handler("ray_print_logs")  # `RoleLogs` writes into files what roles print
        yield _describe(target.address is None, reaper is not None and reaper.preload is not None)
    finally:
        if reaper is not None and hasattr(sys, "ps1"):
            atexit.register(_shut_down, reaper)
        else:
            _shut_down(reaper)
        for number, handler in handlers.items():  # Ray replaces that of SIGTERM
            signal.signal(number, handler)


def _shut_down(reaper: Reaper | None) -> None:
    """Disconnects from Ray; with its `reaper`, ends a private one."""
    try:
        ray.shutdown()
    finally:
        if reaper is not None:
            reaper.finish()


def choose_target(address: str | None) -> Target:
    """The Ray that `--address`, RAY_ADDRESS or, for `auto`, this machine names.

    `ClusterError` if `auto` finds no cluster on this machine or several, `ConfigError` if a run cannot use
    the kind of address in RAY_ADDRESS.
    """
    variable = os.environ.get("RAY_ADDRESS", "")
    if address == "local":
        other = f", not the cluster at {variable} that RAY_ADDRESS names" if variable else ""
        return Target(None, f"a private one on this machine, as `--local` says{other}")
    if address and address != "auto":
        return Target(address, f"the cluster at {address}, as `--address` says", "`--address`")
    if variable == "local":
        return Target(None, "a private one on this machine, as RAY_ADDRESS says")
    if variable and variable != "auto":
        try:
            check_address(variable)
        except ValueError as error:
            raise ConfigError(f"RAY_ADDRESS {error}.") from error
        job = ", set by `ray job submit`" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else ""
        return Target(variable, f"the cluster at {variable}, as RAY_ADDRESS says{job}", "RAY_ADDRESS")
    found = None
    with contextlib.suppress(OSError, ValueError):  # none is recorded, or it has ended
        recorded = services.find_bootstrap_address(None) or ""
        probe(recorded, _SAME_MACHINE_SECONDS)
        found = recorded
    if not address and not variable:
        stray = f"; the cluster at {found}, which `ray start` left on this machine, is not used"
        hint = f"{stray} (`--address auto` joins it)" if found else ""
        return Target(None, f"a private one on this machine, as no cluster is named{hint}")
    source = "`--address auto`" if address else "RAY_ADDRESS=auto"
    others = services.find_gcs_addresses() - private_addresses() if found is None else set()
    if len(others) > 1:
        raise ClusterError(
            f"{source}: several Ray clusters run on this machine (name one of them with `--address`: "
            f"{', '.join(sorted(others))})."
        )
    found = found or next(iter(others), None)
    if found is None:
        raise ClusterError(
            f"{source}: no Ray cluster runs on this machine (start one with `ray start --head`, name one "
            "with `--address host:port`, or give `--local`)."
        )
    why = f"the cluster at {found}, which runs on this machine ({source})"
    return Target(found, why, source, is_found=True)


def probe(address: str, timeout_seconds: float) -> None:
    """Connects to `host:port` and disconnects; `OSError` if nothing answers, `ValueError` if malformed."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout_seconds).close()


def _join(target: Target) -> None:
    """Connects to a running cluster; a `ClusterError` says what prevents it, and how to fix it."""
    named = address = target.address or ""
    try:
        address = services.canonicalize_bootstrap_address(named) or ""
        probe(address, _CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        resolved = "" if named == address else f", which Ray resolves to {address}"
        why = getattr(error, "strerror", None) or str(error) or "no answer"
        raise ClusterError(
            f"No Ray cluster answers at {named} ({target.source}{resolved}): {why.lower()} (start the head, "
            f"open its port to this machine, or give `--local`; {_describe_token()})."
        ) from error
    # Ray prints to standard error what `_check_head` raises. Another version may be different inside.
    with without_stderr(), contextlib.suppress(ImportError, AttributeError, TypeError):
        _check_head(named, address, target.is_found)
    try:
        ray.init(address=named, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(f"The Ray cluster at {named} cannot be joined: {_why(error)}") from error


def _check_head(named: str, address: str, is_found: bool) -> None:
    """Checks token and versions with the head, and that this machine is a node."""
    from ray._common.usage import usage_lib
    from ray._private import utils
    from ray._private.authentication import authentication_token_setup
    from ray._raylet import Config, GcsClient  # type: ignore[attr-defined]

    # Ray ends the process if it does not know the name.
    if hasattr(Config, _HEAD_TIMEOUT) and f"RAY_{_HEAD_TIMEOUT}" not in os.environ:
        Config.initialize(json.dumps({_HEAD_TIMEOUT: _HEAD_SECONDS}))
    if is_found:  # as Ray does; a machine that was only named is sent no token unasked
        authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    if _auth_mode() == "token" and _token_source() is None:
        raise ClusterError(f"RAY_AUTH_MODE is `token`, but {_token_advice(named)}")
    try:
        client = GcsClient(address=address, cluster_id=None)
        versions = usage_lib.get_cluster_metadata(client)
    except ray.exceptions.AuthenticationError as error:
        why = f"refuses this process: {_token_advice(named)}"
        raise ClusterError(f"The Ray cluster at {named} {why}") from error
    except (ray.exceptions.RayError, RuntimeError) as error:
        raise ClusterError(
            f"The server at {named} does not answer like the head of a Ray cluster: {_why(error)} (give the "
            "head's port, 6379 unless `ray start --port` set another, not the dashboard's)."
        ) from error
    try:
        utils.check_version_info(versions, "this process")
    except RuntimeError as error:
        raise ClusterError(
            f"The cluster at {named} runs Ray {versions['ray_version']} and Python "
            f"{versions['python_version']}, this process Ray {ray.__version__} and Python "
            f"{platform.python_version()} (install the same versions everywhere, down to the last number)."
        ) from error
    try:
        services.get_node_to_connect_for_driver(client, timeout_seconds=_NODE_SECONDS)
    except RuntimeError as error:
        raise ClusterError(
            f"No node of the cluster at {named} runs on this machine, so no process here can join it (start "
            f"one with `ray start --address={named}`, or submit the run with `ray job submit -- python -m "
            "distdqn.run ...`)."
        ) from error


def _why(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _auth_mode() -> str:
    return os.environ.get("RAY_AUTH_MODE", "disabled").lower()


def _token_source() -> str | None:
    """The place of this process's token, in words; never the token itself."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return f"RAY_AUTH_TOKEN_PATH ({path})" if Path(path).expanduser().is_file() else None
    with contextlib.suppress(OSError, RuntimeError):  # there is no home, or it cannot be read
        if (Path.home() / ".ray" / "auth_token").is_file():
            return "~/.ray/auth_token"
    return None


def _describe_token() -> str:
    source = _token_source()
    return f"a token is present here, in {source}" if source else "no token is present here"


def _token_advice(named: str) -> str:
    """What is wrong with this process's token, and how to fix it."""
    if _token_source() is None:
        advice = (
            f" (put the one of {named} into ~/.ray/auth_token with mode 0600 and set RAY_AUTH_MODE=token)"
        )
    elif _auth_mode() != "token":
        advice = ", but not shown to it (set RAY_AUTH_MODE=token if it is the cluster's)"
    else:
        advice = ", but it is not the cluster's (copy the cluster's)"
    return f"{_describe_token()}{advice}."


def _start_private(cpus: int, hide_gpus: bool) -> Reaper:
    """Starts a Ray that only this machine can reach, with this user's token; returns its reaper."""
    try:
        guard_token()
    except OSError as error:
        raise ClusterError(
            f"A private Ray needs its token in ~/.ray/auth_token: {error} (name another file by "
            "RAY_AUTH_TOKEN_PATH, or run without a token by RAY_AUTH_MODE=disabled)."
        ) from error
    ours = THREAD_SETTINGS | _PRIVATE_SETTINGS
    given = {name: os.environ.get(name, value) for name, value in ours.items()}
    for left in reversed(range(_STARTS)):
        reaper = Reaper()
        settings = given | (NO_GPU if hide_gpus else {}) | reaper.variables
        try:
            with _environment(settings), loopback_only():
                if hide_gpus and reaper.is_watching:
                    reaper.preload = Preload(reaper.folder)
                with adapted_start(reaper.preload):
                    ray.init(
                        address="local", num_cpus=cpus, include_dashboard=False, logging_level=logging.ERROR
                    )
            break
        except BaseException as error:
            has_ended = isinstance(error, NodeEnded)
            end = reaper.finish if has_ended else reaper.release  # Ray itself leaves its agents behind
            end()
            if not isinstance(error, Exception):
                raise
            if not has_ended or not left:
                raise ClusterError(
                    f"A private Ray does not start: {_why(error)} (free memory, disk or CPU time of this "
                    "machine, or name another folder by RAY_TMPDIR)."
                ) from error
    return reaper


def guard_token() -> None:
    """Makes sure that nobody else can read the token that a private Ray will use.

    Ray writes a missing token itself, readable for everybody. So it is written here first.
    """
    is_needed = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    if not is_needed or os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return  # one that is given is the user's to guard
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


def is_gone() -> bool:
    """Whether the Ray that this process has started, if it has, has lost its head or its node."""
    node = worker.global_worker.node
    kinds = (ray_constants.PROCESS_TYPE_GCS_SERVER, ray_constants.PROCESS_TYPE_RAYLET)
    return node is not None and any(kind in kinds for kind, _ in node.dead_processes())


def _describe(is_private: bool, has_preload: bool = False) -> Cluster:
    node = worker.global_worker.node
    is_one_machine = node is not None and node.is_head()  # started by this process
    address = ray.get_runtime_context().gcs_address
    return Cluster(address, is_private, 0.0 if is_one_machine else 1.0, has_preload)


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
