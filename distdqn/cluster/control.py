"""The other end of `control`: giving a command to a run of another process."""

import asyncio
from collections.abc import Callable
from typing import Any

from distdqn.cluster.connection import joined
from distdqn.errors import ClusterError
from distdqn.types import ActorPoolStatus

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


def describe(staff: ActorPoolStatus) -> str:
    """How far a run is, in one line."""
    parts = [f"  {staff.acting} of {_count(staff.wanted)} at work"]
    if up := staff.starting - staff.waiting:
        parts.append(f"{up} starting")
    if staff.waiting:
        parts.append(f"{staff.waiting} waiting for room on the cluster")
    if staff.draining:
        parts.append(f"{staff.draining} draining")
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


class Control:
    """Takes commands for the run it belongs to, and tells whoever asks what became of them.

    Nobody polls: the run has one call under way here that ends when a command comes, and who
    gave the command has one that ends when the run tells how it stands.
    """

    def __init__(self) -> None:
        self._commands: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self._given = 0
        self._told: tuple[int, ActorPoolStatus] | None = None  # how often, and what the last time
        self._news = asyncio.Event()

    async def next_command(self) -> tuple[int, int]:
        """The next command: its number, and how many actors it asks for.

        Called by: the supervisor, which always has one such call under way. Waits for: a
        command. After a restart: called anew; commands that were not taken are lost, which
        whoever gave them is told by Ray.
        """
        return await self._commands.get()

    async def tell(self, staff: ActorPoolStatus) -> None:
        """Takes in how many actors the run has now.

        Called by: the supervisor, whenever that changes, and every few seconds besides, as a
        message may be lost. Waits for: nothing. After a restart: told anew.
        """
        self._told = (self._told[0] if self._told else 0) + 1, staff
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def scale(self, actors: int) -> int:
        """Asks the run for this many actors; returns the number of the command.

        Called by: `distdqn.scale`. Waits for: nothing. After a restart: numbers begin again.
        """
        self._given += 1
        self._commands.put_nowait((self._given, actors))
        return self._given

    async def watch(self, heard: int) -> tuple[int, ActorPoolStatus]:
        """How many actors the run has, once it has told that more than `heard` times; how often it has.

        Called by: `distdqn.scale`. Waits for: the run. After a restart: whoever called it is
        told by Ray.
        """
        while self._told is None or self._told[0] <= heard:
            await self._news.wait()
        return self._told
