"""`python -m distdqn.bench ENV`: how fast each role is on this machine, and which of them limits a run."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

# Before NumPy is imported: one thread, as actors and replay have in a run.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import numpy as np
from pydantic import Field

from distdqn.config.command_line import command
from distdqn.config.config import Config, resolved
from distdqn.errors import ConfigError
from distdqn.runner import train
from distdqn.training.builders import learn_request, role_parts
from distdqn.training.limits import available_cpus
from distdqn.training.resolve import check_fit, check_surroundings, resolve
from distdqn.types import EnvironmentSpec, RolloutRequest, Tree

_NEARLY = 0.95  # of the most env steps/s: the rest is not worth more actors
# Of the run: it ends by time alone, and leaves nothing behind.
_OURS: Tree = {"mode": "async", "max_env_steps": 10**15, "callback": ()}
_OURS |= dict.fromkeys(("resume", "target_return", "max_episodes", "max_seconds", "checkpoint_seconds"))
_OURS |= dict.fromkeys(("tensorboard", "wandb", "mlflow"), False)
_REPORT = """\
Each role alone:
  actor       {actor_env_steps:,.0f} env steps/s, {env_fraction:.0%} of its time in the environment, \
{network_fraction:.0%} in the network
  replay      {inserted:,.0f} transitions/s stored, {sampled:,.0f} sampled
  learner     {learner_steps:,.0f} learner steps/s with batches of {batch_size}
  evaluation  {evaluation_seconds:.2g} s with the untrained network (cut after {evaluation_limit:.2g} s)
A run with {run_actors} actors: {run_env_steps:,.0f} env steps/s, {run_learner_steps:,.0f} learner steps/s.
  The actors wait {actors_wait_fraction:.0%} of the time, the learner {learner_wait_fraction:.0%}.
With {samples_per_insert:g} samples per insert, each allows so many env steps/s, and more with:
  actors   {most[actors]:11,.0f}  more `--actors`
  learner  {most[learner]:11,.0f}  `--learner-gpus 1`, a smaller network, a lower `--samples-per-insert`
  replay   {most[replay]:11,.0f}  more `--replay-shards`
  cores    {most[cores]:11,.0f}  another machine, a smaller network, a lower `--samples-per-insert`
