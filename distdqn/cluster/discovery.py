"""Which Ray a run joins, and what prevents it from joining.

Ray itself tries an address that does not answer for minutes. So `check` tests it first, in the order in which
joining can fail: does anything listen, is it Ray, does it accept this process's token, has it the same
versions, and is this machine one of its nodes.
"""

import contextlib
import json
import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path

import ray
from ray._private import services

from distdqn.config.validation import check_address
from distdqn.errors import ClusterError, ConfigError
from distdqn.networks.tensorflow_setup import without_stderr

_CONNECT_SECONDS = 10.0
_SAME_MACHINE_SECONDS = 0.5
_NODE_SECONDS = 8.0  # for a node of this machine that is just starting
# For the head to answer once its port is open; Ray adds two waits of 5 s.
_HEAD_TIMEOUT, _HEAD_SECONDS = "py_gcs_connect_timeout_s", 5
_NO_TOKEN = "no token is present here"  # noqa: S105


@dataclass(frozen=True)
class Target:
    """The Ray to connect to."""

    address: str | None  # `host:port` of the head; None means a private Ray
    why: str  # which Ray it is and what chose it, in words
    source: str = ""  # the option or variable that named it
    is_found: bool = False  # found on this machine, not named


def choose_target(address: str | None) -> Target:
    """The Ray that `--address`, RAY_ADDRESS or, for `auto`, this machine names.

    Args:
        address: `auto`, `host:port`, `local` for a private Ray, or None for RAY_ADDRESS if it is set, else a
            private Ray.

    Raises:
        ClusterError: `auto` finds no cluster on this machine.
        ConfigError: a run cannot use the kind of address in RAY_ADDRESS.
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
    found = _recorded_cluster()
    if not address and not variable:
        stray = f"; the cluster at {found}, which `ray start` left on this machine, is not used"
        hint = f"{stray} (`--address auto` joins it)" if found else ""
        return Target(None, f"a private one on this machine, as no cluster is named{hint}")
    source = "`--address auto`" if address else "RAY_ADDRESS=auto"
    found = found or min(services.find_gcs_addresses(), default=None)
    if found is None:
        raise ClusterError(
            f"{source}: no Ray cluster runs on this machine (start one with `ray start --head`, name one "
            "with `--address host:port`, or give `--local`)."
        )
    why = f"the cluster at {found}, which runs on this machine ({source})"
    return Target(found, why, source, is_found=True)


def _recorded_cluster() -> str | None:
    """The cluster that `ray start` has recorded on this machine, if it still answers."""
    address = services.find_bootstrap_address(None)
    try:
        probe(address or "", _SAME_MACHINE_SECONDS)
    except (OSError, ValueError):
        return None
    return str(address)


def probe(address: str, timeout_seconds: float) -> None:
    """Connects to an address and disconnects again.

    Raises:
        OSError: nothing listens there, or it does not answer.
        ValueError: the address is not `host:port`.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout_seconds):
        pass


def check(target: Target) -> None:
    """Looks for anything that prevents this process from joining a cluster.

    Raises:
        ClusterError: what it is, and how to fix it.
        ImportError, AttributeError, TypeError: this version of Ray is different inside.
    """
    named = address = target.address or ""
    try:
        address = services.canonicalize_bootstrap_address(named) or ""
        probe(address, _CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        resolved = "" if named == address else f", which Ray resolves to {address}"
        why = getattr(error, "strerror", None) or str(error) or "no answer"
        token = f"a token is present here, in {source}" if (source := _token_source()) else _NO_TOKEN
        raise ClusterError(
            f"No Ray cluster answers at {named} ({target.source}{resolved}): {why.lower()} (start the head, "
            f"open its port to this machine, or give `--local`; {token})."
        ) from error
    with without_stderr():  # Ray prints the same there
        _check_head(target, named, address)


def _check_head(target: Target, named: str, address: str) -> None:
    """Checks token and versions with the head, and that this machine is a node."""
    from ray._common.usage import usage_lib
    from ray._private import utils
    from ray._private.authentication import authentication_token_setup
    from ray._raylet import Config, GcsClient  # type: ignore[attr-defined]

    # Ray ends the process if it does not know the name.
    if hasattr(Config, _HEAD_TIMEOUT) and f"RAY_{_HEAD_TIMEOUT}" not in os.environ:
        Config.initialize(json.dumps({_HEAD_TIMEOUT: _HEAD_SECONDS}))
    if target.is_found:  # as Ray does; a machine that was only named is sent no token unasked
        authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    if _auth_mode() == "token" and _token_source() is None:
        raise ClusterError(f"RAY_AUTH_MODE is `token`, but {_token_advice(named)}")
    try:
        client = GcsClient(address=address, cluster_id=None)
        versions = usage_lib.get_cluster_metadata(client)
    except ray.exceptions.AuthenticationError as error:
        raise ClusterError(
            f"The Ray cluster at {named} refuses this process: {_token_advice(named)}"
        ) from error
    except (ray.exceptions.RayError, RuntimeError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ClusterError(
            f"The server at {named} does not answer like the head of a Ray cluster: {why} (give the head's "
            "port, 6379 unless `ray start --port` set another, not the dashboard's)."
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


def _token_advice(named: str) -> str:
    """What is wrong with this process's token, and how to fix it."""
    source = _token_source()
    if source is None:
        return (
            f"{_NO_TOKEN} (put the one of {named} into ~/.ray/auth_token with mode 0600 and set "
            "RAY_AUTH_MODE=token)."
        )
    if _auth_mode() != "token":
        return (
            f"a token is present here, in {source}, but not shown to it (set RAY_AUTH_MODE=token if it is "
            "the cluster's)."
        )
    return f"a token is present here, in {source}, but it is not the cluster's (copy the cluster's)."
