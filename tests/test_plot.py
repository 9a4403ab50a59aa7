"""`plot`: curves of runs and groups of runs, and policies; drawn from files that may be half written."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from distdqn import plot
from distdqn.networks.numpy_policy import policy_bytes
from distdqn.plot import main
from distdqn.reporting.plots import LearningCurve, group_runs, read_run
from distdqn.types import PolicyWeights

_DRAW_AT_END = LearningCurve.on_end  # the tests replace it
FLAT = {"train_return_mean": 5.0, "loss": 0.5, "actors_wait_fraction": 0.2, "learner_wait_fraction": 0.0}


def make_run(folder: Path, returns: list[float], goal: float | None = None, **options: object) -> Path:
    """A run's folder with an evaluation every 100 env steps and 10 seconds."""
    folder.mkdir(parents=True)
    lines = [
        {"env_steps": 100 * (i + 1), "learner_steps": 50 * i, "wall_seconds": 10.0 * (i + 1)}
        | FLAT
        | {"eval_return_mean": each, "eval_return_std": 1.0}
        for i, each in enumerate(returns)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.json").write_text(json.dumps({"env": "CartPole-v1", "run_dir": str(folder), **options}))
    (folder / "run.json").write_text(json.dumps({"resolved_options": {"target_return": goal}}))
    return folder


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Axes, tuple[object, ...]]]:
    """What `Axes.plot` draws, each with its panel; no file is written."""
    calls = []
    real = Axes.plot

    def plot(axes: Axes, *values: object, **settings: object) -> object:
        calls.append((axes, values))
        return real(axes, *values, **settings)

    monkeypatch.setattr(Axes, "plot", plot)
    monkeypatch.setattr(Figure, "savefig", lambda *_: None)
    return calls


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written beside lines; no file is written."""
    texts = []
    real = Axes.annotate

    def annotate(axes: Axes, text: str, *values: object, **settings: object) -> object:
        texts.append(text)
        return real(axes, text, *values, **settings)

    monkeypatch.setattr(Axes, "annotate", annotate)
    monkeypatch.setattr(Figure, "savefig", lambda *_: None)
    return texts


def test_picture_of_a_run_goes_into_its_folder(tmp_path, capsys) -> None:
    run = make_run(tmp_path / "a", [1.0, 2.0, 4.0])

    assert main([str(run)]) == 0

    assert capsys.readouterr().out == f"{run / 'plot.png'}\n"
    with Image.open(run / "plot.png") as picture:
        assert min(picture.size) > 900


def test_picture_of_several_runs_goes_into_this_folder_or_where_told(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        make_run(tmp_path / "runs" / f"s{seed}", [1.0, 2.0], seed=seed)

    assert main(["runs"]) == 0
    assert main(["runs/s0", "--output", "a.svg", "--output", "b.png"]) == 0

    assert capsys.readouterr().out.split() == ["plot.png", "a.svg", "b.png"]
    assert "<svg" in Path("a.svg").read_text("utf-8")
    assert Path("b.png").read_bytes().startswith(b"\x89PNG")


def test_runs_that_differ_in_the_seed_alone_are_one_group(tmp_path) -> None:
    rates = (0.1, 0.1, 0.2)
    runs = [
        read_run(make_run(tmp_path / str(seed), [1.0], seed=seed, learning_rate=rate))
        for seed, rate in enumerate(rates)
    ]

    groups = group_runs(runs)

    assert groups == {"learning_rate 0.1": runs[:2], "learning_rate 0.2": runs[2:]}
    assert group_runs(runs[:2]) == {"evaluation": runs[:2]}


def test_groups_with_many_differences_are_named_by_their_folders(tmp_path) -> None:
    first = read_run(make_run(tmp_path / "x" / "r", [1.0], a=1, b=1, c=1, d=1))
    second = read_run(make_run(tmp_path / "y" / "r", [1.0], a=2, b=2, c=2, d=2))

    assert group_runs([first, second]) == {str(run.folder): [run] for run in (first, second)}


def test_group_is_drawn_as_its_interquartile_mean(tmp_path, drawn) -> None:
    returns = [0.0, 1.0, 2.0, 3.0, 100.0, -50.0, 2.0, 2.0]  # without two at each end: 1, 2, 2, 2
    for seed, each in enumerate(returns):
        make_run(tmp_path / str(seed), [each, each], seed=seed)

    assert main([str(tmp_path), "--output", str(tmp_path / "a.png")]) == 0

    axes, (x, y) = drawn[0]
    assert axes.get_ylabel() == "return"
    assert (x[0], x[-1]) == (100, 200)
    assert y == pytest.approx(np.full(len(x), (1.0 + 2.0 + 2.0 + 2.0) / 4))


def test_run_that_ended_earlier_keeps_its_last_value(tmp_path, drawn) -> None:
    make_run(tmp_path / "short", [10.0, 10.0], seed=0)
    make_run(tmp_path / "long", [0.0, 0.0, 0.0, 20.0], seed=1)

    main([str(tmp_path), "--output", str(tmp_path / "a.png")])

    _, (x, y) = drawn[0]
    assert (x[-1], y[-1]) == (400, (10.0 + 20.0) / 2)


def test_goal_and_both_returns_are_labelled(tmp_path, labels) -> None:
    main([str(make_run(tmp_path / "a", [1.0, 5.0], goal=4.5))])

    assert sorted(labels) == ["evaluation", "goal 4.5", "training,\nlast 100 episodes"]


def test_time_axis_has_a_unit_that_fits(tmp_path, drawn) -> None:
    main([str(make_run(tmp_path / "a", [1.0] * 20)), "--x", "time"])

    axes, (x, _) = drawn[0]
    assert axes.get_xlabel() == "minutes"
    assert (x[0], x[-1]) == pytest.approx((10 / 60, 200 / 60))


def test_rates_are_those_between_lines(tmp_path, drawn) -> None:
    main([str(make_run(tmp_path / "a", [1.0] * 4))])

    rates = {axes.get_title(loc="left"): values[1] for axes, values in drawn}
    assert rates["env steps per second"] == pytest.approx([100 / 10] * 3)
    assert rates["learner steps per second"] == pytest.approx([50 / 10] * 3)


def test_half_written_line_of_a_running_run_is_left_out(tmp_path) -> None:
    run = make_run(tmp_path / "a", [1.0, 2.0])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('5\n{"of another release": 1}\n{"env_steps": 300, "wall_sec')
    (run / "run.json").unlink()
    (run / "config.json").write_text("[1]")

    assert [line["env_steps"] for line in read_run(run).lines] == [100, 200]
    assert main([str(run)]) == 0


def test_long_run_is_read_in_part_with_every_evaluation(tmp_path) -> None:
    returns = [None] * 10_000
    returns[777] = 3.0

    lines = read_run(make_run(tmp_path / "a", returns)).lines

    assert 1000 < len(lines) < 3000
    assert [line["env_steps"] for line in lines if line["eval_return_mean"] == 3.0] == [77_800]


@pytest.mark.parametrize("returns", [[None], [None, None], [3.0]])
def test_run_with_hardly_any_line_is_drawn(tmp_path, returns) -> None:
    assert main([str(make_run(tmp_path / "a", returns))]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "`runs` is missing"),
        (["nowhere"], "holds no metrics"),
        (["a", "b"], "b holds no metrics"),
        (["a", "--output", "c.xyz"], "`output` cannot be written"),
        (["a", "--output", "no/folder/c.png"], "`output` cannot be written"),
        (["a", "--x", "days"], "`x` must be"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path, capsys, monkeypatch, arguments, words) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a", [1.0])
    (tmp_path / "b").mkdir()

    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def end_of_run(run: Path, **summary: object) -> bool:
    """Whether the end of a run leaves a learning curve."""
    curve = LearningCurve()
    curve.on_start(SimpleNamespace(run_dir=run))
    _DRAW_AT_END(curve, {"reason": "max_env_steps", "learner_steps": 5, **summary})
    return (run / "learning_curve.png").exists()


def test_learning_curve_is_drawn_beside_the_metrics(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [1.0, 2.0])

    assert end_of_run(run)

    with Image.open(run / "learning_curve.png") as picture:
        assert picture.width > 2 * picture.height


@pytest.mark.parametrize("summary", [{"reason": "terminated"}, {"reason": "failed"}, {"learner_steps": 0}])
def test_run_that_is_cut_short_draws_nothing(summary: dict[str, object], tmp_path: Path) -> None:
    assert not end_of_run(make_run(tmp_path / "a", [1.0, 2.0]), **summary)


@pytest.fixture
def cart_pole(tmp_path: Path) -> Path:
    """A run on CartPole whose Q-values depend on the dimensions 1 and 3 of observations alone."""
    run = make_run(tmp_path / "run", [1.0])
    layers = [
        {"name": "x", "kind": "input", "inputs": [], "arrays": []},
        {"name": "q", "kind": "dense", "inputs": ["x"], "arrays": [0, 1], "activation": "linear"},
    ]
    kernel = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 3.0]], np.float32)
    weights = PolicyWeights(layers, [kernel, np.zeros(2, np.float32)], (0, 1), 1)
    (run / "policy.npz").write_bytes(policy_bytes(weights))
    return run


def test_policy_is_drawn_over_the_dimensions_that_matter(cart_pole, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(plot, "draw_policy", lambda *values: calls.append(values))

    assert main([str(cart_pole), "--policy"]) == 0

    ((files, (x, y), q_values, visited, dimensions),) = calls
    assert files == [cart_pole / "policy.png"]
    assert dimensions == (1, 3)
    assert q_values[2, 5] == pytest.approx([y[2], x[5] + 3 * y[2]], abs=1e-5)
    assert x[0] < visited[:, 0].min() < visited[:, 0].max() < x[-1]
    assert y[0] < visited[:, 1].min() < visited[:, 1].max() < y[-1]


def test_policy_is_drawn_over_the_dimensions_asked_for(cart_pole) -> None:
    file = cart_pole / "policy.png"
    assert main([str(cart_pole), "--policy", "--dimensions", "2,3"]) == 0

    with Image.open(file) as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


@pytest.mark.parametrize("dimensions", ["2", "1,1", "0,4", "0,1,2"])
def test_dimensions_that_are_not_two_of_the_observations_are_refused(cart_pole, capsys, dimensions) -> None:
    assert main([str(cart_pole), "--policy", "--dimensions", dimensions]) == 2
    assert "`dimensions` must be two different numbers from 0 to 3" in capsys.readouterr().err


def test_drawing_loads_no_library_that_it_does_not_need(tmp_path) -> None:
    run = make_run(tmp_path / "a", [1.0, 2.0])
    unneeded = ("tensorflow", "ray", "gymnasium", "matplotlib.pyplot", "scipy")
    code = "import sys; from distdqn.plot import main; main(sys.argv[1:]); "
    code += f"print([name for name in {unneeded} if name in sys.modules])"

    result = subprocess.run(
        [sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True, timeout=60
    )

    assert result.stdout.splitlines() == [str(run / "plot.png"), "[]"]
