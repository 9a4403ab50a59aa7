"""Kills the driver of a run again and again with SIGKILL, and resumes the run each time.

    python benchmarks/kill_driver.py --kills 50 --seed 0 --folder FOLDER --output kills.json

`--seed` and `--kills` determine the moments. A third are in the start of the command, a third in
training, and a third at the instant at which a file of a checkpoint appears. Each time the run must
resume from the newest complete checkpoint, and at the end it must solve CartPole-v1. FOLDER holds the
results so far, so the same command continues after an interruption or after `--seconds`.
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
    """Makes all kills, then runs to the goal; returns 1 if a promise was broken."""
    options = _parser().parse_args(arguments)
    close_when_terminated()
    options.folder.mkdir(parents=True, exist_ok=True)
    deadline = None if options.seconds is None else time.monotonic() + options.seconds
    if not make_kills(options.folder, options.kills, options.seed, deadline):
        print("Not all kills are made yet: the same command continues.")
        return 0
    kills = read_kills(options.folder)
    report = {"seed": options.seed, "kills": kills, "end": end_run(options.folder), **summary_of(kills)}
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in report.items() if name != "kills"}))
    return 0 if report["end"]["solved"] and not report["wrong"] else 1


def make_kills(folder: Path, kills: int, seed: int, deadline: float | None = None) -> bool:
    """Makes the missing kills; returns False if the time was up before."""
    while (made := len(read_kills(folder))) < kills:
        if deadline is not None and time.monotonic() > deadline:
            return False
        kill = kill_once(folder / "run", WHEN[made % 3], np.random.default_rng([seed, made]))
        with (folder / "kills.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(kill) + "\n")
        begun = f"resumed from {kill['resumed_from']}" if kill["has_begun"] else "had not begun"
        print(
            f"kill {made + 1:2} in {kill['when']}, {kill['seconds']:.1f} s after the start: {begun} "
            f"(newest: {kill['newest_before']}); newest now {kill['newest_after']}, "
            f"{kill['lost_learner_steps']} learner steps lost",
            flush=True,
        )
    return True


def read_kills(folder: Path) -> list[dict[str, Any]]:
    """The kills made so far, in order."""
    path = folder / "kills.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def kill_once(run_dir: Path, when: str, generator: np.random.Generator) -> dict[str, Any]:
    """Resumes the run and kills its driver at a random moment; returns what happened."""
    before = newest_whole(run_dir)
    begin = time.monotonic()
    driver = Driver(run_dir, (*OPTIONS, "--target-return", "none", "--resume", "auto"))
    try:
        _await(driver, when, _steps_of(run_dir, before), generator)
        ended, seconds = driver.process.poll(), time.monotonic() - begin
        driver.kill()
        if ended is not None:
            raise RuntimeError(f"The run ended by itself, with {ended}:\n{driver.output()}")
        has_begun = "Ray:" in driver.output()  # printed after the line about the resume
        after, steps = newest_whole(run_dir), driver.last_metrics().get("learner_steps", 0)
    finally:
        left = driver.close()
    return {
        "when": when,
        "seconds": seconds,
        "newest_before": before,
        "resumed_from": driver.resumed_from(),
        "has_begun": has_begun,
        "newest_after": after,
        "lost_learner_steps": max(0, steps - _steps_of(run_dir, after)),
        "processes_left": left,
    }


def _await(driver: Driver, when: str, steps: int, generator: np.random.Generator) -> None:
    """Waits for the moment to kill a run that resumes from `steps` learner steps."""
    if when == "start":
        driver.wait_until(lambda: False, generator.uniform(0.0, _START_SECONDS))
        return
    patience = _PATIENCE_SECONDS
    # Only now the metrics that the previous process wrote after its checkpoint are removed.
    driver.wait_until(lambda: "Ray:" in driver.output(), patience)
    driver.wait_until(lambda: driver.last_metrics().get("learner_steps", 0) > steps, patience)
    driver.wait_until(lambda: False, generator.uniform(0.0, _TRAINING_SECONDS))
    if when == "checkpoint":
        files = _files(driver.run_dir)
        before = files()
        driver.wait_until(lambda: bool(files() - before), patience, poll=0.001)


def _files(run_dir: Path) -> Callable[[], set[str]]:
    """A function that lists the files of checkpoints, including partly written ones."""
    folders = (run_dir / "checkpoints", run_dir / "checkpoints" / "blobs")
    return lambda: {str(path) for folder in folders if folder.exists() for path in folder.iterdir()}


def _steps_of(run_dir: Path, number: int | None) -> int:
    """Learner steps in a checkpoint."""
    if number is None:
        return 0
    return int(Store(str(run_dir / "checkpoints")).read_manifest(number)["learner"]["learner_steps"])


def end_run(folder: Path) -> dict[str, Any]:
    """Resumes the run up to its goal; returns how it ended."""
    before = newest_whole(folder / "run")
    driver = Driver(folder / "run", (*OPTIONS, "--resume", "auto"))
    try:
        driver.wait_until(lambda: False, _PATIENCE_SECONDS)
        code, from_number = driver.process.poll(), driver.resumed_from()
        output = driver.output()
    finally:
        driver.close()
    if code is None or from_number != before:
        raise RuntimeError(f"Resumed from {from_number} instead of {before}, ended with {code}:\n{output}")
    summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
    names = ("solved", "eval_return_mean", "env_steps", "learner_steps", "episodes")
    return {"exit_code": code, "resumed_from": from_number, **{name: summary[name] for name in names}}


def summary_of(kills: list[dict[str, Any]]) -> dict[str, Any]:
    """The results of all kills."""
    begun = [kill for kill in kills if kill["has_begun"]]
    wrong = [kill for kill in begun if kill["resumed_from"] != kill["newest_before"]]
    lost = [kill["lost_learner_steps"] for kill in kills if kill["when"] != "start"] or [0]
    in_writing = [kill for kill in kills if kill["when"] == "checkpoint"]
    return {
        "killed": len(kills),
        "killed_before_it_began": len(kills) - len(begun),
        "resumed_from_the_newest": len(begun) - len(wrong),
        "wrong": wrong,
        "lost_learner_steps": {"median": float(np.median(lost)), "maximum": max(lost)},
        "faults": {
            "5": {
                "injected": len(kills),
                "survived": len(kills) - len(wrong),
                "lost": {"learner steps": sum(kill["lost_learner_steps"] for kill in kills)},
            },
            "12": {"injected": len(in_writing), "survived": len(in_writing), "lost": {}},
        },
        "says": [
            f"The driver of a run was killed {len(kills)} times: {len(in_writing)} times while it wrote a",
            f"checkpoint, and {len(kills) - len(begun)} times before training. {len(wrong)} times the run",
            "did not resume from the newest complete checkpoint. With a checkpoint every second, a kill",
            f"during training lost {np.median(lost):.0f} learner steps (median; maximum {max(lost)}).",
        ],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="number of kills (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--folder", type=Path, required=True, help="for the run and the results")
    parser.add_argument("--seconds", type=float, help="start no kill after this time")
    parser.add_argument("--output", type=Path, help="file for the results as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
