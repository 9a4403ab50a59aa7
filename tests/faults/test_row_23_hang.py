"""Real processes whose environment hangs."""

from pathlib import Path

import pytest
from faults.hanging import counters, start_hanging, write_flag


@pytest.fixture(autouse=True)
def flags():
    """Takes away, in the end, what the environment was told to do."""
    yield
    for path in Path.home().glob("hang*"):
        path.unlink()


def _hung(run):
    return run.output().count("no answer by its deadline")


@pytest.mark.slow
def test_fault_23_environment_that_hangs_is_replaced_and_in_the_end_named(start_light_run, ray_session):
    run = start_hanging(start_light_run, ray_session, 2, "--env-timeout-seconds", 2, "--max-failures", 2)

    write_flag("hang-once", "interpreter")
    run.wait_until(lambda: counters(run)["actor_restarts"] == 1, 30)
    steps = counters(run)["env_steps"]
    run.wait_until(lambda: counters(run)["env_steps"] > steps + 1000, 30)
    once = _hung(run)
    write_flag("hang", "interpreter")
    code = run.wait(60)

    assert once == 1
    assert code == 5, run.output()
    assert "The environment `toy_faults:ToyHanging-v0` did not respond within 2 s in actor-" in run.output()
    assert "2 consecutive times" in run.output()
    assert "Traceback" not in run.output()
