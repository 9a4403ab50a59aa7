"""The comparison with other libraries: stored figures, tables and commands, with small scripts as peers."""

import dataclasses
import json
import sys

import pytest
from benchmark_runs import BENCHMARKS

sys.path.append(str(BENCHMARKS / "peers"))

import compare
from compare import main, parse, seed_range
from sides import TASKS, RunFailed, Settings, rates, run
from tables import interval, table
from venvs import NotInstalled, python_of, variables


def stored_results(name, runs, **others):
    machine = {"processor": "Abacus 3000", "cores": 2, "system": "Linux", "python": "3.11.7"}
    return {
        "task": name,
        "settings": {"seconds": TASKS[name].seconds, "threads": None},
        "command": f"python benchmarks/peers/compare.py {name}",
        "date": "2030-01-02",
        "machine": machine,
        "versions": {"distdqn": {"distdqn": "0.1.0"}},
        "runs": runs,
        **others,
    }


def cartpole_run(side, seed, seconds, solved=True):
    figures = {"solved": solved, "train_seconds": seconds, "command_seconds": seconds + 10.0}
    return {"side": side, "seed": seed, "figures": {**figures, "env_steps": 20_000, "learner_steps": 9000}}


def row(text, title):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.strip("|").split("|")[1:]]


def test_table_shows_medians_ranges_and_the_ratio_within_pairs():
    times = {"distdqn": [10.0, 20.0, 10.0], "sb3": [20.0, 40.0, 20.0]}
    runs = [cartpole_run(side, i, each) for side, values in times.items() for i, each in enumerate(values)]

    text = table("cartpole", stored_results("cartpole", runs))

    assert row(text, "solved") == ["3 of 3", "3 of 3", ""]
    assert row(text, "first update until solved, seconds") == [
        "10.0 (10.0 to 20.0)",
        "20.0 (20.0 to 40.0)",
        "2.00 [2.00, 2.00], 3 pairs",
    ]


def test_table_leaves_out_the_times_of_runs_that_missed_the_goal():
    runs = [cartpole_run("distdqn", 0, 10.0), cartpole_run("distdqn", 1, 30.0)]
    runs += [cartpole_run("sb3", 0, 20.0), cartpole_run("sb3", 1, 99.0, solved=False)]

    text = table("cartpole", stored_results("cartpole", runs))

    assert row(text, "solved") == ["2 of 2", "1 of 2", ""]
    assert row(text, "first update until solved, seconds")[1:] == ["20.0 (20.0 to 20.0)", "2.00, 1 pair"]


def test_ratio_is_above_one_when_more_is_better_and_distdqn_has_more():
    figures = {"uniform_512": 3e6}
    runs = [
        {"side": "distdqn", "seed": 0, "figures": figures},
        {"side": "cpprb", "seed": 0, "figures": {"uniform_512": 2e6}},
    ]

    cells = row(table("replay", stored_results("replay", runs)), "uniform, 512 a call, million/s")

    assert cells == ["3.00 (3.00 to 3.00)", "2.00 (2.00 to 2.00)", "1.50, 1 pair"]


def test_cells_stay_empty_and_a_line_says_why_when_a_peer_is_missing():
    stored = stored_results("cartpole", [cartpole_run("distdqn", 0, 10.0)], missing="no such package")

    text = table("cartpole", stored)

    assert row(text, "command, seconds") == ["20.0 (20.0 to 20.0)", "", ""]
    assert "Stable-Baselines3 could not be installed: no such package" in text.splitlines()


def test_interval_of_ratios_is_that_of_their_logarithms():
    # ln 2 and ln 8: mean ln 4, standard error ln 2; Student's t for one degree of freedom is 12.706.
    mean, low, high = interval([2.0, 8.0])

    assert mean == pytest.approx(4.0)
    assert (low, high) == pytest.approx((4 / 2**12.7062, 4 * 2**12.7062), rel=1e-4)


def test_rates_begin_some_seconds_after_the_first_update():
    lines = [
        {"wall_seconds": float(second), "env_steps": 100 * second, "learner_steps": max(0, second - 5) ** 2}
        for second in range(30)
    ]

    # The first update is in the line of second 6; measured are seconds 16 to 21, and one for the last line.
    found = rates(lines, settle=10.0, seconds=5.0)

    assert (found["ready_seconds"], found["measured_seconds"]) == (6.0, 6.0)
    assert found["env_steps_per_second"] == 100.0
    assert found["learner_steps_per_second"] == (17**2 - 11**2) / 6.0


def test_rates_are_refused_when_the_run_ended_before():
    lines = [{"wall_seconds": 1.0, "env_steps": 5, "learner_steps": 5}]

    with pytest.raises(RunFailed, match="before the measurement"):
        rates(lines, 10.0, 5.0)


