"""Every option of a run, written once: type, range, default, heading and meaning."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field

from distdqn.config import validation
from distdqn.config.model import Options, Text, option

T = TypeVar("T")

RUN, PLACEMENT, GOAL, CHECKPOINTS = "run", "placement on a cluster", "goal and budget", "checkpoints"
FAULTS, ACTING, REPLAY, LEARNING = "faults", "acting", "replay", "learning"

HEADINGS = {
    RUN: "environment, mode, actors, folder, Ray cluster",
    PLACEMENT: "GPUs and custom resources of the learner and the actors",
    GOAL: "when a run ends; evaluations and reports",
    CHECKPOINTS: "what is saved, when and where; resuming",
    FAULTS: "timeouts, and how many failures end a run",
    ACTING: "rollouts, n-step returns, exploration, rewards",
    REPLAY: "capacity, prioritized sampling, samples per insert",
    LEARNING: "network, loss, optimizer, target network",
}

Count = Annotated[int, Field(ge=1)]
Actors = Annotated[int, Field(ge=1, le=10_000)]
EnvSteps = Annotated[int, Field(ge=0, le=10**15)]
Budget = Annotated[int, Field(ge=1, le=10**15)]
Period = Annotated[int, Field(ge=1, le=10**12)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Transitions = Annotated[int, Field(ge=1, le=10**10)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=10)]
Return = Annotated[float, Field(ge=-1e9, le=1e9)]
Shape = Literal["constant", "linear", "cosine", "piecewise"]
ListToo = Field(strict=False)  # files have lists in place of tuples
Points = Annotated[tuple[Annotated[tuple[int, T], ListToo], ...], ListToo, Field(min_length=1)]


class SharedOptions(Options):
    """What more than one role reads."""

    has_opposites = True

    env: Text | Callable[[], Any] = option(
        RUN, "CartPole-v1", "Gymnasium id, or `module:Name`; in Python also a function that makes one"
    )
    seed: Seed = option(RUN, 0, "fixes every random stream")
    max_failures: Annotated[int, Field(ge=1, le=10**6)] = option(
        FAULTS, 5, "consecutive failures of a role, without a completed call between, that end the run"
    )
    sampler: Literal["uniform", "prioritized"] = option(
        REPLAY, "uniform", "`uniform`, or `prioritized` by TD error, with first priorities from the actors"
    )

    @classmethod
    def contradictions(cls, options: Mapping[str, Any]) -> list[str]:
        """A line for each contradiction between options.

        Args:
            options: those that are right by themselves.
        """
        return validation.contradictions(options)


class RunOptions(SharedOptions):
    """Where a run happens, when it ends, and what is kept of it."""

    mode: Literal["async", "lockstep", "serial"] = option(
        RUN,
        "async",
        "`async`: as fast as the machine allows; `lockstep`: in rounds, the same result every time; "
        "`serial`: the same result in one process, without Ray",
    )
    actors: Actors | Literal["auto"] = option(
        RUN,
        4,
        "number of actors; `auto` means as many as the cluster or the machine has room for, at any time",
    )
    min_actors: Actors | None = option(
        RUN,
        None,
        "start with this many actors and add the rest when nodes join; none means all, and one for `auto`",
    )
    max_actors: Actors | None = option(
        RUN,
        None,
        "most actors; with `auto` also what an autoscaling cluster is asked for; none means no limit",
    )
    run_dir: Text | None = option(RUN, None, "folder for results; none means `runs/<env>-<time>`")
    address: Text | None = option(
        RUN,
        None,
        "Ray cluster to join: `host:port`, or `auto` for the one on this machine; `local`, or `--local` for "
        "short, forces a private one; none means RAY_ADDRESS if set, else a private one",
    )

    learner_gpus: Annotated[float, Field(ge=0, le=64)] = option(
        PLACEMENT, 0.0, "GPUs of the learner's process; a part of one is shared with others"
    )
    learner_resources: Text | None = option(
        PLACEMENT,
        None,
        "custom resources that the learner takes of its node, as in `fast=1,node:10.0.0.3=0.01`",
    )
    actor_resources: Text | None = option(
        PLACEMENT, None, "custom resources that each actor, and the evaluator, takes of its node"
    )

    target_return: float | Literal["auto"] | None = option(
        GOAL,
        "auto",
        "mean return at which the run is solved; `auto` means the environment's own threshold; "
        "none means no goal",
    )
    max_env_steps: Budget = option(GOAL, 500_000, "budget in env steps of all actors")
    max_episodes: Budget | None = option(
        GOAL, None, "budget in training episodes of all actors; none means no limit"
    )
    max_seconds: Positive | None = option(
        GOAL, None, "budget in seconds from the start of the run; none means no limit"
    )
    eval_period: Count = option(GOAL, 1024, "learner steps from one evaluation to the next")
    eval_episodes: Annotated[int, Field(ge=1, le=100_000)] = option(
        GOAL, 20, "episodes of a regular evaluation"
    )
    confirm_episodes: Annotated[int, Field(ge=2, le=100_000)] = option(
        GOAL, 200, "fresh episodes of the evaluation that confirms that the goal is reached"
    )
    report_period: Count = option(
        GOAL, 1024, "learner steps from one line of metrics to the next in `lockstep` and `serial`"
    )
    report_seconds: Positive = option(GOAL, 1.0, "seconds from one line of metrics to the next in `async`")

    resume: Text | None = option(
        CHECKPOINTS,
        None,
        "resume from a checkpoint: `auto` means the newest whole one of `run_dir`, if there is one; or a "
        "run's folder, a checkpoint's file or a URL",
    )
    checkpoint_seconds: Positive | None = option(
        CHECKPOINTS,
        60.0,
        "seconds from one checkpoint to the next in `async`, which also ends with one; none means never",
    )
    checkpoint_period: Count | None = option(
        CHECKPOINTS,
        50_000,
        "learner steps from one checkpoint to the next in `lockstep` and `serial`; each starts new episodes; "
        "none means never",
    )
    checkpoint_dir: Text | None = option(
        CHECKPOINTS, None, "folder or URL for checkpoints; none means `checkpoints` in the run's folder"
    )
    keep_checkpoints: Annotated[int, Field(ge=1, le=10**6)] = option(
        CHECKPOINTS, 2, "newest checkpoints kept, besides that of the best evaluation"
    )
    checkpoint_replay: bool = option(
        CHECKPOINTS, True, "save replay, too; without it a resumed run first fills it up to `min_replay_size`"
    )

    stall_timeout_seconds: Positive = option(
        FAULTS,
        600.0,
        "longest time without progress, for example when the cluster has no room for a role, before the run "
        "gives up; a call that a role is running has a deadline of its own",
    )
    env_timeout_seconds: Positive = option(
        FAULTS,
        60.0,
        "longest rollout before its process is replaced; an evaluation may take that for every ten episodes",
    )
    start_timeout_seconds: Positive = option(
        FAULTS,
        120.0,
        "longest wait for a role to start, at first also for room on the cluster, or for the learner and "
        "replay to answer",
    )


class ActingOptions(SharedOptions):
    """What an actor reads."""

    envs_per_actor: Annotated[int, Field(ge=1, le=100_000)] = option(
        ACTING, 16, "environments that each actor steps together"
    )
    rollout_length: Annotated[int, Field(ge=1, le=100_000)] = option(
        ACTING, 16, "steps of every environment in one rollout, after which weights may change"
    )
    n_step: Annotated[int, Field(ge=1, le=1000)] = option(ACTING, 3, "env steps of reward in one transition")
    discount: Fraction = option(ACTING, 0.99, "discount per env step")
    epsilon_start: Fraction = option(ACTING, 1.0, "probability of a random action at first")
    epsilon_end: Fraction = option(ACTING, 0.02, "probability of a random action after `epsilon_decay_steps`")
    epsilon_decay_steps: EnvSteps = option(ACTING, 10_000, "total env steps over which epsilon falls")
    epsilon_schedule: Shape = option(
        ACTING,
        "linear",
        "how epsilon falls: `linear` or `cosine`; `constant` stays at `epsilon_start`; `piecewise` follows "
        "`epsilon_points`",
    )
    epsilon_points: Points[Fraction] | None = option(
        ACTING, None, "of `piecewise`, as in `0:1,10000:0.1,50000:0.02`: env steps and value"
    )
    epsilon_ladder: bool = option(
        ACTING,
        False,
        "instead of a schedule, a fixed epsilon for each environment, from `epsilon_ladder_base` downwards",
    )
    epsilon_ladder_base: PositiveFraction = option(ACTING, 0.4, "largest epsilon of the ladder")
    epsilon_ladder_exponent: Annotated[float, Field(ge=0)] = option(
        ACTING, 7.0, "the ladder ends at `epsilon_ladder_base` to the power of 1 plus this"
    )
    reward_scale: Positive = option(ACTING, 1.0, "rewards are multiplied by this before learning")
    reward_clip: Positive | None = option(
        ACTING, None, "scaled rewards are clipped to plus or minus this; none means never"
    )
    failure_reward: Return | None = option(
        ACTING,
        None,
        "learn this in place of the reward of a step that ends an episode before its env step "
        "`early_end_steps`; none means never",
    )
    early_end_steps: Annotated[int, Field(ge=1, le=10**9)] = option(
        ACTING, 200, "env steps of an episode before which its end is early"
    )
    bootstrap_on_termination: bool = option(
        ACTING,
        False,
        "bootstrap from the next observation even where the episode terminated: a common mistake, here to "
        "be studied",
    )


class ReplayOptions(SharedOptions):
    """What replay reads."""

    replay_capacity: Transitions = option(REPLAY, 100_000, "newest transitions that replay keeps")
    min_replay_size: Transitions = option(REPLAY, 1000, "transitions in replay before learning starts")
    samples_per_insert: Positive | None = option(
        REPLAY,
        None,
        "transitions sampled per transition inserted: couples learning to acting; none means `batch_size`, "
        "so one update per env step, and an eighth of that for images",
    )
    samples_per_insert_tolerance: PositiveFraction = option(
        REPLAY, 0.05, "how far `samples_per_insert` may fall short, relative"
    )
    priority_exponent: Rate = option(
        REPLAY, 0.6, "strength of `prioritized`: 0 is uniform, 1 is in proportion to priority"
    )
    importance_sampling_exponent_start: Fraction = option(
        REPLAY, 0.4, "strength of the importance weights of `prioritized` at first: 1 corrects fully"
    )
    importance_sampling_exponent_end: Fraction = option(
        REPLAY, 1.0, "the same after `importance_anneal_steps`"
    )
    importance_anneal_steps: EnvSteps = option(
        REPLAY, 100_000, "total env steps over which that exponent changes, linearly"
    )
    replay_shards: Annotated[int, Field(ge=1, le=10_000)] = option(
        RUN, 1, "processes that hold replay in `async`; each has its part of the capacity and the actors"
    )


class LearningOptions(SharedOptions):
    """What the learner and the networks read."""

    hidden_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...], ListToo, Field(min_length=1)
    ] = option(LEARNING, (128, 128), "units of each hidden layer, separated by commas")
    torso: Literal["auto", "dense", "small", "nature", "impala"] = option(
        LEARNING,
        "auto",
        "layers before the hidden ones: `dense` none; convolutions: `small` (MinAtar), `nature` (DQN), "
        "`impala` (residual); `auto`: `dense` for vectors, `small` for images under 36 pixels, else `nature`",
    )
    network: Text | None = option(
        LEARNING,
        None,
        "your own network in place of torso and layers: `module:function` of observation space and number of "
        "actions that returns a Keras model",
    )
    layer_norm: bool = option(LEARNING, True, "normalize hidden layers before their ReLU")
    spectral_norm: bool = option(LEARNING, False, "keep the spectral norm of every convolution at 1")
    output_init_scale: Rate | None = option(
        LEARNING,
        None,
        "initial kernel of the output layer: uniform within plus or minus this; none means Glorot's",
    )
    output_bias: Annotated[float, Field(ge=-1e6, le=1e6)] = option(
        LEARNING, 0.0, "initial bias of the output layer"
    )
    dueling: bool = option(
        LEARNING, False, "a value, and an advantage for each action, each with a last hidden layer of its own"
    )
    noisy: bool = option(
        LEARNING,
        False,
        "noisy networks: explore by learned noise in the weights; then set `epsilon_start` and "
        "`epsilon_end` to 0",
    )
    noisy_sigma: Positive = option(LEARNING, 0.5, "initial amount of that noise")
    head: Literal["value", "quantile", "categorical"] = option(
        LEARNING,
        "quantile",
        "what the network learns for each action: its `value`, or a distribution of returns, "
        "`quantile` (QR-DQN) or `categorical` (C51)",
    )
    atoms: Annotated[int, Field(ge=2, le=10_000)] | None = option(
        LEARNING,
        None,
        "quantiles, or returns of the categorical head; none means 11 quantiles, or 51 returns",
    )
    v_min: Return = option(LEARNING, -10.0, "smallest return of the categorical head")
    v_max: Return = option(LEARNING, 10.0, "largest return of the categorical head")
    batch_size: Annotated[int, Field(ge=1, le=10**7)] | None = option(
        LEARNING, None, "transitions in one update; none means 128, and 64 for images"
    )
    updates_per_call: Annotated[int, Field(ge=1, le=100_000)] = option(
        LEARNING, 64, "updates in one compiled call of the learner"
    )
    learning_rate: Annotated[float, Field(gt=0, le=10)] = option(LEARNING, 1e-3, "of Adam, at first")
    learning_rate_end: Rate = option(LEARNING, 2e-5, "of Adam, after `learning_rate_decay_steps`")
    learning_rate_decay_steps: EnvSteps = option(
        LEARNING, 100_000, "total env steps over which the learning rate falls"
    )
    learning_rate_schedule: Shape | None = option(
        LEARNING,
        None,
        "`constant` stays at `learning_rate`; `linear` and `cosine` fall; `piecewise` follows "
        "`learning_rate_points`; none means `linear`, and `constant` for images",
    )
    learning_rate_points: Points[Rate] | None = option(
        LEARNING, None, "of `piecewise`, as in `0:0.002,50000:0.0001`: env steps and value"
    )
    adam_epsilon: PositiveFraction = option(LEARNING, 1e-8, "of Adam, added to its denominator")
    max_gradient_norm: Positive | None = option(
        LEARNING, 10.0, "gradients are clipped to this global norm; none means never"
    )
    loss: Literal["huber", "squared"] = option(
        LEARNING, "huber", "of the value head's TD error: `huber` or `squared`"
    )
    double: bool = option(LEARNING, True, "double DQN: the online network chooses, the target network values")
    munchausen: bool = option(
        LEARNING,
        False,
        "Munchausen DQN: a softmax policy whose log-probability is added to the reward; needs `--no-double`",
    )
    munchausen_scale: Fraction = option(LEARNING, 0.9, "factor of that addition")
    munchausen_temperature: Positive = option(LEARNING, 0.03, "of the softmax policy, in units of reward")
    munchausen_clip: Annotated[float, Field(ge=-1e9, le=0)] = option(
        LEARNING, -1.0, "lower limit of that log-probability times the temperature"
    )
    target_update_period: Period = option(
        LEARNING, 200, "learner steps from one update of the target network to the next"
    )
    target_update_rate: PositiveFraction = option(
        LEARNING, 1.0, "how far the target network then moves: 1 copies, less moves softly"
    )
    weights_update_period: Period = option(
        LEARNING, 128, "learner steps from one version of the actors' weights to the next"
    )
    learner_threads: Annotated[int, Field(ge=1, le=1024)] = option(
        LEARNING, 1, "threads of the learner's computations"
    )


class Config(LearningOptions, ReplayOptions, ActingOptions, RunOptions):
    """The options of one run. Mistakes raise one `ConfigError` that lists them all."""

    @classmethod
    def from_preset(cls, preset: str, **options: Any) -> Self:
        """The options of a preset, and `options` in place of some of them.

        Raises:
            ConfigError: there is no such preset, or the options are wrong.
        """
        from distdqn.config.files import read_preset

        return cls(**{**read_preset(preset), **options})

    def to_json(self) -> dict[str, Any]:
        """Every option as JSON can hold it; a function stands as `module:Name`."""
        values = self.model_dump(mode="json", exclude={"env"})
        env = self.env
        if not isinstance(env, str):
            env = f"{env.__module__}:{getattr(env, '__qualname__', type(env).__qualname__)}"
        return {name: env if name == "env" else values[name] for name in Config.model_fields}


def resolved(value: T | None) -> T:
    """An option that `distdqn.training.resolve.resolve` has given a value.

    Raises:
        ValueError: it has none.
    """
    if value is None:
        raise ValueError("An option without a value was read: `resolve` comes first.")
    return value
