"""The check of machines with a GPU, tried without one."""

import math

import pytest
from gpu_check import ACTIONS, CASES, DENSE, Frames, failures, learner_rate, main, measure_updates, table
from gymnasium.utils.env_checker import check_env

DEVICES = {"gpus": ["Abacus 3000"], "tensorflow": "2.20.0", "keras": "3.11.0", "cores": 2}
RUN = {
    "precision": "float32",
    "exit_code": 0,
    "learner_steps_per_second": 1234.5,
    "env_steps_per_second": 77.0,
    "memory_fraction": 0.02,
    "computes_on_cpu": False,
}
UPDATE = {
    "case": "Nature network, bfloat16, with XLA",
    "precision": "bfloat16",
    "prepare_seconds": 3.0,
    "update_seconds": 0.0015,
    "difference": 0.02,
    "is_finite": True,
}


def results_with(run=None, update=None):
    return {"devices": DEVICES, "runs": [RUN | (run or {})], "updates": [UPDATE | (update or {})]}


def test_check_ends_with_one_line_when_there_is_no_gpu(capsys):
    assert main([]) == 1

    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("TensorFlow finds no GPU")


def test_updates_of_the_dense_network_agree_with_and_without_xla():
    plain, compiled = measure_updates(small=True, cases=[case for case in CASES if case.network == DENSE])

    assert (plain["difference"], plain["is_finite"]) == (0.0, True)
    assert compiled["difference"] < 1e-4
    assert 0.0 < compiled["update_seconds"] < math.inf


def test_case_that_cannot_be_computed_leaves_the_others(monkeypatch):
    def fail(*_):
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr("gpu_check.measure_case", fail)
    updates = measure_updates(small=True, cases=CASES[:2])

    assert [update["error"] for update in updates] == 2 * ["NotImplementedError: no such kernel"]
    assert len(failures({"runs": [], "updates": updates})) == 2


@pytest.mark.parametrize(
    ("run", "update", "words"),
    [
        ({"exit_code": 5}, {}, "ended with 5"),
        ({"computes_on_cpu": True}, {}, "found no GPU"),
        ({"memory_fraction": 0.97}, {}, "97% of the GPU's memory"),
        ({"learner_steps_per_second": None}, {}, "too short"),
        ({}, {"difference": 0.06}, "differ by 6.00%"),
        ({}, {"is_finite": False}, "not finite"),
    ],
)
def test_failure_is_reported_when_something_is_wrong(run, update, words):
    (line,) = failures(results_with(run, update))

    assert words in line


def test_table_shows_durations_rates_and_memory_when_nothing_failed():
    results = results_with()
    text = table(results | {"failures": failures(results)})

    assert "| Nature network, bfloat16, with XLA | 1.500 | 3.0 | 2.00% |" in text
    assert "| float32 | 1,234.5 | 77.0 | 2% |" in text
    assert text.endswith("All is as it must be.")


def test_learner_rate_leaves_out_the_first_lines_with_updates():
    steps = [0, 100, 500, 600, 800]
    lines = [
        {"wall_seconds": 2.0 * i, "learner_steps": count, "env_steps": 10 * i}
        for i, count in enumerate(steps)
    ]

    assert learner_rate(lines)["learner_steps_per_second"] == (800 - 600) / 2.0
    assert learner_rate(lines[:3])["learner_steps_per_second"] is None


def test_frames_are_an_environment_that_pays_for_the_right_action():
    check_env(Frames(), skip_render_check=True)
    environment = Frames()
    environment.reset(seed=3)

    right = environment._index % ACTIONS
    assert environment.step(right)[1] == 1.0
    wrong = (environment._index + 1) % ACTIONS
    assert environment.step(wrong)[1] == 0.0
