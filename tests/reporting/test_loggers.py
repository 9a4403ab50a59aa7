"""Loggers to TensorBoard, Weights & Biases and MLflow, each with its files and without a network."""

import dataclasses
import json
import math
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

import distdqn
from distdqn.config.config import Config
from distdqn.reporting.callbacks import RunInfo
from distdqn.reporting.loggers import scalars, tag
from distdqn.reporting.tensorboard import TensorboardLogger
from distdqn.training import builders
from distdqn.types import EnvironmentSpec, Evaluation, LearnReport

LINE = {"env_steps": 100, "loss": 0.5, "q_mean": None, "eval_cut": False, "weights_version": [0, 3]}
SPEC = EnvironmentSpec("CartPole-v1", (4,), 2, 475.0, "float32", -1.0, 1.0, None)
SUMMARY = {"eval_episodes": 0, "reason": "goal_reached", "solved": True}


def make_info(folder: Path, resumed_at: int | None = None) -> RunInfo:
    """The start of a run, or of one that resumes after a line of metrics."""
    folder.mkdir(exist_ok=True)
    text = "" if resumed_at is None else json.dumps(LINE | {"env_steps": resumed_at}) + "\n"
    (folder / "metrics.jsonl").write_text(text)
    return RunInfo(folder, Config(seed=7), SPEC, 475.0, print)


def follow(logger: Any, info: RunInfo, *env_steps: int) -> None:
    """A run with a line of metrics at each of `env_steps`."""
    logger.on_start(info)
    for steps in env_steps:
        logger.on_report(LINE | {"env_steps": steps})
    logger.on_end(SUMMARY)


def read_events(folder: Path) -> list[Event]:
    """All events in files of a folder, in their order."""
    events = []
    for path in sorted(folder.glob("events*")):
        content = path.read_bytes()
        while content:  # length, its checksum, event, its checksum
            (length,) = struct.unpack_from("<Q", content)
            events.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return events


def values_of(events: list[Event], name: str) -> list[tuple[int, Any]]:
    """Step and value of each event of a name."""
    return [(event.step, value) for event in events for value in event.summary.value if value.tag == name]


def test_names_are_those_of_stable_baselines_where_they_mean_the_same() -> None:
    names = ["train_return_mean", "env_steps", "learner_steps", "eval_return_mean", "env_steps_per_second"]

    assert [tag(name) for name in names] == [
        *("rollout/ep_rew_mean", "time/total_timesteps", "train/n_updates", "eval/mean_reward", "time/fps")
    ]


def test_scalars_are_the_finite_numbers_of_a_line() -> None:
    line = LINE | {"gradient_norm": math.inf, "train_return_mean": math.nan}

    assert scalars(line) == {"time/total_timesteps": 100.0, "train/loss": 0.5, "eval/cut": 0.0}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run in this process that logs to TensorBoard."""
    folder = tmp_path_factory.mktemp("loggers") / "run"
    options: dict[str, Any] = {"mode": "serial", "actors": 1, "max_env_steps": 400, "min_replay_size": 100}
    options |= {"updates_per_call": 16, "batch_size": 16, "eval_period": 64, "eval_episodes": 3}
    options |= {"run_dir": str(folder), "tensorboard": True, "report_period": 32}
    distdqn.train(distdqn.Config(**options), quiet=True)
    return folder


def test_event_files_hold_every_number_of_every_line(run_dir: Path) -> None:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    events = read_events(run_dir / "tensorboard")

    for key in ("loss", "env_steps", "train_return_mean", "eval_return_mean", "actors_wait_fraction"):
        written = [(step, value.simple_value) for step, value in values_of(events, tag(key))]
        expected = [(line["env_steps"], pytest.approx(line[key])) for line in lines if line[key] is not None]
        assert written == expected
        assert expected


def test_event_files_hold_histograms_of_returns_q_values_and_td_errors(run_dir: Path) -> None:
    events = read_events(run_dir / "tensorboard")
    summary = json.loads((run_dir / "summary.json").read_text())

    for name, count in {"eval/returns": 3, "train/q_values": 16, "train/td_errors": 16}.items():
        histograms = [value.histo for _, value in values_of(events, name)]
        assert len(histograms) == summary["evaluations"] > 1
        assert {histogram.num for histogram in histograms} == {count}
    returns = [value.histo for _, value in values_of(events, "eval/returns")]
    assert max(h.sum / h.num for h in returns) == pytest.approx(summary["eval_return_mean"])
    assert min(value.histo.min for _, value in values_of(events, "train/td_errors")) < 0.0


def test_event_files_hold_the_options_as_a_table(run_dir: Path) -> None:
    ((_, text),) = values_of(read_events(run_dir / "tensorboard"), "config/text_summary")

    assert b"\n| `max_env_steps` | `400` |\n" in text.tensor.string_val[0]


def test_resumed_run_hides_events_after_its_checkpoint(tmp_path: Path) -> None:
    follow(TensorboardLogger(), make_info(tmp_path), 100, 200, 300)
    for path in (tmp_path / "tensorboard").iterdir():
        path.rename(path.with_name("events.out.tfevents.1.before"))  # a name has the second

    follow(TensorboardLogger(), make_info(tmp_path, resumed_at=200), 250)

    starts = [event.step for event in read_events(tmp_path / "tensorboard") if event.HasField("session_log")]
    assert starts == [0, 201]  # a viewer drops what it read from these steps on


def test_histograms_leave_out_what_is_not_finite(tmp_path: Path) -> None:
    logger = TensorboardLogger()
    logger.on_start(make_info(tmp_path))
    q_values = np.array([1.0, np.nan, np.inf], np.float32)
    nothing = np.full(3, np.nan, np.float32)
    report = LearnReport(1, 1, 0.5, 1.0, 2.0, 0.01, None, q_values=q_values, td_error=nothing)
    logger.on_learn(report)
    logger.on_evaluation(Evaluation([], (0, 1), 1, 0.1))
    logger.on_end(SUMMARY)

    events = read_events(tmp_path / "tensorboard")
    ((_, value),) = values_of(events, "train/q_values")
    assert (value.histo.num, value.histo.sum) == (1, 1.0)
    assert values_of(events, "train/td_errors") == values_of(events, "eval/returns") == []


def test_reports_with_arrays_compare_by_their_numbers() -> None:
    report = LearnReport(1, 1, 0.5, 1.0, 2.0, 0.01, None, td_error=np.zeros(3, np.float32))

    assert report == dataclasses.replace(report, td_error=np.ones(3, np.float32))


@pytest.fixture
def wandb_logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Any]]:
    """The logger in offline mode."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    from distdqn.reporting.wandb import WandbLogger

    yield WandbLogger
    import wandb

    wandb.teardown()