@pytest.mark.parametrize(("text", "seeds"), [("100-102", [100, 101, 102]), ("7", [7])])
def test_seeds_are_given_as_first_and_last(text, seeds):
    assert list(seed_range(text)) == seeds
    assert list(parse(["pong", "--repetitions", "2"]).seeds) == [100, 101]


def test_command_that_fails_is_reported_with_its_last_line(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text("raise ValueError('too many ducks')")

    with pytest.raises(RunFailed, match=r"exit code 1: ValueError: too many ducks"):
        run([sys.executable, script], variables())


def test_command_that_never_ends_is_ended(tmp_path):
    script = tmp_path / "sleeps.py"
    script.write_text("import time; time.sleep(60)")

    with pytest.raises(RunFailed, match="no end after 1 s"):
        run([sys.executable, script], variables(), limit=1.0)


def test_environment_that_is_complete_is_not_made_again(tmp_path):
    folder = tmp_path / "cpprb"
    folder.mkdir()
    requirements = (BENCHMARKS / "peers" / "requirements-cpprb.txt").read_text()
    (folder / "installed-from.txt").write_text(requirements)

    assert python_of("cpprb", tmp_path) == folder / "bin" / "python"


def test_peers_get_their_own_number_of_threads_and_no_path_of_this_project(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "somewhere")

    assert "PYTHONPATH" not in variables()
    assert variables(threads=3)["OMP_NUM_THREADS"] == "3"


@pytest.fixture
def tiny_task(tmp_path, monkeypatch):
    """The task `replay` with a tiny script as its peer, which counts its runs in a file."""
    script, count = tmp_path / "tiny.py", tmp_path / "count"
    script.write_text(
        "import json, pathlib, sys\n"
        f"path = pathlib.Path({str(count)!r})\n"
        "path.write_text((path.read_text() if path.exists() else '') + sys.argv[2] + ' ')\n"
        "print('a line of a library')\n"
        "print(json.dumps({'uniform_512': 2e6, 'versions': {'tiny': '1.0'}}))\n"
    )
    task = dataclasses.replace(
        TASKS["replay"], script=str(script), measure=lambda seed, _settings: {"uniform_512": 1e4 * seed}
    )
    monkeypatch.setitem(TASKS, "replay", task)
    monkeypatch.setattr(compare, "python_of", lambda *_: sys.executable)
    return count


def test_pairs_take_turns_and_are_not_made_again(tmp_path, tiny_task, capsys):
    out = tmp_path / "results" / "replay.json"
    for seeds in ("100-101", "100-102"):
        main(["replay", "--seeds", seeds, "--out", str(out)])

    stored = json.loads(out.read_text())
    assert [(each["side"], each["seed"]) for each in stored["runs"]] == [
        (side, seed) for seed in (100, 101, 102) for side in ("distdqn", "cpprb")
    ]
    assert tiny_task.read_text().split() == ["100", "101", "102"]
    assert stored["versions"]["cpprb"] == {"tiny": "1.0"}
    assert stored["command"] == "python benchmarks/peers/compare.py replay --seeds 100-102"
    assert row(capsys.readouterr().out.rpartition("###")[2], "uniform, 512 a call, million/s")[0] == (
        "1.01 (1.00 to 1.02)"
    )


@pytest.mark.usefixtures("tiny_task")
def test_results_with_other_settings_are_refused(tmp_path):
    out = tmp_path / "replay.json"
    main(["replay", "--seeds", "100", "--out", str(out)])

    with pytest.raises(SystemExit, match="another settings"):
        main(["replay", "--seeds", "100", "--seconds", "9", "--out", str(out)])


@pytest.mark.usefixtures("tiny_task")
def test_own_side_is_measured_when_the_peer_cannot_be_installed(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise NotInstalled("no matching distribution")

    monkeypatch.setattr(compare, "python_of", fail)
    out = tmp_path / "replay.json"
    main(["replay", "--seeds", "100", "--out", str(out)])

    stored = json.loads(out.read_text())
    assert (stored["missing"], [each["side"] for each in stored["runs"]]) == (
        "no matching distribution",
        ["distdqn"],
    )
    assert "cpprb could not be installed: no matching distribution" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cartpole", "pong", "rllib", "replay"])
def test_every_peer_has_its_script_and_bounded_requirements(name):
    task = TASKS[name]
    requirements = (BENCHMARKS / "peers" / f"requirements-{task.peer}.txt").read_text().split()

    assert (BENCHMARKS / "peers" / task.script).exists()
    assert requirements
    assert all(">=" in each and "<" in each for each in requirements)
    assert Settings(task.seconds).threads is None
