"""`distdqn bench`: its model of a run, its words, and one real measurement."""

import json
from pathlib import Path

import pytest

from distdqn import bench
from distdqn.cli import main
from distdqn.config.config import Config
from distdqn.errors import INTERRUPTED, ConfigError

# An env step needs 1/4 learner step, and 1/1000 + 8/4000 s of replay.
GIVEN = {"samples_per_insert": 8.0, "batch_size": 32, "replay_shards": 1}
ROLES = {
    "actor_env_steps": 50.0,
    "actor_cpu_seconds": 0.002,
    "env_fraction": 0.75,
    "network_fraction": 0.2,
    "inserted": 1000.0,
    "sampled": 4000.0,
    "learner_steps": 70.0,
    "learner_cpu_seconds": 0.02,
    "evaluation_seconds": 1.5,
    "evaluation_limit": 3.0,
}
RUN = {
    "run_actors": 4,
    "run_env_steps": 160.0,
    "run_learner_steps": 40.0,
    "actors_wait_fraction": 0.0,
    "learner_wait_fraction": 0.4,
}
FIGURES = GIVEN | {"cores": 4} | ROLES | RUN


@pytest.fixture
def measured(monkeypatch):
    """Gives figures of roles and of a run in place of measurements."""

    def measure(**changes):
        changed = FIGURES | changes
        monkeypatch.setattr(bench, "available_cpus", lambda: changed["cores"])
        monkeypatch.setattr(
            bench, "_measure_roles", lambda *_: {name: changed[name] for name in ROLES | GIVEN}
        )
        monkeypatch.setattr(bench, "_measure_run", lambda *_: {name: changed[name] for name in RUN})

    return measure


def simulated(figures, actors):
    """Env steps/s of a second in small pieces, in which roles take turns at the cores, and at an env step."""
    updates = figures["samples_per_insert"] / figures["batch_size"]
    replay = 1 / figures["inserted"] + figures["samples_per_insert"] / figures["sampled"]
    work = [  # of an env step: seconds in its role, seconds of the cores
        (1 / figures["actor_env_steps"] / actors, figures["actor_cpu_seconds"]),
        (updates / figures["learner_steps"], updates * figures["learner_cpu_seconds"]),
        (replay / figures["replay_shards"], replay),
    ]
    steps = 0
    while True:
        steps += 1
        is_late = any(steps * seconds > 1.0 for seconds, _ in work)
        if is_late or steps * sum(cpu for _, cpu in work) > figures["cores"]:
            return steps - 1


def test_limits_of_roles_and_cores_are_those_computed_by_hand():
    assert bench.limits(FIGURES, 4) == {
        "actors": 4 * 50.0,
        "learner": pytest.approx(70.0 / (8.0 / 32)),
        "replay": pytest.approx(1.0 / (0.001 + 8.0 / 4000.0)),
        "cores": pytest.approx(4 / (0.002 + 0.25 * 0.02 + 0.003)),
    }


