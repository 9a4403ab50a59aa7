"""The folder of a run's results."""

import contextlib
import errno
import fcntl
import importlib.metadata
import itertools
import json
import math
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

from pydantic import BaseModel

from distdqn.errors import ConfigError

M = TypeVar("M", bound=BaseModel)

_MAX_GIT = 1_000_000  # characters of the diff in `run.json`
_PACKAGES = ("distdqn", "tensorflow", "keras", "gymnasium", "numpy", "ray")


class RunDirectory:
    """The folder of one run, created by default (`path` None) as `runs/<environment>-<time>`.

    This process owns it until `close`. If `is_resuming`, it may hold a run. `ConfigError` if the folder
    cannot be written to, holds another run, or another process owns it.
    """

    def __init__(self, path: str | None, environment_name: str, is_resuming: bool = False) -> None:
        check_folder(path, is_resuming)
        self.note: Callable[[str], None] | None = None  # None: a file that cannot be written is an error
        self._has_failed = False
        self.path = Path("runs") if path is None else Path(path)
        try:
            self._created = [each for each in (self.path, *self.path.parents) if not each.exists()]
            if path is None:
                self.path = make_default_folder(environment_name)
                self._created.insert(0, self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            files = [self.path / name for name in ("run.lock", "metrics.jsonl")]
            self._created = [*(file for file in files if not file.exists()), *self._created]
            self._lock = _lock(self.path)
            self._metrics = self._open_metrics()
        except OSError as error:
            raise unusable(self.path, error) from error

    @contextlib.contextmanager
    def removed_if_refused(self) -> Iterator[None]:
        """If the block raises an error, removes the folders and files that the constructor created."""
        try:
            yield
        except BaseException:
            for path in self._created:
                with contextlib.suppress(OSError):  # something else is in it
                    path.rmdir() if path.is_dir() else path.unlink()
            raise

    def begin_metrics(self, kept_bytes: int) -> None:
        """Keeps so many bytes of an earlier run's `metrics.jsonl`; if it is 0, renames that file."""
        with self._tolerant("metrics.jsonl"):
            if not kept_bytes:
                if self.metrics_bytes:
                    names = (self.path / f"metrics.{number}.jsonl" for number in itertools.count(1))
                    (self.path / "metrics.jsonl").rename(next(name for name in names if not name.exists()))
                self._metrics.close()
                self._metrics = self._open_metrics()
            self._metrics.truncate(min(kept_bytes, self.metrics_bytes))

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Replaces a JSON file atomically."""
        self.write_bytes(name, (json.dumps(finite(value), indent=2) + "\n").encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Replaces a file atomically: readers see the old or the new content."""
        with self._tolerant(name):
            self._restore_folder()
            aside = self.path / f".{name}.{os.getpid()}"
            aside.write_bytes(content)
            aside.replace(self.path / name)

    def on_report(self, line: dict[str, Any]) -> None:
        """Appends a line to `metrics.jsonl`; it survives the end of the process."""
        with self._tolerant("metrics.jsonl"):
            self._restore_folder()
            if not os.fstat(self._metrics.fileno()).st_nlink:  # somebody has deleted it
                self._metrics.close()
                self._metrics = self._open_metrics()
            self._metrics.write(json.dumps(finite(line)) + "\n")
            self._metrics.flush()

    @property
    def metrics_bytes(self) -> int:
        """Length of `metrics.jsonl`."""
        return os.fstat(self._metrics.fileno()).st_size

    def close(self) -> None:
        """Closes the files and releases the folder."""
        with self._tolerant("metrics.jsonl"):
            self._metrics.close()
        os.close(self._lock)

    def _restore_folder(self) -> None:
        """Creates the folder and its lock again if somebody has deleted them."""
        if not os.fstat(self._lock).st_nlink:
            self.path.mkdir(parents=True, exist_ok=True)
            lost, self._lock = self._lock, _lock(self.path)
            os.close(lost)

    def _open_metrics(self) -> TextIO:
        return (self.path / "metrics.jsonl").open("a", encoding="utf-8")

    @contextlib.contextmanager
    def _tolerant(self, name: str) -> Iterator[None]:
        """Once `note` is set, reports the first file that cannot be written instead of raising an error."""
        try:
            yield
        except OSError as error:
            if self.note is None:
                raise unusable(self.path, error) from error
            if not self._has_failed:
                self._has_failed = True
                why = f"{name} cannot be written into {self.path}: {error.strerror}"
                self.note(f"{why}; training continues, and later files are tried again.")


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """The same values with None for NaN and infinity, which JSON does not have."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def check_folder(path: str | None, is_resuming: bool = False) -> None:
    """Raises `ConfigError` if a run cannot have `path` for its results, without creating anything."""
    if path is None:
        return
    if "://" in path:
        raise ConfigError(
            f"`run_dir`: {path} is a URL; results need a folder (name one; `checkpoint_dir` may be a URL)."
        )
    folder = Path(path)
    try:
        if not is_resuming and holds_run(folder):
            raise ConfigError(
                f"`run_dir`: {folder} holds another run (choose another folder, or give `--resume auto`)."
            )
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise unusable(folder, error) from error


def holds_run(folder: Path) -> bool:
    """Whether a run has left results there; one that failed at its start has not."""
    metrics = folder / "metrics.jsonl"
    return (folder / "summary.json").exists() or (metrics.exists() and metrics.stat().st_size > 0)


def describe_process() -> dict[str, Any]:
    """What a result depends on besides its options: command line, git revision and diff, host, versions."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "command_line": sys.orig_argv,
        "git_revision": _ask_git("rev-parse", "HEAD"),
        "git_diff": _ask_git("diff", "HEAD"),
        "host": socket.gethostname(),
        "versions": {"python": platform.python_version(), **packages},
    }


