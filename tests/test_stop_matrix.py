"""Runs that are stopped in every way: what counts as right, the table, and a sample of the cells."""

import dataclasses
import signal

import benchmark_runs  # makes the modules of benchmarks/ importable
import pytest
from driver import heed_signals
from stop_matrix import cells, make_source, report_of, run_cell
from stopped_run import ENDS, STAGES, Cell, StoppedRun

RIGHT = {
    "exit_code": 143,
    "seconds": 2.0,
    "left": 0,
    "at_learner_steps": 300,
    "state": "terminated",
    "reason": "terminated",
    "networks": 4,
    "is_owned": False,
    "checkpoint": 320,
    "resume_code": 0,
    "resumed_learner_steps": 400,
}
LEARNING = Cell("async", "learning", "SIGTERM")


def judge(tmp_path, cell=LEARNING, **changes):
    return StoppedRun(cell, tmp_path / "cells" / "one", tmp_path / "source").judge(RIGHT | changes)


def test_run_that_lost_nothing_is_right(tmp_path):
    assert judge(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"exit_code": 1}, "exit code 1, not 143"),
        ({"seconds": 16.0}, "ended after 16.0 s"),
        ({"left": 2}, "2 processes left"),
        ({"state": "running"}, "state running, not terminated"),
        ({"reason": None}, "reason None, not terminated"),
        ({"networks": 3}, "3 networks"),
        ({"is_owned": True}, "the folder is still in use"),
        ({"checkpoint": 290}, "the checkpoint has 290 learner steps of 300"),
        ({"resume_code": 4, "resumed_learner_steps": 0}, "resume ends with 4"),
    ],
)
def test_everything_that_is_lost_is_told(tmp_path, changes, wrong):
    assert judge(tmp_path, **changes) == [wrong]


def test_run_that_has_learned_nothing_has_nothing_to_save(tmp_path):
    nothing = {"networks": 0, "checkpoint": None, "reason": None, "resumed_learner_steps": 0}
    assert judge(tmp_path, dataclasses.replace(LEARNING, stage="filling"), **nothing) == []
    assert len(judge(tmp_path, **nothing)) == 4


def test_every_end_meets_every_stage_once():
    every = [(cell.stage, cell.end) for cell in cells() if cell.mode == "async"]
    assert every == [(stage, end) for stage in STAGES for end in ENDS]
    assert len({cell.name for cell in cells()}) == len(cells()) == 11 * len(ENDS)


def test_report_has_a_table_for_each_mode_and_counts_what_is_right():
    wrong = Cell("serial", "learning", "SIGINT")
    report = report_of({LEARNING: {"seconds": 1.24, "wrong": []}, wrong: {"wrong": ["no checkpoint"]}})
    assert report["faults"] == {"35": {"injected": 2, "survived": 1, "lost": {}}}
    lines = report["says"]
    assert "| SIGTERM | not run | not run | 1.2 | not run | not run | not run | not run |" in lines
    assert "| SIGINT | **wrong** | not run |" in lines


@pytest.fixture
def heeded_signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    heed_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.slow
@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize(
    "cell",
    [
        Cell("async", "learning", "closed terminal"),
        Cell("async", "evaluation", "closed output"),
        Cell("async", "checkpoint", "SIGTERM to all"),
        Cell("async", "restore", "SIGUSR1"),
        Cell("lockstep", "last evaluation", "SIGHUP"),
    ],
    ids=lambda cell: cell.name,
)
def test_fault_35_stopped_run_loses_nothing_and_resumes(cell, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(benchmark_runs.BENCHMARKS))
    monkeypatch.setenv("PYTHONPATH", str(benchmark_runs.BENCHMARKS), prepend=":")
    (tmp_path / "logs").mkdir()
    source = make_source(tmp_path) if cell.stage == "restore" else tmp_path
    assert run_cell(cell, tmp_path, source, seed=0)["wrong"] == []
