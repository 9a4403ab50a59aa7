"""Runs that go on from a checkpoint, in one process: nothing is different, and nothing is lost."""

import functools
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from light_run import light_parts
from toy_environments import CountingEnvironment, PicturesEnvironment

from distdqn import Config, train
from distdqn.checkpoints.store import Store
from distdqn.errors import CheckpointError, ConfigError, Diverged, NoCheckpoint
from distdqn.inspect import main as inspect
from distdqn.networks.numpy_policy import load_policy
from distdqn.reporting.run_directory import is_owned

# Keras's saving meets NumPy's newest rules with a warning.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

_TIMES = {"wall_seconds", "eval_seconds", "seconds_per_update"}
_TIMES |= {"env_steps_per_second", "learner_steps_per_second"}
_TIMES |= {"actor_env_fraction", "actor_network_fraction"}
_OPTIONS = {
    "mode": "serial",
    "actors": 2,
    "envs_per_actor": 4,
    "rollout_length": 8,
    "max_env_steps": 1500,
    "min_replay_size": 200,
    "replay_capacity": 1000,
    "samples_per_insert": 16.0,
    "hidden_sizes": (16,),
    "batch_size": 32,
    "updates_per_call": 16,
    "eval_period": 128,
    "report_period": 64,
    "eval_episodes": 3,
    "checkpoint_period": 128,
    "keep_checkpoints": 100,
    "target_return": None,
    "epsilon_decay_steps": 1000,
    "seed": 3,
}


def run(folder: Path, **changes):
    """The summary of a short run in `folder`."""
    return train(Config(**{**_OPTIONS, "run_dir": str(folder), **changes}), quiet=True)


