"""Run folders as benchmarks/results.py leaves them, made up.

Importing this makes the modules of benchmarks/ importable, so it comes before them.
"""

import json
import sys
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from experiments import Row  # noqa: E402

VERSIONS = {"python": "3.11.7", "distdqn": "0.1.0"}
MACHINE = {"cores": 2, "processor": "Abacus 3000", "system": "Linux", "packages": {}, "jobs": 1}


def make_run_folder(
    folder: Path, row: Row, seed: int, final: float, returns: list[float], seconds: float = 9.0
) -> Path:
    """A run as its commands leave it, with regular evaluations evenly over its budget."""
    run_dir = folder / row.folder / str(seed)
    run_dir.mkdir(parents=True)
    steps = np.linspace(0, row.task.env_steps, len(returns) + 1)[1:].astype(int).tolist()
    lines = [
        {"env_steps": count, "eval_return_mean": value}
        for count, mean in zip(steps, returns, strict=True)
        for value in (None, mean)  # a line of progress comes before that of each evaluation
    ]
    summary = {"reason": "max_env_steps", "env_steps": row.task.env_steps}
    files = {"machine": MACHINE, "final_evaluation": {"mean": final, "episodes": 100}}
    if row.options is not None:
        files |= {
            "config": {**row.settings(), "seed": seed},
            "run": {"versions": VERSIONS},
            "summary": summary,
        }
        files["cost"] = {"cpu_seconds": seconds}
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, content in files.items():
        (run_dir / f"{name}.json").write_text(json.dumps(content))
    return run_dir
