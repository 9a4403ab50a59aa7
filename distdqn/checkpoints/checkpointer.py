"""A run's checkpoints: what one holds, written in parts and read back."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distdqn.checkpoints.reshard import saved_ranges
from distdqn.checkpoints.store import CheckpointRef, Store
from distdqn.errors import CheckpointError, ConsecutiveFailures
from distdqn.replay.ring_buffer import segments
from distdqn.types import Tree

_MAX_FAILURES = 5  # consecutive ones, after which the run ends


@dataclass(frozen=True)
class Segment:
    """A part of replay that is saved as one file; its content never changes."""

    shard: int
    kind: str  # `rows` or `frames`, as in `Replay.get_rows` and `Replay.get_frames`
    begin: int  # first id
    end: int  # one past the last


def segments_of(shard: int, index: Tree) -> list[Segment]:
    """The segments of a shard with this `index`, oldest first, frames before rows."""
    return [
        Segment(shard, kind, begin, end)
        for kind, counts, length in _kinds(index)
        for begin, end in segments(counts["first"], counts["inserted"], length)
    ]


def _kinds(index: Tree) -> list[tuple[str, Tree, int]]:
    """What a shard holds: kind of segment, `first` and `inserted`, length of a segment."""
    frames = [("frames", index["frames"], index["frames_per_segment"])] if index["frames"] else []
    return [*frames, ("rows", index, index["rows_per_segment"])]


class Checkpointer:
    """Writes checkpoints and keeps the newest `keep`; a segment of replay is written once.

    It also keeps the first one with the best weights, of an earlier process too if the run `resumes_from` a
    checkpoint in the same store.
    """

    def __init__(
        self, store: Store, keep: int, note: Callable[[str], None], resumes_from: CheckpointRef | None = None
    ) -> None:
        self._store = store
        self._keep = keep
        self._note = note
        self._written: dict[Segment, Tree] = {}  # documents of the segments on disk
        self._best: tuple[int, int] | None = None  # learner steps of the best weights, checkpoint
        self._failures = ConsecutiveFailures(_MAX_FAILURES)
        self._last = max(store.numbers(), default=-1)
        if resumes_from is not None and resumes_from.store is store:
            best, number = resumes_from.read("goal")["best"], resumes_from.document.get("best_checkpoint")
            if best is not None and isinstance(number, int) and number >= 0:
                self._best = (best["learner_steps"], number)
        self._others = self._last  # checkpoints up to this one are of other runs or were given up

    def forget_segments(self, shard: int | None = None) -> None:
        """Writes all segments again, or a shard's: after its replacement, its ids stand for other rows."""
        self._written = {key: part for key, part in self._written.items() if shard not in (None, key.shard)}

    def reuse_segments(self, ref: CheckpointRef, shard: int, shards: int) -> Tree | None:
        """Does not write the segments again that one of `shards` shards restores from checkpoint `ref`.

        Returns the document of its index; None if its segments are in another store or are redistributed.
        """
        saved = ref.document["replay"]
        if ref.store is not self._store or len(saved) != shards:
            return None
        index: Tree = saved[shard]["index"]
        parts = saved[shard]["parts"]
        claimed = sum((counts["inserted"] - counts["first"]) // length for _, counts, length in _kinds(index))
        # A manifest may claim more segments than fit into a list.
        if claimed > len(parts) or len(found := segments_of(shard, index)) != len(parts):
            return None
        self._written |= {segment: part["state"] for segment, part in zip(found, parts, strict=True)}
        return index

    def missing(self, indexes: Sequence[Tree]) -> list[Segment]:
        """The segments to write for shards with these `indexes`, first those that are overwritten first."""
        wanted = [segments_of(shard, index) for shard, index in enumerate(indexes)]
        in_turns = itertools.chain.from_iterable(itertools.zip_longest(*wanted))
        found = [segment for segment in in_turns if segment is not None]
        # Replay has overwritten the others.
        self._written = {segment: self._written[segment] for segment in found if segment in self._written}
        return [segment for segment in found if segment not in self._written]

    def add_segment(self, segment: Segment, state: Tree) -> None:
        """Writes one segment."""
        self._written[segment] = self._store.write_tree(state)

    def write(self, number: int, tree: Tree, indexes: Sequence[Tree]) -> int:
        """Completes a checkpoint and deletes those that are no longer kept; returns its number.

        That is the `number` of learner steps. After a return to an older checkpoint it is the next free one,
        so that the latest checkpoint always has the largest. `tree` holds all but replay, `indexes` are those
        of its shards, none of whose segments is missing; none leave replay out.
        """
        replay = []
        for shard, index in enumerate(indexes):
            parts = [{"kind": each.kind, "state": self._written[each]} for each in segments_of(shard, index)]
            replay.append({"index": self._store.write_tree(index), "parts": parts})
        # All rows of a small replay may be overwritten before they are written.
        if any(each["parts"] for each in replay) and not any(saved_ranges(each, "rows") for each in replay):
            replay = []
        document = {name: self._store.write_tree(part) for name, part in tree.items() if name != "goal"}
        # The best weights rarely change, so they get a file of their own.
        document["goal"] = {name: self._store.write_tree(part) for name, part in tree["goal"].items()}
        self._last = number = max(number, self._last + 1)
        best = tree["goal"]["best"]
        if best is not None and (self._best is None or self._best[0] != best["learner_steps"]):
            self._best = (best["learner_steps"], number)
        document["best_checkpoint"] = None if self._best is None else self._best[1]
        self._store.write_manifest(number, {**document, "replay": replay})
        self._store.prune(self._keep, self._find_best())
        self._failures.reset()
        return number

    def _find_best(self) -> tuple[int, ...]:
        """The checkpoint with the best weights, unless it is damaged: later ones have these weights, too."""
        try:
            if self._best is not None:
                self._store.read_manifest(self._best[1])
        except CheckpointError as error:
            self._note(f"The checkpoint of the best evaluation is given up: {error}")
            self._best = None
        return () if self._best is None else (self._best[1],)

    def newest(self) -> CheckpointRef | None:
        """The newest whole checkpoint of this run; None if there is none."""
        own = [number for number in self._store.numbers() if number > self._others]
        try:
            # Gigabytes of images take seconds to read again; `read` checks them.
            return self._store.newest_whole(*own, relied_on="replay")[0] if own else None
        except (CheckpointError, OSError) as error:
            self._note(f"No checkpoint can be loaded: {error}")
            return None

    def add_failure(self, error: Exception) -> None:
        """Counts a checkpoint that could not be written; `CheckpointError` at the fifth consecutive one."""
        self.forget_segments()  # one that is gone is written again
        why = f"A checkpoint could not be written ({type(error).__name__}: {error})"
        if self._failures.add():
            times = f"{_MAX_FAILURES} consecutive times"
            raise CheckpointError(f"{why}, {times} (free the disk, or name another `checkpoint_dir`).")
        self._note(f"{why}; training continues, and the next one is written in full.")
