"""Checkpoints of an `async` run, made while it goes on."""

import functools
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from distdqn.checkpoints.checkpointer import Checkpointer, Segment
from distdqn.checkpoints.reshard import RestorePlan
from distdqn.checkpoints.store import CheckpointRef
from distdqn.distributed.calls import Call, Calls, Worker
from distdqn.distributed.refill import Refill, Unreadable
from distdqn.distributed.worker_group import WorkerGroup
from distdqn.reporting.metrics import Metrics
from distdqn.training.checkpointing import run_tree, save
from distdqn.training.stopping import Goal
from distdqn.types import ReplayInfo, Tree

_KINDS = ("get_state", "get_index", "get_rows", "get_frames")


class AsyncCheckpointer:
    """Asks the roles for their states, one short call after another, and has them written.

    Nobody waits: the learner and replay answer between two of their other calls, and a
    thread writes. Replay goes on meanwhile; what is overwritten before its turn is left out.

    Args:
        checkpoints: where to; None means never.
        seconds: from when one is handed to the writer to the begin of the next.
        with_replay: save replay, too.
        about: what a checkpoint says of the run.
        executor: runs what is written, one task at a time.
        clock: in seconds.

    Attributes:
        refill: puts replay back, on the same thread, so that it never reads what goes away.
    """

    def __init__(
        self,
        checkpoints: Checkpointer | None,
        seconds: float | None,
        with_replay: bool,
        about: Tree,
        executor: Executor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checkpoints = checkpoints
        self._seconds = seconds
        self._with_replay = with_replay
        self._about = about
        self._executor = executor
        self._clock = clock
        self.refill = Refill(executor)
        self._due = None if seconds is None else clock() + seconds
        self._task: Future[Any] | None = None
        self._forget()

    def _forget(self) -> None:
        """Nothing is under way."""
        self._tree: Tree | None = None
        self._indexes: dict[int, Tree] = {}  # by shard
        self._wanted: list[Segment] = []
        self._fresh: dict[Segment, Any] = {}
        self._asked: Segment | None = None
        self._is_under_way = False

    def fill(self, shard: Worker, plan: RestorePlan) -> ReplayInfo:
        """Has a new shard filled as planned; returns what it will hold by then."""
        index = None
        if plan.ref is not None and self._checkpoints is not None:
            index = self._checkpoints.reuse_segments(plan.ref, shard.index, plan.shards)
        self.refill.begin(shard, plan, index)
        return plan.info(shard.index)

    def advance(self, calls: Calls, workers: WorkerGroup) -> Unreadable | None:
        """Takes the next step, if there is one to take.

        Returns:
            A shard that is to be filled otherwise, as its checkpoint cannot be read.

        Raises:
            CheckpointError: a checkpoint could not be written for the fifth consecutive time.
        """
        if self.refill.is_running:  # from a checkpoint that must stay, and of replay as it must not be saved
            return self.refill.advance(calls)
        self._save_on(calls, workers)
        return None

    def _save_on(self, calls: Calls, workers: WorkerGroup) -> None:
        """Takes the next step of a checkpoint."""
        if self._checkpoints is None or self._is_writing():
            return
        if not self._is_under_way:
            if self._due is not None and self._clock() >= self._due and workers.learner.about:
                self._is_under_way = True
                calls.send("get_state", workers.learner)
                for shard in workers.shards if self._with_replay else ():
                    calls.send("get_index", shard)
            return
        if self._with_replay and len(self._indexes) < len(workers.shards):
            return
        if self._tree is None or self._asked is not None:
            return
        if self._wanted:
            self._asked = self._wanted.pop(0)
            method, shard = f"get_{self._asked.kind}", workers.shards[self._asked.shard]
            calls.send(method, shard, self._asked.begin, self._asked.end)
            return
        number = self._tree["learner"]["learner_steps"]
        self._task = self._executor.submit(
            self._checkpoints.write, number, self._tree, self._sorted_indexes(), self._fresh
        )
        self._end()

    def _sorted_indexes(self) -> list[Tree]:
        """The index of every shard, in their order."""
        return [self._indexes[shard] for shard in sorted(self._indexes)]

    def take(self, call: Call, result: Any, goal: Goal, metrics: Metrics, workers: WorkerGroup) -> bool:
        """Takes in the end of a call, if it is one of this object's; says whether it was."""
        if call.kind not in _KINDS:
            return False
        if not self._is_under_way or self._checkpoints is None:  # given up meanwhile
            return True
        if call.kind == "get_state":
            self._tree = self._run_tree(result, goal, metrics, workers)
        elif call.kind == "get_index":
            self._indexes[call.worker.index] = result
            if len(self._indexes) == len(workers.shards):
                self._wanted = self._checkpoints.missing(self._sorted_indexes())
        elif self._asked is not None:
            self._task = self._executor.submit(self._add_segment, self._asked, result)
            self._asked = None
        return True

    def give_up(self) -> None:
        """Leaves a checkpoint that is under way: one of the roles it is of has died."""
        if self._is_under_way:
            self._end()

    def forget_shard(self, shard: int) -> None:
        """A shard of replay has died: what it had saved is no part of what the next one will save."""
        self.give_up()
        if self._task is not None:
            self._task.exception()  # a segment may be on its way still
        if self._checkpoints is not None:
            self._checkpoints.forget_segments(shard)

    def finish(self, goal: Goal, metrics: Metrics, workers: WorkerGroup) -> None:
        """Makes a last checkpoint and waits for it, unless the one that the run goes on from is as good.

        Shards that are being put back are not waited for: what they are to hold is saved.
        """
        if self._checkpoints is None:
            return
        self.give_up()
        if self._task is not None and (error := self._task.exception()) is not None:
            metrics.note(f"A checkpoint could not be written ({type(error).__name__}: {error}).")
        self._task = None
        if not metrics.has_progress():
            metrics.note(
                "Nothing was done since the checkpoint that this run goes on from: no other is made."
            )
            return
        shards = workers.shards if self._with_replay else []
        if shards:
            self.refill.complete(workers.ask)
        learner = workers.ask(workers.learner, "get_state")
        tree = self._run_tree(learner, goal, metrics, workers)
        answers = [self._answers(workers, shard) for shard in shards]
        save(self._checkpoints, learner["learner_steps"], tree, answers)

    def _answers(self, workers: WorkerGroup, shard: Worker) -> Callable[..., Any]:
        """Calls a method of a shard; of one that is being put back, all that is asked for is its index."""
        index = self.refill.index_of(shard)
        return functools.partial(workers.ask, shard) if index is None else lambda _get_index: index

    def newest(self) -> CheckpointRef | None:
        """The newest checkpoint of this run that is whole, if there is one."""
        if self._task is not None:  # when it has written one, it takes older ones away
            self._task.exception()
        return None if self._checkpoints is None else self._checkpoints.newest()

    def _run_tree(self, learner: Tree, goal: Goal, metrics: Metrics, workers: WorkerGroup) -> Tree:
        """All that a checkpoint holds apart from replay; also how many actors are at work."""
        tree = run_tree(learner, goal, metrics, self._about, workers.value)
        return {**tree, "acting": len(workers.acting)}

    def _add_segment(self, segment: Segment, state: Tree) -> None:
        if self._checkpoints is not None:
            self._fresh[segment] = self._checkpoints.add_segment(segment, state)

    def _is_writing(self) -> bool:
        """Whether the thread is at work; takes note of how its last task ended."""
        if self._task is None:
            return False
        if not self._task.done():
            return True
        error, self._task = self._task.exception(), None
        if isinstance(error, OSError) and self._checkpoints is not None:
            self.give_up()
            self._checkpoints.add_failure(error)
        elif error is not None:
            raise error
        return False

    def _end(self) -> None:
        self._forget()
        if self._seconds is not None:
            self._due = self._clock() + self._seconds
