"""From the config to the parts: the only reader of options apart from the commands."""

import functools
from dataclasses import dataclass
from typing import Any

from distdqn.acting.actor import Actor
from distdqn.acting.environments import EnvironmentSpec
from distdqn.acting.evaluator import Evaluator
from distdqn.acting.exploration import epsilon_ladder
from distdqn.config import Config
from distdqn.goal import Budget, Goal
from distdqn.learning.heads import CategoricalHead, Head, QuantileHead, ValueHead
from distdqn.learning.learner import Learner
from distdqn.learning.update import Munchausen
from distdqn.networks import NetworkPlan
from distdqn.pacing import Pacing
from distdqn.replay.buffer import Replay
from distdqn.replay.samplers import PrioritizedSampler, UniformSampler
from distdqn.schedules import LinearSchedule
from distdqn.transition import FloatArray


@dataclass(frozen=True)
class Blueprint:
    """A role's class and the plain arguments it is built with, in whatever process."""

    role: type[Any]
    arguments: dict[str, Any]

    def build(self) -> Any:
        """The role, in this process."""
        return self.role(**self.arguments)


def actor_blueprint(config: Config, spec: EnvironmentSpec, index: int, incarnation: int = 0) -> Blueprint:
    """Actor `index`, in its `incarnation`-th life."""
    return Blueprint(
        Actor,
        {
            "source": config.env,
            "actions": spec.actions,
            "environments": config.envs_per_actor,
            "rollout_length": config.rollout_length,
            "n_step": config.n_step,
            "discount": config.discount,
            "epsilon": LinearSchedule(config.epsilon_start, config.epsilon_end, config.epsilon_decay_steps),
            "epsilon_ladder": _rungs(config, index) if config.epsilon_ladder else None,
            "reward_scale": config.reward_scale,
            "reward_clip": config.reward_clip,
            "prioritized": config.sampler == "prioritized",
            "seed": config.seed,
            "index": index,
            "incarnation": incarnation,
        },
    )


def replay_blueprint(config: Config) -> Blueprint:
    """The replay memory."""
    samplers = {
        "uniform": UniformSampler,
        "prioritized": functools.partial(PrioritizedSampler, config.capacity, config.priority_exponent),
    }
    return Blueprint(
        Replay,
        {"capacity": config.capacity, "seed": config.seed, "make_sampler": samplers[config.sampler]},
    )


def evaluator_blueprint(config: Config) -> Blueprint:
    """The evaluator."""
    return Blueprint(Evaluator, {"source": config.env, "seed": config.seed})


def learner_blueprint(config: Config, spec: EnvironmentSpec, epoch: int = 0) -> Blueprint:
    """The learner, in its `epoch`-th life."""
    return Blueprint(
        Learner,
        {
            "plan": _network_plan(config, spec),
            "head": _head(config),
            "batch_size": config.batch_size,
            "updates_per_call": config.updates_per_call,
            "learning_rate": config.learning_rate,
            "adam_epsilon": config.adam_epsilon,
            "max_gradient_norm": config.max_gradient_norm,
            "double": config.double,
            "munchausen": _munchausen(config),
            "target_update_period": config.target_update_period,
            "target_update_rate": config.target_update_rate,
            "threads": config.learner_threads,
            "prioritized": config.sampler == "prioritized",
            "seed": config.seed,
            "epoch": epoch,
        },
    )


def _network_plan(config: Config, spec: EnvironmentSpec) -> NetworkPlan:
    return NetworkPlan(
        observation_shape=spec.observation_shape,
        actions=spec.actions,
        hidden_sizes=config.hidden_sizes,
        layer_norm=config.layer_norm,
        dueling=config.dueling,
        head=config.head,
        atoms=config.atoms,
        v_min=config.v_min,
        v_max=config.v_max,
        noisy_sigma=config.noisy_sigma if config.noisy else None,
    )


def _head(config: Config) -> Head:
    match config.head:
        case "quantile":
            return QuantileHead()
        case "categorical":
            return CategoricalHead(config.v_min, config.v_max, config.atoms)
        case _:
            return ValueHead(config.loss)


def _munchausen(config: Config) -> Munchausen | None:
    if not config.munchausen:
        return None
    return Munchausen(config.munchausen_scale, config.munchausen_temperature, config.munchausen_least)


def make_importance_exponent(config: Config) -> LinearSchedule:
    """How far importance weights undo prioritized sampling, by the run's env steps."""
    if config.sampler == "uniform":
        return LinearSchedule(0.0, 0.0, 0)
    return LinearSchedule(
        config.importance_exponent_start, config.importance_exponent_end, config.importance_anneal_steps
    )


def _rungs(config: Config, index: int) -> FloatArray:
    """Actor `index`'s part `[E]` of the epsilon ladder of all environments of all actors.

    Every actor gets rungs from the whole length of the ladder.
    """
    ladder = epsilon_ladder(
        config.actors * config.envs_per_actor, config.epsilon_ladder_base, config.epsilon_ladder_exponent
    )
    return ladder[index :: config.actors]


def make_goal(config: Config, spec: EnvironmentSpec) -> Goal:
    """The goal that `target_return` names."""
    target = spec.reward_threshold if config.target_return == "auto" else config.target_return
    return Goal(target, config.eval_period, config.eval_episodes, config.confirm_episodes)


def make_budget(config: Config) -> Budget:
    """What the run may spend."""
    return Budget(config.max_env_steps, config.max_seconds)


def make_pacing(config: Config) -> Pacing:
    """Pacing that always lets every actor have one rollout under way and the learner two calls."""
    rollouts = config.actors * config.envs_per_actor * config.rollout_length
    calls = 2 * config.updates_per_call * config.batch_size
    return Pacing(
        samples_per_insert=config.samples_per_insert,
        tolerance=config.samples_per_insert_tolerance,
        min_size=config.min_size,
        slack=config.samples_per_insert * rollouts + calls,
    )
