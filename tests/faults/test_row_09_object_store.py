"""A real object store that is smaller than what passes through it, or that somebody else has filled."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

_WEIGHTS_BYTES = 16 * 2**20
_STORE_BYTES = 100 * 2**20  # of `ray_session`


def _spilled_bytes():
    """What Ray has put on disk for want of room, as far as it is still there."""
    folders = Path(os.environ["RAY_TMPDIR"]).rglob("ray_spilled_objects*")
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("taken_bytes", [0, 96 * 2**20], ids=["tiny", "full"])
def test_fault_9_run_goes_on_in_an_object_store_that_has_no_room(start_light_run, ray_session, taken_bytes):
    others = [ray_session.put(np.ones(2**23, np.uint8)) for _ in range(taken_bytes // 2**23)]
    address = ray_session.get_runtime_context().gcs_address
    options = ("--address", address, "--actors", 2, "--target-return", "none")
    run = start_light_run(
        *options, "--weights-update-period", 64, LIGHT_CPUS="0.3", LIGHT_WEIGHTS_BYTES=str(_WEIGHTS_BYTES)
    )

    run.wait_until(lambda: run.published() * _WEIGHTS_BYTES > 5 * _STORE_BYTES, 120.0)
    run.process.send_signal(signal.SIGINT)
    assert run.wait(90) == 130, run.output()
    summary = run.read("summary.json")
    assert [summary[f"{role}_restarts"] for role in ("actor", "learner", "replay")] == [0, 0, 0]
    assert _spilled_bytes() <= taken_bytes + _STORE_BYTES
    assert all(ray_session.get(each)[-1] == 1 for each in others)  # and nobody else has lost anything
