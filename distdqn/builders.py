"""From the config to the parts: the only reader of options apart from the commands."""

import functools
from dataclasses import dataclass
from typing import Any

from distdqn.acting.actor import Actor, EarlyEnd
from distdqn.acting.environments import EnvironmentSpec
from distdqn.acting.evaluator import Evaluator
from distdqn.acting.exploration import EpsilonLadder
from distdqn.config import Config
from distdqn.goal import Budget, Goal
from distdqn.learning.heads import CategoricalHead, Head, QuantileHead, ValueHead
from distdqn.learning.learner import Learner
from distdqn.learning.update import Munchausen
from distdqn.networks import NetworkPlan
from distdqn.pacing import Pacing
from distdqn.replay.buffer import Replay
from distdqn.replay.samplers import PrioritizedSampler, UniformSampler
from distdqn.replay.shards import shard_capacities
from distdqn.schedules import LearningSchedules, LinearSchedule, Schedule, make_schedule
from distdqn.torsos import choose_torso

_ATOMS = {"value": 1, "quantile": 11, "categorical": 51}  # measured here; Bellemare et al. (2017)


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
            "epsilon": _epsilon(config),
            "epsilon_ladder": EpsilonLadder(config.epsilon_ladder_base, config.epsilon_ladder_exponent)
            if config.epsilon_ladder
            else None,
            "reward_scale": config.reward_scale,
            "reward_clip": config.reward_clip,
            "early_end": None
            if config.early_end_reward is None
            else EarlyEnd(config.early_end_reward, config.early_end_steps),
            "bootstrap_on_termination": config.bootstrap_on_termination,
            "prioritized": config.sampler == "prioritized",
            "max_failures": config.max_failures,
            "seed": config.seed,
            "index": index,
            "incarnation": incarnation,
        },
    )


def replay_blueprint(config: Config, shard: int = 0) -> Blueprint:
    """The replay memory, or one shard of it."""
    capacity = shard_capacities(config.capacity, config.replay_shards)[shard]
    samplers = {
        "uniform": UniformSampler,
        "prioritized": functools.partial(PrioritizedSampler, capacity, config.priority_exponent),
    }
    return Blueprint(
        Replay,
        {
            "capacity": capacity,
            "seed": config.seed,
            "make_sampler": samplers[config.sampler],
            "shard": shard,
        },
    )


def evaluator_blueprint(config: Config) -> Blueprint:
    """The evaluator."""
    return Blueprint(
        Evaluator, {"source": config.env, "seed": config.seed, "max_failures": config.max_failures}
    )


