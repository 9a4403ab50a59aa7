"""Runs whose environment hangs or dies once a file in the home folder says so."""

from pathlib import Path


def start_hanging(start_light_run, ray_session, actors, *options):
    """An endless light run with `toy_faults:ToyHanging-v0` on the Ray that is there."""
    address = ray_session.get_runtime_context().gcs_address
    run = start_light_run(
        *("--address", address, "--actors", actors, "--env", "toy_faults:ToyHanging-v0"),
        *("--min-replay-size", 100, "--max-env-steps", 10**9, "--eval-period", 10**9),
        *options,
        LIGHT_CPUS="0.3",
    )
    run.wait_until(run.is_learning, 60)
    return run


def write_flag(name, text):
    """Writes what the environment shall do, as a whole: processes look for it at any time."""
    path = Path.home() / name
    new = path.with_name(f"new-{name}")
    new.write_text(text)
    new.rename(path)
    return path


def counters(run):
    """Counters as `status.json` tells them."""
    return run.read("status.json")["counters"]
