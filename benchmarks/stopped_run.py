"""One run that is stopped at one of its stages, and what it leaves."""

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from driver import Driver, newest_whole
from slow_evaluation import MARK, SECONDS

from distdqn.checkpoints.store import Store
from distdqn.reporting.run_directory import is_owned

SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 143, "SIGUSR1": 143}
# After these a run trains on.
ENDURED = ("closed output", "full disk", "full disk, freed", "deleted folder")
ENDS = (*SIGNALS, "SIGTERM to the group", "SIGTERM to all", "closed terminal", *ENDURED, "max_seconds")
STAGES = ("start", "filling", "learning", "evaluation", "checkpoint", "restore", "last evaluation")
LEARNED = ("learning", "evaluation", "checkpoint", "last evaluation")
_ROUNDS = ("learning", "last evaluation")
MODES = {"async": STAGES, "lockstep": _ROUNDS, "serial": _ROUNDS}
NETWORKS = ("policy.npz", "final.npz", "policy.keras", "final.keras")
SOURCE_OPTIONS = ("--min-replay-size", 180_000, "--replay-capacity", 200_000)  # of the run to restore
LIMIT_SECONDS = 15.0  # from the request to the end
_BUDGET_SECONDS = {"start": 1.0, "restore": 4.0}  # of `max_seconds`; else
_BUDGET = 20.0
_ENDURE_SECONDS = 4.0
PATIENCE_SECONDS = 120.0
_DISK_MB = 96
NEVER = 10**9

Json = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One way to stop one stage in one mode."""

    mode: str
    stage: str
    end: str

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.mode}-{self.stage}-{self.end}".replace(" ", "_").replace(",", "")

    @property
    def ends_by_itself(self) -> bool:
        """Whether nobody asks the run to end: what it endures comes in its last evaluation."""
        return self.end in ENDURED and self.stage == "last evaluation"

    @property
    def budget(self) -> float:
        """Seconds of `max_seconds`, from the start of the command."""
        return _BUDGET_SECONDS.get(self.stage, _BUDGET)

    @property
    def options(self) -> list[object]:
        """The command's, apart from its folders."""
        budget = 3_000 if self.stage == "last evaluation" else NEVER
        options: list[object] = ["--mode", self.mode, "--actors", 2, "--target-return", "none"]
        options += [
            "--env",
            "slow_evaluation:SlowEvaluation",
            "--max-env-steps",
            budget,
            "--eval-episodes",
            10,
        ]
        options += ["--eval-period", 400 if self.stage == "evaluation" else NEVER, "--report-seconds", 0.5]
        if self.stage == "checkpoint":
            options += ["--checkpoint-seconds", 1 if self.end != "max_seconds" else 0.1]
        if self.stage == "restore":
            options += SOURCE_OPTIONS
        if self.stage == "filling" and self.end not in ENDURED:
            options += ["--min-replay-size", 900_000, "--replay-capacity", 1_000_000]
        return options

    @property
    def expected(self) -> tuple[int, str]:
        """Exit code and reason."""
        if self.end == "max_seconds" or self.ends_by_itself:
            return 0, "max_env_steps" if self.stage == "last evaluation" else "max_seconds"
        return (130, "interrupted") if self.end == "SIGINT" else (143, "terminated")


