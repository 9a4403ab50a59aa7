"""Real processes whose environment hangs."""

from pathlib import Path

import pytest


@pytest.fixture
def flags():
    """The folder in which the environment looks for what it shall do."""
    yield Path.home()
    for path in Path.home().glob("hang*"):
        path.unlink()


def _write(path, text):
    """As a whole, for processes that look at any time."""
    new = path.with_name("new-" + path.name)
    new.write_text(text)
    new.rename(path)


def _hung(run):
    return run.output().count("no answer by its deadline")


@pytest.mark.slow
def test_fault_23_environment_that_hangs_is_replaced_and_in_the_end_named(
    start_light_run, ray_session, flags
):
    address = ray_session.get_runtime_context().gcs_address
    options = (
        "--address",
        address,
        "--actors",
        2,
        "--env",
        "toy_faults:ToyHanging-v0",
        "--min-replay-size",
        100,
    )
    times = (
        "--env-timeout-seconds",
        2,
        "--max-failures",
        2,
        "--max-env-steps",
        10**9,
        "--eval-period",
        10**9,
    )
    run = start_light_run(*options, *times, LIGHT_CPUS="0.3")
    run.wait_until(run.is_learning, 60)

    _write(flags / "hang-once", "interpreter")
    run.wait_until(lambda: run.read("status.json")["counters"]["actor_restarts"] == 1, 30)
    steps = run.read("status.json")["counters"]["env_steps"]
    run.wait_until(lambda: run.read("status.json")["counters"]["env_steps"] > steps + 1000, 30)
    once = _hung(run)
    _write(flags / "hang", "interpreter")
    code = run.wait(60)

    assert once == 1
    assert code == 5, run.output()
    assert "The environment `toy_faults:ToyHanging-v0` did not respond within 2 s in actor-" in run.output()
    assert "2 consecutive times" in run.output()
    assert "Traceback" not in run.output()
