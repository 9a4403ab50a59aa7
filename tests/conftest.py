"""What all tests share: an environment of their own and, for those that ask, one real Ray."""

import atexit
import contextlib
import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

# A short path: Ray puts unix sockets below it, whose paths are limited to 107 characters.
_ROOT = Path(tempfile.mkdtemp(prefix="dq-", dir=os.environ.get("CI_FOLDER", "/tmp")))
# Registered before Ray is imported, so it runs after Ray's own clean-up.
atexit.register(shutil.rmtree, _ROOT, ignore_errors=True)

for _name in ("home", "ray"):
    (_ROOT / _name).mkdir()
# Set before anything is imported that reads them; the processes of a run inherit them.
os.environ.update(
    HOME=str(_ROOT / "home"),
    RAY_TMPDIR=str(_ROOT / "ray"),
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    TF_CPP_MIN_LOG_LEVEL="2",
    CUDA_VISIBLE_DEVICES="",
)
for _name in ("RAY_ADDRESS", "RAY_NAMESPACE"):
    os.environ.pop(_name, None)
# A script's background job ignores Ctrl-C, and so would every command that is started from here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_learning_curve(monkeypatch):
    """Runs in the process of the tests draw nothing, which would take longer than most of them."""
    monkeypatch.setattr("distdqn.reporting.plots.LearningCurve.on_end", lambda *_: None)


@pytest.fixture(scope="session")
def ray_session():
    """One real Ray for all tests that ask for it, started when the first one does."""
    import ray

    with contextlib.ExitStack() as stack:
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        stack.callback(ray.shutdown)
        yield ray


class RunCommand:
    """`python -m distdqn.run` as a process of its own, with a Ray of its own.

    Attributes:
        run_dir: what it writes to.
        process: the started command, the leader of a process group.
        seen: every process it was seen to start, by id.
    """

    def __init__(self, number, run_dir, options, program, variables):
        self.run_dir = Path(run_dir)
        self._ray_folder = _ROOT / f"ray{number}"
        self._ray_folder.mkdir()
        self._output = (_ROOT / f"output{number}").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, *program, "--run-dir", str(run_dir), *map(str, options)],
            cwd=_ROOT,
            env={**os.environ, "RAY_TMPDIR": str(self._ray_folder), **variables},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that a signal to its group reaches no other
        )
        self.seen = {}
        self._others = set()  # processes of somebody else, looked at once

    def wait(self, timeout_seconds=150.0):
        """Waits for its end, watching what it starts; returns the exit code."""
        self.wait_until(lambda: self.process.poll() is not None, timeout_seconds)
        return self.process.returncode

    def wait_until(self, condition, timeout_seconds=60.0):
        """Waits until `condition()` holds, watching what it starts."""
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            assert time.monotonic() < deadline, f"Too late:\n{self.output()}"
            self._look()
            time.sleep(0.2)

    def is_learning(self):
        """Whether the learner has made steps, as far as `status.json` tells."""
        assert self.process.poll() is None, f"It ended early:\n{self.output()}"
        return bool((status := self.read("status.json")) and status["counters"]["learner_steps"])

    def published(self):
        """How many versions of the weights the learner has published."""
        assert self.process.poll() is None, f"It ended early:\n{self.output()}"
        return ((self.read("status.json") or {}).get("weights_version") or [0, 0])[1]

    def read(self, name):
        """A JSON file of the run, or None."""
        path = self.run_dir / name
        return json.loads(path.read_text()) if path.exists() else None

    def output(self):
        """All it printed so far."""
        self._output.flush()
        return Path(self._output.name).read_text(encoding="utf-8")

    def left(self):
        """Commands of the processes that it has left behind."""
        self._look()
        return [name for pid, name in self.seen.items() if _is_alive(pid, name)]

    def close(self):
        """Ends whatever is left and removes its files."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.process.poll() is None:
                self.process.terminate()
                self.process.wait(20)
        self._look()
        for pid, name in self.seen.items():
            if _is_alive(pid, name):
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
        self.process.wait()
        self._output.close()
        shutil.rmtree(self._ray_folder, ignore_errors=True)

    def _look(self):
        """Notes children by descent, and whatever carries the folder of the run's Ray."""
        mark = str(self._ray_folder)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                known = (process.pid, process.create_time())
                if process.pid == self.process.pid or process.pid in self.seen or known in self._others:
                    continue
                command = " ".join(process.cmdline())
                if (
                    any(parent.pid == self.process.pid for parent in process.parents())
                    or mark in command
                    or process.environ().get("RAY_TMPDIR") == mark
                ):
                    self.seen[process.pid] = f"{process.create_time()} {command[:200]}"
                else:
                    self._others.add(known)


def _is_alive(pid, name):
    """Whether a process that was seen still runs, and its number was not given to another."""
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        same = name.startswith(f"{process.create_time()} ")
        return same and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture(scope="session")
def start_run(tmp_path_factory):
    """Starts `python -m distdqn.run` with the options given; see `RunCommand`."""
    with contextlib.ExitStack() as stack:
        count = iter(range(10**6))

        def start(*options, run_dir=None, program=("-m", "distdqn.run"), **variables):
            folder = run_dir or tmp_path_factory.mktemp("command") / "run"
            run = RunCommand(next(count), folder, options, program, variables)
            stack.callback(run.close)
            return run

        yield start


@pytest.fixture(scope="session")
def start_light_run(start_run):
    """The same with a learner that only counts: see `light_run`."""
    program = (str(Path(__file__).parent / "light_run.py"),)
    return functools.partial(start_run, program=program)