class StoppedRun:
    """The run of a cell, brought to its stage and stopped there."""

    def __init__(self, cell: Cell, folder: Path, source: Path) -> None:
        self.cell = cell
        self.folder = folder  # for this cell alone
        self.run_dir = folder / "disk" / "run" if "disk" in cell.end else folder / "run"
        self._elsewhere = cell.end == "full disk"  # where the checkpoints lie
        self._source = source
        self._mark = folder / "evaluating"
        self._log = folder.parents[1] / "logs" / f"{cell.name}.log"
        self._output = b""  # of the command, where a thread reads it
        self._hangs_up = threading.Event()  # ends the thread, which closes its end
        self._thread: threading.Thread | None = None
        self._files: set[str] = set()  # of checkpoints, at the last look
        self._driver: Driver | None = None

    def measure(self, generator: np.random.Generator) -> Json:
        """Makes the run, stops it, and looks at what it leaves."""
        with self._disk():
            driver = self._driver = self._start()
            try:
                begin = time.monotonic()
                if self.cell.end == "max_seconds":
                    stopped_at, at = begin + self.cell.budget, {}
                else:
                    at = self._await_stage(generator)
                    stopped_at = self._stop(driver)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    driver.process.wait(PATIENCE_SECONDS)
                code, seconds = driver.process.poll(), time.monotonic() - stopped_at
                left = self._await_end()
            finally:
                driver.close()
                self._hang_up()
                self._log.write_text(driver.output() + self._output.decode(errors="replace"))
            result = {"exit_code": code, "seconds": round(seconds, 2), "left": left, **at, **self._look()}
            result["wrong"] = self.judge(result)
            return result

    # Starting

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """A small disk of the run's own, where the cell needs one."""
        self.folder.mkdir(parents=True)
        if "disk" not in self.cell.end:
            yield
            return
        disk = self.folder / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs", disk], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", disk], check=True)

    def _start(self) -> Driver:
        options = [*self.cell.options, *self._checkpoint_options()]
        if self.cell.stage == "restore":
            if self.cell.end in ("deleted folder", "full disk"):
                options += ["--resume", self._source / "checkpoints"]
            else:
                shutil.copytree(self._source, self.run_dir)
                options += ["--resume", "auto"]
        if self.cell.end == "max_seconds":
            before = self._read("status.json").get("seconds", 0.0) if self.cell.stage == "restore" else 0.0
            options += ["--max-seconds", before + self.cell.budget]
        seconds = 0.02 if self.cell.end == "max_seconds" else 0.003
        variables = {SECONDS: str(seconds) if "evaluation" in self.cell.stage else "0", MARK: str(self._mark)}
        streams, opened = self._streams()
        driver = Driver(self.run_dir, options, variables, streams)
        for descriptor in opened:  # the command has its own
            os.close(descriptor)
        return driver

    def _checkpoint_options(self) -> list[object]:
        return ["--checkpoint-dir", self.folder / "checkpoints"] if self._elsewhere else []

    def _streams(self) -> tuple[Json, set[int]]:
        """Arguments of `Popen` where the output is a pipe or a terminal, and what to close here."""
        if self.cell.end not in ("closed output", "closed terminal"):
            return {}, set()
        is_terminal = self.cell.end == "closed terminal"
        reader, writer = os.openpty() if is_terminal else os.pipe()
        self._thread = threading.Thread(target=self._read_output, args=(reader,))
        self._thread.start()
        streams: Json = dict.fromkeys(("stdin", "stdout", "stderr")[not is_terminal :], writer)
        return streams | ({"preexec_fn": _take_terminal} if is_terminal else {}), {writer}

    def _read_output(self, reader: int) -> None:
        """Reads until the output is to be closed. (A thread that waits in a read keeps it open.)"""
        with contextlib.suppress(OSError):  # of a terminal that nobody writes to any more
            while not self._hangs_up.is_set():
                if select.select([reader], [], [], 0.02)[0]:
                    self._output += os.read(reader, 65_536)
        os.close(reader)

    def _text(self) -> str:
        """What the command has printed, where it prints into a file."""
        return self._driver.output() if self._driver else ""

    def _hang_up(self) -> None:
        self._hangs_up.set()
        if self._thread is not None:
            self._thread.join()

    # The stage

    def _await_stage(self, generator: np.random.Generator) -> Json:
        """Waits for the stage of the cell; returns what the run had done by then."""
        conditions: dict[str, Callable[[], bool]] = {
            "start": lambda: self._state() == "starting",
            "filling": lambda: self._counter("env_steps") > 0 == self._counter("learner_steps"),
            "learning": lambda: self._counter("learner_steps") >= 300,
            "evaluation": self._mark.exists,
            "checkpoint": self._is_checkpoint_begun,
            "restore": lambda: self._state() == "running",
            "last evaluation": self._mark.exists,
        }
        if self.cell.stage == "checkpoint":
            self._wait_until(conditions["learning"])
            self._is_checkpoint_begun()
        self._wait_until(conditions[self.cell.stage], poll=0.002)
        most = {"checkpoint": 0.02, "start": 4.0, "restore": 4.0}.get(self.cell.stage, 0.5)
        time.sleep(generator.uniform(0.0, most))
        return {"at_learner_steps": self._counter("learner_steps")}

    def _is_checkpoint_begun(self) -> bool:
        """Whether a file of a checkpoint is new since the last look."""
        root = (self.folder if self._elsewhere else self.run_dir) / "checkpoints"
        files = {path.name for path in root.rglob("*")} if root.exists() else set()
        before, self._files = self._files, files
        return bool(files - before)

    def _wait_until(self, condition: Callable[[], bool], poll: float = 0.02) -> None:
        if self._driver is None or not self._driver.wait_until(condition, PATIENCE_SECONDS, poll):
            raise RuntimeError(f"{self.cell.name}: the run did not come to this stage.")

    # The stop

    def _stop(self, driver: Driver) -> float:
        """Stops the run; returns when it was asked to end."""
        cell, process = self.cell, driver.process
        if cell.end in ENDURED:
            self._harm()
            if cell.ends_by_itself:
                time.sleep(_ENDURE_SECONDS / 2)
                self._free_disk()
                return time.monotonic()
            self._await_progress()
        if cell.end == "closed terminal":
            self._hang_up()
        elif cell.end == "SIGTERM to the group":
            os.killpg(process.pid, signal.SIGTERM)
        elif cell.end == "SIGTERM to all":
            root = psutil.Process(process.pid)
            for each in [*root.children(recursive=True)[::-1], root]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGTERM)
        else:
            process.send_signal(signal.Signals[cell.end] if cell.end in SIGNALS else signal.SIGTERM)
        return time.monotonic()

    def _harm(self) -> None:
        """Takes away what the run writes to."""
        if self.cell.end == "closed output":
            self._hang_up()
        elif self.cell.end == "deleted folder":
            shutil.rmtree(self.run_dir, ignore_errors=True)
        else:
            with contextlib.suppress(OSError), (self.folder / "disk" / "filler").open("wb") as file:
                while True:
                    file.write(bytes(65_536))
                    file.flush()

    def _free_disk(self) -> None:
        if self.cell.end == "full disk, freed":
            (self.folder / "disk" / "filler").unlink()

    def _await_progress(self) -> None:
        """Waits until the run has learned more than it had."""
        before = self._counter("learner_steps")
        time.sleep(_ENDURE_SECONDS)
        if self.cell.end == "full disk":  # its status cannot tell
            self._wait_until(lambda: re.search(r"learner steps (?!0 )\d", self._text()) is not None)
            return
        self._free_disk()
        self._wait_until(lambda: self._counter("learner_steps") > before + 100)

    def _await_end(self) -> int:
        """Waits for the processes of the run; returns how many are left."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while self._driver is not None and self._driver.remaining() and time.monotonic() < deadline:
            time.sleep(0.2)
        return len(self._driver.remaining()) if self._driver else 0

    # What is left

    def _look(self) -> Json:
        """What the run's folder holds, and whether `--resume` continues from it."""
        result: Json = {
            "state": self._state(),
            "reason": self._read("summary.json").get("reason"),
            "networks": sum((self.run_dir / name).exists() for name in NETWORKS),
            "is_owned": is_owned(self.run_dir),
        }
        root = self.folder if self._elsewhere else self.run_dir
        place = self._source if self.cell.stage == "restore" and newest_whole(root) is None else root
        if (number := newest_whole(place)) is None:
            return {**result, "checkpoint": None}
        counters = Store(str(place / "checkpoints")).read_manifest(number)["metrics"]["counters"]
        again = self.folder / "again"
        options = [*self.cell.options, "--max-env-steps", counters["env_steps"] + 3_000]
        options += ["--resume", place / "checkpoints", "--eval-episodes", 2]
        if self.cell.stage == "filling":
            options += ["--min-replay-size", 1_000]
        options += ["--mode", "serial"]  # which starts soonest
        driver = Driver(again, options, {SECONDS: "0"})
        driver.wait_until(lambda: False, PATIENCE_SECONDS)
        code = driver.process.poll()
        driver.close()
        if code:
            self._log.with_suffix(".resume.log").write_text(driver.output())
        result |= {"checkpoint": counters["learner_steps"], "resume_code": code}
        if code == 0:
            status = json.loads((again / "status.json").read_text(encoding="utf-8"))
            result["resumed_learner_steps"] = status["counters"]["learner_steps"]
        return result

    def judge(self, result: Json) -> list[str]:
        """What is not as promised."""
        cell = self.cell
        code, reason = cell.expected
        has_learned = cell.stage in LEARNED or (cell.end in ENDURED and cell.stage != "restore")
        can_tell = cell.end != "full disk"  # nothing can be written into the folder
        checks = {
            f"exit code {result['exit_code']}, not {code}": result["exit_code"] == code,
            f"ended after {result['seconds']} s": result["seconds"] <= LIMIT_SECONDS or cell.ends_by_itself,
            f"{result['left']} processes left": not result["left"],
            f"state {result['state']}, not {reason}": result["state"] == reason or not can_tell,
            "the folder is still in use": not result["is_owned"],
        }
        if has_learned and can_tell:
            checks[f"reason {result['reason']}, not {reason}"] = result["reason"] == reason
            checks[f"{result['networks']} networks"] = result["networks"] == len(NETWORKS)
        is_kept = not (cell.ends_by_itself and cell.end == "deleted folder")  # it was made before
        if (has_learned and is_kept) or cell.stage == "restore":
            kept, learned = result["checkpoint"], result.get("at_learner_steps", 0)
            resumed = result.get("resumed_learner_steps", 0)
            checks[f"the checkpoint has {kept} learner steps of {learned}"] = (
                kept is not None and kept >= learned
            )
            checks[f"resume ends with {result.get('resume_code')}"] = resumed > (kept or 0)
        return [name for name, is_right in checks.items() if not is_right]

    def _state(self) -> str | None:
        state = self._read("status.json").get("state")
        return None if state is None else str(state)

    def _counter(self, name: str) -> int:
        return int(self._read("status.json").get("counters", {}).get(name, 0))

    def _read(self, name: str) -> Json:
        try:
            return dict(json.loads((self.run_dir / name).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}


def _take_terminal() -> None:
    """Makes the standard input the terminal that controls this process."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