The least limits this run: {limit}. Expected from this:
  actors  env steps/s  limited by
{table}
Try, with your other options: {try}"""


class BenchOptions(Config):
    """The options of the run to measure."""

    heading = "bench"

    seconds: Annotated[float, Field(ge=45)] = 60.0
    """Seconds for all measurements, most of them for a run of all roles."""
    json_: bool = False
    """Print the figures as one JSON object instead."""


@command("distdqn bench [ENV] [OPTION VALUE ...]", BenchOptions, positional="env")
def main(options: BenchOptions) -> None:
    """Measure how fast the roles of a run are on this machine, and tell what limits it and what to try."""
    config = Config(**{name: getattr(options, name) for name in Config.model_fields} | _OURS)
    spec = check_surroundings(config, None, config.network, masks=config.action_masks)
    full = resolve(config, spec)
    check_fit(full, spec)
    print(f"Measuring {spec.name} takes about {options.seconds:g} s.", file=sys.stderr)
    figures = full.model_dump(include={"samples_per_insert", "batch_size", "replay_shards"})
    figures |= {"cores": available_cpus()} | _measure_roles(full, spec, options.seconds / 20.0)
    figures |= _measure_run(config, 0.7 * options.seconds)
    rates = predictions(figures)
    enough = _NEARLY * max(rates.values())[0]
    actors = next(actors for actors, (rate, _) in rates.items() if rate >= enough)
    figures |= {"predictions": rates, "try": f"distdqn run --env {full.recorded_env()[0]} --actors {actors}"}
    print(json.dumps(figures) if options.json_ else describe(figures))


def limits(figures: Tree, actors: int) -> dict[str, float]:
    """Env steps/s that each role allows by itself, and the cores, which all roles share.

    `actors * actor_env_steps`, `learner_steps / u`, `replay_shards / r` and
    `cores / (actor_cpu_seconds + u * learner_cpu_seconds + r)`, as an env step needs
    `u = samples_per_insert / batch_size` learner steps and
    `r = 1 / inserted + samples_per_insert / sampled` seconds of replay. Names are keys of `figures`.
    """
    updates = figures["samples_per_insert"] / figures["batch_size"]
    replay = 1.0 / figures["inserted"] + figures["samples_per_insert"] / figures["sampled"]
    cpu_seconds = figures["actor_cpu_seconds"] + updates * figures["learner_cpu_seconds"] + replay
    by_role = {"actors": actors * figures["actor_env_steps"], "learner": figures["learner_steps"] / updates}
    return by_role | {"replay": figures["replay_shards"] / replay, "cores": figures["cores"] / cpu_seconds}


def predictions(figures: Tree) -> dict[int, tuple[float, str]]:
    """Env steps/s, and what limits them, with 1, 2, 4 actors and so on, to 16 or to two for each core.

    `min(limits(actors)) * run_env_steps / min(limits(run_actors))`: what Ray, evaluations and all else took
    from the measured run, they take from each.
    """
    scale = figures["run_env_steps"] / min(limits(figures, figures["run_actors"]).values())
    counts = [2**i for i in range(max(16, 2 * figures["cores"]).bit_length())]
    least = {actors: min((rate, name) for name, rate in limits(figures, actors).items()) for actors in counts}
    return {actors: (scale * rate, name) for actors, (rate, name) in least.items()}


def describe(figures: Tree) -> str:
    """The figures, their limits and predictions in words."""
    most = limits(figures, figures["run_actors"])
    rows = [f"{n:8}  {rate:11,.0f}  {name}" for n, (rate, name) in figures["predictions"].items()]
    return _REPORT.format(**figures, most=most, limit=min(most, key=most.__getitem__), table="\n".join(rows))


def _measure_roles(config: Config, spec: EnvironmentSpec, seconds: float) -> Tree:
    """Rates per second of each role alone in this process, measured for `seconds`; CPU of all threads."""
    parts = [role_parts(config, spec, role, 0, 0) for role in ("learner", "actor", "replay", "evaluator")]
    learner, actor, replay, evaluator = [role(*arguments) for role, arguments in parts]
    learner.compile()
    weights, request = learner.publish(), learn_request(config, 0)
    (act, act_cpu), rollouts = _timed(lambda: actor.rollout(RolloutRequest(0, 10**9), weights), seconds)
    reports, chunks = zip(*rollouts, strict=True)
    times = [(each.env_steps, each.env_seconds, each.network_seconds, each.total_seconds) for each in reports]
    env_steps, env, network, total = np.mean(times, axis=0).tolist()
    begin = time.perf_counter()
    inserted = [replay.insert(chunk).inserted for chunk in chunks][-1] / (time.perf_counter() - begin)
    updates, batch_size = config.updates_per_call, resolved(config.batch_size)
    shape = (updates, batch_size, request.importance_sampling_exponent)
    (sample, _), _ = _timed(lambda: len(replay.sample(*shape).item_id), seconds / 2)
    batches = replay.sample(*shape)
    (learn, learn_cpu), _ = _timed(lambda: learner.learn(batches, False, request.learning_rate), seconds)
    evaluation = evaluator.evaluate(weights, config.eval_episodes, 0, seconds)
    figures = {"actor_env_steps": env_steps / act, "actor_cpu_seconds": act_cpu / env_steps}
    figures |= {"env_fraction": env / total, "network_fraction": network / total}
    figures |= {"inserted": inserted, "sampled": updates * batch_size / sample}
    figures |= {"learner_steps": updates / learn, "learner_cpu_seconds": learn_cpu / updates}
    return figures | {"evaluation_seconds": evaluation.seconds, "evaluation_limit": seconds}


def _timed(call: Callable[[], Any], seconds: float) -> tuple[list[float], list[Any]]:
    """Mean seconds and CPU seconds of calls for `seconds`, of several without the first; all results."""
    times, results = [(time.perf_counter(), time.process_time())], list[Any]()
    while not results or times[-1][0] - times[0][0] < seconds:
        results.append(call())
        times.append((time.perf_counter(), time.process_time()))
    return np.diff(times, axis=0)[min(1, len(results) - 1) :].mean(axis=0).tolist(), results


def _measure_run(config: Config, seconds: float) -> Tree:
    """Rates per second of a run of `seconds`, from when it learns; `ConfigError` if it hardly does."""
    with tempfile.TemporaryDirectory() as folder:
        run = config.model_copy(update={"max_seconds": seconds, "run_dir": f"{folder}/run"})
        if train(run, quiet=True)["reason"] != "max_seconds":  # a signal ended it
            raise KeyboardInterrupt
        lines = [json.loads(line) for line in Path(f"{folder}/run/metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["learner_steps"]]
    if len(lines) < 5:  # seconds
        raise ConfigError(f"`seconds`: the run hardly learned in {seconds:.0f} s (give more).")
    figures = {"run_actors": lines[-1]["actors_alive"]}
    for name in ("actors_wait_fraction", "learner_wait_fraction"):
        figures[name] = float(np.mean([line[name] for line in lines]))
    for name in ("env_steps", "learner_steps"):
        # The slope of a fitted line, because counts rise by whole rollouts and calls.
        seen, counts = np.transpose([(line["wall_seconds"], line[name]) for line in lines])
        figures[f"run_{name}"] = float(np.polyfit(seen, counts, 1)[0])
    return figures


if __name__ == "__main__":
    sys.exit(main())
