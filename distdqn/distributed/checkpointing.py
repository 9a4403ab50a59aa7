"""Checkpoints of an `async` run, made while it continues."""

import functools
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from distdqn.checkpoints.checkpointer import Segment
from distdqn.checkpoints.store import CheckpointRef
from distdqn.distributed.replay_shards import ReplayShards
from distdqn.training.calls import Call, Worker
from distdqn.training.checkpointing import run_tree, save
from distdqn.training.loop import Run
from distdqn.training.team import Team
from distdqn.types import Tree


@dataclass
class _Pending:
    """A checkpoint that is being made."""

    tree: Tree | None = None  # all but replay
    indexes: dict[int, Tree] = field(default_factory=dict)  # by shard
    wanted: list[Segment] | None = None  # segments to ask for

    @property
    def sorted_indexes(self) -> list[Tree]:
        """The index of every shard, in their order."""
        return [self.indexes[shard] for shard in sorted(self.indexes)]


class AsyncCheckpointer:
    """Asks the roles for their states, one short call after another, and lets a thread write them.

    Nothing waits: learner and replay answer between two of their other calls. Replay continues meanwhile;
    what is overwritten before its turn is left out.
    """

    def __init__(self, run: Run, team: Team, shards: ReplayShards, executor: Executor) -> None:
        self._run = run
        self._calls = team.calls
        self._team = team
        self._shards = shards
        self._executor = executor  # the one that restores shards: it never reads what is being deleted
        self._checkpointer = run.checkpointer
        seconds = run.config.checkpoint_seconds
        self._due = None if seconds is None else team.calls.clock() + seconds
        self._pending: _Pending | None = None
        self._task: Future[Any] | None = None

    def advance(self) -> None:
        """Takes the next step of a checkpoint; `CheckpointError` if five in a row could not be written."""
        if self._checkpointer is None or self._is_writing():
            return
        pending = self._pending
        if pending is None:
            if self._due is not None and self._calls.clock() >= self._due and self._team.learner.is_ready:
                self._start()
        elif pending.tree is not None and pending.wanted is not None:
            if self._calls.count("get_rows", "get_frames"):
                return
            if pending.wanted:
                self._ask_for_segment(pending, pending.wanted.pop(0))
            else:
                number, indexes = pending.tree["learner"]["learner_steps"], pending.sorted_indexes
                self._task = self._executor.submit(self._checkpointer.write, number, pending.tree, indexes)
                self.reset()  # all parts are there

    def reset(self) -> None:
        """Gives up the checkpoint whose parts are being asked for, if there is one, until the next is due."""
        if self._pending is not None and (seconds := self._run.config.checkpoint_seconds) is not None:
            self._due = self._calls.clock() + seconds
        self._pending = None

    def forget_shard(self, shard: int) -> None:
        """A shard of replay has died: what was saved of it is no part of what the next one will hold."""
        self.reset()
        if self._task is not None:
            self._task.exception()  # a segment may still be written
        if self._checkpointer is not None:
            self._checkpointer.forget_segments(shard)

    def newest(self) -> CheckpointRef | None:
        """The newest checkpoint that is whole, of this run or the one that it resumes from."""
        if self._task is not None:  # once a checkpoint is written, older ones are deleted
            self._task.exception()
        return (self._checkpointer and self._checkpointer.newest()) or self._run.resume_from

    def finish(self) -> None:
        """Makes a last checkpoint and waits for it, unless nothing has changed since the restored one.

        Of a shard that is still being restored, what it will hold is saved.
        """
        metrics = self._run.metrics
        if self._checkpointer is None:
            return
        self.reset()
        if self._task is not None and (error := self._task.exception()) is not None:
            metrics.note(f"A checkpoint could not be written ({type(error).__name__}: {error}).")
        self._task = None
        if not metrics.has_progress():
            metrics.note("No progress since the checkpoint that this run resumed from: no other is made.")
            return
        shards = self._team.shards if self._run.config.checkpoint_replay else []
        if shards:
            self._shards.complete()
        learner = self._calls.ask(self._team.learner, "get_state")
        save(self._run, self._make_tree(learner), [self._make_ask(shard) for shard in shards])

    def _start(self) -> None:
        pending = self._pending = _Pending()
        receive = functools.partial(self._receive_state, pending)
        self._calls.send(self._team.learner, "get_state", on_result=receive)
        if not self._run.config.checkpoint_replay:
            pending.wanted = []
            return
        for shard in self._team.shards:
            self._calls.send(shard, "get_index", on_result=functools.partial(self._receive_index, pending))

    # The results of a checkpoint that was given up are of no use, and change nothing.

    def _receive_state(self, pending: _Pending, _call: Call, learner: Tree) -> None:
        if pending is self._pending:
            pending.tree = self._make_tree(learner)

    def _receive_index(self, pending: _Pending, call: Call, index: Tree) -> None:
        pending.indexes[call.worker.index] = index
        is_complete = len(pending.indexes) == len(self._team.shards)
        if pending is self._pending and is_complete and self._checkpointer is not None:
            pending.wanted = self._checkpointer.missing(pending.sorted_indexes)

    def _ask_for_segment(self, pending: _Pending, segment: Segment) -> None:
        shard, get = self._team.shards[segment.shard], f"get_{segment.kind}"
        receive = functools.partial(self._receive_segment, pending, segment)
        self._calls.send(shard, get, segment.begin, segment.end, on_result=receive)

    def _receive_segment(self, pending: _Pending, segment: Segment, _call: Call, state: Tree) -> None:
        if pending is self._pending and self._checkpointer is not None:
            self._task = self._executor.submit(self._checkpointer.add_segment, segment, state)

    def _make_ask(self, shard: Worker) -> Callable[..., Any]:
        """Calls a method of a shard; one that is being restored only tells the index that it will have."""
        if (index := self._shards.index_of(shard)) is None:
            return functools.partial(self._calls.ask, shard)

        def ask(method: str, *_: int) -> Tree:
            if method == "get_index":
                return index
            raise OSError(f"Files of {shard.name}, which is being restored, are gone")

        return ask

    def _make_tree(self, learner: Tree) -> Tree:
        """All that a checkpoint holds apart from replay, and how many actors act."""
        return {**run_tree(self._run, learner), "acting": len(self._team.acting)}

    def _is_writing(self) -> bool:
        """Whether the thread is busy; handles the end of its last task."""
        if self._task is None:
            return False
        if not self._task.done():
            return True
        task, self._task = self._task, None
        error = task.exception()
        if isinstance(error, OSError) and self._checkpointer is not None:
            self.reset()
            self._checkpointer.add_failure(error)
        elif error is not None:
            raise error
        elif (number := task.result()) is not None:  # not a segment
            self._run.metrics.callbacks.call("on_checkpoint", number)
        return False
