"""The other end of `control`: giving a command to a run of another process."""

from collections.abc import Callable
from typing import Any

from distdqn.distributed.cluster import joined
from distdqn.distributed.control import Staff
from distdqn.errors import ClusterError

_ANSWER_SECONDS = 30.0  # for the run to take in a command


def scale(address: str, namespace: str, control: str, actors: int, say: Callable[[str], None]) -> None:
    """Has a run change its number of actors; returns once it has.

    Args:
        address: of the run's Ray.
        namespace: of the run's processes there.
        control: name of the process that takes commands.
        actors: how many the run is to have.
        say: told a line whenever there is progress.

    Raises:
        ClusterError: the run does not answer, has ended, or was told otherwise since.
    """
    with joined(address):
        import ray

        try:
            handle = ray.get_actor(control, namespace=namespace)
        except ValueError:
            raise ClusterError("The run is over: nothing was changed.") from None
        staff: Staff = _answer(handle.watch.remote(None), _ANSWER_SECONDS)
        say(f"The run has {_count(staff.acting)}; {actors} are wanted.")
        number = _answer(handle.scale.remote(actors), _ANSWER_SECONDS)
        while staff.command < number:
            staff = _answer(handle.watch.remote(staff), _ANSWER_SECONDS)
        while staff.wanted == actors and not staff.is_complete:
            say(describe(staff))
            staff = _answer(handle.watch.remote(staff), None)
        if staff.wanted != actors:
            raise ClusterError(f"Another command has asked for {_count(staff.wanted)} since.")
    say(f"The run has {_count(actors)}.")


def describe(staff: Staff) -> str:
    """How far a run is, in one line."""
    parts = [f"  {staff.acting} of {_count(staff.wanted)} at work"]
    if up := staff.starting - staff.waiting:
        parts.append(f"{up} starting")
    if staff.waiting:
        parts.append(f"{staff.waiting} waiting for room on the cluster")
    if staff.leaving:
        parts.append(f"{staff.leaving} leaving")
    return ", ".join(parts)


def _count(actors: int) -> str:
    return "1 actor" if actors == 1 else f"{actors} actors"


def _answer(ref: Any, timeout_seconds: float | None) -> Any:
    """What the run says.

    Raises:
        ClusterError: it has ended, or says nothing in time.
    """
    import ray

    try:
        return ray.get(ref, timeout=timeout_seconds)
    except ray.exceptions.GetTimeoutError as error:
        raise ClusterError(
            f"The run does not answer within {timeout_seconds:g} s (it may be ending; see its output)."
        ) from error
    except ray.exceptions.RayError as error:
        raise ClusterError("The run has ended meanwhile.") from error