def _ask_git(*arguments: str) -> str | None:
    """What `git` prints, at most a million characters; None if it prints nothing or fails."""
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        git = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=True)  # noqa: S603, S607
        return git.stdout.strip()[:_MAX_GIT] or None
    return None


def _lock(folder: Path) -> int:
    """Makes this process the owner of a folder until it ends; returns the open lock file.

    `BlockingIOError` if another process owns the folder.
    """
    path = folder / "run.lock"
    for seconds in (0.1, 0.1, 0.0):  # `is_owned` may hold it for a moment, and a refused run removes it
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        except OSError:  # the file system has no locks
            return descriptor
        else:
            if os.fstat(descriptor).st_nlink:
                break
        os.close(descriptor)
        time.sleep(seconds)
    else:
        raise BlockingIOError(errno.EWOULDBLOCK, f"it is in use by {path.read_text() or 'another process'}")
    os.truncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def unusable(folder: Path, error: OSError) -> ConfigError:
    """The error of a folder that cannot be written to."""
    return ConfigError(f"`run_dir`: cannot write to {folder}: {error.strerror} (choose another folder).")


class RecordedOptions(BaseModel):
    """What other commands need of `config.json`, which any release may have written."""

    env: str | None = None
    env_kwargs: dict[str, Any] | None = None
    wrapper: list[str] | None = None
    max_episode_steps: int | None = None
    mode: str | None = None
    max_actors: int | None = None
    replay_shards: int = 1
    checkpoint_dir: str | None = None


class RayPlace(BaseModel):
    """Where the process is that takes commands for a run."""

    address: str
    namespace: str
    control: str | None = None  # None: it is not up yet


class RunStatus(BaseModel):
    """What other commands need of `status.json`."""

    state: str  # `starting`, `running`, `saving`, `killed`, or why the run ended
    ray: RayPlace | None = None


def read_options(folder: Path) -> RecordedOptions:
    """What `config.json` says; nothing if it is missing or damaged."""
    return _read(folder / "config.json", RecordedOptions) or RecordedOptions()


def read_status(folder: Path) -> RunStatus | None:
    """What `status.json` says, `killed` if its process ended without an end; None if missing or damaged."""
    is_alive = is_owned(folder)  # before the state is read, as a run writes it before it releases the folder
    status = _read(folder / "status.json", RunStatus)
    if status is not None and status.state in ("starting", "running", "saving") and not is_alive:
        status.state = "killed"
    return status


def _read(path: Path, model: type[M]) -> M | None:
    try:
        return model.model_validate_json(path.read_bytes(), strict=True)
    except (OSError, ValueError):
        return None


def is_owned(folder: Path) -> bool:
    """Whether the process that writes into the folder of a run is still there, as far as locks tell."""
    try:
        with (folder / "run.lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # it is locked, or the file system has no locks
        return True
    return False


def make_default_folder(name: str) -> Path:
    """Makes `runs/<name>-<time>`, with a number if there is one of that name."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    first = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    numbered = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    for folder in itertools.chain([first], numbered):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    return folder
