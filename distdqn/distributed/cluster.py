"""Which Ray a run uses: one that is there already, one it is told of, or a private one."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distdqn.errors import ClusterError

# Set before `import ray`, unless the user has set them.
_RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run` uploads the working directory
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning on every start
}

# Every role computes with one thread of its own; the learner's count is an option.
THREAD_SETTINGS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Cluster:
    """The Ray this run is connected to.

    Attributes:
        address: of its head.
        why: in words, which one it is and why.
        is_private: started for this run, on this machine.
        is_ours: connected by this run, and so disconnected at its end.
        cpus_per_role: what each role asks of it.
    """

    address: str
    why: str
    is_private: bool
    is_ours: bool
    cpus_per_role: float


@contextlib.contextmanager
def connected(address: str | None, roles: int) -> Iterator[Cluster]:
    """Connects to Ray for `roles` processes; at the end leaves it as it was found.

    Args:
        address: `auto`, `host:port`, `local` for a private one, or None: what is
            connected already, else RAY_ADDRESS if set, else a private one.
        roles: how many processes the run will start.

    Raises:
        ClusterError: it cannot be reached, or has no CPU to offer.
    """
    for name, value in _RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield _describe(
            "the Ray this process is connected to already", is_private=False, is_ours=False, roles=roles
        )
        return
    named = address or os.environ.get("RAY_ADDRESS")
    is_private = named in (None, "", "local")
    handlers = _signal_handlers()
    try:
        if is_private:
            cpus = max(os.cpu_count() or 1, roles)
            with _environment(THREAD_SETTINGS):
                ray.init(address="local", num_cpus=cpus, include_dashboard=False, **_quiet())
            yield _describe("a private Ray on this machine", is_private=True, is_ours=True, roles=roles)
        else:
            source = "`--address`" if address else "RAY_ADDRESS"
            try:
                ray.init(address=named, **_quiet())
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ClusterError(f"No Ray cluster answers at `{named}` ({source}): {error}") from error
            yield _describe(
                f"the cluster at {named}, from {source}", is_private=False, is_ours=True, roles=roles
            )
    finally:
        ray.shutdown()
        for number, handler in handlers.items():  # connecting to Ray replaces SIGTERM's
            signal.signal(number, handler)


def _signal_handlers() -> dict[signal.Signals, Any]:
    """What handles the signals that Ray may take over; nothing off the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def _quiet() -> dict[str, object]:
    """Settings that keep Ray's own messages off the terminal."""
    return {"log_to_driver": False, "logging_level": logging.ERROR}


def _describe(why: str, is_private: bool, is_ours: bool, roles: int) -> Cluster:
    """The connected cluster, its CPUs shared out among the roles."""
    import ray

    free = ray.available_resources().get("CPU", 0.0)
    if free <= 0.0:
        raise ClusterError(f"{why[0].upper()}{why[1:]} has no free CPU (wait, or add nodes).")
    share = 1.0 if free >= roles else int(1000 * free / roles) / 1000
    if share < 1.0:
        why += f"; it has {free:g} free CPUs for {roles} processes, so they share"
    address = ray.get_runtime_context().gcs_address
    return Cluster(address, why, is_private, is_ours, max(share, 0.001))


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Environment variables for processes started meanwhile, unless the user has set them."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
