"""Putting learner and replay back as a checkpoint holds them."""

from collections.abc import Sequence

from distdqn.checkpoints import Tree, replay_parts, saved_shards
from distdqn.distributed.calls import Calls, Worker
from distdqn.replay.shards import Stock
from distdqn.reporting.journal import Counters
from distdqn.resharding import reshard
from distdqn.storage.store import Store

Found = tuple[Store, Tree]  # a checkpoint: where it is, and its document


def send_learner(calls: Calls, learner: Worker, found: Found) -> None:
    """Gives a new learner what the checkpoint's had."""
    store, document = found
    calls.send("set_state", learner, store.read_tree(document["learner"]))


def send_replay(calls: Calls, shards: Sequence[Worker], found: Found) -> list[Stock]:
    """Fills all shards, new ones, with the checkpoint's replay, however many shards that had.

    Returns:
        How many transitions each has taken in by then; it tells itself what it can draw from.
    """
    store, document = found
    saved = saved_shards(document)
    if len(saved) == len(shards):
        return [send_shard(calls, shard, len(shards), found) for shard in shards]
    inserted = [0 for _ in shards]
    for index, chunk in reshard(store, saved, len(shards)):
        calls.send("refill", shards[index], chunk, method="insert")
        inserted[index] += len(chunk)
    return [Stock(count) for count in inserted]


def send_shard(calls: Calls, shard: Worker, shards: int, found: Found | None) -> Stock:
    """Fills a new shard with its part of the checkpoint, if that has as many `shards`.

    Returns:
        How many transitions it has taken in by then.
    """
    saved = [] if found is None else saved_shards(found[1])
    if found is None or len(saved) != shards:
        return Stock()
    for method, state in replay_parts(found[0], saved[shard.index]):
        calls.send(method, shard, state)
    return Stock(int(saved[shard.index]["index"]["inserted"]))


def count_lost_learner(counters: Counters, found: Found | None) -> int:
    """Sets the counters back to the checkpoint's learner, or to none; returns the learner steps lost."""
    before = counters.learner_steps
    counters.learner_steps = found[1]["learner"]["learner_steps"] if found else 0
    lost = max(0, before - counters.learner_steps)
    counters.learner_restarts += 1
    counters.lost_learner_steps += lost
    return lost


def count_lost_replay(counters: Counters, before: Stock, after: int) -> int:
    """Counts for a shard what it has got back in place of what it held; returns what is lost.

    What it had overwritten before was not there to be lost.
    """
    lost = min(max(0, before.inserted - after), before.size)
    counters.inserted += after - before.inserted
    counters.replay_restarts += 1
    counters.lost_transitions += lost
    return lost
