"""Putting learner and replay back as a checkpoint holds them."""

from distdqn.checkpoints import Tree, inserted_in, replay_parts
from distdqn.distributed.calls import Calls, Worker
from distdqn.reporting.journal import Counters
from distdqn.storage.store import Store

Found = tuple[Store, Tree]  # a checkpoint: where it is, and its document


def send_learner(calls: Calls, learner: Worker, found: Found) -> None:
    """Gives a new learner what the checkpoint's had."""
    store, document = found
    calls.send("set_state", learner, store.read_tree(document["learner"]))


def send_replay(calls: Calls, replay: Worker, found: Found) -> None:
    """Fills a new replay, if the checkpoint holds one."""
    store, document = found
    if document["replay"] is not None:
        for method, state in replay_parts(store, document["replay"]):
            calls.send(method, replay, state)


def count_lost_learner(counters: Counters, found: Found | None) -> int:
    """Sets the counters back to the checkpoint's learner, or to none; returns the learner steps lost."""
    before = counters.learner_steps
    counters.learner_steps = found[1]["learner"]["learner_steps"] if found else 0
    lost = max(0, before - counters.learner_steps)
    counters.learner_restarts += 1
    counters.lost_learner_steps += lost
    return lost


def count_lost_replay(counters: Counters, found: Found | None) -> int:
    """Sets the counters back to the checkpoint's replay, or to an empty one; returns the transitions lost."""
    before = counters.inserted
    counters.inserted = inserted_in(found[1]) if found else 0
    lost = max(0, before - counters.inserted)
    counters.replay_restarts += 1
    counters.lost_transitions += lost
    return lost
