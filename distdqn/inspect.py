"""`python -m distdqn.inspect`: what is in the checkpoints of a run, and whether they are whole.

It imports neither TensorFlow nor Ray, loads no array and unpickles nothing, so it may be
pointed at a checkpoint from anywhere.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from distdqn.types import Tree
from distdqn.config.command_line import Parser, print_mistakes
from distdqn.config.config import Config
from distdqn.errors import DistdqnError
from distdqn.checkpoints.arrays import Entry
from distdqn.errors import CheckpointDamaged, CheckpointError, NoCheckpoint
from distdqn.checkpoints.store import Store, find_checkpoints


_PROGRESS_SECONDS = 0.5

_SHOWN_APART = ("env", "mode", "actors", "envs_per_actor", "seed", "run_dir", "resume")


@dataclass(frozen=True)
class Found:
    """One checkpoint as it was found.

    Attributes:
        number: of the checkpoint.
        written_at: Unix time.
        contents: see `contents`; None if its manifest cannot be read.
        disk_bytes: of its arrays, whichever other checkpoints share them.
        faults: what is not whole, one line each.
    """

    number: int
    written_at: float
    contents: Tree | None
    disk_bytes: int
    faults: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what is in the checkpoints; 4 if one of them is not whole."""
    try:
        options = _parser().parse_args(arguments)
        store, numbers = _locate(options.place)
        found = list(inspect(store, numbers, Progress() if sys.stderr.isatty() else lambda *_: None))
        if not found:
            raise NoCheckpoint(f"{options.place}: all were replaced by newer ones meanwhile (look again).")
        print(json.dumps(_as_json(found), indent=2) if options.json else _as_text(options.place, found))
        faults = [f"Checkpoint {each.number}: {fault}" for each in found for fault in each.faults]
        if faults:
            raise CheckpointDamaged(faults)
    except DistdqnError as error:
        return print_mistakes(error)
    except OSError as error:
        what = error.filename or options.place
        return print_mistakes(CheckpointError(f"{what} cannot be read: {error.strerror or error}."))
    return 0


def inspect(store: Store, numbers: Sequence[int], progress: Callable[[int, int], None]) -> Iterator[Found]:
    """Looks at checkpoints, and at every byte of every file of theirs once.

    Of several, those are left out that a run which goes on has deleted meanwhile.

    Args:
        store: where they are.
        numbers: which.
        progress: is told the bytes looked at, and how many there are.
    """
    documents: dict[int, Tree | str] = {}
    for number in numbers:
        try:
            documents[number] = store.read_manifest(number)
        except CheckpointError as error:
            documents[number] = str(error)
    arrays = {
        number: [] if isinstance(document, str) else store.arrays(document)
        for number, document in documents.items()
    }
    distinct = {_key(entry): entry for entries in arrays.values() for entry in entries}
    faults, total, checked = {}, sum(entry["bytes"] for entry in distinct.values()), 0
    for key, entry in distinct.items():
        faults[key] = store.fault(entry)
        checked += entry["bytes"]
        progress(checked, total)
    gone = set(numbers).difference(store.numbers()) if len(numbers) > 1 else set()
    for number, document in documents.items():
        if number in gone:
            continue
        wrong = [fault for entry in arrays[number] if (fault := faults[_key(entry)])]
        inside = None
        if isinstance(document, str):
            wrong = [document]
        else:
            try:
                inside = contents(document)
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
                wrong.append("does not say what run it is of.")
        disk_bytes = sum(entry["bytes"] for entry in arrays[number])
        yield Found(number, store.written_at(number), inside, disk_bytes, wrong)


def contents(document: Tree) -> Tree:
    """What a checkpoint holds, as far as people want to know it.

    Args:
        document: of the checkpoint, arrays as entries. Nothing about it is relied on.

    Raises:
        LookupError, TypeError, ValueError, AttributeError, ArithmeticError: it is no
            checkpoint of a run.
    """
    config, metrics, learner = document["about"]["config"], document["metrics"], document["learner"]
    generation, version = learner["weights_version"]
    shapes = [tuple(map(int, entry["shape"])) for entry in learner["networks"]["online"]]
    return {
        **{name: config[name] for name in ("env", "mode", "actors", "envs_per_actor", "seed")},
        "options": _other_options(config),
        "learner_steps": int(learner["learner_steps"]),
        "weights_version": [int(generation), int(version)],
        "env_steps": int(metrics["counters"]["env_steps"]),
        "episodes": int(metrics["counters"]["episodes"]),
        "epsilon": float(metrics["epsilon"]),
        "seconds": float(metrics["seconds"]),
        "network_shapes": [list(shape) for shape in shapes],
        "network_numbers": sum(math.prod(shape) for shape in shapes),
        "replay": _replay(document["replay"]),
        "best": _best(document["goal"]["best"]),
    }


def _other_options(config: Tree) -> Tree:
    """The options that are not at their defaults, apart from those shown anyway."""
    defaults = {option.name: json.loads(json.dumps(option.default)) for option in fields(Config)}
    return {
        name: config[name]
        for name, value in defaults.items()
        if name in config and name not in _SHOWN_APART and config[name] != value
    }


def _replay(saved: Any) -> Tree | None:
    """Sizes of a saved replay; None if there is none."""
    if not saved:
        return None
    indexes = [part["index"] for part in ([saved] if isinstance(saved, dict) else saved)]
    frames = [index["frames"] for index in indexes if index["frames"] is not None]
    return {
        "transitions": sum(int(index["inserted"]) - int(index["first"]) for index in indexes),
        "inserted": sum(int(index["inserted"]) for index in indexes),
        "capacity": sum(int(index["capacity"]) for index in indexes),
        "frames": sum(int(each["inserted"]) - int(each["first"]) for each in frames) if frames else None,
        "shards": len(indexes),
        "bytes": sum(entry["bytes"] for entry in Store.arrays({"replay": saved})),
    }


