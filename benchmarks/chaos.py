"""Kills random roles of a run again and again, and reports what that cost.

    python benchmarks/chaos.py --seconds 300 --every 4 --seed 0 --actors 4 --output chaos.json

Trains CartPole-v1 and sends SIGKILL to the process of one role after another, by the ids in
`status.json`. Roles are drawn from a deck of ten cards (5 actors, 2 replays, 2 evaluators, 1
learner), which is shuffled again when it is empty. The learner is rare because it needs the longest
time to restart, and learning should continue between two kills. A role that has not restarted yet is
not killed again.

The exit code is 1 if a role did not restart, if a learner or replay started from an older checkpoint
than the newest, or if CartPole is not solved at the end: by the best weights over 100 fresh episodes,
and by the median evaluation of the last fifth of the run. (Single evaluations of a DQN that trains for
long fall below the goal sometimes, also without kills.)
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from driver import Driver

from distdqn.checkpoints.store import Store
from distdqn.errors import CheckpointError

DECK = ("actor",) * 5 + ("replay",) * 2 + ("evaluator",) * 2 + ("learner",)
SOLVED = 475.0
_POLL_SECONDS = 0.1
_PROGRESS_SECONDS = 10.0
_END_SECONDS = 60.0
_RESTART_SECONDS = 90.0  # the most that a role may need to restart
# Counters that a restored role sets back to those of the checkpoint.
_RESTORED = {"learner": "learner_steps", "replay": "inserted"}

Json = dict[str, Any]


@dataclass
class Kill:
    """One killed process, and the restart of its role."""

    seconds: float  # since the first learner step
    role: str  # as in `status.json`
    pid: int
    restarts: int  # of all roles of this kind before
    kept: int | None = None  # of learner and replay: the counter in the newest checkpoint before
    restored: int | None = None  # of learner and replay: the counter of the new process at its start
    back_seconds: float | None = (
        None  # until another process had its place; for the learner, until it learned
    )

    @property
    def kind(self) -> str:
        """`actor` for `actor-3`."""
        return self.role.partition("-")[0]

    @property
    def lost_beyond(self) -> int:
        """How far the new process started before the newest checkpoint."""
        return 0 if self.kept is None or self.restored is None else max(0, self.kept - self.restored)

    def update(self, status: Json, seconds: float) -> None:
        """Records the restart of the role once `status` shows it."""
        counters = status["counters"]
        if self.kind in _RESTORED and self.restored is None:
            if counters[f"{self.kind}_restarts"] > self.restarts:
                self.restored = counters[_RESTORED[self.kind]]
            return
        pid = pids_of(status).get(self.role)
        is_at_work = self.kind != "learner" or counters["learner_steps"] > (self.restored or 0)
        if pid not in (None, self.pid) and is_at_work:
            self.back_seconds = seconds - self.seconds


@dataclass
class Chaos:
    """Chooses which process is killed and when, from a seed as far as timing allows."""

    every: float
    seed: int
    kills: list[Kill] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._deck: list[str] = []
        self._next = 0.0

    @property
    def missing(self) -> list[Kill]:
        """Kills whose role has not restarted."""
        return [kill for kill in self.kills if kill.back_seconds is None]

    def victim(self, seconds: float, status: Json) -> tuple[str, int] | None:
        """Role and process to kill now, if it is time and one is up."""
        if seconds < self._next:
            return None
        if not self._deck:
            self._deck = self._random.sample(DECK, len(DECK))
        missing = {kill.role for kill in self.missing}
        up = {role: pid for role, pid in pids_of(status).items() if pid and role not in missing}
        for card in self._deck:
            roles = sorted(role for role in up if role.partition("-")[0] == card)
            if roles:
                self._deck.remove(card)
                self._next = seconds + self.every * self._random.uniform(0.5, 1.5)
                role = self._random.choice(roles)
                return role, up[role]
        return None


class Run(Driver):
    """A `distdqn run` without an end of its own."""

    def __init__(self, run_dir: Path, actors: int, seed: int) -> None:
        options = {"actors": actors, "seed": seed, "target-return": "none", "max-env-steps": 10**9}
        options["checkpoint-seconds"] = 2
        super().__init__(run_dir, [text for name, value in options.items() for text in (f"--{name}", value)])

    def read(self, name: str) -> Json | None:
        """A JSON file of the run, or None."""
        path = self.run_dir / name
        return json.loads(path.read_text()) if path.exists() else None

    def status(self) -> Json:
        """The status of the run.

        Raises:
            SystemExit: the run has ended.
        """
        if self.process.poll() is not None:
            sys.exit(f"The run ended by itself with {self.process.returncode}:\n{self.output()}")
        return self.read("status.json") or {"counters": {"learner_steps": 0}, "roles": []}

    def evaluations(self) -> list[tuple[float, float]]:
        """Seconds since the start of the program and mean return of each."""
        lines = map(json.loads, (self.run_dir / "metrics.jsonl").read_text().splitlines())
        pairs = ((line["wall_seconds"], line["eval_return_mean"]) for line in lines)
        return [(seconds, mean) for seconds, mean in pairs if mean is not None]

    def kept(self, kind: str) -> int:
        """The counter in the newest checkpoint: learner steps, or inserted transitions."""
        store = Store(str(self.run_dir / "checkpoints"))
        while numbers := store.numbers():
            try:
                document = store.read_manifest(max(numbers))
            except CheckpointError:  # deleted meanwhile: there is a newer one
                continue
            if kind == "learner":
                return int(document["learner"]["learner_steps"])
            return sum(int(shard["index"]["inserted"]) for shard in document["replay"])
        return 0

    def end(self) -> tuple[int, int]:
        """Ends it like Ctrl-C; returns its exit code and the number of processes that it left behind."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_END_SECONDS)
        left = self.close()
        return self.process.returncode, left


