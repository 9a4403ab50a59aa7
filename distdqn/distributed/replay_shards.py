"""Replay as the supervisor sees it: what each shard holds, inserts, and shards that are being restored."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from distdqn.checkpoints.reshard import RestorePlan
from distdqn.errors import CheckpointError
from distdqn.reporting.metrics import Metrics
from distdqn.training.backend import Ref
from distdqn.training.calls import Call, Calls, Ended, Worker
from distdqn.types import ReplayInfo, Tree

_PARTS_IN_FLIGHT = 2  # to a shard: it restores one, and one waits

Part = tuple[str, Any]  # a method of `Replay` and its argument
Insert = tuple[Ref, Callable[[], None], Callable[[Ended], None]]  # chunk, on stored, on lost


@dataclass
class _Restoring:
    """A shard that is being restored."""

    shard: Worker
    plan: RestorePlan
    parts: Iterator[Part]  # to come
    next: "Future[Part | None]"  # the part after those sent; None at the end
    index: Tree | None  # of the restored shard, where all that it will hold is saved already
    in_flight: int = 0  # parts
    held: list[Insert] = field(default_factory=list)  # inserted afterwards


class ReplayShards:
    """Inserts chunks, and restores shards part by part while everything else continues.

    A thread reads the next part while replay restores those before it, so only a few are in memory. Chunks
    for a shard that is being restored are held back.
    """

    def __init__(self, calls: Calls, metrics: Metrics, count: int, executor: Executor) -> None:
        self.infos = [ReplayInfo() for _ in range(count)]  # of each shard, as it reported last
        self._calls = calls
        self._metrics = metrics
        self._executor = executor
        self._restoring: dict[int, _Restoring] = {}  # by shard

    @property
    def is_restoring(self) -> bool:
        """Whether any shard is being restored."""
        return bool(self._restoring)

    def restore(self, shard: Worker, plan: RestorePlan, index: Tree | None) -> None:
        """Starts to restore a new process of a shard; `index` is its index if all of it is saved already."""
        parts = plan.calls(shard.index)
        before = self._restoring.get(shard.index)
        held = before.held if before else []
        self._restoring[shard.index] = _Restoring(shard, plan, parts, self._read(parts), index, held=held)
        self.infos[shard.index] = plan.info(shard.index)

    def index_of(self, shard: Worker) -> Tree | None:
        """The index that a shard will have once it is restored; see `restore`."""
        restoring = self._restoring.get(shard.index)
        return None if restoring is None else restoring.index

    def insert(
        self, shard: Worker, chunk: Ref, on_stored: Callable[[], None], on_lost: Callable[[Ended], None]
    ) -> None:
        """Stores a chunk in a shard, once it is restored."""
        if (restoring := self._restoring.get(shard.index)) is not None:
            restoring.held.append((chunk, on_stored, on_lost))
            return

        def stored(call: Call, info: ReplayInfo) -> None:
            on_stored()
            self.update_info(call, info)

        self._calls.send(shard, "insert", chunk, on_result=stored, on_lost=on_lost)

    def update_info(self, call: Call, info: ReplayInfo) -> None:
        """Keeps what a shard reports of itself."""
        index = call.worker.index
        # What is being restored, part by part, is counted already.
        inserted = max(info.inserted, self.infos[index].inserted)
        self.infos[index] = dataclasses.replace(info, inserted=inserted)
        self._metrics.replay_size = sum(each.size for each in self.infos)

    def advance(self) -> tuple[Worker, RestorePlan, Exception] | None:
        """Sends the parts that have been read; returns a shard whose plan cannot be read, and why."""
        for restoring in list(self._restoring.values()):
            while restoring.in_flight < _PARTS_IN_FLIGHT and restoring.next.done():
                try:
                    part = restoring.next.result()
                except (CheckpointError, OSError) as error:
                    return restoring.shard, restoring.plan, error
                if part is None:
                    self._end(restoring)
                    break
                self._send_part(restoring, part)
                restoring.next = self._read(restoring.parts)
        return None

    def complete(self) -> None:
        """Restores the shards that will hold what is not saved yet, and waits for that."""
        for restoring in [each for each in self._restoring.values() if each.index is None]:
            while (part := restoring.next.result()) is not None:
                self._calls.ask(restoring.shard, *part)
                restoring.next = self._read(restoring.parts)
            del self._restoring[restoring.shard.index]

    def _send_part(self, restoring: _Restoring, part: Part) -> None:
        method, state = part
        restoring.in_flight += 1

        def restored(call: Call, info: ReplayInfo | None) -> None:
            restoring.in_flight -= 1
            if info is not None:
                self.update_info(call, info)

        self._calls.send(restoring.shard, method, state, on_result=restored)

    def _end(self, restoring: _Restoring) -> None:
        """Inserts the chunks that were held back."""
        del self._restoring[restoring.shard.index]
        for insert in restoring.held:
            self.insert(restoring.shard, *insert)

    def _read(self, parts: Iterator[Part]) -> "Future[Part | None]":
        return self._executor.submit(next, parts, None)
