"""Recorded data: episodes that `record` writes are learned from as if an actor had played them."""

import importlib.util
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from light_run import light_parts
from toy_actors import make_random_weights
from toy_environments import PicturesEnvironment
from toy_runs import write_run
from toy_spaces import BothTogether

from distdqn import Config, train
from distdqn.acting.actor import Actor
from distdqn.acting.recorded import MixedActor, RecordedActor
from distdqn.config.config import ActingOptions
from distdqn.environments.recorded import open_dataset
from distdqn.environments.registry import inspect_environment
from distdqn.environments.spaces import NumberedActions
from distdqn.errors import ConfigError
from distdqn.networks.numpy_policy import load_policy
from distdqn.record import main as record
from distdqn.types import RolloutRequest, Transitions

pytestmark = [
    pytest.mark.skipif(not importlib.util.find_spec("minari"), reason="needs the extra `offline`"),
    # Keras's saving meets NumPy's newest rules with a warning.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

ID = "toy/data-v0"
REQUEST = RolloutRequest(env_steps=0, limit=50)


def pictures() -> PicturesEnvironment:
    """Three frames of 4 by 4 pixels."""
    return PicturesEnvironment(stack=3, size=4, axis=0)


class Choices(BothTogether):
    """Two choices: the first is that of `BothTogether`, the second has no effect."""

    action_space = gymnasium.spaces.MultiDiscrete([2, 3], start=[1, 0])

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(int(action[0] - 1))
        return observation, reward, terminated, truncated, info | {"action_mask": np.ones(6, np.int8)}

    def reset(self, **arguments: Any) -> Any:
        return super().reset(**arguments)[0], {"action_mask": np.ones(6, np.int8)}


class Replayed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Begins its episodes with recorded seeds."""

    def __init__(self, env: Any, seeds: list[int]) -> None:
        super().__init__(env)
        self._seeds = iter(seeds)

    def reset(self, **_: Any) -> Any:
        return self.env.reset(seed=next(self._seeds, 0))


class ScriptedActor(Actor):
    """Takes recorded actions."""

    script: Any = None

    def _choose_actions(self, epsilon: Any, is_exploratory: Any) -> Any:  # noqa: ARG002
        is_reset = self._environments._resets_next[0]
        return np.array([0 if is_reset else next(self.script)])


class InOrder:
    """A generator whose permutations change nothing."""

    permutation = staticmethod(np.arange)


@pytest.fixture(autouse=True)
def no_datasets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has each test start without datasets in the home of the tests, which the roles on Ray have, too."""
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    yield
    shutil.rmtree(Path.home() / ".minari", ignore_errors=True)


def record_random(tmp_path: Path, env: str, *words: str) -> None:
    """Records random episodes; the folder of the run may be missing."""
    assert record([str(tmp_path), "--random", "--env", env, "--dataset", ID, *words]) == 0


def whole(chunks: list[Transitions]) -> dict[str, Any]:
    """The columns of chunks, with their images if they have frames."""
    parts = []
    for chunk in chunks:
        columns: dict[str, Any] = chunk.columns()
        if (frames := chunk.frames) is not None:
            for name in ("observation", "next_observation"):
                columns[name] = frames.layout.join(frames.image[columns[name]])
        parts.append(columns)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize(
    ("env", "changes"),
    [
        ("CartPole-v1", {"max_episode_steps": 20}),  # some episodes terminate, others are truncated
        ("Taxi-v4", {"max_episode_steps": 7}),  # discrete, and masks in `info`
        ("Blackjack-v1", {}),  # a tuple
        ("toy_spaces:BothTogether", {"reward_clip": 0.5}),  # a dictionary with an image, and masks
        ("test_offline:Choices", {"failure_reward": -1.0}),
        ("test_offline:pictures", {"reward_scale": 0.5}),
    ],
)
def test_recorded_episodes_become_the_transitions_that_an_actor_makes_of_them(
    env: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if env == "Taxi-v4" and env not in gymnasium.registry:
        env = "Taxi-v3"
    words = [f"--max-episode-steps={changes['max_episode_steps']}"] if "max_episode_steps" in changes else []
    record_random(tmp_path, env, "--episodes", "12", *words)
    spec = inspect_environment(env)
    options = {"n_step": 3, "discount": 0.9, "envs_per_actor": 1, "rollout_length": 5, **changes}
    dataset = open_dataset("offline", ID)
    seeds = [each["seed"] for each in dataset.storage.get_episode_metadata(range(12))]
    numbers = NumberedActions(dataset.action_space)
    script = np.concatenate([numbers.encode(episode.actions) for episode in dataset])

    wrapped = ("test_offline:Replayed,seeds=" + json.dumps(seeds),)
    actor = ScriptedActor(ActingOptions(env=env, wrapper=wrapped, **options), spec, 0)
    actor.script = itertools.chain(script.tolist(), itertools.repeat(int(script[0])))
    played = []
    while len(played) < len(script):
        report, chunk = actor.rollout(RolloutRequest(0, min(5, len(script) - sum(map(len, played)))))
        played.append(chunk)
        if sum(map(len, played)) >= len(script) or not report.env_steps:
            break
    monkeypatch.setattr(RecordedActor, "_generator", lambda *_: InOrder())
    reader = RecordedActor(ActingOptions(env=env, offline=ID, **options), spec, 0)
    read = [reader.rollout(RolloutRequest(0, 11))[1] for _ in range(len(script) // 11 + 1)]

    expected, found = whole(played), whole(read)
    count = min(len(expected["action"]), len(script) - 2)
    assert count >= len(script) - 2
    for name, column in expected.items():
        assert column.dtype == found[name].dtype
        np.testing.assert_array_equal(found[name][:count], column[:count], err_msg=name)
    assert (expected["discount"] == 0.0).any() == (not env.startswith("Taxi"))  # seven steps end no ride


def test_order_of_episodes_follows_from_seed_index_restarts_and_flush_alone(tmp_path: Path) -> None:
    record_random(tmp_path, "CartPole-v1", "--episodes", "20")
    spec = inspect_environment("CartPole-v1")

    def observations(index: int = 0, restarts: int = 0, flushes: tuple[int, ...] = (), seed: int = 0) -> Any:
        options = ActingOptions(env="CartPole-v1", offline=ID, seed=seed)
        actor = RecordedActor(options, spec, index, restarts)
        for number in flushes:
            actor.rollout(REQUEST)
            actor.flush(number)
        return actor.rollout(REQUEST)[1].observation

    first = observations()
    np.testing.assert_array_equal(observations(), first)
    np.testing.assert_array_equal(observations(flushes=(7,)), observations(flushes=(3, 7)))
    for other in ({"index": 1}, {"restarts": 1}, {"flushes": (7,)}, {"seed": 1}):
        assert not np.array_equal(observations(**other), first)  # type: ignore[arg-type]


def test_every_step_of_the_dataset_is_read_once_before_any_is_read_again(tmp_path: Path) -> None:
    record_random(tmp_path, "CartPole-v1", "--episodes", "20")
    steps = open_dataset("offline", ID).total_steps
    actor = RecordedActor(
        ActingOptions(env="CartPole-v1", offline=ID, n_step=1), inspect_environment("CartPole-v1"), 0
    )

    report, chunk = actor.rollout(RolloutRequest(0, 2 * steps))

    rows = [row.tobytes() for row in chunk.observation]
    assert report.env_steps == report.recorded_steps == report.transitions == 2 * steps
    assert len(set(rows[:steps])) == steps
    assert rows[:steps] == rows[steps:]
    assert report.episode_returns == []


@pytest.mark.parametrize("env", ["CartPole-v1", "test_offline:pictures"])
def test_mixed_actor_reads_the_fraction_and_stays_within_the_limit(env: str, tmp_path: Path) -> None:
    record_random(tmp_path, env, "--episodes", "20")
    spec = inspect_environment(env)
    options = ActingOptions(
        env=env, offline=ID, offline_fraction=0.3, n_step=1, envs_per_actor=4, sampler="prioritized"
    )
    actor, total, recorded, chunks = MixedActor(options, spec, 0), 0, 0, []
    weights = make_random_weights(spec)
    known = {
        row.tobytes()
        for row in whole([RecordedActor(options, spec, 0).rollout(RolloutRequest(0, 999))[1]])["observation"]
    }

    for limit in (50, 1, 2, 0, 37):
        report, chunk = actor.rollout(RolloutRequest(0, limit), weights)
        assert report.env_steps <= limit
        assert len(chunk) == report.transitions == report.env_steps
        assert chunk.priority is not None
        assert len(chunk.priority) == len(chunk)
        total, recorded = total + report.env_steps, recorded + report.recorded_steps
        chunks.append(chunk)

    assert recorded == pytest.approx(0.3 * total, abs=1.0)
    rows = [row.tobytes() for row in whole([chunk for chunk in chunks if len(chunk)])["observation"]]
    if env == "CartPole-v1":
        assert sum(row in known for row in rows) == recorded
    flush, _ = actor.flush(0)
    assert flush.transitions == 0


SMALL: dict[str, Any] = {
    "mode": "serial",
    "offline": ID,
    "max_learner_steps": 192,
    "target_return": None,
    "eval_period": 64,
    "eval_episodes": 2,
    "report_period": 64,
    "checkpoint_period": 64,
    "updates_per_call": 16,
    "batch_size": 16,
    "min_replay_size": 100,
    "hidden_sizes": (8,),
    "sampler": "prioritized",
    "conservative_weight": 0.5,
}


@pytest.fixture
def dataset(tmp_path: Path) -> int:
    """Steps of a dataset of CartPole."""
    record_random(tmp_path, "CartPole-v1", "--episodes", "10")
    return int(open_dataset("offline", ID).total_steps)


def run(folder: Path, **changes: Any) -> Any:
    """The summary of a short offline run."""
    return train(Config(**{**SMALL, "run_dir": str(folder), **changes}), quiet=True)


def test_offline_run_fills_replay_with_the_dataset_and_spends_its_learner_steps(
    dataset: int, tmp_path: Path
) -> None:
    summary = run(tmp_path / "run")

    assert summary["reason"] == "max_learner_steps"
    assert summary["learner_steps"] == 192
    assert summary["env_steps"] == summary["recorded_steps"] == summary["inserted"]
    assert summary["inserted"] - dataset == pytest.approx(192, abs=256)
    assert summary["episodes"] == summary["episodes_lost"] == 0
    assert summary["evaluations"] == 3


def assert_same_weights(*run_dirs: Path) -> None:
    """Two runs ended with the same weights, bit for bit."""
    arrays = [load_policy(folder / "final.npz").arrays for folder in run_dirs]
    for expected, found in zip(*arrays, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_resumed_offline_run_ends_as_the_uninterrupted_one_bit_for_bit(dataset: int, tmp_path: Path) -> None:  # noqa: ARG001
    one_call = {"samples_per_insert": 1.0}  # in a round, so that both runs make a checkpoint after the same
    run(tmp_path / "whole", **one_call)
    run(tmp_path / "part", **one_call, max_learner_steps=64)

    summary = run(tmp_path / "part", **one_call, resume="auto")

    assert summary["learner_steps"] == 192
    assert_same_weights(tmp_path / "whole", tmp_path / "part")


def test_lockstep_reads_the_dataset_as_serial_does_bit_for_bit(
    dataset: int,  # noqa: ARG001
    tmp_path: Path,
    ray_session: Any,  # noqa: ARG001
) -> None:
    for mode in ("serial", "lockstep"):
        run(tmp_path / mode, mode=mode, offline_fraction=0.5, actors=2, max_env_steps=900)

    assert_same_weights(tmp_path / "serial", tmp_path / "lockstep")


def test_async_run_learns_from_shards_that_are_read_and_resumes(
    dataset: int,  # noqa: ARG001
    tmp_path: Path,
    ray_session: Any,  # noqa: ARG001
) -> None:
    options = {"mode": "async", "replay_shards": 2, "checkpoint_seconds": 5.0}
    summary = run(tmp_path / "run", **options)
    again = run(tmp_path / "run", **options, resume="auto", max_learner_steps=320)

    assert summary["reason"] == again["reason"] == "max_learner_steps"
    assert (summary["learner_steps"], again["learner_steps"]) == (192, 320)
    assert again["env_steps"] == again["recorded_steps"]
    assert again["episodes"] == again["episodes_lost"] == 0
    assert {role["role"] for role in json.loads((tmp_path / "run" / "status.json").read_text())["roles"]} >= {
        "actor-0",
        "actor-1",
    }


def test_recorded_part_of_a_run_is_the_fraction_of_its_env_steps(
    dataset: int,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("distdqn.runner.role_parts", light_parts)
    monkeypatch.setattr("light_run._SECONDS_PER_UPDATE", 0.0)

    options = {"offline_fraction": 0.25, "actors": 2, "max_env_steps": 2000, "max_learner_steps": None}
    summary = run(tmp_path / "run", **options, sampler="uniform")

    assert summary["reason"] == "max_env_steps"
    assert summary["env_steps"] == 2000
    assert summary["recorded_steps"] == pytest.approx(500, abs=2)
    assert summary["episodes"] > 0


def test_record_plays_the_network_and_appends_other_episodes(tmp_path: Path, capsys: Any) -> None:
    write_run(tmp_path, "CartPole-v1", hidden_sizes=(8,))
    words = [str(tmp_path), "--dataset", ID, "--episodes", "2"]

    assert record(words) == 0
    assert record([*words, "--append", "--epsilon", "0.5"]) == 0
    assert record(words) == 2

    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].startswith(f"{ID}: 2 episodes, mean return ")
    assert captured.out.splitlines()[1].split("; ")[1].startswith("4 episodes and ")
    (line,) = captured.err.splitlines()
    assert line.startswith(f"distdqn: error: `dataset`: cannot write `{ID}`: ")
    assert "already exists" in line
    firsts = {episode.observations[0].tobytes() for episode in open_dataset("offline", ID)}
    assert len(firsts) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"offline": "toy/none-v0"}, "there is no dataset .*none-v0 .*minari download"),
        (
            {"env": "Acrobot-v1"},
            "does not fit: its observations are Box.*and those of `Acrobot-v1` are Box.*; its ",
        ),
        ({"max_learner_steps": None}, "give `max_learner_steps`"),
        ({"actors": 3}, "`actors` has no effect where all env steps are recorded"),
        ({"offline": None, "offline_fraction": 0.5}, "`offline_fraction` has no effect without `offline`"),
        ({"offline_fraction": 0.0}, "`offline_fraction` must be above 0"),
    ],
)
def test_offline_run_that_makes_no_sense_is_refused_in_one_line(
    changes: dict[str, Any],
    words: str,
    dataset: int,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        run(tmp_path / "run", **changes)

    assert len(raised.value.mistakes) == 1
    assert not (tmp_path / "run").exists()


def test_dataset_without_the_masks_of_the_environment_is_refused(tmp_path: Path) -> None:
    import minari

    space, actions = gymnasium.spaces.Discrete(500), gymnasium.spaces.Discrete(6)
    buffer = minari.data_collector.EpisodeBuffer(
        observations=[1, 2], actions=[3], rewards=[0.0], terminations=[False], truncations=[True]
    )
    with pytest.warns(UserWarning, match="None"):
        minari.create_dataset_from_buffers(ID, [buffer], observation_space=space, action_space=actions)
    env = next(name for name in ("Taxi-v4", "Taxi-v3") if name in gymnasium.registry)

    with pytest.raises(ConfigError, match="lacks the `action_mask` of `info`"):
        run(tmp_path / "run", env=env)


def test_missing_package_is_one_line_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("distdqn.environments.recorded.importlib.util.find_spec", lambda _: None)

    assert record([str(tmp_path), "--random", "--env", "CartPole-v1", "--dataset", ID]) == 2

    assert "pip install 'distdqn[offline]'" in capsys.readouterr().err
