"""`evaluate`: a run's network played greedily, the same every time, without TensorFlow."""

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import distdqn
from distdqn.checkpoints.store import Store
from distdqn.errors import ConfigError
from distdqn.evaluate import evaluate, main
from distdqn.networks.numpy_policy import load_policy, policy_bytes, tree_from_weights
from distdqn.types import PolicyWeights

# Pays what its generator drew at reset, but only where the greedy action (1) is taken.
ENVIRONMENT = """
import gymnasium
import numpy as np

returns = []

class Lottery(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.prize = float(self.np_random.integers(1, 100))
        self.steps = 0
        return np.ones(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        reward = self.prize if action == 1 else -1000.0
        if self.steps == 2:
            returns.append(2 * self.prize)
        return np.ones(2, np.float32), reward, self.steps == 2, False, {}

class Bets(Lottery):
    def __init__(self, stake, length=2):
        self.stake, self.length = stake, length

    def step(self, action):
        observation, _, _, _, info = super().step(action)
        return observation, self.stake, self.steps == self.length, False, info

class Negative(gymnasium.RewardWrapper):
    def reward(self, reward):
        return -reward

class Nothing(Lottery):
    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, 0.0, terminated, truncated, info
"""


@pytest.fixture
def lottery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The environment's module, which notes the return of every episode."""
    (tmp_path / "lottery_for_tests.py").write_text(ENVIRONMENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "lottery_for_tests", raising=False)
    module = importlib.import_module("lottery_for_tests")
    yield module
    del sys.modules["lottery_for_tests"]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run's folder made by hand: `Q = observation @ kernel + bias`, largest for action 1."""
    folder = tmp_path / "run"
    folder.mkdir()
    layers = [
        {"name": "observation", "kind": "input", "inputs": [], "arrays": []},
        {
            "name": "q",
            "kind": "dense",
            "inputs": ["observation"],
            "arrays": [0, 1],
            "activation": "linear",
        },
    ]
    kernel = np.array([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]], np.float32)  # Q = [2, 4, 3]
    bias = np.array([0.0, 0.0, 3.0], np.float32)
    weights = PolicyWeights(layers, [kernel, bias], (0, 7), 128)
    (folder / "policy.npz").write_bytes(policy_bytes(weights))
    (folder / "config.json").write_text(json.dumps({"env": "lottery_for_tests:Lottery", "seed": 3}))
    return folder


def test_evaluation_gives_the_moments_of_the_returns(lottery: ModuleType, run_dir: Path) -> None:
    found = evaluate(run_dir, episodes=5, seed=1)

    returns = np.array(lottery.returns)
    assert len(returns) == 5
    assert len({returns.min(), returns.max(), returns.mean()}) == 3
    assert found == {
        "mean": pytest.approx(returns.mean()),
        "standard_deviation": pytest.approx(np.sqrt(np.sum((returns - returns.mean()) ** 2) / 4)),
        "minimum": returns.min(),
        "maximum": returns.max(),
        "episodes": 5,
        "seed": 1,
    }


@pytest.mark.usefixtures("lottery")
def test_evaluation_is_the_same_for_the_same_seed_alone(run_dir: Path) -> None:
    first, again, other = (evaluate(run_dir, episodes=8, seed=seed) for seed in (4, 4, 5))

    assert first == again
    assert first["mean"] != other["mean"]


@pytest.mark.usefixtures("lottery")
def test_evaluation_plays_another_environment_when_one_is_named(run_dir: Path) -> None:
    found = evaluate(run_dir, episodes=3, seed=1, env="lottery_for_tests:Nothing")

    assert (found["mean"], found["minimum"], found["maximum"]) == (0.0, 0.0, 0.0)


