"""Which Ray a run is to join, and what stands in the way of it.

Ray itself would try an address that does not answer for minutes. So what can be known of a
cluster beforehand is looked at here first, in the order in which it can go wrong: does
anything listen, does it speak Ray, does it take this process's token, has it the same
versions, and is this machine one of its nodes.
"""

import contextlib
import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distdqn.config.validation import mistake_in_address
from distdqn.errors import ClusterError, ConfigError
from distdqn.networks.tensorflow_setup import without_stderr

_CONNECT_SECONDS = 10.0

_NODE_SECONDS = 8.0  # for a node of this machine that is just starting

_SAME_MACHINE_SECONDS = 0.5

# Of Ray's attempts to talk to a head whose port is open; it has two more waits of 5 s besides.
_TALK_SETTING = ("RAY_py_gcs_connect_timeout_s", "5")


@dataclass(frozen=True)
class Target:
    """The Ray to connect to.

    Attributes:
        address: `host:port` of the head, or None for a private Ray.
        why: which one it is and why, in words.
        source: what named it.
        found_here: looked for on this machine, not named.
    """

    address: str | None
    why: str
    source: str = ""
    found_here: bool = False


def choose_target(address: str | None) -> Target:
    """The Ray that `--address`, RAY_ADDRESS or, for `auto`, this machine names.

    Args:
        address: `auto`, `host:port`, `local` for a private one, or None for RAY_ADDRESS if
            set, else a private one.

    Raises:
        ClusterError: none was found on this machine.
        ConfigError: RAY_ADDRESS is of a kind that a run cannot use.
    """
    variable = os.environ.get("RAY_ADDRESS", "")
    if address == "local":
        over = f", not the cluster at {variable} that RAY_ADDRESS names" if variable else ""
        return Target(None, f"a private one on this machine, as `--local` says{over}")
    if address and address != "auto":
        return Target(address, f"the cluster at {address}, as `--address` says", "`--address`")
    if variable == "local":
        return Target(None, "a private one on this machine, as RAY_ADDRESS says")
    if variable and variable != "auto":
        if (mistake := mistake_in_address("RAY_ADDRESS", variable)) is not None:
            raise ConfigError(mistake)
        job = ", set by `ray job submit`" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else ""
        return Target(variable, f"the cluster at {variable}, as RAY_ADDRESS says{job}", "RAY_ADDRESS")
    here = _running_here()
    if not address and not variable:
        stray = (
            f"; the cluster at {here}, which `ray start` left on this machine, is not used (`--address auto` "
            "joins it)"
        )
        return Target(None, f"a private one on this machine, as no cluster is named{stray if here else ''}")
    said = "`--address auto`" if address else "RAY_ADDRESS=auto"
    here = here or _running_unlisted()
    if here is None:
        raise ClusterError(
            f"{said}: no Ray cluster runs on this machine (start one with `ray start --head`, name one with "
            "`--address host:port`, or give `--local`)."
        )
    return Target(here, f"the cluster at {here}, which runs on this machine ({said})", said, found_here=True)


def limit_waiting(address: str | None) -> None:
    """Limits how long Ray tries to talk to the head it is to join; has an effect before Ray is imported."""
    if (address or os.environ.get("RAY_ADDRESS") or "local") != "local":
        os.environ.setdefault(*_TALK_SETTING)


