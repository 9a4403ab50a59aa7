"""When a run that goes in rounds is saved, and how it is put back."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from distdqn.acting.actor import CutReport
from distdqn.checkpoints import Checkpoints, Tree
from distdqn.goal import Goal
from distdqn.pacing import Pacing
from distdqn.policy import PolicyWeights
from distdqn.reporting.journal import Journal
from distdqn.resharding import restored_sizes, restoring_calls
from distdqn.resuming import Start
from distdqn.stopping import StopRequest


class Savable(Protocol):
    """What saving needs of a team."""

    def ask(self, role: str, method: str, *arguments: Any) -> Any:
        """Calls the `learner` or the `replay` and waits for the answer."""
        ...

    def cut(self, number: int) -> list[tuple[CutReport, int]]:
        """Every actor ends what is open and inserts it, in turn; reports and `inserted` after each."""
        ...

    def value(self, weights: Any) -> PolicyWeights:
        """`weights`, or what a reference to them stands for."""
        ...


def run_tree(
    learner: Tree, goal: Goal, journal: Journal, about: Tree, value: Callable[[Any], PolicyWeights]
) -> Tree:
    """All that a checkpoint holds apart from replay."""
    return {
        "about": about,
        "learner": learner,
        "goal": goal.get_state(value),
        "journal": journal.get_state(),
    }


def save(checkpoints: Checkpoints, number: int, tree: Tree, ask_shards: Sequence[Callable[..., Any]]) -> None:
    """Makes a checkpoint at once.

    Args:
        checkpoints: where to.
        number: learner steps.
        tree: all but replay.
        ask_shards: each calls a method of one shard of replay and waits for the answer; none
            leave replay out.

    Raises:
        CheckpointError: it could not be written, five times running.
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


def put_back(start: Start, goal: Goal, journal: Journal, pacing: Pacing, shards: int) -> None:
    """Has goal and journal go on from `start`'s checkpoint, with so many shards of replay."""
    document = start.document
    goal.set_state(start.store.read_tree(document["goal"]))
    inserted = sum(restored_sizes(document, shards))
    journal.set_state(document["journal"], inserted, int(pacing.goal(inserted)))
    # Each environment of an `async` run had an episode open; those of others end at a clean cut.
    envs_per_actor = document["about"]["config"]["envs_per_actor"]
    journal.counters.episodes_lost += document.get("acting", 0) * envs_per_actor


class RoundSaver:
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
        self, checkpoints: Checkpoints | None, period: int | None, with_replay: bool, about: Tree
    ) -> None:
        self._checkpoints = checkpoints
        self._period = period
        self._with_replay = with_replay
        self._about = about
        self._saved = 0  # learner steps at the last one, or where the run went on from

    def restore(
        self, team: Savable, goal: Goal, journal: Journal, pacing: Pacing, start: Start, stop: StopRequest
    ) -> None:
        """Puts everything back as it was after `start`'s checkpoint, unless asked to stop meanwhile.

        Raises:
            KeyboardInterrupt, SystemExit: it was; the checkpoint is what to go on from.
        """
        document = start.document
        team.ask("learner", "set_state", start.store.read_tree(document["learner"]))
        for method, state in restoring_calls(start.store, document, 1, 0):
            stop.leave_if_asked()
            team.ask("replay", method, state)
        put_back(start, goal, journal, pacing, shards=1)
        self._saved = journal.counters.learner_steps
        team.cut(self._saved)

    def save_if_due(self, team: Savable, goal: Goal, journal: Journal) -> None:
        """Cuts and saves once `period` learner steps have gone by.

        Raises:
            CheckpointError: it could not be written, five times running.
        """
        steps = journal.counters.learner_steps
        if self._checkpoints is None or self._period is None:
            return
        if steps // self._period == self._saved // self._period:
            return
        self._saved = steps
        for report, inserted in team.cut(steps):
            journal.add_cut(report, inserted)
        tree = run_tree(team.ask("learner", "get_state"), goal, journal, self._about, team.value)
        replay = [functools.partial(team.ask, "replay")] if self._with_replay else []
        save(self._checkpoints, steps, tree, replay)
