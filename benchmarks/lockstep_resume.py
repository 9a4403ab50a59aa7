"""Interrupts a `lockstep` run at random points and compares it with an uninterrupted one.

    python benchmarks/lockstep_resume.py --points 20 --seed 0 --folder FOLDER --output points.json

The driver is killed with SIGKILL at `--points` random learner steps, and the run is resumed each time.
At the end networks, versions and metrics, and the learner and the replay in every checkpoint, must
equal those of the uninterrupted run bit for bit. Options that this program does not know go to both
runs.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from driver import Driver, close_when_terminated, newest_whole

from distdqn.checkpoints.store import Store
from distdqn.networks.numpy_policy import load_policy

OPTIONS: dict[str, object] = {
    "mode": "lockstep",
    "actors": 2,
    "envs-per-actor": 4,
    "rollout-length": 8,
    "max-env-steps": 6000,
    "min-replay-size": 200,
    "replay-capacity": 1000,
    "samples-per-insert": 16,
    "hidden-sizes": 16,
    "batch-size": 32,
    "updates-per-call": 16,
    "eval-period": 512,
    "eval-episodes": 3,
    "report-period": 64,
    "checkpoint-period": 64,
    "keep-checkpoints": 1000,
    "target-return": "none",
}
_TIMES = {"wall_seconds", "eval_seconds", "seconds_per_update"}
_TIMES |= {"env_steps_per_second", "learner_steps_per_second"}
_TIMES |= {"actor_env_fraction", "actor_network_fraction"}
_PATIENCE_SECONDS = 240.0


def main(arguments: list[str] | None = None) -> int:
    """Makes both runs and compares them; returns 1 if they differ."""
    options, passed_on = _parser().parse_known_args(arguments)
    close_when_terminated()
    options.folder.mkdir(parents=True, exist_ok=True)
    report = compare(options.folder, options.points, options.seed, passed_on)
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in report.items() if name != "points"}))
    return 1 if report["differences"] else 0


def compare(folder: Path, points: int, seed: int, passed_on: Sequence[object] = ()) -> dict[str, Any]:
    """Makes an uninterrupted and an interrupted run; returns all differences."""
    whole, broken = folder / "whole", folder / "broken"
    command = [text for name, value in OPTIONS.items() for text in (f"--{name}", value)] + [*passed_on]
    begin = time.monotonic()
    driver = Driver(whole, command)
    try:
        _end(driver)
    finally:
        driver.close()
    steps = json.loads((whole / "summary.json").read_text(encoding="utf-8"))["learner_steps"]
    generator = np.random.default_rng(seed)
    # Not in the last tenth: the run might end before the signal.
    at = sorted(int(step) for step in generator.integers(0, steps * 9 // 10, points))
    seen = [_interrupt(broken, command, step, generator.uniform(0.0, 0.2)) for step in at]
    driver = Driver(broken, [*command, "--resume", "auto"])
    try:
        _end(driver)
    finally:
        driver.close()
    compared, found = len(Store(str(whole / "checkpoints")).numbers()), differences(whole, broken)
    return {
        "seed": seed,
        "options": [str(text) for text in passed_on],
        "learner_steps": steps,
        "points": seen,
        "checkpoints_compared": compared,
        "differences": found,
        "seconds": time.monotonic() - begin,
        "faults": {"5": {"injected": len(seen), "survived": 0 if found else len(seen), "lost": {}}},
        "says": [
            f"A `lockstep` run of {steps:,} learner steps{_with(passed_on)} was interrupted {len(seen)}",
            f"times. It differed in {len(found)} points from an uninterrupted run. Compared were networks,",
            f"versions, metrics, and learner and replay in {compared} checkpoints.",
        ],
    }


def _with(options: Sequence[object]) -> str:
    """Options in words, if there are any."""
    return f" with `{' '.join(map(str, options))}`" if options else ""


def _end(driver: Driver) -> None:
    """Waits for the end of an undisturbed run.

    Raises:
        RuntimeError: its exit code is not 0.
    """
    driver.wait_until(lambda: False, _PATIENCE_SECONDS)
    if driver.process.poll() != 0:
        raise RuntimeError(f"The run ended with {driver.process.poll()}:\n{driver.output()}")


def _interrupt(run_dir: Path, command: Sequence[object], step: int, delay: float) -> dict[str, Any]:
    """Resumes the run and kills its driver `delay` seconds after it reports `step` learner steps."""
    newest = newest_whole(run_dir)
    driver = Driver(run_dir, [*command, "--resume", "auto"])
    try:
        # Only now the metrics that the previous process wrote after its checkpoint are removed.
        driver.wait_until(lambda: "Ray:" in driver.output(), _PATIENCE_SECONDS)
        driver.wait_until(
            lambda: driver.last_metrics().get("learner_steps", 0) >= step, _PATIENCE_SECONDS, poll=0.002
        )
        time.sleep(delay)
        if driver.process.poll() is not None:
            raise RuntimeError(f"The run ended by itself:\n{driver.output()}")
        driver.kill()
        reached, resumed_from = driver.last_metrics().get("learner_steps", 0), driver.resumed_from()
    finally:
        driver.close()
    if resumed_from != newest:
        raise RuntimeError(f"The run resumed from {resumed_from}, not from the newest, {newest}.")
    print(f"killed at learner step {reached} (planned: {step}), resumed from {resumed_from}", flush=True)
    return {"planned": step, "killed_at": reached, "resumed_from": resumed_from}


def differences(whole: Path, broken: Path) -> list[str]:
    """All differences between two runs, apart from times."""
    found = []
    for name in ("final.npz", "policy.npz"):
        before, after = load_policy(whole / name), load_policy(broken / name)
        if before.weights_version != after.weights_version:
            found.append(f"{name}: version {after.weights_version} instead of {before.weights_version}")
        if [a.tobytes() for a in before.arrays] != [a.tobytes() for a in after.arrays]:
            found.append(f"{name}: other weights")
    metrics = [_metrics(whole), _metrics(broken)]
    if len(metrics[0]) != len(metrics[1]):
        found.append(f"metrics: {len(metrics[1])} lines instead of {len(metrics[0])}")
    found += [f"metrics: line {i} differs" for i, (a, b) in enumerate(zip(*metrics, strict=False)) if a != b]
    stores = [Store(str(folder / "checkpoints")) for folder in (whole, broken)]
    if stores[0].numbers() != stores[1].numbers():
        return [*found, f"checkpoints {stores[1].numbers()} instead of {stores[0].numbers()}"]
    for number in stores[0].numbers():
        before_, after_ = (store.verify(number).document for store in stores)
        found += [
            f"checkpoint {number}: another {part}"
            for part in ("learner", "replay")
            if before_[part] != after_[part]  # references name files by the SHA-256 of their content
        ]
    return found


def _metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in _TIMES} for line in lines]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--points", type=int, default=20, help="number of interruptions (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the points (default: 0)")
    parser.add_argument("--folder", type=Path, required=True, help="for the two runs")
    parser.add_argument("--output", type=Path, help="file for the results as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