def check(target: Target) -> None:
    """Looks for what would keep this process from joining.

    Raises:
        ClusterError: what it is, and how to mend it.
    """
    from ray._private import services

    named = target.address or ""
    try:
        address = services.canonicalize_bootstrap_address(named)
    except (OSError, ValueError) as error:
        raise _unreachable(target, named, error) from error
    try:
        _connect(address, _CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise _unreachable(target, address, error) from error
    with without_stderr():  # Ray's own account of the same
        _talk(target, named, address)


def _talk(target: Target, named: str, address: str) -> None:
    """Asks the head who it is, whether it lets this process in, and for a node on this machine."""
    import ray
    from ray._private import services, utils
    from ray._private.authentication import authentication_token_setup as authentication
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    if target.found_here:  # as Ray does; to a machine that was only named, no token is shown unasked
        authentication.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    if _mode() == "token" and token_source() is None:
        raise ClusterError(f"RAY_AUTH_MODE is `token`, but {_token_words(named)}")
    try:
        client = GcsClient(address=address, cluster_id=None)
        about = _versions_of(client)
    except ray.exceptions.AuthenticationError as error:
        raise ClusterError(
            f"The Ray cluster at {named} refuses this process: {_token_words(named)}"
        ) from error
    except (ray.exceptions.RayError, RuntimeError) as error:
        raise ClusterError(
            f"What listens at {named} does not answer as a Ray cluster's head does: {_first_line(error)} "
            "(name the head's port, 6379 unless `ray start --port` said otherwise, not the dashboard's)."
        ) from error
    if about:
        try:
            utils.check_version_info(about, "this process")
        except RuntimeError as error:
            raise ClusterError(version_words(named, about)) from error
    try:
        services.get_node_to_connect_for_driver(client, timeout_seconds=_NODE_SECONDS)
    except RuntimeError as error:
        raise ClusterError(
            f"No node of the cluster at {named} runs on this machine, so nothing can join it from here (make "
            f"it a node with `ray start --address={named}`, or hand the run to the cluster with "
            "`ray job submit -- python -m distdqn.run ...`)."
        ) from error


def _versions_of(client: Any) -> dict[str, Any]:
    """What the head tells of itself; empty if it tells nothing."""
    from ray._common.usage import usage_lib

    try:
        return dict(usage_lib.get_cluster_metadata(client))
    except (AttributeError, TypeError):  # not written
        return {}


def version_words(named: str, about: dict[str, Any]) -> str:
    """That a cluster has other versions than this process, and which."""
    import ray

    return (
        f"The cluster at {named} runs Ray {about['ray_version']} and Python {about['python_version']}, this "
        f"process Ray {ray.__version__} and Python {platform.python_version()} (install the same "
        "everywhere, down to the last number)."
    )


def token_source() -> str | None:
    """Where this process has a token from, in words; never the token itself."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return f"RAY_AUTH_TOKEN_PATH ({path})" if Path(path).expanduser().is_file() else None
    with contextlib.suppress(OSError, RuntimeError):  # a home that cannot be looked into, or none
        if (Path.home() / ".ray" / "auth_token").is_file():
            return "~/.ray/auth_token"
    return None


def _token_words(named: str) -> str:
    """What is wrong with this process's token, and what mends it."""
    source = token_source()
    if source is None:
        return (
            f"no token is present here (put the one of {named} into ~/.ray/auth_token with mode 0600 and set "
            "RAY_AUTH_MODE=token)."
        )
    if _mode() != "token":
        return (
            f"a token is present here, in {source}, but not shown to it (set RAY_AUTH_MODE=token if it is "
            "the cluster's)."
        )
    return f"a token is present here, in {source}, but it is not the cluster's (copy the cluster's)."


def _mode() -> str:
    return os.environ.get("RAY_AUTH_MODE", "disabled").lower()


def _running_here() -> str | None:
    """The cluster that `ray start` has written down on this machine, if it still answers."""
    from ray._private import services

    address = services.find_bootstrap_address(None)
    try:
        _connect(address or "", _SAME_MACHINE_SECONDS)
    except (OSError, ValueError):
        return None
    return str(address)


def _running_unlisted() -> str | None:
    """A cluster whose processes run on this machine without being written down."""
    from ray._private import services

    return min(services.find_gcs_addresses(), default=None)


def _connect(address: str, timeout_seconds: float) -> None:
    """Opens a connection and closes it again.

    Raises:
        OSError: nothing listens there, or it does not answer.
        ValueError: that is no `host:port`.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout_seconds):
        pass


def _unreachable(target: Target, address: str, error: Exception) -> ClusterError:
    meant = "" if target.address == address else f", which is {address} to Ray"
    why = getattr(error, "strerror", None) or str(error) or "no answer"
    token = (
        f"a token is present here, in {source}" if (source := token_source()) else "no token is present here"
    )
    return ClusterError(
        f"No Ray cluster answers at {target.address} ({target.source}{meant}): {why.lower()} (start the "
        f"head, open its port to this machine, or give `--local`; {token})."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
