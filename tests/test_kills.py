"""A real run whose processes are killed one after another, down to the driver, and goes on."""

import os
import signal
import time

import pytest

pytestmark = pytest.mark.slow

_OPTIONS = ("--actors", 2, "--target-return", "none", "--max-env-steps", 10**9, "--checkpoint-seconds", 1)


def pid_of(run, role):
    """Id of the process that fills a role's place now, or None while it starts."""
    roles = {entry["role"]: entry["pid"] for entry in run.read("status.json")["roles"]}
    return roles.get(role)


def counters_of(run):
    """Counters as `status.json` tells them."""
    return run.read("status.json")["counters"]


def manifests(run):
    """Names of the checkpoints there are."""
    return {path.name for path in (run.run_dir / "checkpoints").glob("checkpoint-*.json")}


def learns_on(run):
    """Waits until the learner has made some hundred steps more, and a new checkpoint is there."""
    steps, before = counters_of(run)["learner_steps"], manifests(run)
    run.wait_until(lambda: counters_of(run)["learner_steps"] > steps + 200, 120.0)
    run.wait_until(lambda: manifests(run) - before, 120.0)


def wait_for_a_checkpoint_half_written(run):
    """Returns while a file of a checkpoint is being written, as far as one can see from outside."""
    deadline = time.monotonic() + 60.0
    while not any((run.run_dir / "checkpoints" / "blobs").glob(".*.part")):
        assert time.monotonic() < deadline, run.output()


@pytest.fixture(scope="module")
def survivor(start_run):
    """A run whose learner and replay were killed, and then its driver; what was seen on the way."""
    run = start_run(*_OPTIONS)
    run.wait_until(run.is_learning, 120.0)
    learns_on(run)
    seen = {}
    for role, name in (("learner", "learner"), ("replay", "replay-0")):
        pid = pid_of(run, name)
        if role == "learner":
            wait_for_a_checkpoint_half_written(run)
        os.kill(pid, signal.SIGKILL)
        run.wait_until(lambda role=role: counters_of(run)[f"{role}_restarts"] == 1, 60.0)
        run.wait_until(lambda name=name, pid=pid: pid_of(run, name) not in (None, pid), 60.0)
        learns_on(run)
        seen[role] = counters_of(run)
    run.process.kill()
    killed_at = time.monotonic()
    run.wait_until(lambda: not run.left(), 60.0)
    seen["seconds_until_gone"] = time.monotonic() - killed_at
    print(f"Nothing is left {seen['seconds_until_gone']:.1f} s after the driver was killed.")
    seen["newest"] = max(manifests(run))
    return run, seen


def test_fault_4_learner_that_is_killed_in_mid_checkpoint_is_restored_from_the_newest(
    survivor, record_property
):
    run, seen = survivor
    counters = seen["learner"]
    record_property("lost_learner_steps", counters["lost_learner_steps"])

    assert (counters["learner_restarts"], counters["replay_restarts"]) == (1, 0)
    assert 0 <= counters["lost_learner_steps"] < counters["learner_steps"]
    assert run.read("status.json")["weights_version"][0] == 1  # a new epoch
    assert "learner failed" in run.output()


def test_fault_3_replay_that_is_killed_is_restored_from_the_newest_checkpoint(survivor, record_property):
    run, seen = survivor
    counters = seen["replay"]
    record_property("lost_transitions", counters["lost_transitions"])

    assert (counters["learner_restarts"], counters["replay_restarts"]) == (1, 1)
    assert 0 < counters["lost_transitions"] < counters["env_steps"]
    assert "transitions lost" in run.output()


def test_fault_5_no_process_at_all_is_left_once_the_driver_is_killed(survivor):
    assert survivor[1]["seconds_until_gone"] < 45.0  # three times what is promised


def test_killed_run_goes_on_from_its_newest_checkpoint(survivor, start_run):
    run, seen = survivor
    number = int(seen["newest"].removeprefix("checkpoint-").removesuffix(".json"))
    steps = counters_of(run)["env_steps"] + 2000
    options = (*_OPTIONS[:4], "--max-env-steps", steps, "--resume", run.run_dir)

    after = start_run(*options)

    assert after.wait() == 0, after.output()
    assert f"Resumes from checkpoint {number}" in after.output()
    summary = after.read("summary.json")
    assert summary["env_steps"] == steps
    assert summary["learner_steps"] > number
    assert summary["episodes_lost"] == 2 * 16  # one open in each environment


def test_fault_3_one_of_two_shards_that_is_killed_loses_its_part_alone(start_run):
    run = start_run(*_OPTIONS, "--replay-shards", 2, "--sampler", "prioritized")
    run.wait_until(run.is_learning, 120.0)
    learns_on(run)
    first, second = (pid_of(run, f"replay-{shard}") for shard in range(2))
    inserted = counters_of(run)["inserted"]

    os.kill(second, signal.SIGKILL)
    run.wait_until(lambda: counters_of(run)["replay_restarts"] == 1, 60.0)
    lost = counters_of(run)["lost_transitions"]
    learns_on(run)

    counters = counters_of(run)
    assert (counters["replay_restarts"], counters["learner_restarts"]) == (1, 0)
    assert pid_of(run, "replay-0") == first
    assert pid_of(run, "replay-1") not in (None, second)
    assert 0 <= lost < 0.6 * inserted  # of its half, what came after the checkpoint
    assert "replay-1 failed" in run.output()

    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130, run.output()
    counters = counters_of(run)
    steps = counters["env_steps"] + 2000
    more = ("--replay-shards", 1, "--max-env-steps", steps)
    after = start_run(*_OPTIONS[:4], *more, "--resume", run.run_dir)
    assert after.wait() == 0, after.output()
    assert after.read("summary.json")["env_steps"] == steps
    assert pid_of(after, "replay-0") is not None
    # All that the two shards held is in the one, and what came since.
    assert counters_of(after)["inserted"] >= min(counters["inserted"] + 2000 - 200, 100_000)
