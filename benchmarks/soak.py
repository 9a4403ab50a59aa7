"""Trains CartPole-v1 at full speed for long and checks that nothing grows.

    python benchmarks/soak.py --minutes 30 --output soak.json

Every few seconds it records the memory, open files and threads of the driver and of every role, the
references that the driver holds, and the size of Ray's object store. Once replay is full and a minute
of learning is over, nothing may grow: the slope (Theil and Sen: the median of the slopes between all
pairs of samples) times the time must stay below the allowance in `ALLOWED`, which is a constant for
noise plus a rate per hour. The exit code is 1 if something grows faster.

The driver is this process, so its memory includes the samples: about 3 KB each.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import distdqn

# Allowed growth during the measurement: a constant, and per hour.
ALLOWED = {
    "rss_mb": (8.0, 40.0),
    "pss_mb": (8.0, 40.0),
    "files": (4.0, 8.0),
    "threads": (4.0, 8.0),
    "references": (50.0, 100.0),
    "object_store_mb": (20.0, 40.0),
}
_WARM_UP_SECONDS = 60.0
_PROGRESS_SECONDS = 30.0

Json = dict[str, Any]


def process_numbers(pid: int) -> Json:
    """Memory in MB, open files and threads of a process."""
    process = psutil.Process(pid)
    memory = process.memory_full_info()
    return {
        "rss_mb": memory.rss / 2**20,
        "pss_mb": getattr(memory, "pss", memory.uss) / 2**20,  # Linux only
        "files": process.num_fds(),
        "threads": process.num_threads(),
    }


def ray_numbers() -> Json:
    """References held by this process, and the size of the object stores of all nodes."""
    import ray
    from ray._private import internal_api
    from ray._private.state import state

    held = ray._private.worker.global_worker.core_worker.get_all_reference_counts()
    store = internal_api.get_memory_info_reply(state).store_stats
    return {"references": len(held), "object_store_mb": store.object_store_bytes_used / 2**20}


class Sampler(threading.Thread):
    """Takes samples of a run in this process until `over` is set."""

    def __init__(self, run_dir: Path, every: float) -> None:
        super().__init__(daemon=True)
        self.samples: list[Json] = []  # oldest first
        self.failures: list[str] = []  # errors of samples that could not be taken
        self.over = threading.Event()
        self._status = run_dir / "status.json"
        self._every = every

    def run(self) -> None:
        """Takes samples from the first learner step on."""
        begin, printed_at = None, 0.0
        while not self.over.wait(self._every):
            if not self._status.exists():
                continue
            status = json.loads(self._status.read_text())
            if not status["counters"]["learner_steps"] or status["state"] != "running":
                continue
            begin = begin or time.monotonic()
            try:
                self.samples.append(sample(status, time.monotonic() - begin))
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                continue
            if self.samples[-1]["seconds"] - printed_at >= _PROGRESS_SECONDS:
                printed_at = self.samples[-1]["seconds"]
                print(_progress(self.samples[-1]), flush=True)


def sample(status: Json, seconds: float) -> Json:
    """All current numbers in one flat dictionary: `actor-0 rss_mb` and so on."""
    numbers: Json = {"seconds": seconds}
    numbers |= {name: status["counters"][name] for name in ("inserted", "env_steps", "learner_steps")}
    pids = {"driver": psutil.Process().pid} | {role["role"]: role["pid"] for role in status["roles"]}
    for role, pid in pids.items():
        numbers |= {f"{role} {name}": value for name, value in process_numbers(pid).items()}
    return numbers | {f"driver {name}": value for name, value in ray_numbers().items()}


def _progress(sample: Json) -> str:
    memory = sum(value for name, value in sample.items() if name.endswith("pss_mb"))
    return (
        f"{sample['seconds'] / 60:5.1f} min  learner steps {sample['learner_steps']:,}  "
        f"memory {memory:,.0f} MB  references {sample['driver references']}  "
        f"object store {sample['driver object_store_mb']:.1f} MB"
    )


def slope_per_hour(seconds: np.ndarray, values: np.ndarray) -> float:
    """Median slope between all pairs of samples, both `[T]`."""
    first, second = np.triu_indices(len(seconds), 1)
    return float(np.median((values[second] - values[first]) / (seconds[second] - seconds[first])) * 3600)


def series_of(samples: Sequence[Json], capacity: int) -> dict[str, Json]:
    """First, last, slopes and verdict of every number after the warm-up."""
    warm = [s for s in samples if s["inserted"] >= capacity and s["seconds"] >= _WARM_UP_SECONDS]
    if len(warm) < 3:
        sys.exit(
            f"Only {len(warm)} of {len(samples)} samples came after replay was full: run for more minutes."
        )
    seconds = np.array([s["seconds"] for s in warm])
    hours = (seconds[-1] - seconds[0]) / 3600
    is_late = seconds >= seconds[-1] - (seconds[-1] - seconds[0]) / 3
    found = {}
    for name in warm[0]:
        if (kind := name.rpartition(" ")[2]) in ALLOWED:
            values = np.array([s.get(name, np.nan) for s in warm])
            slope = slope_per_hour(seconds, values)
            at_once, by_the_hour = ALLOWED[kind]
            is_flat = slope * hours <= at_once + by_the_hour * hours
            found[name] = {
                "first": float(values[0]),
                "last": float(values[-1]),
                "per_hour": slope,
                "late_per_hour": slope_per_hour(seconds[is_late], values[is_late]),
                "is_flat": bool(is_flat),
            }
    return found


def table(series: dict[str, Json]) -> str:
    """A line per process as Markdown: the last value and its slopes per hour."""
    rows: defaultdict[str, dict[str, Json]] = defaultdict(dict)
    for name, numbers in series.items():
        role, _, kind = name.rpartition(" ")
        rows[role][kind] = numbers
    lines = [
        "| process | " + " | ".join(kind.replace("_mb", ", MB").replace("_", " ") for kind in ALLOWED) + " |",
        "|--" * (len(ALLOWED) + 1) + "|",
    ]
    for role, kinds in rows.items():
        cells = [_cell(kinds[kind]) if kind in kinds else "" for kind in ALLOWED]
        lines.append(f"| {role} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(numbers: Json) -> str:
    return f"{numbers['last']:,.0f} ({numbers['per_hour']:+,.1f}, {numbers['late_per_hour']:+,.1f})"


def soak(minutes: float, actors: int, seed: int, every: float) -> Json:
    """Runs and measures."""
    with tempfile.TemporaryDirectory() as folder:
        config = distdqn.Config(
            run_dir=f"{folder}/run",
            actors=actors,
            seed=seed,
            target_return=None,
            max_env_steps=10**12,
            max_seconds=60.0 * minutes + 20.0,  # includes the start before learning
        )
        sampler = Sampler(Path(folder) / "run", every)
        sampler.start()
        try:
            summary = distdqn.train(config, quiet=True)
        finally:
            sampler.over.set()
            sampler.join()
    samples = sampler.samples
    return {
        "command": f"python benchmarks/soak.py --minutes {minutes:g} --actors {actors} --seed {seed}",
        "minutes": samples[-1]["seconds"] / 60 if samples else 0.0,
        "learner_steps": summary["learner_steps"],
        "env_steps": summary["env_steps"],
        "not_sampled": sampler.failures,
        "series": series_of(samples, config.replay_capacity),
        "samples": samples,
    }


def says(report: Json) -> list[str]:
    """The text for docs/reliability.md."""
    growing = [name for name, numbers in report["series"].items() if not numbers["is_flat"]]
    return [
        f"`{report['command']}`: {report['learner_steps']:,} learner steps and {report['env_steps']:,} env "
        f"steps in {report['minutes']:.0f} minutes. Each cell has the last value and, in brackets, two "
        "slopes per hour: from when replay was full and a minute of learning was over, and in the last third "
        "of that time.",
        "",
        *table(report["series"]).splitlines(),
        "",
        f"Growing: {', '.join(growing)}."
        if growing
        else "Nothing grows faster than allowed: memory by {:g} MB plus {:g} MB per hour.".format(
            *ALLOWED["rss_mb"]
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, writes the report, and prints what grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of learning (default: 30)")
    parser.add_argument("--actors", type=int, default=4, help="number of actors (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the run (default: 0)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples (default: 5)")
    parser.add_argument("--output", type=Path, help="file for the report as JSON")
    options = parser.parse_args(arguments)
    report = soak(options.minutes, options.actors, options.seed, options.every)
    is_flat = all(numbers["is_flat"] for numbers in report["series"].values())
    report["says"] = says(report)
    report["faults"] = {"28": {"injected": 1, "survived": int(is_flat), "lost": {}}}
    print("\n".join(report["says"]))
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    return not is_flat


if __name__ == "__main__":
    sys.exit(main())
