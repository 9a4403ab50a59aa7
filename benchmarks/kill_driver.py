"""Kills the driver of a run again and again, with SIGKILL, and has the run go on each time.

    python benchmarks/kill_driver.py --kills 50 --seed 0 --folder FOLDER --output kills.json

The moments are drawn by `--seed` and `--kills`: a third lie in the start of the command, a third
in its training, and a third at the instant at which a file of a checkpoint appears. Each time the
run must go on from the newest complete checkpoint; at the end it must solve CartPole-v1. What was
seen stands in FOLDER, so that the same command goes on where it was broken off, by `--seconds` too.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from driver import Driver, close_when_terminated, newest_whole

from distdqn.checkpoints.store import Store

OPTIONS = ("--actors", 2, "--checkpoint-seconds", 1, "--report-seconds", 0.2, "--max-env-steps", 10**9)
WHEN = ("start", "training", "checkpoint")
_START_SECONDS, _TRAINING_SECONDS = 10.0, 3.0
_PATIENCE_SECONDS = 120.0


def main(arguments: list[str] | None = None) -> int:
    """Kills and goes on until all kills are made, then once more to the goal; 1 if anything was wrong."""
    options = _parser().parse_args(arguments)
    close_when_terminated()
    options.folder.mkdir(parents=True, exist_ok=True)
    deadline = None if options.seconds is None else time.monotonic() + options.seconds
    if not make_kills(options.folder, options.kills, options.seed, deadline):
        print("Not all kills are made yet: the same command goes on with them.")
        return 0
    kills = read_kills(options.folder)
    report = {"seed": options.seed, "kills": kills, "end": end_run(options.folder), **summary_of(kills)}
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in report.items() if name != "kills"}))
    return 0 if report["end"]["solved"] and not report["wrong"] else 1


def make_kills(folder: Path, kills: int, seed: int, deadline: float | None = None) -> bool:
    """Makes the kills that are still to be made; says whether all are, or the time was up before."""
    while (made := len(read_kills(folder))) < kills:
        if deadline is not None and time.monotonic() > deadline:
            return False
        kill = kill_once(folder / "run", WHEN[made % 3], np.random.default_rng([seed, made]))
        with (folder / "kills.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(kill) + "\n")
        begun = f"went on from {kill['went_on_from']}" if kill["has_begun"] else "had not begun"
        print(
            f"kill {made + 1:2} in {kill['when']}, {kill['seconds']:.1f} s after the start: {begun} (the "
            f"newest: {kill['newest_before']}); newest now {kill['newest_after']}, "
            f"{kill['lost_learner_steps']} learner steps lost",
            flush=True,
        )
    return True


def read_kills(folder: Path) -> list[dict[str, Any]]:
    """The kills made so far, in order."""
    path = folder / "kills.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def kill_once(run_dir: Path, when: str, generator: np.random.Generator) -> dict[str, Any]:
    """Has the run go on and kills its driver at some moment; returns what was seen."""
    before = newest_whole(run_dir)
    begin = time.monotonic()
    driver = Driver(run_dir, (*OPTIONS, "--target-return", "none", "--resume", "auto"))
    try:
        _await(driver, when, _steps_of(run_dir, before), generator)
        ended, seconds = driver.process.poll(), time.monotonic() - begin
        driver.kill()
        if ended is not None:
            raise RuntimeError(f"The run ended by itself, with {ended}:\n{driver.output()}")
        has_begun = "Ray:" in driver.output()  # by then it has said where it goes on from
        after, steps = newest_whole(run_dir), driver.last_metrics().get("learner_steps", 0)
    finally:
        left = driver.close()
    return {
        "when": when,
        "seconds": seconds,
        "newest_before": before,
        "went_on_from": driver.went_on_from(),
        "has_begun": has_begun,
        "newest_after": after,
        "lost_learner_steps": max(0, steps - _steps_of(run_dir, after)),
        "processes_left": left,
    }


def _await(driver: Driver, when: str, steps: int, generator: np.random.Generator) -> None:
    """Waits for the moment to kill a run that goes on from `steps` learner steps."""
    if when == "start":
        driver.wait_until(lambda: False, generator.uniform(0.0, _START_SECONDS))
        return
    patience = _PATIENCE_SECONDS
    # Only now are the lines gone that the last life wrote after its checkpoint.
    driver.wait_until(lambda: "Ray:" in driver.output(), patience)
    driver.wait_until(lambda: driver.last_metrics().get("learner_steps", 0) > steps, patience)
    driver.wait_until(lambda: False, generator.uniform(0.0, _TRAINING_SECONDS))
    if when == "checkpoint":
        files = _files(driver.run_dir)
        before = files()
        driver.wait_until(lambda: bool(files() - before), patience, look=0.001)


def _files(run_dir: Path) -> Callable[[], set[str]]:
    """What lists the files of checkpoints, those that are half-written too."""
    folders = (run_dir / "checkpoints", run_dir / "checkpoints" / "blobs")
    return lambda: {str(path) for folder in folders if folder.exists() for path in folder.iterdir()}


def _steps_of(run_dir: Path, number: int | None) -> int:
    """Learner steps in a checkpoint."""
    if number is None:
        return 0
    return int(Store(str(run_dir / "checkpoints")).read_manifest(number)["learner"]["learner_steps"])


def end_run(folder: Path) -> dict[str, Any]:
    """Has the run go on to its goal; what it ended with."""
    before = newest_whole(folder / "run")
    driver = Driver(folder / "run", (*OPTIONS, "--resume", "auto"))
    try:
        driver.wait_until(lambda: False, _PATIENCE_SECONDS)
        code, from_number = driver.process.poll(), driver.went_on_from()
        output = driver.output()
    finally:
        driver.close()
    if code is None or from_number != before:
        raise RuntimeError(f"Went on from {from_number} instead of {before}, ended with {code}:\n{output}")
    summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
    names = ("solved", "eval_return_mean", "env_steps", "learner_steps", "episodes")
    return {"exit_code": code, "went_on_from": from_number, **{name: summary[name] for name in names}}


def summary_of(kills: list[dict[str, Any]]) -> dict[str, Any]:
    """What came of all kills together."""
    begun = [kill for kill in kills if kill["has_begun"]]
    wrong = [kill for kill in begun if kill["went_on_from"] != kill["newest_before"]]
    lost = [kill["lost_learner_steps"] for kill in kills if kill["when"] != "start"] or [0]
    in_writing = [kill for kill in kills if kill["when"] == "checkpoint"]
    return {
        "killed": len(kills),
        "killed_before_it_began": len(kills) - len(begun),
        "went_on_from_the_newest": len(begun) - len(wrong),
        "wrong": wrong,
        "lost_learner_steps": {"median": float(np.median(lost)), "most": max(lost)},
        "faults": {
            "5": {
                "injected": len(kills),
                "survived": len(kills) - len(wrong),
                "lost": {"learner steps": sum(kill["lost_learner_steps"] for kill in kills)},
            },
            "12": {"injected": len(in_writing), "survived": len(in_writing), "lost": {}},
        },
        "says": [
            f"The driver of a run was killed {len(kills)} times, {len(in_writing)} of them while a",
            f"checkpoint was being written and {len(kills) - len(begun)} before it had begun to train.",
            f"{len(wrong)} times it did not go on from the newest complete checkpoint. With one every",
            f"second, it lost {np.median(lost):.0f} learner steps each time that it had trained (median; at",
            f"most {max(lost)}).",
        ],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--folder", type=Path, required=True, help="for the run, and what was seen")
    parser.add_argument("--seconds", type=float, help="begin no further kill after this")
    parser.add_argument("--output", type=Path, help="file for all of it as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
