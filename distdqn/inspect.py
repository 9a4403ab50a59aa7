"""`python -m distdqn.inspect`: what is in the checkpoints of a run, without TensorFlow, Ray or pickle."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress
from rich.table import Table

from distdqn.checkpoints.format import ArrayRef, refs_by_file
from distdqn.checkpoints.resume import option_text
from distdqn.checkpoints.store import Store, find_checkpoints
from distdqn.config.command_line import Command, print_mistakes
from distdqn.config.model import Options, Text
from distdqn.config.config import Config
from distdqn.errors import CheckpointDamaged, CheckpointError, DistdqnError, NoCheckpoint
from distdqn.types import Tree

_COLUMNS = ("number", "written", "learner steps", "env steps", "episodes", "best return", "size", "whole")
_SHOWN_APART = ("env", "mode", "actors", "envs_per_actor", "seed", "run_dir", "resume")


class InspectOptions(Options):
    """The checkpoints to look at."""

    place: Text
    """Folder of a run, folder or URL of its checkpoints, or the file of one."""
    json_: bool = False
    """Print JSON."""


_COMMAND = Command(
    "distdqn inspect RUN_OR_CHECKPOINT [--json]",
    "Show what is in the checkpoints of a run, and whether they are whole.",
    InspectOptions,
    positional="place",
)


@dataclass(frozen=True)
class CheckpointSummary:
    """What one checkpoint holds, and what is wrong with it."""

    number: int
    written_at: float  # Unix time
    contents: Tree | None  # see `contents`; None if its manifest cannot be read
    disk_bytes: int  # of its files of arrays, shared ones included
    faults: list[str]  # one line for each file that is not whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what is in the checkpoints; returns the exit code, 4 if one of them is not whole."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if _COMMAND.prints_help(arguments):
        return 0
    try:
        options = _COMMAND.read(arguments)
        store, numbers = _locate(options.place)
        with _progress_bar() as progress:
            found = list(inspect(store, numbers, progress))
        if not found:
            raise NoCheckpoint(f"{options.place}: all were replaced by newer ones meanwhile (look again).")
        if options.json_:
            summaries = [{**vars(each), "is_whole": not each.faults} for each in found]
            print(json.dumps({"checkpoints": summaries}, indent=2))
        else:
            _print_text(options.place, found)
        faults = [f"Checkpoint {each.number}: {fault}" for each in found for fault in each.faults]
        if faults:
            raise CheckpointDamaged(faults)
    except DistdqnError as error:
        return print_mistakes(error)
    except OSError as error:
        what = error.filename or options.place
        return print_mistakes(CheckpointError(f"{what} cannot be read: {error.strerror or error}."))
    return 0


def inspect(
    store: Store, numbers: Sequence[int], progress: Callable[[int, int], None]
) -> Iterator[CheckpointSummary]:
    """Reads every file of checkpoints once, and summarizes each that no run deletes meanwhile.

    `progress` receives the bytes read so far and the bytes of all files.
    """
    documents: dict[int, Tree] = {}
    unreadable: dict[int, str] = {}
    files: dict[str, list[ArrayRef]] = {}  # references of all checkpoints, by their file
    for number in numbers:
        try:
            documents[number] = store.read_manifest(number)
        except CheckpointError as error:
            unreadable[number] = str(error)
    for document in documents.values():
        for name, refs in refs_by_file(document).items():
            files.setdefault(name, []).extend(refs)
    faults, total, checked = {}, sum(refs[0].bytes for refs in files.values()), 0
    for name, refs in files.items():
        faults[name] = store.fault(refs)
        checked += refs[0].bytes
        progress(checked, total)
    gone = set(numbers).difference(store.numbers()) if len(numbers) > 1 else set()
    for number in sorted(set(numbers) - gone):
        if number in unreadable:
            yield CheckpointSummary(number, store.written_at(number), None, 0, [unreadable[number]])
        else:
            yield _summary(store, number, documents[number], faults)


def _summary(store: Store, number: int, document: Tree, faults: dict[str, str]) -> CheckpointSummary:
    """The summary of a checkpoint whose manifest is sound, with the `faults` of each file."""
    own = refs_by_file(document)
    wrong = [faults[name] for name in own if faults[name]]
    try:
        inside = contents(document)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        inside = None
        wrong.append("does not say what run it is of.")
    disk_bytes = sum(refs[0].bytes for refs in own.values())
    return CheckpointSummary(number, store.written_at(number), inside, disk_bytes, wrong)


def contents(document: Tree) -> Tree:
    """The main contents of a checkpoint; its `document` may hold anything.

    Raises:
        LookupError, TypeError, ValueError, AttributeError, ArithmeticError: it is not of a run.
    """
    config, metrics, learner = document["about"]["config"], document["metrics"], document["learner"]
    generation, version = learner["weights_version"]
    shapes = [list(map(int, ref["shape"])) for ref in learner["networks"]["online"]]
    return {
        **{name: config[name] for name in ("env", "mode", "actors", "envs_per_actor", "seed")},
        "options": {
            name: config[name]
            for name, value in Config().to_json().items()
            if name in config and name not in _SHOWN_APART and config[name] != value
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
        "best": _best(document["goal"]["best"]),
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


def _best(best: Any) -> Tree | None:
    """The best evaluation so far; None before the first."""
    if best is None:
        return None
    returns = [float(value) for value in best["returns"]]
    steps = int(best["learner_steps"])
    return {"mean": sum(returns) / len(returns), "episodes": len(returns), "learner_steps": steps}


def _locate(place: str) -> tuple[Store, list[int]]:
    """Like `find_checkpoints`, also for the folder of a run that keeps its checkpoints elsewhere."""
    try:
        return find_checkpoints(place)
    except NoCheckpoint:
        try:
            elsewhere = json.loads((Path(place) / "config.json").read_text("utf-8"))["checkpoint_dir"]
        except (OSError, ValueError, LookupError, TypeError):
            elsewhere = None
        if not isinstance(elsewhere, str):
            raise
    return find_checkpoints(elsewhere)


@contextlib.contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr if that is a terminal; call it with the bytes read and all bytes."""
    quiet = not sys.stderr.isatty()
    columns = BarColumn(), DownloadColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("", total=None)
        yield lambda checked, total: bar.update(task, completed=checked, total=total)


