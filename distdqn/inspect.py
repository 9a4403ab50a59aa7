"""`python -m distdqn.inspect`: what is in the checkpoints of a run, without TensorFlow, Ray or pickle."""

import functools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress
from rich.table import Table

from distdqn.checkpoints.format import ArrayRef, refs_by_file
from distdqn.checkpoints.resume import locate_checkpoints, option_text
from distdqn.checkpoints.store import Store
from distdqn.config.command_line import command
from distdqn.config.model import Options, Text
from distdqn.config.config import Config
from distdqn.errors import UNEXPECTED, CheckpointDamaged, CheckpointError, NoCheckpoint, restoring
from distdqn.reporting.run_directory import read_status
from distdqn.types import Tree

_RUN = ("env", "mode", "actors", "envs_per_actor", "seed")  # options that are shown before the others
_COUNTS = ("learner_steps", "env_steps", "episodes")


class InspectOptions(Options):
    """The checkpoints to look at."""

    place: Text
    """Folder of a run, folder or URL of its checkpoints, or the file of one."""
    json_: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class CheckpointSummary:
    """What one checkpoint holds, and what is wrong with it."""

    number: int
    written_at: float  # Unix time
    contents: Tree | None  # see `contents`; None if its manifest cannot be read
    disk_bytes: int  # of its files of arrays, shared ones included
    faults: list[str]  # one line for each file that is not whole

    @property
    def written(self) -> str:
        """Local time."""
        return f"{datetime.fromtimestamp(self.written_at):%Y-%m-%d %H:%M:%S}"


@command("distdqn inspect RUN_OR_CHECKPOINT [--json]", InspectOptions, positional="place")
def main(options: InspectOptions) -> None:
    """Show what is in the checkpoints of a run, and whether they are whole."""
    with restoring(options.place):
        status = read_status(Path(options.place))
        state = None if status is None else status.state
        store, numbers = locate_checkpoints(options.place)
        terminal, columns = Console(stderr=True), (BarColumn(), DownloadColumn())
        with Progress(*columns, console=terminal, transient=True, disable=not sys.stderr.isatty()) as bar:
            update = functools.partial(bar.update, bar.add_task("", total=None))
            found = list(inspect(store, numbers, lambda read, total: update(completed=read, total=total)))
    if not found:
        raise NoCheckpoint(f"{options.place}: all were replaced by newer ones meanwhile (look again).")
    if options.json_:
        summaries = [{**vars(each), "is_whole": not each.faults} for each in found]
        print(json.dumps({"state": state, "checkpoints": summaries}, indent=2))
    else:
        _print_text(options.place, state, found)
    faults = [f"Checkpoint {each.number}: {fault}" for each in found for fault in each.faults]
    if faults:
        raise CheckpointDamaged(faults)


def inspect(
    store: Store, numbers: Sequence[int], progress: Callable[[int, int], None]
) -> Iterator[CheckpointSummary]:
    """Reads every file of checkpoints once, and summarizes each that no run deletes meanwhile.

    `progress` receives the bytes read so far and the bytes of all files.
    """
    documents: dict[int, Tree] = {}
    faults: dict[object, str] = {}  # of manifests by number, of other files by name
    files: dict[str, list[ArrayRef]] = {}  # references of all checkpoints, by their file
    for number in numbers:
        try:
            documents[number] = store.read_manifest(number)
        except CheckpointError as error:
            faults[number] = str(error)
        for name, refs in refs_by_file(documents.get(number)).items():
            files.setdefault(name, []).extend(refs)
    total, checked = sum(refs[0].bytes for refs in files.values()), 0
    for name, refs in files.items():
        faults[name] = store.fault(refs)
        checked += refs[0].bytes
        progress(checked, total)
    gone = set(numbers).difference(store.numbers()) if len(numbers) > 1 else set()
    for number in sorted(set(numbers) - gone):
        own = refs_by_file(documents.get(number))
        wrong = [faults[name] for name in (number, *own) if faults.get(name)]
        inside = None
        try:
            inside = contents(documents[number]) if number in documents else None
        except UNEXPECTED:
            wrong.append("does not say what run it is of.")
        disk_bytes = sum(refs[0].bytes for refs in own.values())
        yield CheckpointSummary(number, store.written_at(number), inside, disk_bytes, wrong)


