"""Counters, means, rates by a fake clock, and the files on disk."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_contents import METRICS

from distdqn.config.config import Config
from distdqn.reporting.callbacks import Callbacks
from distdqn.reporting.metrics import Counters, Mean, Metrics
from distdqn.reporting.run_directory import RunDirectory
from distdqn.types import Evaluation, LearnReport, RolloutReport


class Clock:
    """Shows the time it is set to."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Shows 100 s: the run started 10 s before."""
    return Clock(100.0)


@pytest.fixture
def metrics(tmp_path: Path, clock: Clock) -> Iterator[Metrics]:
    """Of a run that began at 90 s, with a capacity of 500 transitions and a minimum of 100."""
    directory = RunDirectory(str(tmp_path / "run"), "CartPole-v1")
    config = Config(replay_capacity=500, min_replay_size=100)
    yield Metrics(directory, Callbacks([directory], lambda _: None), config, started=90.0, clock=clock)
    directory.close()


def rollout(**changes: Any) -> RolloutReport:
    """64 env steps, no episode's end."""
    arguments: dict[str, Any] = {
        "env_steps": 64,
        "transitions": 60,
        "episode_returns": [],
        "episode_lengths": [],
        "epsilon": 0.5,
        "weights_version": (0, 1),
        "weights_learner_steps": 0,
        "env_seconds": 0.5,
        "network_seconds": 0.25,
        "total_seconds": 1.0,
    }
    return RolloutReport(**(arguments | changes))


def learn(**changes: Any) -> LearnReport:
    """One call of 4 updates."""
    arguments: dict[str, Any] = {
        "updates": 4,
        "learner_steps": 4,
        "loss": 1.0,
        "q_mean": 2.0,
        "gradient_norm": 3.0,
        "seconds": 0.4,
        "weights_version": None,
    }
    return LearnReport(**(arguments | changes))


def written(metrics: Metrics, name: str) -> Any:
    """A file of the run as text."""
    return (metrics.directory.path / name).read_text()


def test_line_of_metrics_has_every_agreed_key(metrics: Metrics) -> None:
    assert METRICS - set(metrics.report()) == set()


def test_line_of_metrics_is_written_to_disk_as_strict_json(metrics: Metrics) -> None:
    metrics.add_rollout(rollout(episode_returns=[3.0], episode_lengths=[3]), inserted=60)
    lines = [metrics.report(), metrics.report(Evaluation([1.0, 2.0], (0, 1), 4, 0.1))]

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    on_disk = written(metrics, "metrics.jsonl").splitlines()
    assert [json.loads(line, parse_constant=refuse) for line in on_disk] == lines


def test_every_callback_receives_each_line_of_metrics(metrics: Metrics) -> None:
    received: list[dict[str, Any]] = []
    metrics.callbacks.prepend(SimpleNamespace(on_report=received.append))

    assert [metrics.report(), metrics.report()] == received


def test_first_line_is_empty_where_nothing_happened(metrics: Metrics) -> None:
    line = metrics.report()

    assert [line[key] for key in ("env_steps", "learner_steps", "episodes", "replay_size")] == [0, 0, 0, 0]
    for key in (
        "train_return_mean",
        "eval_return_mean",
        "loss",
        "q_mean",
        "samples_per_insert",
        "weights_age_steps",
    ):
        assert line[key] is None, key
    assert (line["env_steps_per_second"], line["learner_steps_per_second"]) == (0.0, 0.0)
    assert line["wall_seconds"] == 10.0


def test_counters_add_up_what_roles_report(metrics: Metrics) -> None:
    metrics.add_rollout(rollout(env_steps=64, episode_returns=[1.0, 2.0], episode_lengths=[1, 2]), 60)
    metrics.add_rollout(rollout(env_steps=32, episode_returns=[3.0], episode_lengths=[3], epsilon=0.25), 95)
    metrics.add_learn(learn(learner_steps=4), sampled=40, learning_rate=0.002)
    metrics.add_learn(learn(learner_steps=8), sampled=40, learning_rate=0.002)
    metrics.add_published((2, 5))
    metrics.counters.actor_restarts = 3

    line = metrics.report(actors_alive=4)

    assert line["env_steps"] == 64 + 32
    assert line["episodes"] == 3
    assert line["learner_steps"] == 8
    assert (metrics.counters.inserted, metrics.counters.sampled) == (95, 80)
    assert line["epsilon"] == 0.25
    assert line["weights_version"] == [2, 5]
    assert (line["actors_alive"], line["actor_restarts"]) == (4, 3)