def _print_text(place: str, found: Sequence[CheckpointSummary]) -> None:
    """Prints a table of all checkpoints, if there are several, and the contents of the newest."""
    if len(found) > 1:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in _COLUMNS:
            table.add_column(name, justify="right", overflow="fold")
        for each in found:
            table.add_row(*_row(each))
        width = None if sys.stdout.isatty() else 1000  # a file has no edge to wrap at
        Console(width=width, markup=False, highlight=False).print(table, "")
    newest = found[-1]
    lines = [f"{place}: checkpoint {newest.number}, written {_time(newest.written_at)}"]
    if newest.contents is not None:
        lines += [f"  {name:9} {text}" for name, text in _details(newest.contents)]
    state = "no" if newest.faults else "yes, every file's SHA-256 is right"
    print("\n".join([*lines, f"  {'whole':9} {state} ({decimal(newest.disk_bytes)})"]))


def _row(found: CheckpointSummary) -> tuple[str, ...]:
    inside = found.contents
    counts = ["-"] * 4
    if inside is not None:
        best = "-" if inside["best"] is None else f"{inside['best']['mean']:.1f}"
        counts = [*(f"{inside[name]:,}" for name in ("learner_steps", "env_steps", "episodes")), best]
    whole = "no" if found.faults else "yes"
    return str(found.number), _time(found.written_at), *counts, decimal(found.disk_bytes), whole


def _details(inside: Tree) -> Iterator[tuple[str, str]]:
    """The contents of a checkpoint as lines, each with its name."""
    run = [option_text(inside[name]) for name in ("env", "mode", "actors", "envs_per_actor", "seed")]
    yield "run", "{}, {}, {} actors of {} environments, seed {}".format(*run)
    options = ", ".join(f"{name} {option_text(value)}" for name, value in inside["options"].items())
    yield "options", options or "all at their defaults"
    version = ".".join(map(str, inside["weights_version"]))
    yield "learner", f"{inside['learner_steps']:,} learner steps, weights version {version}"
    counts = f"{inside['env_steps']:,} env steps, {inside['episodes']:,} episodes"
    yield "acting", f"{counts}, epsilon {inside['epsilon']:.4g}, {inside['seconds']:,.0f} s"
    yield "replay", _replay_text(inside["replay"])
    shapes = " ".join("x".join(map(str, shape)) or "1" for shape in inside["network_shapes"])
    yield "network", f"{inside['network_numbers']:,} numbers: {shapes}"
    if (best := inside["best"]) is not None:
        over = f"{best['episodes']} greedy episodes, after {best['learner_steps']:,} learner steps"
        yield "best", f"mean return {best['mean']:.1f} over {over}"


def _replay_text(replay: Tree | None) -> str:
    if replay is None:
        return "not saved"
    frames = "" if replay["frames"] is None else f", {replay['frames']:,} frames"
    shards = "" if replay["shards"] == 1 else f", in {replay['shards']} shards"
    return (
        f"{replay['transitions']:,} of {replay['inserted']:,} transitions{frames}, room for "
        f"{replay['capacity']:,}{shards} ({decimal(replay['bytes'])})"
    )


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


if __name__ == "__main__":
    sys.exit(main())
