"""Stops a run in every way at every stage, and checks that nothing is lost.

    python benchmarks/stop_matrix.py --folder FOLDER --jobs 2 --output stops.json

A cell is one run of CartPole-v1, one stage of it and one way to stop it then. Where training has to
continue (nobody reads the output, the folder is gone), the run is stopped by SIGTERM once it has learned
more. A cell is right if

- the exit code, `status.json` and `summary.json` say what happened,
- the command ends within 15 s of the request, and no process is left,
- all four networks and a complete checkpoint are there, if anything was learned,
- `--resume` continues from that checkpoint.

FOLDER holds the results so far in `cells.jsonl` and the output of every run in `logs/`, so the same command
continues after an interruption; `--again` repeats the cells that were wrong. A full disk is a tmpfs of
its own, which only root can mount. The exit code is 1 if a cell is wrong.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from driver import Driver, close_when_terminated, heed_signals, newest_whole
from slow_evaluation import SECONDS
from stopped_run import ENDS, MODES, NEVER, PATIENCE_SECONDS, SOURCE_OPTIONS, Cell, StoppedRun

Json = dict[str, Any]


def make_source(folder: Path) -> Path:
    """A run with a large replay, for the cells that stop a restore."""
    source = folder / "source"
    if newest_whole(source) is None:
        shutil.rmtree(source, ignore_errors=True)
        options = ["--actors", 2, "--target-return", "none", *SOURCE_OPTIONS]
        options += ["--max-env-steps", 200_000, "--eval-period", NEVER, "--eval-episodes", 2]
        driver = Driver(source, [*options, "--env", "slow_evaluation:SlowEvaluation"], {SECONDS: "0"})
        driver.wait_until(lambda: False, 2 * PATIENCE_SECONDS)
        driver.close()
        if newest_whole(source) is None:
            raise RuntimeError(f"The run to resume from made no checkpoint:\n{driver.output()}")
    return source


def cells() -> list[Cell]:
    """All cells, in their order."""
    return [Cell(mode, stage, end) for mode, stages in MODES.items() for stage in stages for end in ENDS]


def run_cell(cell: Cell, folder: Path, source: Path, seed: int) -> Json:
    """Makes one cell and returns its result; its folder stays where it was wrong."""
    place = folder / "cells" / cell.name
    shutil.rmtree(place, ignore_errors=True)
    try:
        result = StoppedRun(cell, place, source).measure(np.random.default_rng([seed, cells().index(cell)]))
    except Exception as error:  # whatever happens to one cell, the others are made
        result = {"wrong": [f"{type(error).__name__}: {error}"]}
    if not result["wrong"]:
        shutil.rmtree(place, ignore_errors=True)
    return {"mode": cell.mode, "stage": cell.stage, "end": cell.end, **result}


def read_results(folder: Path) -> dict[Cell, Json]:
    """The results so far; the last of each cell counts."""
    path = folder / "cells.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    results = [json.loads(line) for line in lines]
    return {Cell(each["mode"], each["stage"], each["end"]): each for each in results}


def tables(results: dict[Cell, Json]) -> list[str]:
    """For each mode, the seconds from the request to the end of the command."""
    lines = []
    for mode, stages in MODES.items():
        lines += ["", f"| `{mode}` | {' | '.join(stages)} |", "|--" * (len(stages) + 1) + "|"]
        for end in ENDS:
            found = [results.get(Cell(mode, stage, end)) for stage in stages]
            lines.append(f"| {end} | {' | '.join(map(_shown, found))} |")
    return lines[1:]


def _shown(result: Json | None) -> str:
    if result is None:
        return "not run"
    return "**wrong**" if result["wrong"] else f"{max(0.0, result['seconds']):.1f}"


def report_of(results: dict[Cell, Json]) -> Json:
    """The results as benchmarks/reliability.py reads them."""
    right = [each for each in results.values() if not each["wrong"]]
    return {
        "cells": list(results.values()),
        "faults": {"35": {"injected": len(results), "survived": len(right), "lost": {}}},
        "says": [
            f"`python benchmarks/stop_matrix.py` stopped {len(results)} runs, and {len(right)} ended as",
            "promised. A cell has the seconds from the request to the end of the command. In the four rows",
            "in which training continues, the request is the SIGTERM that follows; a last evaluation ends by",
            "itself there, so its cell has the time of the evaluation. In the last row the request is the",
            "end of the budget.",
            "",
            *tables(results),
        ],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the missing cells; returns 1 if one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for runs and results")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time (default: 1)")
    parser.add_argument("--only", default="", help="make the cells whose name contains this")
    parser.add_argument("--again", action="store_true", help="repeat the cells that were wrong")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--output", type=Path, help="file for the results as JSON")
    options = parser.parse_args(arguments)
    close_when_terminated()
    heed_signals()
    folder = options.folder.resolve()
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    os.environ["PYTHONPATH"] = path
    made_before = read_results(folder)
    missing = [
        cell
        for cell in cells()
        if options.only in cell.name
        and (cell not in made_before or (options.again and made_before[cell]["wrong"]))
    ]
    source = make_source(folder)
    with ThreadPoolExecutor(options.jobs) as executor, (folder / "cells.jsonl").open("a") as file:
        made = [executor.submit(run_cell, cell, folder, source, options.seed) for cell in missing]
        try:
            for future in as_completed(made):
                result = future.result()
                file.write(json.dumps(result) + "\n")
                file.flush()
                told = "; ".join(result["wrong"]) or f"right, {result['seconds']:.1f} s"
                print(f"{result['mode']}, {result['stage']}, {result['end']}: {told}", flush=True)
        except BaseException:
            executor.shutdown(cancel_futures=True)  # those that run are ended in order
            raise
    report = report_of(read_results(folder))
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("\n".join(report["says"]))
    return int(report["faults"]["35"]["survived"] < report["faults"]["35"]["injected"])


if __name__ == "__main__":
    sys.exit(main())
