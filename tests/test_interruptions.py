"""Killed drivers: short runs of `benchmarks/kill_driver.py` and `benchmarks/lockstep_resume.py`."""

import pytest
from kill_driver import end_run, make_kills, read_kills, summary_of
from lockstep_resume import compare

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_fault_5_driver_killed_at_any_moment_resumes_from_its_newest_checkpoint(tmp_path, record_property):
    assert make_kills(tmp_path, kills=3, seed=4)
    kills = read_kills(tmp_path)
    assert [kill["when"] for kill in kills] == ["start", "training", "checkpoint"]
    assert [kill["resumed_from"] for kill in kills if kill["has_begun"]] == [
        kill["newest_before"] for kill in kills if kill["has_begun"]
    ]
    assert kills[-1]["newest_after"] is not None
    assert end_run(tmp_path)["solved"]
    record_property("injected", 3)
    record_property("lost_learner_steps", summary_of(kills)["faults"]["5"]["lost"]["learner steps"])


@pytest.mark.long
def test_fault_5_lockstep_run_that_is_killed_twice_ends_like_an_uninterrupted_one(tmp_path, record_property):
    report = compare(tmp_path, points=2, seed=0, passed_on=["--max-env-steps", 3000])
    assert report["differences"] == []
    assert report["checkpoints_compared"] > 10
    record_property("injected", 2)
