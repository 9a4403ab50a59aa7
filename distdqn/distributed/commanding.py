"""The other end of `control`: giving a command to a run of another process."""

from collections.abc import Callable
from typing import Any

from distdqn.distributed.cluster import joined
from distdqn.distributed.control import Staff
from distdqn.errors import ClusterError

_ANSWER_SECONDS = 30.0  # a run tells how it stands several times meanwhile


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
        _command(handle, actors, say)


def _command(control: Any, actors: int, say: Callable[[str], None]) -> None:
    """Gives `control` the command and waits until it is obeyed."""
    heard, staff = _answer(control.watch.remote(0))
    say(f"The run has {_count(staff.acting)}; {actors} are wanted.")
    number = _answer(control.scale.remote(actors))
    while staff.command < number:
        heard, staff = _answer(control.watch.remote(heard))
    said = ""
    while staff.wanted == actors and not staff.is_complete:
        if (now := describe(staff)) != said:
            say(now)
            said = now
        heard, staff = _answer(control.watch.remote(heard))
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


def _answer(ref: Any) -> Any:
    """What the run says.

    Raises:
        ClusterError: it has ended, or says nothing in time.
    """
    import ray

    try:
        return ray.get(ref, timeout=_ANSWER_SECONDS)
    except ray.exceptions.GetTimeoutError as error:
        raise ClusterError(
            f"The run does not answer within {_ANSWER_SECONDS:g} s (it may be ending; see its output)."
        ) from error
    except ray.exceptions.RayError as error:
        raise ClusterError(
            "The run has ended meanwhile, or the process that takes its commands has (see its output; if it "
            "goes on, give the command again)."
        ) from error
