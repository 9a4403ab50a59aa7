"""Real processes of actors that are killed all at once, and then one life after another."""

import os
import signal

import pytest
from faults.hanging import counters, start_hanging, write_flag

from distdqn.checkpoints.store import Store

pytestmark = pytest.mark.slow


def _actors(run):
    roles = run.read("status.json")["roles"]
    return [entry["pid"] for entry in roles if entry["role"].startswith("actor")]


def test_fault_2_all_actors_killed_at_once_three_times_and_then_in_every_life(
    start_light_run, ray_session, record_property
):
    run = start_hanging(start_light_run, ray_session, 3, "--max-failures", 4)

    for killed in (3, 6, 9):
        run.wait_until(lambda: all(_actors(run)), 30)
        for pid in _actors(run):
            os.kill(pid, signal.SIGKILL)
        run.wait_until(lambda killed=killed: counters(run)["actor_restarts"] == killed, 30)
        steps = counters(run)["env_steps"]
        run.wait_until(lambda steps=steps: counters(run)["env_steps"] > steps + 1000, 60)
    run.wait_until(lambda: all(_actors(run)), 30)
    before = counters(run)
    flag = write_flag("hang", "death")
    try:
        code = run.wait(60)
    finally:
        flag.unlink()
    record_property("injected", 4)
    record_property("lost_rollouts", counters(run)["lost_rollouts"])

    assert code == 7, run.output()
    assert before["learner_restarts"] == before["replay_restarts"] == 0
    error = run.output().strip().splitlines()[-1]
    assert error.startswith("distdqn: error: actor-")
    assert "failed 4 consecutive times, last in `rollout`" in error
    newest, passed_over = Store(str(run.run_dir / "checkpoints")).newest_whole()
    assert newest.number >= before["learner_steps"]
    assert passed_over == []