RECORDED = {
    "env": "lottery_for_tests:Bets",
    "env_kwargs": {"stake": 3.0, "length": 9},
    "wrapper": ["lottery_for_tests:Negative"],
    "max_episode_steps": 4,
}
CHOSEN = {
    "the run's": ({}, -12.0),
    "other arguments": ({"env_kwargs": {"stake": 1.0}}, -2.0),
    "no wrapper": ({"wrapper": ()}, 12.0),
    "other limit": ({"max_episode_steps": 6}, -18.0),
    "other environment": ({"env": "lottery_for_tests:Nothing", "wrapper": []}, 0.0),
}


@pytest.mark.usefixtures("lottery")
@pytest.mark.parametrize(("chosen", "mean"), CHOSEN.values(), ids=CHOSEN)
def test_evaluation_makes_the_environment_as_the_run_did_unless_told(run_dir, chosen, mean) -> None:
    (run_dir / "config.json").write_text(json.dumps(RECORDED))

    assert evaluate(run_dir, episodes=2, **chosen)["mean"] == mean


@pytest.mark.usefixtures("lottery")
def test_command_takes_arguments_and_wrappers(run_dir, capsys) -> None:
    (run_dir / "config.json").write_text(json.dumps(RECORDED))
    words = "--env-kwargs stake=2 --env-kwargs length=3 --wrapper none --max-episode-steps 99"

    assert main([str(run_dir), *words.split()]) == 0
    assert json.loads(capsys.readouterr().out)["mean"] == 6.0


@pytest.mark.usefixtures("lottery")
def test_arguments_that_the_environment_does_not_take_end_the_command(run_dir, capsys) -> None:
    assert main([str(run_dir), "--env", "lottery_for_tests:Bets"]) == 2
    assert "needs the argument `stake` (give `--env-kwargs stake=VALUE`)" in capsys.readouterr().err


@pytest.mark.usefixtures("lottery")
def test_standard_deviation_of_one_episode_is_zero(run_dir: Path) -> None:
    found = evaluate(run_dir, episodes=1, seed=1)

    assert found["standard_deviation"] == 0.0
    assert found["mean"] == found["minimum"] == found["maximum"]


@pytest.mark.usefixtures("lottery")
def test_command_prints_one_line_of_json(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([str(run_dir), "--episodes", "4", "--seed", "6"])

    captured = capsys.readouterr()
    assert code == 0
    assert captured.err == ""
    assert captured.out.count("\n") == 1
    assert json.loads(captured.out) == evaluate(run_dir, episodes=4, seed=6)


def test_numbers_that_are_not_finite_are_null_in_the_line_of_json(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distdqn.evaluate.evaluate", lambda **_: {"mean": math.nan, "maximum": math.inf})
    assert main([str(run_dir)]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"mean": None, "maximum": None}


@pytest.mark.usefixtures("lottery")
def test_command_plays_a_hundred_episodes_unless_told_otherwise(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run_dir)]) == 0

    printed = json.loads(capsys.readouterr().out)
    assert (printed["episodes"], printed["seed"]) == (100, 0)


def test_evaluation_is_refused_when_the_folder_holds_no_policy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluate(tmp_path, episodes=0, seed=-1)

    assert [text.split("`")[1] for text in caught.value.mistakes] == ["episodes", "seed", "run_dir"]


def test_evaluation_is_refused_when_its_environment_does_not_exist(run_dir: Path) -> None:
    with pytest.raises(ConfigError, match="CartPole"):
        evaluate(run_dir, episodes=1, seed=0, env="CartPol-v1")


