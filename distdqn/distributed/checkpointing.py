"""Checkpoints of an `async` run, made while it continues."""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

from distdqn.checkpoints.checkpointer import Checkpointer
from distdqn.checkpoints.store import CheckpointRef
from distdqn.distributed.replay_shards import ReplayShards
from distdqn.training.calls import Call, Worker
from distdqn.training.checkpointing import run_tree, save
from distdqn.training.loop import Run
from distdqn.training.team import Team
from distdqn.types import Tree


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
        self._making: Iterator[None] | None = None  # takes a step of the checkpoint each time
        self._task: Future[Any] | None = None

    def advance(self) -> None:
        """Takes the next step of a checkpoint; `CheckpointError` if five in a row could not be written."""
        if self._checkpointer is None or self._is_writing():
            return
        if self._making is None:
            if self._due is None or self._calls.clock() < self._due or not self._team.learner.is_ready:
                return
            self._making = self._make(self._checkpointer)
        next(self._making, None)

    def reset(self) -> None:
        """Gives up the checkpoint whose parts are being asked for, if there is one, until the next is due."""
        if self._making is not None and (seconds := self._run.config.checkpoint_seconds) is not None:
            self._due = self._calls.clock() + seconds
        self._making = None  # results that are still to come change nothing

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

    def _make(self, checkpointer: Checkpointer) -> Iterator[None]:
        """Asks for one part after another, and waits at each `yield` for answers or for the thread."""
        shards = self._team.shards if self._run.config.checkpoint_replay else []
        # At the moment of its answer, the counters are those of the learner's state.
        trees = self._ask(self._team.learner, "get_state", convert=self._make_tree)
        answers = [self._ask(shard, "get_index") for shard in shards]
        while not (trees and all(answers)):
            yield
        indexes = [index for (index,) in answers]
        for segment in checkpointer.missing(indexes):
            while self._calls.count("get_rows", "get_frames"):  # of a checkpoint that was given up
                yield
            shard, get = shards[segment.shard], f"get_{segment.kind}"
            states = self._ask(shard, get, segment.begin, segment.end)
            while not states:
                yield
            self._task = self._executor.submit(checkpointer.add_segment, segment, states[0])
            while self._is_writing():
                yield
            if self._making is None:  # it could not be written
                return
        number = trees[0]["learner"]["learner_steps"]
        self._task = self._executor.submit(checkpointer.write, number, trees[0], indexes)
        self.reset()  # all parts are there
        yield

    def _ask(
        self, worker: Worker, method: str, *arguments: Any, convert: Callable[[Any], Any] = lambda each: each
    ) -> list[Any]:
        """Calls a role; its result, converted, is put into the list once it is there."""
        found: list[Any] = []

        def keep(_call: Call, result: Any) -> None:
            found.append(convert(result))

        self._calls.send(worker, method, *arguments, on_result=keep)
        return found

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
