"""A run's checkpoints: what one holds, written in parts and read back.

The roles know nothing of disks: they give their state as nested dictionaries of arrays and
take it back. Whoever holds all of them, a team in one process or a supervisor, hands the
parts over here.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distdqn.checkpoints.store import CheckpointRef, Store
from distdqn.errors import CheckpointError
from distdqn.replay.ring_buffer import segments
from distdqn.types import Tree

_MAX_FAILURES = 5  # running, before a run is told that its checkpoints cannot be written


@dataclass(frozen=True)
class Segment:
    """A part of replay that is saved by itself.

    Attributes:
        shard: which of the replays it is of.
        kind: `rows` or `frames`, as in `Replay.get_rows` and `Replay.get_frames`.
        begin: first id.
        end: one past the last.
        is_complete: it can never change any more.
    """

    shard: int
    kind: str
    begin: int
    end: int
    is_complete: bool


def segments_of(shard: int, index: Tree) -> list[Segment]:
    """The parts in which a shard with this `index` is saved, oldest first, frames before rows."""
    found = []
    if index["frames"] is not None:
        found += _cut(shard, "frames", index["frames"], index["frames_per_segment"])
    return found + _cut(shard, "rows", index, index["rows_per_segment"])


def _cut(shard: int, kind: str, counts: Tree, length: int) -> list[Segment]:
    ranges = segments(counts["first"], counts["inserted"], length)
    return [Segment(shard, kind, begin, end, end - begin == length) for begin, end in ranges]


def _count_segments(index: Tree) -> int:
    """How many `segments_of` would find."""
    kinds = [(index, index["rows_per_segment"])]
    if index["frames"] is not None:
        kinds.append((index["frames"], index["frames_per_segment"]))
    return sum(
        max(0, -(-each["inserted"] // length) - each["first"] // length)
        for each, length in kinds
        if each["first"] < each["inserted"]
    )


class Checkpointer:
    """Writes checkpoints, the same segment of replay only once.

    Args:
        store: where to.
        keep: newest ones kept.
        note: tells the user something.
    """

    def __init__(self, store: Store, keep: int, note: Callable[[str], None]) -> None:
        self._store = store
        self._keep = keep
        self._note = note
        self._written: dict[
            Segment, Any
        ] = {}  # those that need not be written again, as the store names them
        self._best: tuple[int, int] | None = None  # learner steps of the best weights, checkpoint
        self._failures = 0
        self._last = max(store.numbers(), default=-1)
        self._others = self._last  # up to here they are of another run, or of what this one gave up

    def forget_segments(self, shard: int) -> None:
        """This shard is another one from here on, in which the same ids are other rows."""
        self._written = {
            segment: document for segment, document in self._written.items() if segment.shard != shard
        }

    def reuse_segments(self, ref: CheckpointRef, shard: int, shards: int) -> Tree | None:
        """Takes note that a shard is being put back from a checkpoint: what is here is not written again.

        Args:
            ref: the checkpoint.
            shard: index of the one that is filled.
            shards: how many there are now.

        Returns:
            The index that the shard will have, as the store names it. None where what it will
            hold is not here as it is: in another store, or dealt out anew.
        """
        saved = saved_shards(ref.document)
        if ref.store is not self._store or len(saved) != shards:
            return None
        index: Tree = saved[shard]["index"]
        parts = saved[shard]["parts"]
        if _count_segments(index) != len(parts):  # before a list is made of what a manifest claims
            return None
        for segment, part in zip(segments_of(shard, index), parts, strict=True):
            self._written[segment] = part["state"]
        return index

    def missing(self, indexes: Sequence[Tree]) -> list[Segment]:
        """The segments that have to be written for a checkpoint of shards with these `indexes`.

        The oldest of every shard first, as these are overwritten first.
        """
        wanted = [segments_of(shard, index) for shard, index in enumerate(indexes)]
        in_turns = itertools.chain.from_iterable(itertools.zip_longest(*wanted))
        found = [segment for segment in in_turns if segment is not None]
        # What is overwritten in replay is not needed any more.
        self._written = {segment: self._written[segment] for segment in found if segment in self._written}
        return [segment for segment in found if segment not in self._written]

    def add_segment(self, segment: Segment, state: Tree) -> Any:
        """Writes one segment; returns it as the store names it."""
        document = self._store.write_tree(state)
        if segment.is_complete:
            self._written[segment] = document
        return document

    def write(self, number: int, tree: Tree, indexes: Sequence[Tree], fresh: dict[Segment, Any]) -> None:
        """Completes checkpoint `number` and deletes those that are no longer kept.

        Args:
            number: learner steps. Where these went back, since an older checkpoint was
                taken up, the next free number, so that the latest always is the largest.
            tree: all but replay.
            indexes: of all shards of replay; none leave replay out.
            fresh: what `add_segment` returned for each missing segment.
        """
        known = {**self._written, **fresh}
        parts = [
            [{"kind": segment.kind, "state": known[segment]} for segment in segments_of(shard, index)]
            for shard, index in enumerate(indexes)
        ]
        # All of a small one may have been overwritten before its turn came: nothing to sample from.
        replay = []
        if not any(parts) or any(_rows_in(part) for part in itertools.chain(*parts)):
            written = [self._store.write_tree(index) for index in indexes]
            replay = [
                {"index": index, "parts": of_shard} for index, of_shard in zip(written, parts, strict=True)
            ]
        self._last = number = max(number, self._last + 1)
        best = tree["goal"]["best"]
        if best is not None and (self._best is None or self._best[0] != best["learner_steps"]):
            self._best = (best["learner_steps"], number)
        self._store.write_manifest(number, {**self._store.write_tree(tree), "replay": replay})
        self._store.prune(self._keep, () if self._best is None else (self._best[1],))
        self._failures = 0

    def newest(self) -> CheckpointRef | None:
        """The newest checkpoint written here that is whole; or None.

        Replay is not read for it where this process has written it: with gigabytes of images
        that would take seconds, in which nothing is ordered. Who puts it back reads it.
        """
        own = [number for number in self._store.numbers() if number > self._others]
        try:
            return self._store.newest_whole(*own, relied_on="replay")[0] if own else None
        except (CheckpointError, OSError) as error:
            self._note(f"No checkpoint can be taken up: {error}")
            return None

    def add_failure(self, error: Exception) -> None:
        """Takes note that a checkpoint could not be written; the ones before it are intact.

        Raises:
            CheckpointError: five times running.
        """
        self._failures += 1
        self._written.clear()  # if it was one of these that is gone, it is written again
        why = f"A checkpoint could not be written ({type(error).__name__}: {error})"
        if self._failures >= _MAX_FAILURES:
            raise CheckpointError(
                f"{why}, {self._failures} times running (free the disk, or name another `checkpoint_dir`)."
            )
        self._note(f"{why}; training goes on, the ones before it are intact.")


def _rows_in(part: Tree) -> int:
    """How many rows a saved segment holds; 0 for frames."""
    columns = part["state"]["columns"].values() if part["kind"] == "rows" else ()
    return max((int(column["shape"][0]) for column in columns), default=0)


def saved_shards(document: Tree) -> list[Tree]:
    """The shards of replay that a checkpoint holds, `index` and `parts` of each; none if it has no replay."""
    replay = document["replay"] or []  # None in format 1
    return [replay] if isinstance(replay, dict) else list(replay)  # or a single replay


def replay_parts(store: Store, shard: Tree) -> Iterator[tuple[str, Tree]]:
    """Method of `Replay` and its argument, in the order in which they put a saved shard back."""
    for part in shard["parts"]:
        yield f"set_{part['kind']}", store.read_tree(part["state"])
    yield "set_index", store.read_tree(shard["index"])