def _best(best: Any) -> Tree | None:
    """The best evaluation so far; None before the first."""
    if best is None:
        return None
    returns = [float(value) for value in best["returns"]]
    return {
        "mean": sum(returns) / len(returns),
        "episodes": len(returns),
        "learner_steps": int(best["learner_steps"]),
    }


def _locate(place: str) -> tuple[Store, list[int]]:
    """Store and numbers of the checkpoints that `place` names.

    Raises:
        NoCheckpoint: there is none, nor where the run that `place` is the folder of keeps them.
    """
    try:
        return find_checkpoints(place)
    except NoCheckpoint:
        try:
            elsewhere = json.loads((Path(place) / "config.json").read_text(encoding="utf-8"))[
                "checkpoint_dir"
            ]
        except (OSError, ValueError, LookupError, TypeError):
            elsewhere = None
        if not isinstance(elsewhere, str):
            raise
    return find_checkpoints(elsewhere)


def _key(entry: Entry) -> tuple[Any, ...]:
    return entry["blob"], entry["dtype"], *entry["shape"]


class Progress:
    """A line on stderr that says how much was looked at."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _PROGRESS_SECONDS

    def __call__(self, checked: int, total: int) -> None:
        """Tells it, if some time has gone by since it last did; at the end the line is gone."""
        is_over = checked >= total
        if time.monotonic() >= self._next or is_over:
            self._next = time.monotonic() + _PROGRESS_SECONDS
            line = "" if is_over else f"{_size(checked)} of {_size(total)} checked"
            print(f"\r{line:40}", end="\r" if is_over else "", file=sys.stderr, flush=True)


def _as_json(found: Sequence[Found]) -> Tree:
    return {"checkpoints": [{**vars(each), "is_whole": not each.faults} for each in found]}


def _as_text(place: str, found: Sequence[Found]) -> str:
    """A table of all checkpoints, and what is in the newest."""
    lines = []
    if len(found) > 1:
        heads = (
            "number",
            "written",
            "learner steps",
            "env steps",
            "episodes",
            "best return",
            "size",
            "whole",
        )
        rows = [heads, *(_row(each) for each in found)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        lines += [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        lines.append("")
    newest = found[-1]
    lines.append(f"{place}: checkpoint {newest.number}, written {_time(newest.written_at)}")
    if newest.contents is not None:
        lines += [f"  {name:9} {text}" for name, text in _details(newest.contents)]
    state = "yes, every file's SHA-256 is right" if not newest.faults else "no"
    lines.append(f"  {'whole':9} {state} ({_size(newest.disk_bytes)})")
    return "\n".join(lines)


def _row(found: Found) -> tuple[str, ...]:
    inside = found.contents
    counts = ["-"] * 4
    if inside is not None:
        best = "-" if inside["best"] is None else f"{inside['best']['mean']:.1f}"
        counts = [*(f"{inside[name]:,}" for name in ("learner_steps", "env_steps", "episodes")), best]
    whole = "no" if found.faults else "yes"
    return str(found.number), _time(found.written_at), *counts, _size(found.disk_bytes), whole


def _details(inside: Tree) -> Iterator[tuple[str, str]]:
    """What is in a checkpoint, in lines with a name each."""
    run = [_plain(inside[name]) for name in ("env", "mode", "actors", "envs_per_actor", "seed")]
    yield "run", "{}, {}, {} actors of {} environments, seed {}".format(*run)
    yield (
        "options",
        ", ".join(f"{k} {_plain(v)}" for k, v in inside["options"].items()) or "all at their defaults",
    )
    version = ".".join(map(str, inside["weights_version"]))
    yield "learner", f"{inside['learner_steps']:,} learner steps, weights version {version}"
    yield (
        "acting",
        (
            f"{inside['env_steps']:,} env steps, {inside['episodes']:,} episodes, "
            f"epsilon {inside['epsilon']:.4g}, {inside['seconds']:,.0f} s"
        ),
    )
    replay, best = inside["replay"], inside["best"]
    if replay is None:
        yield "replay", "not saved"
    else:
        frames = "" if replay["frames"] is None else f", {replay['frames']:,} frames"
        shards = "" if replay["shards"] == 1 else f", in {replay['shards']} shards"
        yield (
            "replay",
            (
                f"{replay['transitions']:,} of {replay['inserted']:,} transitions{frames}, room for "
                f"{replay['capacity']:,}{shards} ({_size(replay['bytes'])})"
            ),
        )
    shapes = " ".join("x".join(map(str, shape)) or "1" for shape in inside["network_shapes"])
    yield "network", f"{inside['network_numbers']:,} numbers: {shapes}"
    if best is not None:
        yield (
            "best",
            (
                f"mean return {best['mean']:.1f} over {best['episodes']} greedy episodes, after "
                f"{best['learner_steps']:,} learner steps"
            ),
        )


def _plain(value: Any) -> str:
    """A value from a file in one line that no terminal takes for a command."""
    return "none" if value is None else json.dumps(value).strip('"')


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _size(count: float) -> str:
    """`4.2 MB`."""
    if count < 1000:
        return f"{count:.0f} bytes"
    power = min(3, int(math.log10(count)) // 3)
    return f"{count / 1000**power:,.1f} {('KB', 'MB', 'GB')[power - 1]}"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="distdqn inspect",
        description="Show what is in the checkpoints of a run, and whether they are whole.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "place",
        metavar="RUN_OR_CHECKPOINT",
        help="folder of a run, folder or URL of its checkpoints, or the file of one",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