def learner_blueprint(config: Config, spec: EnvironmentSpec, epoch: int = 0) -> Blueprint:
    """The learner, in its `epoch`-th life."""
    return Blueprint(
        Learner,
        {
            "plan": _network_plan(config, spec),
            "head": _head(config),
            "batch_size": batch_size(config, spec.is_image),
            "updates_per_call": config.updates_per_call,
            "learning_rate": config.learning_rate,  # its schedule's value comes with every call
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
        observation_dtype=spec.observation_dtype,
        observation_low=spec.observation_low,
        observation_high=spec.observation_high,
        actions=spec.actions,
        torso=resolve_torso(config, spec),
        spectral_norm=config.spectral_norm,
        network=config.network,
        hidden_sizes=config.hidden_sizes,
        layer_norm=config.layer_norm,
        dueling=config.dueling,
        head=config.head,
        atoms=_atoms(config),
        v_min=config.v_min,
        v_max=config.v_max,
        noisy_sigma=config.noisy_sigma if config.noisy else None,
        output_kernel_reach=config.output_kernel_reach,
        output_bias=config.output_bias,
    )


def resolve_torso(config: Config, spec: EnvironmentSpec) -> str:
    """The torso of the network, `auto` resolved."""
    return choose_torso(spec.observation_shape, spec.is_image) if config.torso == "auto" else config.torso


def structure(config: Config, spec: EnvironmentSpec) -> dict[str, Any]:
    """What networks and stored transitions depend on, by option, as they are built with it.

    An option without effect beside the others is left out, so two runs whose structures agree
    in all that both have can go on from each other's checkpoints. What only decides how
    learning begins or goes on (initial weights, losses, rates, sampling) is no part of it.
    """
    found: dict[str, Any] = {
        "env": config.to_json()["env"],
        "observation_shape": list(spec.observation_shape),
        "observation_dtype": spec.observation_dtype,
        "actions": spec.actions,
        "n_step": config.n_step,
        "discount": config.discount,
        "reward_scale": config.reward_scale,
        "reward_clip": config.reward_clip,
        "early_end_reward": config.early_end_reward,
        "bootstrap_on_termination": config.bootstrap_on_termination,
        "network": config.network,
        "head": config.head,
    }
    if spec.is_image:
        found["observation_high"] = spec.observation_high  # images are divided by it
    if config.early_end_reward is not None:
        found["early_end_steps"] = config.early_end_steps
    if config.network is None:
        found |= {
            "torso": resolve_torso(config, spec),
            "hidden_sizes": list(config.hidden_sizes),
            "layer_norm": config.layer_norm,
            "spectral_norm": config.spectral_norm,
            "dueling": config.dueling,
            "noisy": config.noisy,
        }
    if config.head != "value":
        found["atoms"] = _atoms(config)
    if config.head == "categorical":
        found |= {"v_min": config.v_min, "v_max": config.v_max}
    return found


def _atoms(config: Config) -> int:
    """Outputs for each action under a distributional head."""
    return config.atoms or _ATOMS[config.head]


def _head(config: Config) -> Head:
    match config.head:
        case "quantile":
            return QuantileHead()
        case "categorical":
            return CategoricalHead(config.v_min, config.v_max, _atoms(config))
        case _:
            return ValueHead(config.loss)


def _munchausen(config: Config) -> Munchausen | None:
    if not config.munchausen:
        return None
    return Munchausen(config.munchausen_scale, config.munchausen_temperature, config.munchausen_least)


def _epsilon(config: Config) -> Schedule:
    return make_schedule(
        config.epsilon_schedule,
        config.epsilon_start,
        config.epsilon_end,
        config.epsilon_decay_steps,
        config.epsilon_points,
    )


def make_learning_schedules(config: Config, is_image: bool) -> LearningSchedules:
    """What of the learning changes over a run.

    The learning rate falls so that late updates do not undo what was learned. With images, an env step
    is an eighth as many updates, and learning takes many more env steps.
    """
    learning_rate = make_schedule(
        config.learning_rate_schedule or ("constant" if is_image else "linear"),
        config.learning_rate,
        config.learning_rate_end,
        config.learning_rate_decay_steps,
        config.learning_rate_points,
    )
    if config.sampler == "uniform":
        return LearningSchedules(learning_rate, LinearSchedule(0.0, 0.0, 0))
    return LearningSchedules(
        learning_rate,
        LinearSchedule(
            config.importance_exponent_start, config.importance_exponent_end, config.importance_anneal_steps
        ),
    )


def make_goal(config: Config, spec: EnvironmentSpec) -> Goal:
    """The goal that `target_return` names."""
    target = spec.reward_threshold if config.target_return == "auto" else config.target_return
    return Goal(target, config.eval_period, config.eval_episodes, config.confirm_episodes)


def make_budget(config: Config) -> Budget:
    """What the run may spend."""
    return Budget(config.max_env_steps, config.max_seconds, config.max_episodes)


def batch_size(config: Config, is_image: bool) -> int:
    """Transitions in one update."""
    return config.batch_size or (64 if is_image else 128)


def samples_per_insert(config: Config, is_image: bool) -> float:
    """Transitions sampled per transition inserted.

    An update of convolutions takes ten times as long as one of dense layers; a batch of 64 gets
    the 8 that Mnih et al. (2015) take: a batch of 32 every four env steps.
    """
    return config.samples_per_insert or batch_size(config, is_image) / (8.0 if is_image else 1.0)


def make_pacing(config: Config, spec: EnvironmentSpec) -> Pacing:
    """Pacing that always lets every actor have one rollout under way and the learner two calls."""
    ratio = samples_per_insert(config, spec.is_image)
    return Pacing(
        samples_per_insert=ratio,
        tolerance=config.samples_per_insert_tolerance,
        min_size=config.min_size,
        slack=2 * config.updates_per_call * batch_size(config, spec.is_image),
        slack_per_actor=ratio * config.envs_per_actor * config.rollout_length,
    )
