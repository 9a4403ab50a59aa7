"""Callbacks: hooks that may be missing, may fail and may ask to stop; and in a real run."""

import json
from pathlib import Path
from typing import Any

import pytest

import distdqn
from distdqn.reporting.callbacks import Callbacks
from distdqn.types import Evaluation, LearnReport


class Recorder:
    """Keeps what a run tells it; stops the run where its hook `stop_at` is called."""

    def __init__(self, stop_at: str = "", fail_at: str = "") -> None:
        self.calls: list[tuple[str, Any]] = []
        self._stop_at, self._fail_at = stop_at, fail_at

    def _take(self, name: str, value: Any) -> bool:
        self.calls.append((name, value))
        if name == self._fail_at:
            raise RuntimeError("out of ink")
        return name != self._stop_at

    def on_start(self, run: Any) -> None:
        self._take("on_start", run)

    def on_learn(self, report: LearnReport) -> None:
        self._take("on_learn", report)

    def on_report(self, metrics: dict[str, Any]) -> bool:
        return self._take("on_report", metrics)

    def on_evaluation(self, evaluation: Evaluation) -> bool:
        return self._take("on_evaluation", evaluation)

    def on_checkpoint(self, number: int) -> bool:
        return self._take("on_checkpoint", number)

    def on_end(self, summary: dict[str, Any]) -> None:
        self._take("on_end", summary)

    def values(self, name: str) -> list[Any]:
        """What one hook was given, call by call."""
        return [value for called, value in self.calls if called == name]


def make_config(run_dir: Path, **changes: Any) -> distdqn.Config:
    """A short run in this process, with an evaluation every 64 learner steps."""
    options: dict[str, Any] = {
        "mode": "serial",
        "actors": 1,
        "max_env_steps": 600,
        "min_replay_size": 100,
        "updates_per_call": 16,
        "batch_size": 16,
        "eval_period": 64,
        "eval_episodes": 2,
        "report_period": 64,
        "checkpoint_period": 128,
        "target_return": None,
        "run_dir": str(run_dir),
    }
    return distdqn.Config(**options | changes)


def test_missing_hooks_are_skipped() -> None:
    notes: list[str] = []
    callbacks = Callbacks([object(), Recorder()], notes.append)

    for name in ("on_start", "on_status", "on_report", "on_end"):
        callbacks.call(name, {})

    assert notes == []
    assert not callbacks.asks_to_stop


def test_error_of_a_callback_is_told_once_and_the_others_are_called() -> None:
    notes: list[str] = []
    last = Recorder()
    callbacks = Callbacks([Recorder(fail_at="on_report"), last], notes.append)

    callbacks.call("on_report", {})
    callbacks.call("on_report", {})

    assert notes == ["The callback Recorder.on_report failed: RuntimeError: out of ink (training continues)."]
    assert len(last.calls) == 2


def test_callback_whose_start_failed_is_not_called_again() -> None:
    notes: list[str] = []
    first, last = Recorder(fail_at="on_start"), Recorder()
    callbacks = Callbacks([first, last], notes.append)

    for name in ("on_start", "on_report", "on_end"):
        callbacks.call(name, {})

    assert len(notes) == 1
    assert [len(first.calls), len(last.calls)] == [1, 3]


def test_only_false_asks_to_stop() -> None:
    for answer in (None, True, 0, "", False):
        callbacks = Callbacks([type("Answer", (), {"on_report": lambda _, __, a=answer: a})()], print)
        callbacks.call("on_report", {})
        assert callbacks.asks_to_stop is (answer is False)


def test_run_calls_every_hook_with_what_it_promises(tmp_path: Path) -> None:
    recorder = Recorder()

    summary = distdqn.train(make_config(tmp_path / "run"), callbacks=[recorder], quiet=True)

    names = [name for name, _ in recorder.calls]
    assert (names[0], names[-1]) == ("on_start", "on_end")
    (run,) = recorder.values("on_start")
    assert (run.run_dir, run.environment.name, run.config.batch_size) == (tmp_path / "run", "CartPole-v1", 16)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [line["env_steps"] for line in recorder.values("on_report")] == [
        json.loads(line)["env_steps"] for line in lines
    ]
    learned = recorder.values("on_learn")
    assert sum(report.updates for report in learned) == summary["learner_steps"]
    assert {report.td_error.shape for report in learned} == {(16,)}
    evaluations = recorder.values("on_evaluation")
    assert len(evaluations) == summary["evaluations"] > 3
    assert all(len(evaluation.returns) == 2 for evaluation in evaluations)
    kept = {int(path.stem.split("-")[-1]) for path in (tmp_path / "run" / "checkpoints").glob("*.json")}
    assert kept <= set(recorder.values("on_checkpoint"))
    assert recorder.values("on_end") == [summary]


def test_callback_ends_a_run_in_order(tmp_path: Path) -> None:
    config = make_config(tmp_path / "run", max_env_steps=100_000)

    summary = distdqn.train(config, callbacks=[Recorder(stop_at="on_checkpoint")], quiet=True)

    assert summary["reason"] == "callback"
    assert summary["env_steps"] < 2_000
    assert (tmp_path / "run" / "policy.npz").exists()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["reason"] == "callback"


def test_callbacks_that_fail_everywhere_end_no_run(tmp_path: Path, capsys: Any) -> None:
    hooks = ("on_start", "on_report", "on_evaluation", "on_checkpoint", "on_end")

    summary = distdqn.train(
        make_config(tmp_path / "run"), callbacks=[Recorder(fail_at=hook) for hook in hooks]
    )

    assert summary["reason"] == "max_env_steps"
    told = capsys.readouterr().out
    assert all(
        told.count(f"The callback Recorder.{hook} failed: RuntimeError: out of ink") == 1 for hook in hooks
    )


def test_named_callback_is_made_with_its_arguments(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "ends.py").write_text(
        "class Stop:\n"
        "    def __init__(self, after):\n"
        "        self.left = after\n"
        "    def on_report(self, metrics):\n"
        "        self.left -= 1\n"
        "        return self.left > 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    config = make_config(tmp_path / "run", callback=("ends:Stop,after=2",), max_env_steps=100_000)
    summary = distdqn.train(config, quiet=True)

    assert summary["reason"] == "callback"
    assert summary["learner_steps"] < 400


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere:Thing", "cannot import `nowhere`"),
        ("json:nothing", "there is no `json:nothing`"),
        ("fractions:Fraction,size=3", "takes no argument `size`"),
        ("json:loads", "needs the argument `s`"),
    ],
)
def test_named_callback_that_cannot_be_made_is_one_line(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(distdqn.ConfigError) as caught:
        distdqn.train(make_config(tmp_path / "run", callback=(name,)), quiet=True)

    (line,) = caught.value.mistakes
    assert line.startswith("`callback`: ")
    assert words in line
    assert not (tmp_path / "run").exists()
