"""What a checkpoint holds, and the checkpoints of `serial` and `lockstep` runs."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from distdqn.checkpoints.checkpointer import Checkpointer
from distdqn.checkpoints.reshard import RestorePlan
from distdqn.errors import restoring
from distdqn.training.loop import Run
from distdqn.training.team import Team
from distdqn.types import Tree


def run_tree(run: Run, learner: Tree) -> Tree:
    """All that a checkpoint holds apart from replay; `learner` is the learner's state."""
    return {
        "about": run.about,
        "learner": learner,
        "goal": run.goal.get_state(),
        "metrics": run.metrics.get_state(),
    }


def save(run: Run, tree: Tree, ask_shards: Sequence[Callable[..., Any]]) -> None:
    """Makes a checkpoint at once, if the run makes any; `tree` holds all but replay.

    Each of `ask_shards` calls a method of one shard of replay and waits; none leave replay out.
    `CheckpointError` if five consecutive checkpoints could not be written.
    """
    if (checkpointer := run.checkpointer) is None:
        return
    try:
        try:
            number = _write(checkpointer, tree, ask_shards)
        except FileNotFoundError:  # somebody has deleted files of an earlier checkpoint
            checkpointer.forget_segments()
            number = _write(checkpointer, tree, ask_shards)
    except OSError as error:
        checkpointer.add_failure(error)
    else:
        run.metrics.callbacks.call("on_checkpoint", number)


def _write(checkpointer: Checkpointer, tree: Tree, ask_shards: Sequence[Callable[..., Any]]) -> int:
    """Makes a checkpoint and returns its number; `OSError` if it cannot be written."""
    indexes = [ask("get_index") for ask in ask_shards]
    for segment in checkpointer.missing(indexes):
        state = ask_shards[segment.shard](f"get_{segment.kind}", segment.begin, segment.end)
        checkpointer.add_segment(segment, state)
    return checkpointer.write(tree["learner"]["learner_steps"], tree, indexes)


def restore_progress(run: Run) -> None:
    """Restores goal and metrics from the checkpoint that the run resumes from, if there is one."""
    if (ref := run.resume_from) is None:
        return
    with restoring(f"Checkpoint {ref.number}"):
        document, inserted = ref.document, RestorePlan(ref, run.config.replay_shards).inserted
        run.goal.set_state(ref.read("goal"))
        run.metrics.set_state(document["metrics"], inserted, int(run.rate_limiter.goal(inserted)))
        # An `async` run leaves an episode open in each environment; the other modes flush first.
        envs_per_actor = 0 if run.config.is_offline else document["about"]["config"]["envs_per_actor"]
        run.metrics.counters.episodes_lost += document.get("acting", 0) * envs_per_actor


class RoundCheckpointer:
    """Saves a run in rounds every `checkpoint_period` learner steps.

    Environments cannot be saved. So every checkpoint flushes the actors, also in a run that is never
    interrupted: open n-step windows are closed as if truncated, and environments are reset with seeds that
    the checkpoint's number decides. A resumed run therefore does exactly what the uninterrupted one did.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._saved = 0  # learner steps of the last checkpoint

    def restore(self, team: Team) -> None:
        """Restores the checkpoint to resume from, if there is one.

        A stop that is requested meanwhile raises `KeyboardInterrupt` or `SystemExit`; the checkpoint stays.
        """
        if (ref := self._run.resume_from) is None:
            return
        with restoring(f"Checkpoint {ref.number}"):
            team.calls.ask(team.learner, "set_state", ref.read("learner"))
            for method, state in RestorePlan(ref, 1).calls(0):
                self._run.request.raise_if_set()
                team.calls.ask(team.shards[0], method, state)
        restore_progress(self._run)
        self._saved = self._run.metrics.counters.learner_steps
        for _, info in team.flush(self._saved):
            self._run.metrics.replay_size = info.size

    def save_if_due(self, team: Team) -> None:
        """Saves once `checkpoint_period` learner steps have passed."""
        period = self._run.config.checkpoint_period
        if period is not None and self._run.metrics.counters.learner_steps // period > self._saved // period:
            self.save(team)

    def save(self, team: Team) -> None:
        """Flushes and saves, see `save`, unless nothing was learned since the last checkpoint."""
        run, steps = self._run, self._run.metrics.counters.learner_steps
        if run.checkpointer is None or steps == self._saved:
            return
        self._saved = steps
        for report, info in team.flush(steps):
            run.metrics.add_flush(report, info.inserted)
            run.metrics.replay_size = info.size
        tree = run_tree(run, team.calls.ask(team.learner, "get_state"))
        shards = [functools.partial(team.calls.ask, shard) for shard in team.shards]
        save(run, tree, shards if run.config.checkpoint_replay else [])