def run_evaluate(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m distdqn.evaluate` on the run's folder, which then says on stdout what it loaded."""
    (tmp_path / "lottery_for_tests.py").write_text(ENVIRONMENT)
    program = (
        "import sys; from distdqn.cli import main\n"
        f"code = main(['evaluate', 'run', *{arguments!r}])\n"
        "print(sorted({'ray', 'tensorflow', 'keras'} & set(sys.modules)))\n"
        "sys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(distdqn.__file__).resolve().parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.usefixtures("run_dir")
def test_evaluating_process_loads_neither_tensorflow_nor_ray(tmp_path: Path) -> None:
    result = run_evaluate(tmp_path, "--episodes", "3")

    assert (result.returncode, result.stderr) == (0, "")
    line, loaded = result.stdout.splitlines()
    assert json.loads(line)["episodes"] == 3
    assert loaded == "[]"


@pytest.mark.usefixtures("lottery")
@pytest.mark.parametrize("damage", ["no config", "config not JSON", "policy cut off", "another environment"])
def test_evaluation_is_refused_in_one_line_when_the_run_is_damaged(
    run_dir: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    options: list[str] = []
    if damage == "no config":
        (run_dir / "config.json").unlink()
    elif damage == "config not JSON":
        (run_dir / "config.json").write_text("{")
    elif damage == "policy cut off":
        content = (run_dir / "policy.npz").read_bytes()
        (run_dir / "policy.npz").write_bytes(content[: len(content) // 2])
    else:  # two inputs and three actions cannot play CartPole's four and two
        options = ["--env", "CartPole-v1"]

    assert main([str(run_dir), *options]) in (2, 4)

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("distdqn: error: ")


@pytest.fixture
def kept(run_dir: Path) -> Path:
    """The same run with the checkpoints 100 and 200, of which the first prefers the wrong action."""
    store = Store(str(run_dir / "checkpoints"))
    store.check_writable()
    weights = load_policy(run_dir / "policy.npz")
    policy = {"layers": weights.layers, "positions": [1, 0], "other_arrays": [weights.arrays[0]]}
    for number, bias in ((100, [9.0, 0.0, 0.0]), (200, [0.0, 0.0, 3.0])):
        state = {"networks": {"online": [np.array(bias, np.float32)]}, "policy": policy}
        learner = {**state, "weights_version": [0, 7], "learner_steps": number}
        goal = {"best_weights": tree_from_weights(weights) if number == 200 else None}
        tree = {"about": {"config": {"env": "lottery_for_tests:Lottery"}}, "learner": learner, "goal": goal}
        store.write_manifest(number, {name: store.write_tree(part) for name, part in tree.items()})
    return run_dir


@pytest.mark.usefixtures("lottery")
@pytest.mark.parametrize(
    ("checkpoint", "wins"), [("100", False), ("200", True), ("newest", True), ("best", True)]
)
def test_evaluation_plays_the_network_of_any_checkpoint(
    kept: Path, capsys: pytest.CaptureFixture[str], checkpoint: str, wins: bool
) -> None:
    (kept / "policy.npz").unlink()
    for place in (kept, kept / "checkpoints"):
        assert main([str(place), "--checkpoint", checkpoint, "--episodes", "3"]) == 0
        assert (json.loads(capsys.readouterr().out)["mean"] > 0.0) == wins


@pytest.mark.usefixtures("lottery")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--checkpoint", "300"], 4, "holds no checkpoint 300 (name one of 100, 200)"),
        (["--checkpoint", "many"], 2, "`checkpoint` must be"),
        (["--checkpoint", "-1"], 2, "`checkpoint` must be at least 0"),
        (["--checkpoint", "200", "--final"], 2, "`final` and `checkpoint` exclude each other"),
    ],
)
def test_checkpoint_that_is_not_there_is_refused_in_one_line(
    kept: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert main([str(kept), *arguments]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.usefixtures("lottery")
@pytest.mark.parametrize("damage", ["manifest", "arrays", "no evaluation"])
def test_fault_46_checkpoint_that_is_damaged_is_refused_in_one_line(
    kept: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    manifest = kept / "checkpoints" / "checkpoint-000000000200.json"
    checkpoint = "best" if damage == "no evaluation" else "200"
    if damage == "no evaluation":
        manifest.unlink()
    else:
        blobs = [] if damage == "manifest" else (kept / "checkpoints" / "blobs").iterdir()
        for path in (manifest, *blobs) if damage == "manifest" else blobs:
            path.write_bytes(path.read_bytes()[:-1])
    assert main([str(kept), "--checkpoint", checkpoint]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("distdqn: error: ")