def pids_of(status: Json) -> dict[str, int | None]:
    """The process of each role; None while it starts."""
    return {entry["role"]: entry["pid"] for entry in status["roles"]}


def kill_roles(run: Run, chaos: Chaos, seconds: float) -> None:
    """Kills roles of a learning run for `seconds`, then waits for the last restarts."""
    begin, printed_at = time.monotonic(), 0.0
    while True:
        now, status = time.monotonic() - begin, run.status()
        for kill in chaos.missing:
            kill.update(status, now)
        is_over = now >= seconds
        if is_over and (not chaos.missing or now >= seconds + _RESTART_SECONDS):
            return
        if not is_over and (victim := chaos.victim(now, status)):
            role, pid = victim
            kill = Kill(now, role, pid, status["counters"].get(f"{role.partition('-')[0]}_restarts", 0))
            if kill.kind in _RESTORED:
                kill.kept = run.kept(kill.kind)
            os.kill(pid, signal.SIGKILL)
            chaos.kills.append(kill)
        if now - printed_at >= _PROGRESS_SECONDS:
            printed_at = now
            print(_progress(now, seconds, chaos, status["counters"]), flush=True)
        time.sleep(_POLL_SECONDS)


def _progress(now: float, seconds: float, chaos: Chaos, counters: Json) -> str:
    lost = {name: counters[f"lost_{name}"] for name in ("learner_steps", "transitions", "rollouts")}
    words = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in lost.items())
    down = ", ".join(kill.role for kill in chaos.missing) or "none"
    return (
        f"{now:4.0f} of {seconds:.0f} s  {len(chaos.kills)} kills  down: {down}  "
        f"learner steps {counters['learner_steps']:,}  lost: {words}"
    )


def late_median(evaluations: Sequence[tuple[float, float]]) -> float:
    """Median of the evaluations (pairs of seconds and mean return) in the last fifth of the time."""
    end = evaluations[-1][0]
    return statistics.median(mean for seconds, mean in evaluations if seconds >= 0.8 * end)


def evaluation_of(run_dir: Path, *options: str) -> float:
    """Mean return of 100 greedy episodes of a network of the run."""
    command = [sys.executable, "-m", "distdqn.evaluate", str(run_dir), "--episodes", "100", "--seed", "1"]
    result = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(result.args)} ended with {result.returncode}:\n{result.stderr}")
    return float(json.loads(result.stdout)["mean"])


def report_of(run: Run, chaos: Chaos, exit_code: int, left: int) -> Json:
    """All results as JSON."""
    summary = run.read("summary.json") or {}
    roles = {}
    for kind in dict.fromkeys(DECK):
        kills = [kill for kill in chaos.kills if kill.kind == kind]
        back = [kill.back_seconds for kill in kills if kill.back_seconds is not None]
        roles[kind] = {
            "injected": len(kills),
            "recovered": len(back),
            "median_seconds": statistics.median(back) if back else None,
            "maximum_seconds": max(back, default=None),
            "lost_beyond_checkpoint": sum(kill.lost_beyond for kill in kills),
        }
    names = ("lost_learner_steps", "lost_transitions", "lost_rollouts", "episodes_lost")
    return {
        "injected": len(chaos.kills),
        "roles": roles,
        "lost": {name: summary.get(name) for name in names},
        "made": {name: summary.get(name) for name in ("learner_steps", "env_steps", "total_seconds")},
        "exit_code": exit_code,
        "left": left,
        "kills": [asdict(kill) for kill in chaos.kills],
    }