def test_means_weigh_calls_by_their_updates_and_restart_each_report(metrics: Metrics) -> None:
    metrics.add_learn(
        learn(updates=1, loss=1.0, q_mean=10.0, gradient_norm=5.0, seconds=0.1), 0, learning_rate=0.002
    )
    metrics.add_learn(
        learn(updates=3, loss=5.0, q_mean=30.0, gradient_norm=9.0, seconds=0.9), 0, learning_rate=0.002
    )
    first = metrics.report()
    metrics.add_learn(learn(loss=7.0, q_mean=8.0, gradient_norm=9.0), 0, learning_rate=0.002)
    second, third = metrics.report(), metrics.report()

    assert first["loss"] == (1 * 1.0 + 3 * 5.0) / 4
    assert first["q_mean"] == (1 * 10.0 + 3 * 30.0) / 4
    assert first["gradient_norm"] == (1 * 5.0 + 3 * 9.0) / 4
    assert first["seconds_per_update"] == pytest.approx((0.1 / 1 + 0.9 / 3) / 2)
    assert (second["loss"], second["q_mean"], second["gradient_norm"]) == (7.0, 8.0, 9.0)
    assert (third["loss"], third["q_mean"], third["gradient_norm"]) == (None, None, None)


def test_mean_is_none_when_nothing_came_since_the_last_time() -> None:
    mean = Mean()
    mean.add(1.0)
    mean.add(4.0, count=2)

    assert mean.take() == (1.0 + 2 * 4.0) / 3
    assert mean.take() is None


def test_rates_are_those_since_the_last_report(metrics: Metrics, clock: Clock) -> None:
    metrics.add_rollout(rollout(env_steps=64), 60)
    metrics.add_learn(learn(learner_steps=4), 0, learning_rate=0.002)
    clock.now += 2.0
    first = metrics.report()
    metrics.add_rollout(rollout(env_steps=10), 70)
    metrics.add_learn(learn(learner_steps=24), 0, learning_rate=0.002)
    clock.now += 4.0
    second = metrics.report()

    assert (first["env_steps_per_second"], first["learner_steps_per_second"]) == (64 / 2, 4 / 2)
    assert (second["env_steps_per_second"], second["learner_steps_per_second"]) == (10 / 4, 20 / 4)
    assert (first["wall_seconds"], second["wall_seconds"]) == (12.0, 16.0)


def test_two_reports_at_the_same_instant_do_not_divide_by_zero(metrics: Metrics) -> None:
    metrics.report()

    assert metrics.report()["env_steps_per_second"] == 0.0


def test_evaluation_stands_on_its_own_line_alone(metrics: Metrics) -> None:
    evaluation = Evaluation([1.0, 2.0, 6.0], (0, 3), learner_steps=128, seconds=0.5)

    lines = [metrics.report(), metrics.report(evaluation), metrics.report()]

    assert [line["eval_return_mean"] for line in lines] == [None, 3.0, None]
    assert [line["eval_return_min"] for line in lines] == [None, 1.0, None]
    assert [line["eval_episodes"] for line in lines] == [None, 3, None]
    assert [line["eval_learner_steps"] for line in lines] == [None, 128, None]
    assert lines[1]["eval_return_std"] == pytest.approx(7.0**0.5)  # (4 + 1 + 9) / 2


def test_training_return_is_the_mean_of_the_last_hundred_episodes(metrics: Metrics) -> None:
    metrics.add_rollout(rollout(episode_returns=[1000.0] * 50, episode_lengths=[9] * 50), 60)
    metrics.add_rollout(rollout(episode_returns=[1.0] * 60, episode_lengths=[5] * 60), 120)

    line = metrics.report()

    assert line["episodes"] == 110
    assert line["train_return_mean"] == (40 * 1000.0 + 60 * 1.0) / 100
    assert line["train_length_mean"] == (40 * 9 + 60 * 5) / 100


def test_training_return_stays_from_report_to_report(metrics: Metrics) -> None:
    metrics.add_rollout(rollout(episode_returns=[4.0], episode_lengths=[4]), 60)

    assert [metrics.report()["train_return_mean"] for _ in range(2)] == [4.0, 4.0]


def test_lists_stay_bounded_however_many_episodes_end(metrics: Metrics) -> None:
    for _ in range(50):
        metrics.add_rollout(rollout(episode_returns=[1.0] * 20, episode_lengths=[1] * 20), 60)

    held = [value for value in vars(metrics).values() if hasattr(value, "__len__")]
    assert metrics.counters.episodes == 1000
    assert max(len(value) for value in held) <= 100


def test_samples_per_insert_counts_from_the_minimum_on(metrics: Metrics) -> None:
    metrics.add_rollout(rollout(), inserted=100)
    metrics.add_learn(learn(), sampled=64, learning_rate=0.002)
    assert metrics.report()["samples_per_insert"] is None

    metrics.add_rollout(rollout(), inserted=140)
    metrics.add_learn(learn(), sampled=96, learning_rate=0.002)
    assert metrics.report()["samples_per_insert"] == (64 + 96) / (140 - 100)


def test_replay_size_is_what_replay_reported_and_not_what_was_inserted(metrics: Metrics) -> None:
    metrics.add_rollout(rollout(), inserted=500)
    metrics.replay_size = 180

    assert metrics.report()["replay_size"] == 180


def test_weights_age_is_the_mean_of_learner_steps_behind(metrics: Metrics) -> None:
    metrics.add_learn(learn(learner_steps=100), 0, learning_rate=0.002)
    metrics.add_rollout(rollout(weights_learner_steps=90), 60)
    metrics.add_rollout(rollout(weights_learner_steps=60), 120)
    first = metrics.report()

    assert first["weights_age_steps"] == (10 + 40) / 2
    assert metrics.report()["weights_age_steps"] is None


