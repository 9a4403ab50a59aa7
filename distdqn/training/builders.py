"""From resolved options to the parts of a run."""

import importlib.util
from typing import Any

from distdqn.acting.evaluator import Evaluator
from distdqn.acting.recorded import actor_class
from distdqn.config.config import Config, resolved
from distdqn.environments.sources import import_all
from distdqn.errors import ConfigError, one_line
from distdqn.learning.learner import Learner
from distdqn.replay.rate_limiter import RateLimiter
from distdqn.replay.replay import Replay
from distdqn.schedules import Schedule
from distdqn.training.backend import Parts
from distdqn.types import EnvironmentSpec, LearnRequest


def role_parts(config: Config, spec: EnvironmentSpec, role: str, index: int, restarts: int) -> Parts:
    """Class and arguments of a role: `actor`, `replay`, `learner` or `evaluator`.

    `index` is that of the actor, the evaluator or the shard of replay, `restarts` how often it was started
    before.
    """
    parts: dict[str, Parts] = {
        "actor": (actor_class(config), (config, spec, index, restarts)),
        "replay": (Replay, (config, index)),
        "learner": (Learner, (config, spec, restarts)),
        "evaluator": (Evaluator, (config, spec.mask is not None, index)),
    }
    return parts[role]


def make_callbacks(config: Config) -> list[Any]:
    """The callbacks that the options name; `ConfigError` if one cannot be made."""
    asked = {"tensorboard": config.tensorboard, "wandb": config.wandb, "mlflow": config.mlflow}
    loggers = [name for name, is_asked in asked.items() if is_asked]
    for name in loggers:
        if name != "tensorboard" and not importlib.util.find_spec(name):  # the base install writes its files
            raise ConfigError(f"`{name}` is not installed (`pip install 'distdqn[{name}]'`).")
    names = [f"distdqn.reporting.{name}:{name.title()}Logger" for name in loggers]
    callbacks = []
    for called in import_all("callback", [*config.callback, *names]):
        try:
            callbacks.append(called())
        except Exception as error:
            why = called.mistake() or f"`callback`: `{called.name}` fails: {one_line(error)} (repair it)."
            raise ConfigError(why) from error
    return callbacks


def learn_request(config: Config, env_steps: int) -> LearnRequest:
    """The request for a learner call after `env_steps` of all actors.

    The learning rate falls so that late updates do not undo what was learned.
    """
    learning_rate = Schedule(
        resolved(config.learning_rate_schedule),
        config.learning_rate,
        config.learning_rate_end,
        config.learning_rate_decay_steps,
        config.learning_rate_points,
    )
    exponent = 0.0
    if config.sampler == "prioritized":
        exponent = Schedule(
            "linear",
            config.importance_sampling_exponent_start,
            config.importance_sampling_exponent_end,
            config.importance_anneal_steps,
        ).at(env_steps)
    return LearnRequest(learning_rate.at(env_steps), exponent)


def make_rate_limiter(config: Config) -> RateLimiter:
    """A rate limiter that always allows one running rollout per actor and two calls of the learner."""
    ratio = resolved(config.samples_per_insert)
    return RateLimiter(
        samples_per_insert=ratio,
        tolerance=config.samples_per_insert_tolerance,
        min_replay_size=config.min_replay_size,
        slack=2 * config.updates_per_call * resolved(config.batch_size),
        slack_per_actor=ratio * config.envs_per_actor * config.rollout_length,
    )