def mistakes_of(report: Json) -> list[str]:
    """One line for each broken promise."""
    found = []
    for kind, role in report["roles"].items():
        if role["recovered"] < role["injected"]:
            found.append(f"{kind}: {role['injected']} killed, {role['recovered']} restarted")
        if role["lost_beyond_checkpoint"]:
            found.append(f"{kind}: {role['lost_beyond_checkpoint']} lost that a checkpoint held")
    if report["exit_code"] != 130:
        found.append(f"the run ended with {report['exit_code']} after Ctrl-C, not 130")
    if report["left"]:
        found.append(f"{report['left']} processes left behind")
    for name, what in (("late", "the median evaluation of the last fifth"), ("best", "the best weights")):
        if report.get(name, SOLVED) < SOLVED:
            found.append(f"{what}: {report[name]:.1f}, not {SOLVED:g}")
    return found


def faults_of(report: Json) -> Json:
    """Counts for benchmarks/reliability.py, by the rows of docs/reliability.md."""
    lost = report["lost"]
    lost_by = {
        "actor": {"rollouts": lost["lost_rollouts"]},
        "replay": {"transitions": lost["lost_transitions"]},
        "learner": {"learner steps": lost["lost_learner_steps"]},
    }
    return {
        str(row): {
            "injected": report["roles"][kind]["injected"],
            "survived": report["roles"][kind]["recovered"],
            "lost": lost_by[kind],
        }
        for row, kind in ((1, "actor"), (3, "replay"), (4, "learner"))
    }


def says(report: Json) -> list[str]:
    """The text for docs/reliability.md."""
    lost, made = report["lost"], report["made"]
    lines = [
        f"`{report['command']}` killed {report['injected']} processes. The run made "
        f"{made['learner_steps']:,} learner steps and {made['env_steps']:,} env steps, and lost "
        f"{lost['lost_learner_steps']:,} learner steps, {lost['lost_transitions']:,} transitions and "
        f"{lost['lost_rollouts']:,} rollouts. The median evaluation of its last fifth is "
        f"{report['late']:.1f}. Over 100 fresh episodes its best weights reach {report['best']:.1f} and its "
        f"last weights {report['last']:.1f}.",
        "",
        "| role | killed | restarted | seconds until then, median (maximum) | lost beyond a checkpoint |",
        "|--|--|--|--|--|",
    ]
    for kind, role in report["roles"].items():
        back = f"{role['median_seconds']:.1f} ({role['maximum_seconds']:.1f})" if role["recovered"] else "-"
        counts = f"{role['injected']} | {role['recovered']} | {back} | {role['lost_beyond_checkpoint']:,}"
        lines.append(f"| {kind} | {counts} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the run, writes the report, and prints broken promises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="duration (default: 300)")
    parser.add_argument("--every", type=float, default=4.0, help="mean seconds between kills (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the run and of the kills (default: 0)")
    parser.add_argument("--actors", type=int, default=4, help="number of actors (default: 4)")
    parser.add_argument("--output", type=Path, help="file for the report as JSON")
    options = parser.parse_args(arguments)
    print(f"Chaos with seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", options.actors, options.seed)
        chaos = Chaos(options.every, options.seed)
        try:
            while not run.status()["counters"]["learner_steps"]:
                time.sleep(_POLL_SECONDS)
            kill_roles(run, chaos, options.seconds)
        finally:
            exit_code, left = run.end()
        print(run.output())
        report = report_of(run, chaos, exit_code, left)
        report |= {"best": evaluation_of(run.run_dir), "last": evaluation_of(run.run_dir, "--final")}
        report["evaluations"] = run.evaluations()
    report["late"] = late_median(report["evaluations"])
    report["command"] = (
        f"python benchmarks/chaos.py --seconds {options.seconds:g} --every {options.every:g} "
        f"--seed {options.seed} --actors {options.actors}"
    )
    report["mistakes"] = mistakes_of(report)
    report["says"], report["faults"] = says(report), faults_of(report)
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(report["says"]))
    print("\n".join(report["mistakes"]) or "Every promise was kept.")
    return bool(report["mistakes"])


if __name__ == "__main__":
    sys.exit(main())
