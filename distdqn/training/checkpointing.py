"""When a run that goes in rounds is saved, and how it is put back."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from distdqn.checkpoints.checkpointer import Checkpointer
from distdqn.checkpoints.reshard import RestorePlan
from distdqn.checkpoints.store import CheckpointRef
from distdqn.replay.rate_limiter import RateLimiter
from distdqn.reporting.metrics import Metrics
from distdqn.training.stopping import Goal, StopRequest
from distdqn.types import FlushReport, PolicyWeights, Tree


class Checkpointable(Protocol):
    """What saving needs of a team."""

    def ask(self, role: str, method: str, *arguments: Any) -> Any:
        """Calls the `learner` or the `replay` and waits for the answer."""
        ...

    def flush(self, number: int) -> list[tuple[FlushReport, int]]:
        """Every actor ends what is open and inserts it, in turn; reports and `inserted` after each."""
        ...

    def value(self, weights: Any) -> PolicyWeights:
        """`weights`, or what a reference to them stands for."""
        ...


def run_tree(
    learner: Tree, goal: Goal, metrics: Metrics, about: Tree, value: Callable[[Any], PolicyWeights]
) -> Tree:
    """All that a checkpoint holds apart from replay."""
    return {
        "about": about,
        "learner": learner,
        "goal": goal.get_state(value),
        "metrics": metrics.get_state(),
    }


def save(
    checkpoints: Checkpointer, number: int, tree: Tree, ask_shards: Sequence[Callable[..., Any]]
) -> None:
    """Makes a checkpoint at once.

    Args:
        checkpoints: where to.
        number: learner steps.
        tree: all but replay.
        ask_shards: each calls a method of one shard of replay and waits for the answer; none
            leave replay out.

    Raises:
        CheckpointError: it could not be written for the fifth consecutive time.
    """
    try:
        indexes = [ask("get_index") for ask in ask_shards]
        fresh = {
            segment: checkpoints.add_segment(
                segment, ask_shards[segment.shard](f"get_{segment.kind}", segment.begin, segment.end)
            )
            for segment in checkpoints.missing(indexes)
        }
        checkpoints.write(number, tree, indexes, fresh)
    except OSError as error:
        checkpoints.add_failure(error)


def restore_state(
    start: CheckpointRef, goal: Goal, metrics: Metrics, rate_limiter: RateLimiter, shards: int
) -> None:
    """Restores goal and metrics from a checkpoint, with so many shards of replay."""
    document = start.document
    goal.set_state(start.read("goal"))
    inserted = RestorePlan(start, shards).inserted
    metrics.set_state(document["metrics"], inserted, int(rate_limiter.goal(inserted)))
    # Each environment of an `async` run had an episode open; those of others end at a clean cut.
    envs_per_actor = document["about"]["config"]["envs_per_actor"]
    metrics.counters.episodes_lost += document.get("acting", 0) * envs_per_actor


class RoundCheckpointer:
    """Saves a run in rounds every `period` learner steps, at a clean cut.

    Environments cannot be saved. So at every checkpoint, also in a run that is never
    interrupted, they are reset from seeds that the checkpoint's number decides, and open
    n-step windows are closed as if cut off. A run that goes on from a checkpoint therefore
    does exactly what the uninterrupted one did.

    Args:
        checkpoints: where to; None means never.
        period: learner steps from one to the next; None means never.
        with_replay: save replay, too.
        about: what the checkpoint says of the run.
    """

    def __init__(
        self, checkpoints: Checkpointer | None, period: int | None, with_replay: bool, about: Tree
    ) -> None:
        self._checkpoints = checkpoints
        self._period = period
        self._with_replay = with_replay
        self._about = about
        self._saved = 0  # learner steps at the last one, or where the run went on from

    def restore(
        self,
        team: Checkpointable,
        goal: Goal,
        metrics: Metrics,
        rate_limiter: RateLimiter,
        start: CheckpointRef,
        stop: StopRequest,
    ) -> None:
        """Restores everything from a checkpoint, unless asked to stop meanwhile.

        Raises:
            KeyboardInterrupt, SystemExit: it was; the checkpoint is what to go on from.
        """
        team.ask("learner", "set_state", start.read("learner"))
        for method, state in RestorePlan(start, shards=1).calls(0):
            stop.leave_if_asked()
            team.ask("replay", method, state)
        restore_state(start, goal, metrics, rate_limiter, shards=1)
        self._saved = metrics.counters.learner_steps
        team.flush(self._saved)

    def save_if_due(self, team: Checkpointable, goal: Goal, metrics: Metrics) -> None:
        """Cuts and saves once `period` learner steps have gone by.

        Raises:
            CheckpointError: it could not be written for the fifth consecutive time.
        """
        steps = metrics.counters.learner_steps
        if self._checkpoints is None or self._period is None:
            return
        if steps // self._period == self._saved // self._period:
            return
        self._saved = steps
        for report, inserted in team.flush(steps):
            metrics.add_flush(report, inserted)
        tree = run_tree(team.ask("learner", "get_state"), goal, metrics, self._about, team.value)
        replay = [functools.partial(team.ask, "replay")] if self._with_replay else []
        save(self._checkpoints, steps, tree, replay)
