"""The program that makes the runs of the results page, with fake commands, and what it keeps of that page."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from benchmark_runs import make_run_folder
from experiments import ABLATION, ACROBOT_DEFAULT, CARTPOLE_DEFAULT, PRESETS, RANDOM, SECTIONS
from measured import read_runs
from report import BY_HAND, write_report
from results import Pace, _python, main, make_runs, plan, play_at_random

EVALUATION = {"mean": 321.5, "standard_deviation": 1.0, "episodes": 100, "seed": 0}


class Commands:
    """Stands in for `results._python`: notes each command and leaves what it would leave."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fails_on = ""
        self.fails_with: BaseException = subprocess.CalledProcessError(7, ["python"], "", "it went wrong")

    def __call__(self, arguments: Sequence[str], _cwd: Path) -> tuple[str, float]:
        call = " ".join(arguments)
        self.calls.append(call)
        if self.fails_on and self.fails_on in call:
            raise self.fails_with
        if arguments[1] == "distdqn.evaluate":
            return json.dumps(EVALUATION), 0.5
        run_dir = Path(arguments[-1])
        row = {row.folder: row for rows in SECTIONS.values() for row in rows}[run_dir.parent.name]
        make_run_folder(run_dir.parents[1], row, int(run_dir.name), -1.0, [1.0])
        (run_dir / "final_evaluation.json").unlink()
        return "", 12.5


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Pretended commands."""
    pretended = Commands()
    monkeypatch.setattr("results._python", pretended)
    return pretended


def test_plan_holds_a_row_of_two_sections_once_with_the_seeds_of_both() -> None:
    tasks = plan(["stability", "ablation"], None)

    assert len(tasks) == len(set(tasks)) == 20 + 5 * len(ABLATION)
    assert [seed for row, seed in tasks if row == CARTPOLE_DEFAULT] == list(range(100, 120))


def test_plan_makes_the_first_seed_of_every_row_first() -> None:
    tasks = plan(["presets"], range(7, 9))

    assert [seed for _, seed in tasks] == [7] * 2 * (1 + len(PRESETS)) + [8] * 2 * (1 + len(PRESETS))


def test_run_is_trained_and_its_final_weights_are_evaluated(tmp_path: Path, commands: Commands) -> None:
    make_runs(tmp_path, [(CARTPOLE_DEFAULT, 105)], jobs=1)

    run_dir = str(tmp_path / "CartPole-v1-default" / "105")
    train, evaluate = commands.calls
    assert train == " ".join(CARTPOLE_DEFAULT.train_command(105, run_dir))
    assert train.endswith(f"--seed 105 --run-dir {run_dir}")
    assert evaluate == f"-m distdqn.evaluate {run_dir} --final --episodes 100 --seed 105"
    (run,), left_out = read_runs(tmp_path, CARTPOLE_DEFAULT)
    assert (run.seed, run.final, run.seconds, run.machine["jobs"], left_out) == (105, 321.5, 12.5, 1, {})


def test_runs_that_are_complete_are_skipped(
    tmp_path: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run_folder(tmp_path, CARTPOLE_DEFAULT, 100, 500.0, [1.0])

    make_runs(tmp_path, [(CARTPOLE_DEFAULT, 100), (CARTPOLE_DEFAULT, 101)], jobs=1)

    assert len(commands.calls) == 2
    assert all("--seed 101" in call for call in commands.calls)
    assert capsys.readouterr().out.startswith(
        "1 of 2 runs are complete.\n2 of 2  CartPole-v1-default  seed 101"
    )
    make_runs(tmp_path, [(CARTPOLE_DEFAULT, 100), (CARTPOLE_DEFAULT, 101)], jobs=1)
    assert len(commands.calls) == 2


def test_run_that_is_trained_but_not_evaluated_is_only_evaluated(tmp_path: Path, commands: Commands) -> None:
    run_dir = make_run_folder(tmp_path, CARTPOLE_DEFAULT, 100, 500.0, [1.0])
    (run_dir / "final_evaluation.json").unlink()

    make_runs(tmp_path, [(CARTPOLE_DEFAULT, 100)], jobs=1)

    assert [call.split()[1] for call in commands.calls] == ["distdqn.evaluate"]


def test_run_that_was_interrupted_is_made_anew(tmp_path: Path, commands: Commands) -> None:
    run_dir = make_run_folder(tmp_path, CARTPOLE_DEFAULT, 100, 500.0, [1.0])
    (run_dir / "summary.json").write_text(json.dumps({"reason": "interrupted", "env_steps": 9}))
    (run_dir / "of the first try").touch()

    make_runs(tmp_path, [(CARTPOLE_DEFAULT, 100)], jobs=1)

    assert [call.split()[1] for call in commands.calls] == ["distdqn.run", "distdqn.evaluate"]
    assert not (run_dir / "of the first try").exists()


def test_runs_are_refused_when_a_trained_one_had_other_options(tmp_path: Path, commands: Commands) -> None:
    run_dir = make_run_folder(tmp_path, CARTPOLE_DEFAULT, 100, 500.0, [1.0])
    config = json.loads((run_dir / "config.json").read_text())
    (run_dir / "config.json").write_text(json.dumps(config | {"discount": 0.123}))

    with pytest.raises(SystemExit, match=r"CartPole-v1-default/100 \(discount\)"):
        make_runs(tmp_path, [(CARTPOLE_DEFAULT, 100), (CARTPOLE_DEFAULT, 101)], jobs=1)

    assert commands.calls == []
    assert run_dir.exists()


def test_other_runs_go_on_when_one_fails_and_the_end_says_why(tmp_path: Path, commands: Commands) -> None:
    commands.fails_on = "--seed 100 --run-dir"

    with pytest.raises(SystemExit, match=r"^CartPole-v1-default seed 100: .* ended with 7:\nit went wrong"):
        make_runs(tmp_path, [(CARTPOLE_DEFAULT, 100), (CARTPOLE_DEFAULT, 101)], jobs=1)

    runs, _ = read_runs(tmp_path, CARTPOLE_DEFAULT)
    assert [run.seed for run in runs] == [101]


def test_interrupt_ends_the_program_with_what_to_do_next(tmp_path: Path, commands: Commands) -> None:
    commands.fails_on, commands.fails_with = "--seed 101 --run-dir", KeyboardInterrupt()

    with pytest.raises(SystemExit, match="The same command continues from here"):
        make_runs(tmp_path, [(CARTPOLE_DEFAULT, 100), (CARTPOLE_DEFAULT, 101)], jobs=1)

    assert [run.seed for run in read_runs(tmp_path, CARTPOLE_DEFAULT)[0]] == [100]


def test_all_runs_are_made_when_several_go_at_a_time(tmp_path: Path, commands: Commands) -> None:
    make_runs(tmp_path, plan(["presets"], range(100, 102)), jobs=3)

    for row in SECTIONS["presets"]:
        runs, left_out = read_runs(tmp_path, row)
        assert [(run.seed, run.machine["jobs"]) for run in runs] == [(100, 3), (101, 3)]
        assert left_out == {}
    assert len(commands.calls) == 2 * 2 * len(SECTIONS["presets"])


def test_random_agent_needs_no_training(
    tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("results.play_at_random", lambda *_: EVALUATION)
    monkeypatch.setattr("results.machine", lambda _env: {"cores": 2})

    make_runs(tmp_path, [(RANDOM, 102)], jobs=1)

    assert commands.calls == []
    (run,), _ = read_runs(tmp_path, RANDOM)
    assert (run.seed, run.final, len(run.eval_returns)) == (102, 321.5, 0)


def test_agent_that_acts_at_random_falls_early_and_acts_the_same_for_the_same_seed() -> None:
    first, again, other = (play_at_random("CartPole-v1", 100, seed) for seed in (3, 3, 4))

    assert first == again
    assert first["mean"] != other["mean"]
    assert first["episodes"] == 100
    # Gymnasium's random agent lasts 22 steps on average; 5 standard errors of 12 / 10 are 6.
    assert 16 < first["mean"] < 28
    assert 8 <= first["minimum"] < first["mean"] < first["maximum"] <= 200


def test_time_left_goes_by_runs_of_the_same_row_then_environment_then_any() -> None:
    other, acrobot = SECTIONS["ablation"][1], ACROBOT_DEFAULT
    pace = Pace()
    assert pace.left([(acrobot, 1)], jobs=1) == "time left unknown"
    pace.add(CARTPOLE_DEFAULT, 600.0)
    pace.add(CARTPOLE_DEFAULT, 1200.0)

    # 15 minutes for each 50,000 env steps, so 30 for Acrobot's 100,000.
    assert pace.left([(CARTPOLE_DEFAULT, 1), (other, 1)], jobs=1) == "0 h 30 min left"
    assert pace.left([(other, 1), (acrobot, 1), (acrobot, 2)], jobs=1) == "1 h 15 min left"
    pace.add(other, 60.0)
    pace.add(acrobot, 7200.0)
    assert pace.left([(CARTPOLE_DEFAULT, 1), (other, 1)], jobs=1) == "0 h 16 min left"
    assert pace.left([(acrobot, 1), (acrobot, 2)], jobs=2) == "2 h 00 min left"


def test_command_line_makes_the_runs_it_names(tmp_path: Path, commands: Commands) -> None:
    main(["run", "--output", str(tmp_path), "--only", "stability,acrobot", "--seeds", "7-8"])

    seeds = [call.split()[call.split().index("--seed") + 1] for call in commands.calls]
    assert seeds == ["7", "7", "7", "7", "8", "8", "8", "8"]  # train, evaluate; CartPole, Acrobot


def test_command_line_refuses_a_section_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--output", "x", "--only", "stability,stabilty"])

    assert "no such section: stabilty" in capsys.readouterr().err


def test_cpu_seconds_of_a_command_leave_waiting_out(tmp_path: Path) -> None:
    printed, cpu_seconds = _python(["-c", "import time; time.sleep(0.5); print(1)"], tmp_path)

    assert printed == "1\n"
    assert 0 < cpu_seconds < 0.45


def test_a_command_that_fails_is_told_with_what_it_wrote(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _python(["-c", "import sys; print(1); sys.exit('it went wrong')"], tmp_path)

    assert (caught.value.returncode, caught.value.stdout) == (1, "1\n")
    assert caught.value.stderr == "it went wrong\n"


def test_report_keeps_the_part_of_the_page_that_is_written_by_hand(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    page.write_text(f"Old numbers.\n\n{BY_HAND}\n\n## How the defaults were chosen\n")

    write_report(tmp_path / "runs", page.parent)
    text = page.read_text()
    write_report(tmp_path / "runs", page.parent)

    assert "Old numbers." not in text
    assert text.endswith(f"\n\n{BY_HAND}\n\n## How the defaults were chosen\n")
    assert page.read_text() == text
