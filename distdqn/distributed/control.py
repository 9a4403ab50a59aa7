"""Where commands reach a run that is under way, from another terminal or machine."""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True)
class Staff:
    """How many actors a run has.

    Attributes:
        wanted: how many it is to have.
        acting: processes that are up and go on.
        starting: processes that are not up yet.
        waiting: of those that start, the ones for which the cluster has no room so far.
        leaving: processes that end their last rollout.
        command: number of the last command that was taken in; 0 before any.
    """

    wanted: int
    acting: int
    starting: int
    waiting: int
    leaving: int
    command: int

    @property
    def is_complete(self) -> bool:
        """Whether the run has the actors it wants, and no others."""
        return self.acting == self.wanted and not self.starting and not self.leaving


class Control:
    """Takes commands for the run it belongs to, and tells whoever asks what became of them.

    Nobody polls: the run has one call under way here that ends when a command comes, and who
    gave the command has one that ends when the run tells how it stands.
    """

    def __init__(self) -> None:
        self._commands: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self._given = 0
        self._told: tuple[int, Staff] | None = None  # how often, and what the last time
        self._news = asyncio.Event()

    async def next_command(self) -> tuple[int, int]:
        """The next command: its number, and how many actors it asks for.

        Called by: the supervisor, which always has one such call under way. Waits for: a
        command. After a restart: called anew; commands that were not taken are lost, which
        whoever gave them is told by Ray.
        """
        return await self._commands.get()

    async def tell(self, staff: Staff) -> None:
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

    async def watch(self, heard: int) -> tuple[int, Staff]:
        """How many actors the run has, once it has told that more than `heard` times; how often it has.

        Called by: `distdqn.scale`. Waits for: the run. After a restart: whoever called it is
        told by Ray.
        """
        while self._told is None or self._told[0] <= heard:
            await self._news.wait()
        return self._told
