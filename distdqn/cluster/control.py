"""Commands to a running run from another process: `Control` receives them, `scale` gives them."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import ray

from distdqn.cluster.connection import loopback_only, probe
from distdqn.errors import ClusterError
from distdqn.reporting.run_directory import RayPlace
from distdqn.types import ActorPoolStatus

_CONNECT_SECONDS = 5.0  # Ray itself tries for minutes
_ANSWER_SECONDS = 30.0  # a run reports its status several times in that time


class Control:
    """Receives commands for its run, and reports the run's status to clients.

    Nobody polls: the run keeps one call of `next_command` waiting here, and a client one call of `watch`. Ray
    calls an async actor's methods concurrently, in any order.
    """

    def __init__(self) -> None:
        self._commands: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self._last_command = 0
        self._status = ActorPoolStatus(wanted=0, acting=0, starting=0, waiting=0, draining=0, command=0)
        self._reports = 0
        self._reported = asyncio.Condition()

    async def next_command(self) -> tuple[int, int]:
        """Waits for the next command: its number, and how many actors it requests."""
        return await self._commands.get()

    async def tell(self, status: ActorPoolStatus) -> None:
        """Reports the run's status; also repeated without a change, because a message may be lost."""
        async with self._reported:
            self._status = status
            self._reports += 1
            self._reported.notify_all()

    async def scale(self, actors: int) -> int:
        """Requests this many actors; returns the number of the command, which a restart begins again at 1."""
        self._last_command += 1
        self._commands.put_nowait((self._last_command, actors))
        return self._last_command

    async def watch(self, heard: int) -> tuple[int, ActorPoolStatus]:
        """Waits for more than `heard` reports; returns how many there were, and the last."""
        async with self._reported:
            await self._reported.wait_for(lambda: self._reports > heard)
            return self._reports, self._status


def scale(place: RayPlace, actors: int, say: Callable[[str], None]) -> None:
    """Changes a run's number of actors; returns when it has them, and `say`s a line whenever it gets nearer.

    `ClusterError` if the run does not answer, has ended, or has got another command since.
    """
    address = place.address
    is_loopback = address.startswith("127.0.0.1:")  # a private Ray's, which Ray would replace
    try:
        probe(address, _CONNECT_SECONDS)
        with loopback_only() if is_loopback else contextlib.nullcontext():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"The run's Ray at {address} does not answer: {error} (the run has ended, or this machine is no "
            "node of its cluster)."
        ) from error
    try:
        try:
            control = ray.get_actor(str(place.control), namespace=place.namespace)
        except ValueError:
            raise ClusterError("The run has ended: nothing was changed.") from None
        _command(control, actors, say)
    finally:
        ray.shutdown()


def _command(control: Any, actors: int, say: Callable[[str], None]) -> None:
    """Gives the command and waits until the run has carried it out."""
    heard, status = _answer(control.watch.remote(0))
    say(f"The run has {_count(status.acting)}; {actors} are wanted.")
    number = _answer(control.scale.remote(actors))
    while status.command < number:
        heard, status = _answer(control.watch.remote(heard))
    said = ""
    while status.wanted == actors and not status.is_complete:
        if (line := describe(status)) != said:
            say(line)
            said = line
        heard, status = _answer(control.watch.remote(heard))
    if status.wanted != actors:
        raise ClusterError(f"Another command has since requested {_count(status.wanted)}.")
    say(f"The run has {_count(actors)}.")


def describe(status: ActorPoolStatus) -> str:
    """The progress of a run in one line."""
    counts = {
        "starting": status.starting - status.waiting,
        "waiting for resources on the cluster": status.waiting,
        "draining": status.draining,
    }
    parts = [f"{number} {what}" for what, number in counts.items() if number]
    return ", ".join([f"  {status.acting} of {_count(status.wanted)} running", *parts])


def _count(actors: int) -> str:
    return "1 actor" if actors == 1 else f"{actors} actors"


def _answer(ref: Any) -> Any:
    """The result of a call; `ClusterError` if the run has ended, or does not answer in time."""
    try:
        return ray.get(ref, timeout=_ANSWER_SECONDS)
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"The run does not answer within {_ANSWER_SECONDS:g} s, or its process that takes commands has "
            "ended (see its output; if the run continues, give the command again)."
        ) from error
