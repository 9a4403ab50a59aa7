"""Putting learner and replay back as a checkpoint holds them."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from distdqn.checkpoints.reshard import RestorePlan
from distdqn.checkpoints.store import CheckpointRef
from distdqn.distributed.calls import Calls, Worker
from distdqn.errors import CheckpointError
from distdqn.reporting.metrics import Counters
from distdqn.training.backend import Ref
from distdqn.types import ReplayInfo, Tree

_PARTS_AHEAD = 2  # under way to a shard: it takes one in, and one is there

Part = tuple[str, Any]  # a method of `Replay` and its argument


@dataclass
class _Filling:
    """A shard that is being filled.

    Attributes:
        shard: its process.
        parts: what is to come.
        next: the one after those sent, or None at the end.
        ref: the checkpoint, or None.
        index: what its own will be, where all that it is going to hold is saved already.
        held: chunks to be inserted afterwards, with what the ends of those calls need.
    """

    shard: Worker
    parts: Iterator[Part]
    next: "Future[Part | None]"
    ref: CheckpointRef | None
    index: Tree | None
    held: list[tuple[Ref, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Unreadable:
    """A shard for which the checkpoint cannot be read.

    Attributes:
        shard: its process.
        ref: the checkpoint.
        error: why not.
    """

    shard: Worker
    ref: CheckpointRef | None
    error: Exception


class Refill:
    """Puts shards of replay back part by part, while everything else goes on.

    A thread reads the next part while replay takes in those before it, so no more than a few
    are in memory. Chunks that come for a shard meanwhile are held back until it is filled.

    Args:
        executor: reads, one task at a time.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._fillings: dict[int, _Filling] = {}  # by shard

    @property
    def is_running(self) -> bool:
        """Whether any shard is being filled."""
        return bool(self._fillings)

    def begin(self, shard: Worker, plan: RestorePlan, index: Tree | None = None) -> None:
        """Starts to fill a new shard; one that had its place before it is not filled any more.

        Args:
            shard: the process.
            plan: what it is filled with.
            index: what its own will be, where all that it is going to hold is saved already.
        """
        parts = plan.calls(shard.index)
        before = self._fillings.get(shard.index)
        held = before.held if before else []
        self._fillings[shard.index] = _Filling(shard, parts, self._read(parts), plan.ref, index, held)

    def index_of(self, shard: Worker) -> Tree | None:
        """The index that a shard is going to have, as the store names it; see `begin`."""
        filling = self._fillings.get(shard.index)
        return None if filling is None else filling.index

    def insert(self, calls: Calls, shard: Worker, chunk: Ref, detail: Any) -> None:
        """Has a shard store a chunk, once it is filled."""
        if (filling := self._fillings.get(shard.index)) is not None:
            filling.held.append((chunk, detail))
        else:
            calls.send("insert", shard, chunk, detail=detail)

    def advance(self, calls: Calls) -> Unreadable | None:
        """Sends on what was read; names a shard whose next part cannot be read, until that is begun again."""
        for filling in list(self._fillings.values()):
            shard = filling.shard
            kinds = [call.kind for call in calls.under_way() if call.worker is shard]
            under_way = sum(kind.startswith("set_") for kind in kinds)
            while under_way < _PARTS_AHEAD and filling.next.done():
                try:
                    part = filling.next.result()
                except (CheckpointError, OSError) as error:
                    return Unreadable(shard, filling.ref, error)
                if part is None:
                    del self._fillings[shard.index]
                    for chunk, detail in filling.held:
                        calls.send("insert", shard, chunk, detail=detail)
                    break
                calls.send(part[0], shard, part[1])
                under_way += 1
                filling.next = self._read(filling.parts)
        return None

    def complete(self, ask: Callable[[Worker, str, Any], Any]) -> None:
        """Fills shards that hold what is not saved so; `ask` calls a method and waits."""
        for filling in [each for each in self._fillings.values() if each.index is None]:
            while (part := filling.next.result()) is not None:
                ask(filling.shard, *part)
                filling.next = self._read(filling.parts)
            del self._fillings[filling.shard.index]

    def _read(self, parts: Iterator[Part]) -> "Future[Part | None]":
        return self._executor.submit(next, parts, None)


def send_learner(calls: Calls, learner: Worker, ref: CheckpointRef) -> None:
    """Gives a new learner the state of the checkpoint's."""
    calls.send("set_state", learner, ref.read("learner"))


def count_lost_learner(counters: Counters, ref: CheckpointRef | None) -> int:
    """Sets the counters back to the checkpoint's learner, or to none; returns the learner steps lost."""
    before = counters.learner_steps
    counters.learner_steps = ref.document["learner"]["learner_steps"] if ref else 0
    lost = max(0, before - counters.learner_steps)
    counters.learner_restarts += 1
    counters.lost_learner_steps += lost
    return lost


def count_lost_replay(counters: Counters, before: ReplayInfo, after: int) -> int:
    """Counts for a shard what it has got back in place of what it held; returns what is lost.

    What it had overwritten before was not there to be lost.
    """
    lost = min(max(0, before.inserted - after), before.size)
    counters.inserted += after - before.inserted
    counters.replay_restarts += 1
    counters.lost_transitions += lost
    return lost
