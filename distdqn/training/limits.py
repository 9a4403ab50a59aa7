"""The memory and the CPUs that this process may use: of its machine, or of its container if that has less."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def available_bytes(root: Path = _ROOT) -> int | None:
    """The memory of this machine or container, where the system tells it; `root` has `/proc` and `/sys`."""
    found = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for folder in _control_groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):  # in versions 2 and 1
            with contextlib.suppress(OSError, ValueError):  # not this version, or no limit
                found.append(int((folder / name).read_text()))
    return min(found, default=None)


def available_cpus(root: Path = _ROOT) -> int:
    """The CPUs that this process may run on and has the time of; part of a CPU counts as one."""
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for folder in _control_groups("cpu", root):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # in versions 2 and 1
            with contextlib.suppress(OSError, ValueError):  # not this version, or no limit
                quota, period = map(int, " ".join((folder / name).read_text() for name in names).split())
                if quota > 0:  # -1 is no limit
                    count = min(count, quota / period)
    return math.ceil(count)


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's control groups and of those around them, which limit it as well."""
    with contextlib.suppress(OSError, ValueError):  # no Linux
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            top = root / "sys/fs/cgroup" / (controller if controllers else "")
            own = top / path.lstrip("/")
            yield from [own, *own.parents][: len(own.parts) - len(top.parts) + 1]
