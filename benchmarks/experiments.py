"""The experiments: each row of docs/results.md as a command line, and the bars that it must reach."""

import functools
import json
import shlex
from dataclasses import dataclass
from typing import Any

from distdqn.config.command_line import parse_run
from distdqn.config.config import Config, resolved
from distdqn.environments.registry import inspect_environment
from distdqn.training.resolve import resolve

EPISODES = 100  # greedy, of each run's final weights
COMMON = "--mode serial --target-return none"  # one process, reproducible, no early stop

# One agent each after 100,000 env steps of Acrobot-v1; means over about 2,000 greedy episodes.
ZOO = "https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/benchmark.md"
ZOO_DQN, ZOO_QR_DQN = -76.6, -69.1


@dataclass(frozen=True)
class Task:
    """An environment and its budget."""

    env: str  # value of `--env`
    env_steps: int  # budget
    eval_env_steps: int  # from one evaluation to the next
    goal: float  # mean return; infinite without a goal


CARTPOLE = Task("CartPole-v1", 50_000, 1_000, 475.0)
ACROBOT = Task("Acrobot-v1", 100_000, 2_000, -100.0)
BREAKOUT = Task("MinAtar/Breakout-v1", 500_000, 10_000, float("inf"))


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed only."""

    label: str  # name in tables and pictures
    task: Task
    options: str | None = ""  # added to the default command line; None is the random agent

    @property
    def folder(self) -> str:
        """Name of the folder of its runs."""
        return f"{self.task.env}-{self.label}".replace("/", "-").replace(" ", "-")

    def train_command(self, seed: object, run_dir: str) -> list[str]:
        """Arguments of `python` for training; empty for the random agent."""
        if self.options is None:
            return []
        return ["-m", "distdqn.run", *self._arguments(), "--seed", str(seed), "--run-dir", run_dir]

    def evaluate_command(self, seed: object, run_dir: str) -> list[str]:
        """Arguments of `python` for evaluating the final weights."""
        end = ["--episodes", str(EPISODES), "--seed", str(seed)]
        if self.options is None:
            return ["benchmarks/results.py", "random", self.task.env, *end]
        return ["-m", "distdqn.evaluate", run_dir, "--final", *end]

    def settings(self) -> dict[str, Any]:
        """Every option as in `config.json` of its runs, without those that differ between runs."""
        if self.options is None:
            return {}
        settings: dict[str, Any] = json.loads(json.dumps(self._config.to_json()))
        return {name: value for name, value in settings.items() if name not in ("seed", "run_dir")}

    @functools.cached_property  # reading a command line takes a tenth of a second
    def _config(self) -> Config:
        given = parse_run([*self._task(), *self._own()])[0]
        config = resolve(given, inspect_environment(self.task.env))
        # The option counts learner steps, and one learner step needs this many env steps.
        ratio = resolved(config.samples_per_insert)
        period = round(self.task.eval_env_steps * ratio / resolved(config.batch_size))
        return given.model_copy(update={"eval_period": period})

    def _arguments(self) -> list[str]:
        return [*self._task(), "--eval-period", str(self._config.eval_period), *self._own()]

    def _task(self) -> list[str]:
        return ["--env", self.task.env, "--max-env-steps", str(self.task.env_steps)]

    def _own(self) -> list[str]:
        return shlex.split(f"{COMMON} {self.options}")


CARTPOLE_DEFAULT = Row("default", CARTPOLE)
ACROBOT_DEFAULT = Row("default", ACROBOT)
PRESETS = ("dqn", "double", "apex", "rainbow", "qr", "munchausen")

# Each part of the defaults switched off by itself.
ABLATION = {
    "value head": "--head value",
    "no layer normalization": "--no-layer-norm",
    "no double": "--no-double",
    "1-step returns": "--n-step 1",
    "an update every eight env steps": "--samples-per-insert 16",
    "batches of 64": "--batch-size 64",
    "no gradient clipping": "--max-gradient-norm none",
    "no lag of the target": "--target-update-period 1",
    "no decay of epsilon": "--epsilon-decay-steps 0",
    "no fall of the learning rate": "--learning-rate-schedule constant",
}

RANDOM = Row("random", BREAKOUT, None)
# These are images, and a brick gives a reward of 1 like Atari's clipped rewards. So this row sets what the
# preset leaves out for vectors to the paper's values: the categorical support, and 8,000 env steps (32,000
# frames) between two copies to the target network, which are 1,000 updates with images.
RAINBOW_BREAKOUT = "--preset rainbow --v-min -10 --v-max 10 --target-update-period 1000"
# Pairs: with convolutions, and the same without.
MINATAR = (
    (Row("default", BREAKOUT), Row("default dense", BREAKOUT, "--torso dense")),
    (
        Row("rainbow", BREAKOUT, RAINBOW_BREAKOUT),
        Row("rainbow dense", BREAKOUT, f"{RAINBOW_BREAKOUT} --torso dense"),
    ),
)

FIRST_SEED = 100
SEEDS = {"stability": 20, "acrobot": 5, "minatar": 3, "presets": 5, "ablation": 5}

# A row in two sections is run once.
SECTIONS: dict[str, list[Row]] = {
    "stability": [CARTPOLE_DEFAULT],
    "acrobot": [ACROBOT_DEFAULT],
    "minatar": [row for pair in MINATAR for row in pair] + [RANDOM],
    "presets": [
        row
        for default in (CARTPOLE_DEFAULT, ACROBOT_DEFAULT)
        for row in [default, *(Row(name, default.task, f"--preset {name}") for name in PRESETS)]
    ],
    "ablation": [CARTPOLE_DEFAULT, *(Row(name, CARTPOLE, options) for name, options in ABLATION.items())],
}
