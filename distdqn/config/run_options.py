"""Every option of a run that is not the algorithm's: what, where, how long, what if."""

from dataclasses import dataclass
from typing import Literal

from distdqn.config.algorithm_options import SharedOptions
from distdqn.config.option_fields import option
from distdqn.config.option_types import Range

_RUN, _GOAL, _CHECKPOINTS, _FAULTS = "run", "goal and budget", "checkpoints", "faults"

_PLACEMENT = "placement on a cluster"


@dataclass(frozen=True, kw_only=True)
class RunOptions(SharedOptions):
    """Where a run happens, when it ends, and what is kept of it."""

    mode: Literal["async", "lockstep", "serial"] = option(
        _RUN,
        "async",
        "`async`: as fast as the machine allows; `lockstep`: in rounds, the same result every time; "
        "`serial`: the same result in one process, without Ray",
    )
    actors: int | Literal["auto"] = option(
        _RUN,
        4,
        "number of actors; `auto` means as many as the cluster has room for, now and later, or the machine",
        Range(1, 10_000),
    )
    min_actors: int | None = option(
        _RUN,
        None,
        "with so many actors the run starts, and adds the rest when nodes come; none means with all, and for "
        "`auto` with one",
        Range(1, 10_000),
    )
    max_actors: int | None = option(
        _RUN,
        None,
        "most actors; with `auto` also what an autoscaling cluster is asked for; none means no limit",
        Range(1, 10_000),
    )
    run_dir: str | None = option(_RUN, None, "folder for results; none means `runs/<env>-<time>`")
    address: str | None = option(
        _RUN,
        None,
        "Ray cluster to join: `host:port`, or `auto` for the one on this machine; `local`, or `--local` for "
        "short, forces a private one; none means RAY_ADDRESS if set, else a private one",
    )

    learner_gpus: float = option(
        _PLACEMENT, 0.0, "GPUs of the learner's process; a part of one is shared with others", Range(0, 64)
    )
    learner_resources: str | None = option(
        _PLACEMENT,
        None,
        "custom resources that the learner takes of its node, as in `fast=1,node:10.0.0.3=0.01`",
    )
    actor_resources: str | None = option(
        _PLACEMENT, None, "custom resources that each actor, and the evaluator, takes of its node"
    )

    target_return: float | Literal["auto"] | None = option(
        _GOAL,
        "auto",
        "mean return at which the run is solved; `auto` means the environment's own threshold; "
        "none means no goal",
    )
    max_env_steps: int = option(_GOAL, 500_000, "budget in env steps of all actors", Range(1, 10**15))
    max_episodes: int | None = option(
        _GOAL, None, "budget in training episodes of all actors; none means no limit", Range(1, 10**15)
    )
    max_seconds: float | None = option(
        _GOAL, None, "budget in seconds from the start of the run; none means no limit", Range(0, above=True)
    )
    eval_period: int = option(_GOAL, 1024, "learner steps from one evaluation to the next", Range(1))
    eval_episodes: int = option(_GOAL, 20, "episodes of a regular evaluation", Range(1, 100_000))
    confirm_episodes: int = option(
        _GOAL,
        200,
        "fresh episodes of the evaluation that confirms that the goal is reached",
        Range(2, 100_000),
    )
    report_period: int = option(
        _GOAL, 1024, "learner steps from one line of metrics to the next in `lockstep` and `serial`", Range(1)
    )
    report_seconds: float = option(
        _GOAL, 1.0, "seconds from one line of metrics to the next in `async`", Range(0, above=True)
    )

    resume: str | None = option(
        _CHECKPOINTS,
        None,
        "go on from a checkpoint: `auto` means the newest whole one of `run_dir`, if it has any; or a run's "
        "folder, a checkpoint's file or a URL",
    )
    checkpoint_seconds: float | None = option(
        _CHECKPOINTS,
        60.0,
        "seconds from one checkpoint to the next in `async`, which ends with one, too; none means never",
        Range(0, above=True),
    )
    checkpoint_period: int | None = option(
        _CHECKPOINTS,
        50_000,
        "learner steps from one checkpoint to the next in `lockstep` and `serial`; each begins new episodes; "
        "none means never",
        Range(1),
    )
    checkpoint_dir: str | None = option(
        _CHECKPOINTS, None, "folder or URL for checkpoints; none means `checkpoints` in the run's folder"
    )
    keep_checkpoints: int = option(
        _CHECKPOINTS,
        2,
        "newest checkpoints kept; that of the best evaluation is kept besides",
        Range(1, 10**6),
    )
    checkpoint_replay: bool = option(
        _CHECKPOINTS,
        True,
        "save replay, too; without it a run that goes on has to fill it up to `min_replay_size` first",
    )

    stall_timeout_seconds: float = option(
        _FAULTS,
        600.0,
        "longest time in which nothing goes on, as when the cluster has no place for a role, before the run "
        "gives up; a call that a role is at work on has a deadline of its own",
        Range(0, above=True),
    )
    env_timeout_seconds: float = option(
        _FAULTS,
        60.0,
        "longest rollout before its process is replaced; an evaluation may take that for every ten episodes",
        Range(0, above=True),
    )
    start_timeout_seconds: float = option(
        _FAULTS,
        120.0,
        "longest wait for a role to start, at first also for room on the cluster, or for the learner and "
        "replay to answer",
        Range(0, above=True),
    )
