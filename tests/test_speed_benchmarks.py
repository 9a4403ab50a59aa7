"""The programs that measure the start of a run and how it grows, on figures that are made up."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import option_costs
import scaling
import start


def test_table_of_the_start_has_the_median_and_range_of_each_stage_in_order() -> None:
    runs = [{"learning": 9.0, "Ray": 4.0}, {"learning": 7.0, "Ray": 5.0}, {"learning": 8.0, "Ray": 6.0}]

    lines = start.table({"first run": runs, "later run": [*runs, {**runs[0], "only here": 1.0}]}).splitlines()

    assert lines[0] == "| reached after | first run | later run |"
    assert lines[2:] == [
        "| Ray | 5.0 s (4.0 to 6.0) | 4.5 s (4.0 to 6.0) |",
        "| learning | 8.0 s (7.0 to 9.0) | 8.5 s (7.0 to 9.0) |",
    ]


def test_rate_is_that_of_the_last_seconds_with_new_env_steps() -> None:
    lines = [{"wall_seconds": float(t), "env_steps": 10 * min(t, 6) ** 2} for t in range(10)]

    assert scaling.rate(lines, seconds=3.0) == pytest.approx((360 - 90) / 3.0)


def test_environment_that_waits_ends_its_episodes_by_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "STEP_SECONDS", 0.0)
    environment = scaling.Waiting()
    environment.reset(seed=0)

    outcomes = [environment.step(0) for _ in range(100)]

    assert [each[1:4] for each in outcomes] == [(1.0, False, False)] * 100
    assert all(
        environment.observation_space.contains(each[0]) for each in outcomes[20:40:5] if each[0][0] < 4
    )


def test_costs_of_options_are_measured_beside_those_of_the_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ["the defaults", "`--dueling`"]
    option_costs.main(["--rounds", "2", "--only", *names])
    first, _, *rows = capsys.readouterr().out.splitlines()
    assert first == "| options | an update | Q-values of 16 | a batch | weights |"
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in names]
    assert rows[0].count("(1.00)") == 3
    weights = [float(row.split(" | ")[-1].split()[0].replace(",", "")) for row in rows]
    assert weights[1] > weights[0] > 0.0
