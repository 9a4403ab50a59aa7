"""What the loggers to other tools share: names of metrics, and what a resumed run continues."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

# As in Stable-Baselines3, where they mean the same.
_NAMES = {
    "env_steps": "time/total_timesteps",
    "episodes": "time/episodes",
    "wall_seconds": "time/time_elapsed",
    "env_steps_per_second": "time/fps",
    "train_return_mean": "rollout/ep_rew_mean",
    "train_length_mean": "rollout/ep_len_mean",
    "epsilon": "rollout/exploration_rate",
    "eval_return_mean": "eval/mean_reward",
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "learner_steps": "train/n_updates",
    "q_mean": "train/q_mean",
    "gradient_norm": "train/gradient_norm",
}


def tag(key: str) -> str:
    """The name of a metric in other tools, from its key in a line of metrics."""
    group, _, rest = key.partition("_")
    return _NAMES.get(key) or (f"eval/{rest}" if group == "eval" else f"run/{key}")


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a line of metrics, by `tag`."""
    numbers = ((tag(key), float(value)) for key, value in line.items() if isinstance(value, int | float))
    return {name: number for name, number in numbers if math.isfinite(number)}


def env_steps_before(folder: Path) -> int | None:
    """Env steps at the last line that a run resumes after; None for a new run."""
    lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    return int(json.loads(lines[-1])["env_steps"]) if lines else None


def kept_id(folder: Path, name: str, make: Callable[[], str]) -> str:
    """The id of a run in another tool, from `make` for a new run; `NAME.id` keeps it for a resume."""
    path = folder / f"{name}.id"
    if env_steps_before(folder) is None or not path.exists():
        path.write_text(make())
    return path.read_text()