@pytest.mark.slow
def test_wandb_gets_scalars_options_and_summary_without_a_network(
    wandb_logger: type[Any], tmp_path: Path
) -> None:
    logger = wandb_logger()
    follow(logger, make_info(tmp_path / "first"), 100, 200)

    run = logger._run
    assert (run.project, run.name, run.config["seed"]) == ("distdqn", "first", 7)
    (folder,) = (tmp_path / "first" / "wandb").glob("offline-run-*")
    (log,) = folder.glob("*.wandb")
    content = log.read_bytes()
    for word in (b"train/loss", b"time/total_timesteps", b"goal_reached", b"discount"):
        assert word in content


def test_wandb_continues_a_resumed_run_and_begins_a_new_one(wandb_logger: type[Any], tmp_path: Path) -> None:
    ids = []
    for resumed_at in (None, 100, None):
        logger = wandb_logger()
        follow(logger, make_info(tmp_path, resumed_at), 200)
        ids.append(logger._run.id)

    assert ids[0] == ids[1] != ids[2]


@pytest.fixture
def mlflow_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a database in this test's folder."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)  # artifacts are in `mlruns`
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    return mlflow.MlflowClient()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_scalars_parameters_and_files_and_continues_a_resumed_run(
    mlflow_client: Any, tmp_path: Path
) -> None:
    from distdqn.reporting.mlflow import MlflowLogger

    folder = tmp_path / "run"
    info = make_info(folder)
    (folder / "config.json").write_text("{}")
    follow(MlflowLogger(), info, 100, 200)
    follow(MlflowLogger(), make_info(folder, resumed_at=200), 300)

    (run,) = mlflow_client.search_runs([mlflow_client.get_experiment_by_name("distdqn").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params["seed"]) == ("run", "FINISHED", "7")
    history = mlflow_client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(100, 0.5), (200, 0.5), (300, 0.5)]
    assert [file.path for file in mlflow_client.list_artifacts(run.info.run_id)] == ["config.json"]

    follow(MlflowLogger(), make_info(folder), 100)
    assert len(mlflow_client.search_runs([run.info.experiment_id])) == 2


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_missing_package_is_told_with_its_cure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders.importlib.util, "find_spec", lambda _: None)  # type: ignore[attr-defined]

    with pytest.raises(distdqn.ConfigError) as caught:
        builders.make_callbacks(Config(**{name: True}))

    assert caught.value.mistakes == [f"`{name}` is not installed (`pip install 'distdqn[{name}]'`)."]


def test_logger_that_cannot_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://here")

    with pytest.raises(distdqn.ConfigError, match=r"MlflowLogger` fails: .*nowhere"):
        builders.make_callbacks(Config(mlflow=True))


def test_no_logger_is_imported_unless_it_is_asked_for() -> None:
    program = (
        "import sys; from distdqn.training.builders import make_callbacks; from distdqn import Config;"
        "make_callbacks(Config());"
        "assert not {'tensorboardX', 'wandb', 'mlflow', 'tensorflow', 'ray'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", program], check=True)