@pytest.mark.parametrize("actors", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("changes", [{}, {"cores": 1}, {"sampled": 900.0}, {"learner_steps": 15.0}])
def test_least_limit_agrees_with_a_count_of_env_steps_one_by_one(actors, changes):
    figures = FIGURES | changes
    assert simulated(figures, actors) == pytest.approx(min(bench.limits(figures, actors).values()), abs=1.0)


def test_prediction_keeps_what_the_measured_run_reached_of_its_limit():
    predicted = bench.predictions(FIGURES)  # 160 env steps/s of 200
    assert predicted == {
        1: (pytest.approx(0.8 * 50.0), "actors"),
        2: (pytest.approx(0.8 * 100.0), "actors"),
        4: (pytest.approx(160.0), "actors"),
        8: (pytest.approx(0.8 * 280.0), "learner"),
        16: (pytest.approx(0.8 * 280.0), "learner"),
    }


def test_predictions_go_on_to_two_actors_for_each_core():
    assert list(bench.predictions(FIGURES | {"cores": 20}))[-2:] == [16, 32]


@pytest.mark.parametrize(
    ("changes", "limit", "actors"),
    [
        ({}, "actors", 8),
        ({"learner_steps": 12.0}, "learner", 1),  # 12 / 0.25 = 48 env steps/s
        ({"inserted": 10.0}, "replay", 1),
        ({"cores": 1}, "cores", 2),  # 1 / 0.01 = 100 env steps/s
    ],
)
def test_limit_is_told_and_the_fewest_sufficient_actors_advised(measured, capsys, changes, limit, actors):
    measured(**changes)
    assert main(["bench"]) == 0
    text = capsys.readouterr().out
    assert f"The least limits this run: {limit}." in text
    assert text.endswith(f"distdqn run --env CartPole-v1 --actors {actors}\n")


def test_figures_are_told_in_words_and_a_table(measured, capsys):
    measured()
    assert main(["bench", "CartPole-v1", "--n-step", "1"]) == 0
    text = capsys.readouterr().out
    assert "50 env steps/s, 75% of its time in the environment, 20% in the network" in text
    assert "A run with 4 actors: 160 env steps/s, 40 learner steps/s." in text
    assert "The actors wait 0% of the time, the learner 40%." in text
    assert "\n       8          224  learner\n" in text


def test_json_holds_figures_predictions_and_the_advice(measured, capsys):
    measured()
    assert main(["bench", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.items() >= FIGURES.items()
    assert found["predictions"]["8"] == [pytest.approx(224.0), "learner"]
    assert found["try"] == "distdqn run --env CartPole-v1 --actors 8"


def test_first_of_several_calls_is_not_counted():
    left = iter([0.2, 0.01, 0.01])
    (seconds, cpu_seconds), results = bench._timed(lambda: bench.time.sleep(next(left)), 0.215)
    assert len(results) == 3
    assert 0.01 <= seconds < 0.1
    assert cpu_seconds < seconds


def fake_train(seconds, reason="max_seconds"):
    """Writes metrics of a run that learns after 5 s, with rollouts of 30 env steps that take 3 s."""

    def train(config, quiet):  # noqa: ARG001
        folder = Path(config.run_dir)
        folder.mkdir()
        waits = {"actors_wait_fraction": 0.25, "learner_wait_fraction": 0.5}
        lines = [
            {"wall_seconds": t, "env_steps": 30 * (t // 3), "learner_steps": 4 * max(0, t - 5)}
            | {"actors_alive": 2, **waits}
            for t in range(seconds)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {"reason": reason}

    return train


def test_rates_of_a_run_are_those_since_it_learns(monkeypatch):
    monkeypatch.setattr(bench, "train", fake_train(30))
    assert bench._measure_run(Config(), 30.0) == {
        "run_actors": 2,
        "run_env_steps": pytest.approx(30 / 3, rel=0.02),
        "run_learner_steps": pytest.approx(4.0),
        "actors_wait_fraction": 0.25,
        "learner_wait_fraction": 0.5,
    }


def test_run_that_hardly_learns_asks_for_more_seconds(monkeypatch):
    monkeypatch.setattr(bench, "train", fake_train(9))
    with pytest.raises(ConfigError, match="hardly learned in 9 s"):
        bench._measure_run(Config(), 9.0)


def test_interrupted_run_ends_the_command_without_figures(monkeypatch, capsys):
    monkeypatch.setattr(bench, "_measure_roles", lambda *_: ROLES)
    monkeypatch.setattr(bench, "train", fake_train(30, "interrupted"))
    assert main(["bench"]) == INTERRUPTED
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("arguments", [["CartPole-v9"], ["--seconds", "1"], ["--actors", "0"], ["--faster"]])
def test_bad_input_of_bench_is_refused_in_one_line(capsys, arguments):
    assert main(["bench", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("distdqn: error: ")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_command_measures_every_figure_on_a_real_run(capsys):
    assert main(["bench", "CartPole-v1", "--seconds", "45", "--actors", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() >= FIGURES.keys()
    assert all(found[name] > 0.0 for name in FIGURES if not name.endswith("wait_fraction"))
    assert 0.0 <= found["actors_wait_fraction"] <= 1.0
    assert found["run_actors"] == 1
    # One learner step for each env step, in a window that cuts calls of the learner.
    assert found["run_env_steps"] == pytest.approx(found["run_learner_steps"], rel=0.5)