def contents(document: Tree) -> Tree:
    """The main contents of a checkpoint; one of `UNEXPECTED` errors if its `document` is not of a run."""
    config, metrics, learner = document["about"]["config"], document["metrics"], document["learner"]
    best = document["goal"]["best"]  # evaluation so far; None before the first
    generation, version = learner["weights_version"]
    shapes = [list(map(int, ref["shape"])) for ref in learner["networks"]["online"]]
    return {
        **{name: config[name] for name in _RUN},
        "options": {
            name: config[name]
            for name, value in Config().to_json().items()
            if name in config and name not in (*_RUN, "run_dir", "resume") and config[name] != value
        },
        "learner_steps": int(learner["learner_steps"]),
        "weights_version": [int(generation), int(version)],
        "env_steps": int(metrics["counters"]["env_steps"]),
        "episodes": int(metrics["counters"]["episodes"]),
        "epsilon": float(metrics["epsilon"]),
        "seconds": float(metrics["seconds"]),
        "network_shapes": shapes,
        "network_numbers": sum(math.prod(shape) for shape in shapes),
        "replay": _replay(document["replay"]),
        "best": None
        if best is None
        else {
            "mean": sum(map(float, best["returns"])) / len(best["returns"]),
            "episodes": len(best["returns"]),
            "learner_steps": int(best["learner_steps"]),
        },
    }


def _replay(saved: Any) -> Tree | None:
    """Sizes of a saved replay; None if there is none."""
    if not saved:
        return None
    indexes = [shard["index"] for shard in saved]
    frames = [index["frames"] for index in indexes if index["frames"] is not None]
    return {
        "transitions": sum(int(index["inserted"]) - int(index["first"]) for index in indexes),
        "inserted": sum(int(index["inserted"]) for index in indexes),
        "capacity": sum(int(index["capacity"]) for index in indexes),
        "frames": sum(int(each["inserted"]) - int(each["first"]) for each in frames) if frames else None,
        "shards": len(indexes),
        "bytes": sum(refs[0].bytes for refs in refs_by_file(saved).values()),
    }


def _print_text(place: str, state: str | None, found: Sequence[CheckpointSummary]) -> None:
    """Prints a table of all checkpoints, if there are several, the run's state, and what the newest holds."""
    if len(found) > 1:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("number", "written", *_COUNTS, "best return", "size", "whole"):
            table.add_column(name.replace("_", " "), justify="right", overflow="fold")
        for each in found:
            inside = each.contents or {}
            counts = [f"{inside[name]:,}" if inside else "-" for name in _COUNTS]
            best = f"{inside['best']['mean']:.1f}" if inside.get("best") else "-"
            whole = "no" if each.faults else "yes"
            table.add_row(str(each.number), each.written, *counts, best, decimal(each.disk_bytes), whole)
        width = None if sys.stdout.isatty() else 1000  # a file has no edge to wrap at
        Console(width=width, markup=False, highlight=False).print(table, "")
    newest = found[-1]
    print(f"{place}: checkpoint {newest.number}, written {newest.written}")
    if state is not None:
        hint = " (its process is gone; `--resume auto` resumes it)" if state == "killed" else ""
        print(f"  {'state':9} {option_text(state)}{hint}")
    for name, text in _details(newest.contents) if newest.contents else ():
        print(f"  {name:9} {text}")
    whole = "no" if newest.faults else "yes, every file's SHA-256 is right"
    print(f"  {'whole':9} {whole} ({decimal(newest.disk_bytes)})")


def _details(inside: Tree) -> Iterator[tuple[str, str]]:
    """The contents of a checkpoint as lines, each with its name."""
    run = map(option_text, (inside[name] for name in _RUN))
    yield "run", "{}, {}, {} actors of {} environments, seed {}".format(*run)
    options = ", ".join(f"{name} {option_text(value)}" for name, value in inside["options"].items())
    yield "options", options or "all at their defaults"
    version = ".".join(map(str, inside["weights_version"]))
    yield "learner", f"{inside['learner_steps']:,} learner steps, weights version {version}"
    counts = f"{inside['env_steps']:,} env steps, {inside['episodes']:,} episodes"
    yield "acting", f"{counts}, epsilon {inside['epsilon']:.4g}, {inside['seconds']:,.0f} s"
    if (replay := inside["replay"]) is None:
        yield "replay", "not saved"
    else:
        held = f"{replay['transitions']:,} of {replay['inserted']:,} transitions"
        held += f", {replay['frames']:,} frames" if replay["frames"] is not None else ""
        held += f", room for {replay['capacity']:,}"
        held += f", in {replay['shards']} shards" if replay["shards"] > 1 else ""
        yield "replay", f"{held} ({decimal(replay['bytes'])})"
    shapes = " ".join("x".join(map(str, shape)) or "1" for shape in inside["network_shapes"])
    yield "network", f"{inside['network_numbers']:,} numbers: {shapes}"
    if (best := inside["best"]) is not None:
        over = f"{best['episodes']} greedy episodes, after {best['learner_steps']:,} learner steps"
        yield "best", f"mean return {best['mean']:.1f} over {over}"


if __name__ == "__main__":
    sys.exit(main())
