"""The page of results: what is measured, read and computed, on run folders that are made up."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmark_runs import BENCHMARKS, MACHINE, VERSIONS, make_run_folder
from experiments import (
    ABLATION,
    ACROBOT_DEFAULT,
    BREAKOUT,
    CARTPOLE_DEFAULT,
    MINATAR,
    PRESETS,
    RANDOM,
    SECTIONS,
    Row,
)
from measured import NEVER, Run, bootstrap_interval, curves, interquartile_mean, number, read_runs, spread
from report import bars, make_page, write_report

import distdqn


def make_run(final: float, returns: tuple[float, ...] = (0.0, 1.0), seed: int = 100) -> Run:
    """A run in memory, evaluated every 10,000 env steps."""
    env_steps = 10_000.0 * np.arange(1, len(returns) + 1)
    return Run(seed, final, env_steps, np.array(returns), seconds=5.0)


def page_of(folder: Path) -> str:
    """The page on the runs in a folder, without pictures."""
    left_out: dict[str, str] = {}
    results = {}
    for row in dict.fromkeys(row for rows in SECTIONS.values() for row in rows):
        results[row], reasons = read_runs(folder, row)
        left_out |= reasons
    return make_page(results, left_out)


def cells(page: str, title: str, first: str) -> list[str]:
    """Cells of the first table row below a title that begins with `first`."""
    lines = page[page.index(title) :].splitlines()
    line = next(line for line in lines if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_row_is_a_command_line_that_the_program_accepts() -> None:
    rows = [row for rows in SECTIONS.values() for row in rows]

    for row in rows:
        settings = row.settings()
        if row.options is not None:
            assert (settings["mode"], settings["target_return"]) == ("serial", None)
            assert (settings["env"], settings["max_env_steps"]) == (row.task.env, row.task.env_steps)


def test_rows_that_differ_have_folders_that_differ() -> None:
    rows = {row for rows in SECTIONS.values() for row in rows}

    assert len({row.folder for row in rows}) == len(rows)
    assert not [row.folder for row in rows if "/" in row.folder or " " in row.folder]


def test_period_of_evaluations_is_given_in_learner_steps() -> None:
    row = Row("other", dataclasses.replace(CARTPOLE_DEFAULT.task, eval_env_steps=1000))
    slow = dataclasses.replace(row, options="--samples-per-insert 4 --batch-size 32")

    assert row.settings()["eval_period"] == 1000  # one update per env step
    assert slow.settings()["eval_period"] == 1000 * 4 / 32


def test_every_variant_of_the_ablation_differs_from_the_default() -> None:
    default = CARTPOLE_DEFAULT.settings()

    for row in SECTIONS["ablation"][1:]:
        changed = {name for name, value in row.settings().items() if default[name] != value}
        assert changed - {"eval_period"}, row.label
    assert len(SECTIONS["ablation"]) == 1 + len(ABLATION)


def test_presets_are_measured_on_both_environments() -> None:
    labels = [row.label for row in SECTIONS["presets"]]

    assert labels == 2 * ["default", *PRESETS]


def test_run_is_read_from_its_files(tmp_path: Path) -> None:
    make_run_folder(tmp_path, ACROBOT_DEFAULT, 101, -80.5, [-500.0, -90.0], seconds=7.5)

    (run,), left_out = read_runs(tmp_path, ACROBOT_DEFAULT)

    assert left_out == {}
    assert (run.seed, run.final, run.seconds) == (101, -80.5, 7.5)
    assert run.eval_env_steps.tolist() == [50_000, 100_000]
    assert run.eval_returns.tolist() == [-500.0, -90.0]
    assert (run.versions, run.machine) == (VERSIONS, MACHINE)


def test_runs_come_in_the_order_of_their_seeds(tmp_path: Path) -> None:
    for seed in (101, 99, 1000):
        make_run_folder(tmp_path, CARTPOLE_DEFAULT, seed, 1.0 * seed, [1.0])

    runs, _ = read_runs(tmp_path, CARTPOLE_DEFAULT)

    assert [run.final for run in runs] == [99.0, 101.0, 1000.0]


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("summary", {"reason": "interrupted"}, "not complete"),
        ("summary", {"env_steps": 49_999}, "not complete"),
        ("final_evaluation", {"episodes": 20}, "not complete"),
        ("config", {"n_step": 77}, "made with other options (n_step)"),
    ],
)
def test_run_is_left_out_with_its_reason_when_it_is_not_its_row(
    tmp_path: Path, name: str, change: dict[str, object], reason: str
) -> None:
    run_dir = make_run_folder(tmp_path, CARTPOLE_DEFAULT, 100, 500.0, [500.0])
    path = run_dir / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    assert read_runs(tmp_path, CARTPOLE_DEFAULT) == ([], {"CartPole-v1-default/100": reason})
    assert f"- CartPole-v1-default/100 is left out: {reason}" in page_of(tmp_path)


@pytest.mark.parametrize("name", ["summary", "final_evaluation"])
def test_run_is_left_out_when_a_file_is_cut_off(tmp_path: Path, name: str) -> None:
    run_dir = make_run_folder(tmp_path, CARTPOLE_DEFAULT, 100, 500.0, [500.0])
    (run_dir / f"{name}.json").write_text('{"mean": 5')

    assert read_runs(tmp_path, CARTPOLE_DEFAULT)[0] == []


def test_goal_is_reached_at_the_first_evaluation_that_is_at_it() -> None:
    run = make_run(0.0, (10.0, 475.0, 20.0, 500.0))

    assert run.env_steps_to(475.0) == 20_000
    assert run.env_steps_to(475.1) == 40_000
    assert run.env_steps_to(501.0) == NEVER


def test_late_evaluations_include_the_one_at_their_beginning() -> None:
    run = make_run(0.0, (1.0, 2.0, 3.0))

    assert run.late_returns(20_000).tolist() == [2.0, 3.0]
    assert run.late_returns(20_001).tolist() == [3.0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 6.0], (1 + 2 + 6) / 3),  # a quarter of three is less than one
        ([100.0, 3.0, 2.0, 1.0], (2 + 3) / 2),
        ([0.0, 1.0, 2.0, 6.0, 100.0], (1 + 2 + 6) / 3),
        ([9.0, 8.0, 1.0, 2.0, 3.0, 4.0, 50.0, 60.0], (3 + 4 + 8 + 9) / 4),
    ],
)
def test_interquartile_mean_is_the_mean_of_the_middle_half(values: list[float], expected: float) -> None:
    assert interquartile_mean(np.array(values)) == pytest.approx(expected)


def test_bootstrap_interval_holds_the_statistic_and_little_more() -> None:
    values = np.random.default_rng(3).normal(10.0, 2.0, 400)

    low, high = bootstrap_interval(values, lambda draws: draws.mean(axis=-1))

    # 95 % of means lie within 1.96 standard errors, 2 / sqrt(400) = 0.1 each.
    assert low == pytest.approx(values.mean() - 0.196, abs=0.02)
    assert high == pytest.approx(values.mean() + 0.196, abs=0.02)


def test_bootstrap_interval_is_a_point_when_all_values_are_equal() -> None:
    assert bootstrap_interval(np.full(5, 3.0)) == (3.0, 3.0)


def test_curves_go_straight_between_evaluations_where_all_runs_have_some() -> None:
    early = Run(0, 0.0, np.array([0.0, 10.0]), np.array([0.0, 20.0]))
    late = Run(1, 0.0, np.array([5.0, 15.0]), np.array([7.0, 7.0]))

    env_steps, returns = curves([early, late], points=3)

    assert env_steps.tolist() == [5.0, 7.5, 10.0]
    assert returns.tolist() == [[10.0, 15.0, 20.0], [7.0, 7.0, 7.0]]


@pytest.mark.parametrize(
    ("values", "digits", "expected"),
    [
        ([3.0, 1.0, 8.0], 1, "3.0 (1.0 to 8.0)"),
        ([1.0, 2.0], 1, "1.5 (1.0 to 2.0)"),
        ([24_000.0, NEVER, 12_345.0], 0, "24,000 (12,345 to never)"),
        ([24_000.0, NEVER, NEVER], 0, "never (24,000 to never)"),
        ([], 1, "-"),
    ],
)
def test_spread_is_median_least_and_most(values: list[float], digits: int, expected: str) -> None:
    assert spread(values, digits) == expected


def test_number_shows_no_minus_before_zero() -> None:
    assert [number(value) for value in (-0.04, -76.64, 12_345.67)] == ["0.0", "-76.6", "12,345.7"]


def test_bar_of_stability_is_passed_only_when_every_seed_passes() -> None:
    good, at_it, bad = make_run(500.0), make_run(475.0), make_run(474.9)

    both, late = bars({CARTPOLE_DEFAULT: [good, at_it]})
    assert (both.passed, both.found, late.passed) == (True, "2 of 2 seeds, minimum 475.0", None)
    both, _ = bars({CARTPOLE_DEFAULT: [good, bad]})
    assert (both.passed, both.found) == (False, "1 of 2 seeds, minimum 474.9")


def test_share_of_late_evaluations_is_over_all_seeds() -> None:
    # From 25,000 env steps on: 475 and 100 of the first run, 480, 500 of the second.
    runs = [make_run(0.0, (500.0, 500.0, 475.0, 100.0)), make_run(0.0, (0.0, 0.0, 480.0, 500.0))]

    _, late = bars({CARTPOLE_DEFAULT: runs})

    assert late.found == "75% of 4"


def test_bars_of_acrobot_are_held_against_the_mean_over_seeds() -> None:
    # The mean is (-90 - 72 - 60) / 3 = -74: above -76.6, below -69.1; the median is -72.
    runs = [make_run(final) for final in (-90.0, -72.0, -60.0)]

    dqn, qr_dqn = bars({ACROBOT_DEFAULT: runs})

    assert (dqn.found, dqn.passed) == ("-74.0 (3 seeds)", True)
    assert (qr_dqn.found, qr_dqn.passed) == ("-74.0 (3 seeds)", False)
    assert ("-76.6" in dqn.asked, "-69.1" in qr_dqn.asked) == (True, True)


def test_bars_of_images_are_the_random_agent_and_the_same_without_convolutions() -> None:
    (default, dense), (rainbow, _) = MINATAR
    results = {default: [make_run(5.0)], dense: [make_run(5.5)], rainbow: [make_run(9.0)]}

    found = bars(results | {RANDOM: [make_run(0.5)]})

    assert [(bar.found, bar.passed) for bar in found[:2]] == [("5.0", True), ("5.0", False)]
    assert [(bar.found, bar.passed) for bar in found[4:]] == [("9.0", True)]
    assert [bar.asked.rpartition(": ")[2] for bar in found] == ["0.5", "5.5", "1.0", "0.5", "0.5"]


def test_bars_of_images_compare_the_means_over_the_run_too() -> None:
    ((default, dense), _) = MINATAR
    runs = [make_run(5.0, returns) for returns in ((1.0, 3.0), (2.0, 9.0), (4.0, 4.0))]

    found = bars({default: runs, dense: [make_run(5.5, (3.0, 4.0))]})[-1]

    # The means are 2, 5.5 and 4; their median is 4, not the mean of all.
    assert (found.found, found.asked.rpartition(": ")[2], found.passed) == ("4.0", "3.5", True)


def test_bars_of_images_compare_the_last_fifth_of_the_evaluations_too() -> None:
    ((default, dense), _) = MINATAR
    runs = [make_run(5.0, (0.0,) * 8 + end) for end in ((1.0, 3.0), (2.0, 9.0), (4.0, 4.0))]

    found = bars({default: runs, dense: [make_run(5.5, (9.0, 9.0, 9.0, 9.0, 4.5))]})[-2]

    # Two of ten evaluations, with means of 2, 5.5 and 4; and one of five.
    assert (found.found, found.asked.rpartition(": ")[2], found.passed) == ("4.0", "4.5", False)


@pytest.mark.parametrize(
    ("returns", "end"), [((), math.nan), ((3.0,), 3.0), ((1.0, 2.0, 3.0, 4.0, 5.0, 7.0), 6.0)]
)
def test_last_fifth_of_evaluations_is_one_at_least_and_rounded_up(
    returns: tuple[float, ...], end: float
) -> None:
    np.testing.assert_equal(make_run(5.0, returns).end_return, end)


def test_page_shows_a_miss_and_a_pass_for_every_seed(tmp_path: Path) -> None:
    make_run_folder(tmp_path, CARTPOLE_DEFAULT, 100, 500.0, [9.0, 480.0, 500.0, 470.0, 490.0])
    make_run_folder(tmp_path, CARTPOLE_DEFAULT, 101, 300.0, [9.0, 10.0, 11.0, 12.0, 13.0])

    page = page_of(tmp_path)

    # From 25,000 env steps on: 500, 470 and 490, of which two are at 475.
    assert cells(page, "## Stability", "100")[1:] == ["500.0", "pass", "67% of 3", "470.0", "20,000"]
    assert cells(page, "## Stability", "101")[1:] == ["300.0", "**miss**", "0% of 3", "11.0", "never"]
    assert "| **miss** |" in page[page.index("## Against the bars") : page.index("## Stability")]


def test_page_gives_median_and_range_of_every_preset(tmp_path: Path) -> None:
    dqn = next(row for row in SECTIONS["presets"] if row.label == "dqn" and row.task.env == "Acrobot-v1")
    for seed, (final, seconds) in enumerate([(-80.0, 9.0), (-100.0, 30.0), (-300.0, 20.0)]):
        make_run_folder(tmp_path, dqn, seed, final, [-500.0, -99.0, -500.0, -500.0], seconds)

    row = cells(page_of(tmp_path), "### Acrobot-v1", "dqn")

    assert row[1:3] == ["3", "-100.0 (-300.0 to -80.0)"]
    assert row[3].startswith("-160.0 [-300.0, ")  # (-80 - 100 - 300) / 3
    assert row[4:] == ["2 of 3", "50,000 (50,000 to 50,000)", "20 (9 to 30)", "pass"]


def test_page_names_the_rows_that_are_not_measured(tmp_path: Path) -> None:
    for seed in range(9):
        make_run_folder(tmp_path, CARTPOLE_DEFAULT, seed, 500.0, [1.0])

    page = page_of(tmp_path)
    missing = page[page.index("## What is missing") : page.index("## Machine")].splitlines()

    assert "- stability, CartPole-v1: 9 of 20 seeds: default" in missing
    assert f"- presets, CartPole-v1: none of 5 seeds: {', '.join(PRESETS)}" in missing
    assert "- acrobot, Acrobot-v1: none of 5 seeds: default" in missing
    assert "- ablation, CartPole-v1: 9 of 5" not in page
    assert "## Acrobot" not in page
    assert "### Acrobot-v1" not in page
    assert "## Ablation" not in page


def test_page_of_no_runs_at_all_says_so(tmp_path: Path) -> None:
    page = page_of(tmp_path)

    assert "Measured in 0 runs." in page
    assert "No row with a bar has runs yet." in page


def test_page_holds_the_command_of_every_row_that_is_measured(tmp_path: Path) -> None:
    row = SECTIONS["ablation"][1]
    make_run_folder(tmp_path, row, 100, 500.0, [1.0])
    make_run_folder(tmp_path, RANDOM, 100, 0.5, [])

    page = page_of(tmp_path)

    assert f"\npython {' '.join(row.train_command('SEED', 'RUN'))}\n" in page
    assert "\npython -m distdqn.evaluate RUN --final --episodes 100 --seed SEED\n" in page
    assert f"\npython benchmarks/results.py random {BREAKOUT.env} --episodes 100 --seed SEED\n" in page


def test_page_names_machine_and_versions_once(tmp_path: Path) -> None:
    for seed in (1, 2):
        make_run_folder(tmp_path, CARTPOLE_DEFAULT, seed, 500.0, [1.0], seconds=1800.0)

    page = page_of(tmp_path)

    assert page.count("- 2 cores, Abacus 3000, Linux; 1 run at a time\n") == 1
    assert page.count("- python 3.11.7\n") == 1
    assert "- 1.0 CPU hours of training in all\n" in page  # 2 x 1800 s


def test_report_draws_pictures_of_sensible_size(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    for rows in SECTIONS.values():
        for row in rows:
            if not (tmp_path / "runs" / row.folder).exists():
                for seed in (100, 101):
                    make_run_folder(tmp_path / "runs", row, seed, 400.0 + seed, [1.0, 9.0 * seed, 5.0])

    written = write_report(tmp_path / "runs", tmp_path / "docs")

    page, *pictures = written
    assert page == tmp_path / "docs" / "results.md"
    assert [path.name for path in pictures] == [
        "results.png",
        "results-CartPole-v1.png",
        "results-Acrobot-v1.png",
    ]
    for path in pictures:
        assert f"]({path.name})" in page.read_text()
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert 800 <= image.width <= 1600
            assert 500 <= image.height <= 1600
        assert path.stat().st_size < 400_000


def test_report_without_runs_draws_nothing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")

    assert write_report(tmp_path / "runs", tmp_path / "docs") == [tmp_path / "docs" / "results.md"]
    assert "](results.png)" not in (tmp_path / "docs" / "results.md").read_text()


def test_benchmark_loads_neither_ray_nor_tensorflow_nor_matplotlib_before_it_draws() -> None:
    program = "import sys, results; print({'ray', 'tensorflow', 'keras', 'matplotlib'} & set(sys.modules))"
    path = os.pathsep.join([str(BENCHMARKS), str(Path(distdqn.__file__).resolve().parents[1])])

    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (result.stdout, result.stderr) == ("set()\n", "")
