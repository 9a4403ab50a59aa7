"""Measures distdqn beside Stable-Baselines3, RLlib and cpprb.

    python benchmarks/peers/compare.py cartpole --seeds 100-109
    python benchmarks/peers/compare.py pong --repetitions 5
    python benchmarks/peers/compare.py rllib --repetitions 5
    python benchmarks/peers/compare.py replay --repetitions 5
    python benchmarks/peers/compare.py report

Each peer has a virtual environment of its own below `--environments`, which the first command makes; torch
alone is several hundred megabytes there. The runs of distdqn and of the peer take turns, so that a drift of
the machine's speed affects both alike. Every figure of every run goes to a file as soon as it is known, and
the same command continues from there. `report` prints a table for each file. If a peer cannot be installed,
its cells stay empty. Use an idle machine.
"""

import argparse
import datetime
import json
import os
import platform
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sides import TASKS, RunFailed, Settings, Task
from tables import table
from venvs import FOLDER, HERE, NotInstalled, python_of

Json = dict[str, Any]

RESULTS = HERE / "results"
PACKAGES = ("distdqn", "tensorflow", "keras", "ray", "gymnasium", "numpy")


def main(arguments: list[str] | None = None) -> None:
    """Measures one task, or prints what is stored."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it ends the run that it has started
    if options.task == "report":
        for name in TASKS:
            path = RESULTS / f"{name}.json"
            if path.exists():
                print(table(name, json.loads(path.read_text(encoding="utf-8"))))
        return
    task, path = TASKS[options.task], options.out or RESULTS / f"{options.task}.json"
    seconds = task.seconds if options.seconds is None else options.seconds
    stored = open_results(path, options.task, options.seeds, Settings(seconds, options.peer_threads))
    try:
        python = python_of(task.peer, options.environments)
        stored.pop("missing", None)
    except NotInstalled as error:
        python, stored["missing"] = None, str(error)
        print(f"{task.peer_title} could not be installed: {error}", flush=True)
    write(path, stored)
    measure(task, python, options.seeds, stored, path)
    print(table(options.task, stored))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, with `seeds` as a range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("task", choices=[*TASKS, "report"])
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--seeds", type=seed_range, help="first-last (default: as many as repetitions)")
    chosen.add_argument("--repetitions", type=int, default=5, help="pairs of runs from seed 100 (default: 5)")
    parser.add_argument("--seconds", type=float, help="of a measurement (default: 60, for replay 2)")
    parser.add_argument("--peer-threads", type=int, help="of the peer (default: its own choice)")
    parser.add_argument("--out", type=Path, help="file of the figures (default: results/TASK.json)")
    parser.add_argument(
        "--environments",
        type=Path,
        default=FOLDER,
        help="folder of virtual environments (default: build/peers)",
    )
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or range(100, 100 + options.repetitions)
    return options


def seed_range(text: str) -> range:
    """`100-109` as a range of ten."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def open_results(path: Path, name: str, seeds: range, settings: Settings) -> Json:
    """What a file holds, or a new one; ends the program if it was measured with other settings."""
    now = {
        "task": name,
        "settings": vars(settings),
        "command": command_of(name, seeds, settings),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": {"distdqn": {package: version(package) for package in PACKAGES}},
        "runs": [],
    }
    if not path.exists():
        return now
    stored = json.loads(path.read_text(encoding="utf-8"))
    for what in ("task", "settings", "machine"):
        if stored[what] != now[what]:
            sys.exit(
                f"{path} has another {what}: {stored[what]}, not {now[what]} (name another with `--out`)."
            )
    stored["command"] = now["command"]
    stored["runs"] = [run for run in stored["runs"] if not run.get("error")]  # try those again
    return stored


def command_of(name: str, seeds: range, settings: Settings) -> str:
    """The command that measures the same, without the folders of this machine."""
    words = ["python benchmarks/peers/compare.py", name, f"--seeds {seeds[0]}-{seeds[-1]}"]
    if settings.seconds != TASKS[name].seconds:
        words.append(f"--seconds {settings.seconds:g}")
    if settings.threads is not None:
        words.append(f"--peer-threads {settings.threads}")
    return " ".join(words)


def measure(task: Task, python: Path | None, seeds: range, stored: Json, path: Path) -> None:
    """Makes the runs that are not stored yet, in pairs, and stores each."""
    settings = Settings(**stored["settings"])
    known = {(run["side"], run["seed"]) for run in stored["runs"]}
    for seed in seeds:
        for side in ("distdqn", task.peer):
            if (side, seed) in known or (side == task.peer and python is None):
                continue
            run: Json = {"side": side, "seed": seed, "load_before": round(os.getloadavg()[0], 2)}
            try:
                if side == "distdqn":
                    figures = task.measure(seed, settings)
                else:
                    figures = task.run_peer(python, seed, settings)
                versions = figures.pop("versions", None)
                if versions and side != "distdqn":
                    stored["versions"][side] = versions
                run["figures"] = figures
            except RunFailed as error:
                run["error"] = str(error)
            stored["runs"].append(run)
            write(path, stored)
            print(f"{side}  seed {seed}  {line_of(run)}", flush=True)


def line_of(run: Json) -> str:
    """The figures of a run in one line."""
    if "error" in run:
        return f"failed: {run['error']}"
    shown = (
        f"{name} {value:,.1f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in run["figures"].items()
    )
    return "  ".join(shown)


def machine() -> Json:
    """Processor, cores and system."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def write(path: Path, stored: Json) -> None:
    """Replaces the file at once, so that an interrupt leaves the last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    main()
