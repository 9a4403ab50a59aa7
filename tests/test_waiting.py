"""Whichever side of a run is faster waits for the other: at no cost, and without growing."""

import json
import time

import psutil
import pytest

pytestmark = pytest.mark.slow

_OPTIONS = ("--actors", 1, "--replay-capacity", 2000, "--target-return", "none", "--max-env-steps", 10**9)
_SECONDS = 6.0  # for which a run is watched


class Watched:
    """What a run did while it was watched: CPU and memory of each role, metrics, output."""

    def __init__(self, run, before, after, seconds):
        self.cpu = {role: (after[role][0] - before[role][0]) / seconds for role in before}
        self.grown_mb = {role: (after[role][1] - before[role][1]) / 2**20 for role in before}
        lines = (run.run_dir / "metrics.jsonl").read_text().splitlines()
        self.line = json.loads(lines[-1])
        self.output = run.output()


def numbers_of(run):
    """CPU seconds and resident bytes of every role."""
    found = {}
    for role in run.read("status.json")["roles"]:
        process = psutil.Process(role["pid"])
        times = process.cpu_times()
        found[role["role"]] = (times.user + times.system, process.memory_info().rss)
    return found


@pytest.fixture(scope="module")
def watched(start_run):
    """Two runs at a time: much learning for each step of acting, and little."""
    runs = {
        "fast actors": start_run(*_OPTIONS, "--samples-per-insert", 256),
        # Calls of 512 samples: the ratio, held to within a call, is near its goal after few inserts.
        "fast learner": start_run(
            *_OPTIONS, "--samples-per-insert", 1, "--envs-per-actor", 1, "--updates-per-call", 4
        ),
    }

    def is_full(run):
        if not run.is_learning():
            return False
        status = run.read("status.json")
        # The process that takes commands comes last, and its imports take seconds of a core.
        has_all = any(role["role"] == "control" and role["pid"] for role in status["roles"])
        return has_all and status["counters"]["inserted"] >= 6000

    for run in runs.values():
        run.wait_until(lambda run=run: is_full(run), 120.0)
    begin, before = time.monotonic(), {name: numbers_of(run) for name, run in runs.items()}
    time.sleep(_SECONDS)
    seconds = time.monotonic() - begin
    found = {name: Watched(run, before[name], numbers_of(run), seconds) for name, run in runs.items()}
    for run in runs.values():
        run.process.terminate()
    for run in runs.values():
        run.wait(60.0)
    return found


def test_fault_28_actors_that_are_faster_than_the_learner_wait_for_it_and_use_no_cpu(watched):
    seen = watched["fast actors"]

    # The learner gets what the other run leaves of the cores: more or less, on one machine and another.
    assert seen.cpu["actor-0"] < min(0.25, seen.cpu["learner"] / 4), seen.cpu
    assert seen.line["actors_wait_fraction"] > 0.5
    assert "actors wait " in seen.output
    assert 256 * 0.9 <= seen.line["samples_per_insert"] <= 256


def test_fault_28_learner_that_is_faster_than_the_actors_waits_for_them_and_uses_no_cpu(watched):
    seen = watched["fast learner"]

    assert seen.cpu["learner"] < 0.25 < seen.cpu["actor-0"], seen.cpu
    assert seen.line["learner_wait_fraction"] > 0.5
    assert "learner waits " in seen.output
    assert 0.9 <= seen.line["samples_per_insert"] <= 1


@pytest.mark.parametrize("side", ["fast actors", "fast learner"])
def test_fault_28_memory_stays_flat_whichever_side_waits(watched, side, record_property):
    record_property("injected", 0)  # the same two runs

    assert max(watched[side].grown_mb.values()) < 16.0, watched[side].grown_mb
