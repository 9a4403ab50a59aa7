"""Memory and CPUs of a container, from the files of both versions of Linux's control groups."""

import os
import subprocess
import sys

import pytest

from distdqn.training import limits
from distdqn.training.limits import available_bytes, available_cpus

_VERSION_1 = "5:memory:/a/b\n3:cpu,cpuacct:/a/b\n0::/\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 bytes and 8 CPUs, whose control groups have these files; returns its root."""
    monkeypatch.setattr(limits.os, "sysconf", {"SC_PAGE_SIZE": 2, "SC_PHYS_PAGES": 4}.get)
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def make(groups, files):
        for name, text in {"proc/self/cgroup": groups, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("groups", "files", "found"),
    [
        ("0::/", {}, 8),
        ("0::/", {"memory.max": "max"}, 8),
        ("0::/", {"memory.max": "4"}, 4),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "3", "memory.max": "4"}, 3),
        (_VERSION_1, {"memory/memory.limit_in_bytes": "9223372036854771712"}, 8),
        (_VERSION_1, {"memory/memory.limit_in_bytes": "2"}, 2),  # all that a container sees
        (_VERSION_1, {"memory/a/b/memory.limit_in_bytes": "5", "memory/memory.limit_in_bytes": "6"}, 5),
    ],
)
def test_fault_44_memory_is_that_of_the_container_if_it_has_a_limit(machine, groups, files, found):
    assert available_bytes(machine(groups, {f"sys/fs/cgroup/{k}": v for k, v in files.items()})) == found


@pytest.mark.parametrize(
    ("groups", "files", "found"),
    [
        ("0::/", {}, 8),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "1000 100000"}, 1),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        (_VERSION_1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        (_VERSION_1, {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        (_VERSION_1, {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "50000"}, 1),
        (_VERSION_1, {"cpuset/cpu.max": "100000 100000"}, 8),  # another controller's
    ],
)
def test_fault_44_cpus_are_those_of_the_container_if_it_has_a_quota(machine, groups, files, found):
    assert available_cpus(machine(groups, {f"sys/fs/cgroup/{k}": v for k, v in files.items()})) == found


@pytest.mark.usefixtures("machine")
def test_fault_44_machine_without_control_groups_counts_as_it_is(tmp_path):
    assert (available_bytes(tmp_path), available_cpus(tmp_path)) == (8, 8)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds a process to CPUs")
def test_fault_44_process_that_is_bound_to_one_cpu_counts_one():
    first = min(os.sched_getaffinity(0))
    code = "from distdqn.training.limits import available_cpus; print(available_cpus())"
    bind = lambda: os.sched_setaffinity(0, {first})  # noqa: E731
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, preexec_fn=bind, capture_output=True, check=True).stdout == b"1\n"