def test_waiting_is_a_share_of_the_period_and_restarts(metrics: Metrics, clock: Clock) -> None:
    metrics.waited["actors"] += 1.0
    metrics.waited["actors"] += 0.5
    metrics.waited["learner"] += 9.0
    clock.now += 6.0
    first = metrics.report()
    clock.now += 6.0
    second = metrics.report()

    assert first["actors_wait_fraction"] == 1.5 / 6.0
    assert first["learner_wait_fraction"] == 1.0  # never more than all of it
    assert (second["actors_wait_fraction"], second["learner_wait_fraction"]) == (0.0, 0.0)


def test_fractions_of_rollout_time_are_averaged(metrics: Metrics) -> None:
    metrics.add_rollout(rollout(env_seconds=1.0, network_seconds=0.5, total_seconds=2.0), 60)
    metrics.add_rollout(rollout(env_seconds=1.0, network_seconds=1.0, total_seconds=10.0), 120)

    line = metrics.report()

    assert line["actor_env_fraction"] == pytest.approx((0.5 + 0.1) / 2)
    assert line["actor_network_fraction"] == pytest.approx((0.25 + 0.1) / 2)


def test_status_is_due_at_once_and_then_every_second(metrics: Metrics, clock: Clock) -> None:
    assert metrics.is_status_due()

    metrics.write_status("running")
    due = []
    for seconds in (0.0, 0.9, 0.2):
        clock.now += seconds
        due.append(metrics.is_status_due())

    assert due == [False, False, True]


def test_status_has_state_counters_and_roles(metrics: Metrics) -> None:
    metrics.add_rollout(rollout(env_steps=64), 60)
    metrics.add_published((1, 2))
    roles = [{"role": "learner", "pid": 3}]

    metrics.write_status("running", {"address": "here"}, roles)

    status = json.loads(written(metrics, "status.json"))
    assert (status["state"], status["seconds"]) == ("running", 10.0)
    assert (status["counters"]["env_steps"], status["counters"]["inserted"]) == (64, 60)
    assert status["weights_version"] == [1, 2]
    assert (status["ray"], status["roles"]) == ({"address": "here"}, roles)


def test_status_keeps_the_last_roles_when_none_are_given(metrics: Metrics) -> None:
    metrics.write_status("running", {"address": "here"}, [{"role": "learner"}])
    metrics.write_status("saving")

    status = json.loads(written(metrics, "status.json"))
    assert status["state"] == "saving"
    assert (status["ray"], status["roles"]) == ({"address": "here"}, [{"role": "learner"}])


def test_status_is_replaced_in_one_step(metrics: Metrics) -> None:
    metrics.write_status("running")
    path = metrics.directory.path / "status.json"
    old = path.read_text()

    with path.open() as reader:
        metrics.write_status("goal_reached")
        assert reader.read() == old

    assert json.loads(path.read_text())["state"] == "goal_reached"


@pytest.fixture
def notes(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that the user sees."""
    lines: list[str] = []
    monkeypatch.setattr(metrics, "note", lines.append)
    return lines


def test_warning_about_the_same_thing_is_shown_once(metrics: Metrics, notes: list[str]) -> None:
    for warnings in ({"observation": "1.5"}, {"observation": "1.7", "observation `x`": "8"}, {}):
        metrics.add_rollout(rollout(env_warnings=warnings), 0)

    assert notes == ["1.5", "8"]


def test_episodes_that_never_end_are_noticed_once(metrics: Metrics, notes: list[str]) -> None:
    for longest in (0, 999, 1000, 1016):
        assert not notes or longest > 1000
        metrics.add_rollout(rollout(longest_open_episode=longest), 0)

    (line,) = notes
    assert "No episode has ended yet, and one has taken 1,000 env steps" in line
    assert "`--max-episode-steps`" in line


def test_long_episode_is_no_matter_once_another_has_ended(metrics: Metrics, notes: list[str]) -> None:
    metrics.add_rollout(rollout(episode_returns=[1.0], episode_lengths=[3], longest_open_episode=5000), 0)
    metrics.add_rollout(rollout(longest_open_episode=6000), 0)

    assert notes == []


def test_env_steps_of_exploration_count_from_the_first_signal(metrics: Metrics, notes: list[str]) -> None:
    for has_signal, expected in ((False, 0), (False, 0), (True, 64), (False, 128)):
        metrics.add_rollout(rollout(has_signal=has_signal), 0)
        assert metrics.counters.exploration_env_steps == expected
    assert metrics.counters.env_steps == 256
    assert notes == []


def test_counters_of_a_checkpoint_that_knows_no_signal_go_on() -> None:
    counters = Counters(env_steps=5000)  # as older versions wrote them

    assert counters.exploration_env_steps == 5000


def test_missing_signal_is_noticed_once(metrics: Metrics, notes: list[str]) -> None:
    for _ in range(200):
        metrics.add_rollout(rollout(has_signal=False), 0)

    (line,) = notes
    assert line.startswith("In 10,000 env steps every reward was 0 and no episode terminated")