def metrics(folder: Path):
    """Lines of metrics without what differs between two runs of the same."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in _TIMES} for line in lines]


def interrupted_copy(whole: Path, folder: Path, number: int):
    """A copy of a run as it was when it had just made checkpoint `number`, with lines from after it."""
    shutil.copytree(whole, folder)
    for path in (folder / "checkpoints").glob("checkpoint-*.json"):
        if int(path.stem.rpartition("-")[2]) > number:
            path.unlink()


@pytest.fixture
def light(monkeypatch):
    """Has runs use a learner that only counts."""
    monkeypatch.setattr("distdqn.runner.role_parts", light_parts)
    monkeypatch.setattr("light_run._SECONDS_PER_UPDATE", 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return folder


def assert_ends_alike(folder: Path, copy: Path):
    """Two runs have the same networks, versions and metrics."""
    for name in ("final.npz", "policy.npz"):
        before, after = load_policy(folder / name), load_policy(copy / name)
        assert after.weights_version == before.weights_version
        for expected, found in zip(before.arrays, after.arrays, strict=True):
            np.testing.assert_array_equal(found, expected)
    assert metrics(copy) == metrics(folder)


def test_resumed_run_ends_as_the_uninterrupted_one_bit_for_bit(whole, tmp_path):
    numbers = Store(str(whole / "checkpoints")).numbers()
    assert len(numbers) >= 4
    interrupted_copy(whole, tmp_path / "copy", numbers[0])

    run(tmp_path / "copy", resume="auto")

    assert_ends_alike(whole, tmp_path / "copy")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            {"sampler": "prioritized", "noisy": True, "dueling": True, "head": "implicit"},
            id="prioritized, noisy and implicit",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"env": functools.partial(PicturesEnvironment, 3, 10, lengths=(7, 12)), "checkpoint_period": 64},
            id="images",
        ),
    ],
)
def test_resume_is_exact_and_inspect_finds_all_that_has_a_state(tmp_path, capsys, options):
    options = {**options, "max_env_steps": 1000}
    run(tmp_path / "whole", **options)
    numbers = Store(str(tmp_path / "whole" / "checkpoints")).numbers()
    interrupted_copy(tmp_path / "whole", tmp_path / "copy", numbers[1])

    run(tmp_path / "copy", resume="auto", **options)

    assert_ends_alike(tmp_path / "whole", tmp_path / "copy")
    capsys.readouterr()
    assert inspect([str(tmp_path / "copy"), "--json"]) == 0
    inside = json.loads(capsys.readouterr().out)["checkpoints"][-1]["contents"]
    assert (inside["replay"]["frames"] is not None) == ("env" in options)
    assert inside["learner_steps"] <= numbers[-1]


@pytest.mark.usefixtures("light")
def test_resume_by_folder_goes_on_in_that_folder(whole, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)

    summary = run(copy, run_dir=None, resume=str(copy), max_env_steps=1600)

    assert summary["run_dir"] == str(copy)
    assert summary["env_steps"] == 1600


@pytest.mark.usefixtures("light")
def test_resume_auto_starts_anew_where_there_is_no_checkpoint(tmp_path):
    summary = run(tmp_path / "run", resume="auto", max_env_steps=400)

    assert summary["env_steps"] == 400


def test_resume_by_path_fails_where_there_is_no_checkpoint(tmp_path):
    with pytest.raises(NoCheckpoint):
        run(tmp_path / "run", resume=str(tmp_path))


def test_resume_with_another_network_is_refused_with_both_values(whole):
    with pytest.raises(CheckpointError) as caught:
        run(whole, resume="auto", hidden_sizes=(17,), n_step=2)

    assert [line.strip() for line in caught.value.mistakes[1:]] == [
        "n_step: 3 / 2",
        "hidden_sizes: [16] / [17]",
    ]


@pytest.mark.usefixtures("light")
def test_fault_13_damaged_newest_checkpoint_is_passed_over_by_auto(whole, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    newest = sorted((copy / "checkpoints").glob("checkpoint-*.json"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])

    with pytest.raises(CheckpointError, match=newest.name):
        run(tmp_path / "other", resume=str(newest))
    assert run(copy, resume="auto")["env_steps"] == _OPTIONS["max_env_steps"]


def test_folder_of_a_run_is_not_used_again_unless_it_goes_on(whole):
    with pytest.raises(ConfigError, match="--resume auto"):
        run(whole)


def test_folder_of_another_run_is_not_gone_on_in(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "other")
    before = (tmp_path / "other" / "metrics.jsonl").read_bytes()

    with pytest.raises(ConfigError, match="holds another run"):
        run(tmp_path / "other", resume=str(whole))

    assert (tmp_path / "other" / "metrics.jsonl").read_bytes() == before


@pytest.mark.usefixtures("light")
def test_checkpoint_without_replay_fills_it_anew(tmp_path, capsys):
    run(tmp_path / "run", checkpoint_replay=False)
    capsys.readouterr()
    assert inspect([str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoints"][-1]["contents"]["replay"] is None

    summary = run(tmp_path / "run", checkpoint_replay=False, resume="auto", max_env_steps=2500)

    assert summary["env_steps"] == 2500


class FaultyEnvironment(CountingEnvironment):
    """Has something happen at the `at`-th step of all copies together, and pays `reward` from then on."""

    def __init__(self, count, at, reward, happens=lambda: None):
        super().__init__(lengths=(9,))
        self._count, self._at, self._reward, self._happens = count, at, reward, happens

    def step(self, action):
        observation, _, *rest = super().step(action)
        number = next(self._count)
        if number == self._at:
            self._happens()
        return observation, 1.0 if number < self._at else self._reward, *rest


def assert_networks_are_kept(folder):
    final = load_policy(folder / "final.npz")
    assert final.learner_steps > 100
    assert all(np.isfinite(array).all() for array in final.arrays)
    assert (folder / "final.keras").exists()


def test_fault_21_last_finite_networks_are_kept_by_a_run_that_diverges(tmp_path):
    count = itertools.count()
    options = {"replay_capacity": 300, "checkpoint_period": None, "eval_period": 10**6, "n_step": 1}

    with pytest.raises(Diverged, match="NaN or infinity in ten consecutive updates") as caught:
        run(tmp_path / "run", env=lambda: FaultyEnvironment(count, 600, 3e38), **options)  # float32's end

    assert caught.value.exit_code == 6
    assert_networks_are_kept(tmp_path / "run")


@pytest.mark.usefixtures("light")
def test_fault_39_last_checkpoint_is_whole_after_the_folder_was_deleted(tmp_path):
    count, folder = itertools.count(), tmp_path / "run"
    env = lambda: FaultyEnvironment(count, 1100, 1.0, lambda: shutil.rmtree(folder))  # noqa: E731

    summary = run(folder, env=env, checkpoint_period=600)

    found, passed_over = Store(str(folder / "checkpoints")).newest_whole()
    assert (found.number, passed_over) == (summary["learner_steps"], [])
    assert is_owned(folder) is False
    assert (folder / "run.lock").exists()


@pytest.mark.usefixtures("light")
def test_fault_40_run_that_keeps_its_checkpoints_elsewhere_resumes_any_number_of_times(tmp_path):
    run(tmp_path / "run", checkpoint_dir=str(tmp_path / "elsewhere"), max_env_steps=500)
    for budget in (700, 900):
        assert run(tmp_path / "run", resume="auto", max_env_steps=budget)["env_steps"] == budget
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.usefixtures("light")
def test_fault_18_networks_are_kept_by_a_run_whose_checkpoints_cannot_be_written(tmp_path):
    count, elsewhere = itertools.count(), tmp_path / "elsewhere"

    def put_a_file_in_its_place():
        shutil.rmtree(elsewhere)
        elsewhere.touch()

    env = lambda: FaultyEnvironment(count, 600, 1.0, put_a_file_in_its_place)  # noqa: E731

    with pytest.raises(CheckpointError, match="5 consecutive times") as caught:
        run(tmp_path / "run", env=env, checkpoint_dir=str(elsewhere), checkpoint_period=32)

    assert caught.value.exit_code == 4
    assert_networks_are_kept(tmp_path / "run")
