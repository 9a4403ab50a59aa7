"""CartPole-v1 from 200 recorded episodes of mixed quality, with and without the conservative term.

    python benchmarks/offline.py --folder /tmp/offline --seeds 5

A third of the episodes each is of random actions, of a half-trained network and of a trained one. Each seed
learns from them without acting, and its last network plays 100 greedy episodes. A seed that is in
`results.jsonl` of the folder is not made again.
"""

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from distdqn import Config, train
from distdqn.evaluate import evaluate
from distdqn.record import main as record

_ID = "cartpole/mixed-v0"
_EPISODES = 100  # of the evaluation of a seed
_SMALL: dict[str, Any] = {"mode": "serial", "actors": 1, "checkpoint_period": None}
# Each run whose network is recorded, the arguments of `record` and the number of episodes.
_PARTS = (
    ("half", ("--random",), 67),
    ("half", ("--final", "--epsilon", "0.1"), 67),
    ("trained", ("--epsilon", "0.1"), 66),
)


def main(arguments: list[str] | None = None) -> int:
    """Makes what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("offline"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--learner-steps", type=int, default=20_000)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 1.0], help="of the term")
    parser.add_argument("--half-env-steps", type=int, default=4000, help="after which training is half done")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    os.environ["MINARI_DATASETS_PATH"] = str(given.folder.resolve() / "datasets")
    if not (given.folder / "parts.json").exists():
        make_dataset(given.folder, given.half_env_steps)
    path = given.folder / "results.jsonl"
    for seed in range(given.seeds):
        for weight in given.weights:
            key = {"seed": seed, "conservative_weight": weight, "learner_steps": given.learner_steps}
            if not any(key.items() <= line.items() for line in read_lines(path)):
                line = key | learn(given.folder / f"seed-{seed}-{weight:g}-{given.learner_steps}", key)
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    print_table(json.loads((given.folder / "parts.json").read_text()), read_lines(path))
    return 0


def make_dataset(folder: Path, half_env_steps: int) -> None:
    """Trains the two networks and records the episodes."""
    for name, options in (
        ("half", {"max_env_steps": half_env_steps, "target_return": None}),
        ("trained", {}),
    ):
        if not (folder / name / "summary.json").exists():
            train(Config(**_SMALL, **options, run_dir=str(folder / name)), quiet=True)
    for number, (run, options, episodes) in enumerate(_PARTS):
        words = [str(folder / run), "--dataset", _ID, "--episodes", str(episodes), *options]
        if record([*words, *["--append"] * (number > 0)]):
            raise SystemExit(f"`record` failed (delete {folder / 'datasets'}, if it is there).")
    (folder / "parts.json").write_text(json.dumps(recorded_returns()))


def recorded_returns() -> list[float]:
    """The return of each episode of the dataset."""
    import minari

    return [float(sum(episode.rewards)) for episode in minari.load_dataset(_ID)]


def learn(run_dir: Path, key: dict[str, Any]) -> dict[str, Any]:
    """Learns from the dataset; mean and minimum return of the last network, and the seconds."""
    options = {"seed": key["seed"], "conservative_weight": key["conservative_weight"]}
    config = Config(
        **{name: value for name, value in _SMALL.items() if name != "actors"},
        **options,
        offline=_ID,
        max_learner_steps=key["learner_steps"],
        target_return=None,
        eval_period=5000,
        run_dir=str(run_dir),
    )
    summary = train(config, quiet=True)
    found = evaluate(run_dir, final=True, episodes=_EPISODES)
    return {"mean": found["mean"], "minimum": found["minimum"], "seconds": summary["total_seconds"]}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The results so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def print_table(recorded: list[float], lines: list[dict[str, Any]]) -> None:
    """Prints the returns of the dataset's parts, and of every seed."""
    begin = 0
    for run, options, episodes in _PARTS:
        part, begin = recorded[begin : begin + episodes], begin + episodes
        print(f"{episodes} episodes of {run} {' '.join(options)}: mean return {statistics.mean(part):.1f}")
    print(f"all {len(recorded)}: mean return {statistics.mean(recorded):.1f}, {sum(recorded):,.0f} steps\n")
    heads = ("weight", "learner steps", "seeds", "mean", "of each seed", "smallest of each seed")
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for weight, steps in sorted({(line["conservative_weight"], line["learner_steps"]) for line in lines}):
        own = [e for e in lines if (e["conservative_weight"], e["learner_steps"]) == (weight, steps)]
        means, least = [line["mean"] for line in own], [f"{line['minimum']:g}" for line in own]
        each = ", ".join(f"{mean:.1f}" for mean in means)
        cells = [f"{weight:g}", f"{steps:,}", str(len(own)), f"{statistics.mean(means):.1f}", each]
        print("| " + " | ".join([*cells, ", ".join(least)]) + " |")


if __name__ == "__main__":
    raise SystemExit(main())
