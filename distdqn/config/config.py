"""Every option of a run, written once: type, range and default, and below it what it means."""

import contextlib
import functools
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field

from distdqn.config import validation
from distdqn.config.model import Options, Points, Sizes, T, Text, document, function_name, read_preset
from distdqn.config.offline import OfflineOptions

Url = Annotated[Text, AfterValidator(validation.check_url)]
Amounts = Annotated[Text, AfterValidator(validation.check_amounts)]
Actors = Annotated[int, Field(ge=1, le=10_000)]
Count = Annotated[int, Field(ge=1)]
EnvSteps = Annotated[int, Field(ge=0, le=10**15)]
Budget = Annotated[int, Field(ge=1, le=10**15)]
Period = Annotated[int, Field(ge=1, le=10**12)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Transitions = Annotated[int, Field(ge=1, le=10**10)]
UpTo100K = Annotated[int, Field(ge=1, le=100_000)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=10)]
Return = Annotated[float, Field(ge=-1e9, le=1e9)]
Shape = Literal["constant", "linear", "cosine", "piecewise"]
Arguments = Annotated[dict[str, Any], BeforeValidator(validation.parse_arguments)]
Names = Annotated[tuple[Text, ...], BeforeValidator(validation.parse_names)]


class EnvironmentOptions(Options):
    """The environment, its arguments, wrappers and time limit."""

    heading = "environment"
    has_opposites = True

    env: Text | Callable[..., Any] = "CartPole-v1"
    """Gymnasium id, or `module:Name`; in Python also a function that makes one. A function or class with an
    argument `num_envs` makes a vector environment."""
    env_kwargs: Arguments = Field(default={})
    """Arguments of the environment, as in `size=5,slippery=false` or as JSON; repeat it for more."""
    wrapper: Names = ()
    """Wrapper around each environment, as `module:Name` or `module:Name,size=5`; repeat it for further ones,
    from the inside out."""
    max_episode_steps: Annotated[int, Field(ge=1)] | None = None
    """Env steps, of the wrapped environment, that truncate an episode; none means its own limit."""
    action_masks: bool = True
    """Take only the actions that the environment's `action_mask`, in `info`, allows."""

    def recorded_env(self) -> tuple[str, dict[str, Any]]:
        """`env` as text and its arguments; a function is `module:Name`, a `partial` also gives arguments."""
        env: Any = self.env
        arguments = self.env_kwargs
        if isinstance(env, functools.partial):
            with contextlib.suppress(ValueError):  # JSON cannot hold them
                arguments = validation.parse_arguments(env.keywords) | arguments
            env = env.func
        return function_name(env), arguments


class SharedOptions(EnvironmentOptions):
    """What more than one role reads."""

    heading = "run"
    elsewhere: ClassVar = {
        "max_failures": "faults",
        "max_eval_steps": "goal and budget",
        "sampler": "replay",
        "value_rescaling": "learning",
        "learner_gpus": "placement on a cluster",
    }

    seed: Seed = 0
    """Fixes every random stream."""
    max_failures: Annotated[int, Field(ge=1, le=10**6)] = 5
    """Consecutive failures of a role, without a completed call between, that end the run."""
    max_eval_steps: Count = 27_000
    """Steps after which an episode of an evaluation is truncated. Atari's limit is 27,000."""
    sampler: Literal["uniform", "prioritized"] = "uniform"
    """`uniform`, or `prioritized` by TD error, with first priorities from the actors."""
    value_rescaling: bool = False
    """Learn Q-values on a scale on which large ones lie closer together (R2D2), for rewards of any size."""
    learner_gpus: Fraction = 0.0
    """GPUs of the learner, which uses none without it in any mode; a part of one is shared with others."""


class PlacementOptions(SharedOptions):
    """GPUs and custom resources of the learner and the actors."""

    heading = "placement on a cluster"

    learner_resources: Amounts | None = None
    """Custom resources that the learner takes of its node, as in `fast=1,node:10.0.0.3=0.01`."""
    actor_resources: Amounts | None = None
    """Custom resources that each actor, and each evaluator, takes of its node."""


class GoalOptions(SharedOptions):
    """When a run ends; evaluations."""

    heading = "goal and budget"

    target_return: float | Literal["auto"] | None = "auto"
    """Mean return that solves the environment; `auto` means its own threshold; none means no goal."""
    max_env_steps: Budget = 500_000
    """Budget in env steps of all actors."""
    max_episodes: Budget | None = None
    """Budget in training episodes of all actors; none means no limit."""
    max_learner_steps: Budget | None = None
    """Budget in learner steps, rounded up to whole calls of `updates_per_call`; none means no limit."""
    max_seconds: Positive | None = None
    """Budget in seconds from the start of the run; none means no limit."""
    eval_period: Count = 1024
    """Learner steps from one evaluation to the next."""
    eval_episodes: UpTo100K = 20
    """Episodes of a regular evaluation."""
    evaluators: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = "auto"
    """Number of processes that share the episodes of an evaluation; `auto` means 1, and in `async` on one
    machine up to 8 where steps wait for something other than the CPU."""
    confirm_episodes: Annotated[int, Field(ge=2, le=100_000)] = 200
    """Fresh episodes of the evaluation that confirms that the goal is reached."""


class ReportOptions(SharedOptions):
    """Lines of metrics, and where they go."""

    heading = "reports"

    report_period: Count = 1024
    """Learner steps from one line of metrics to the next in `lockstep` and `serial`."""
    report_seconds: Positive = 1.0
    """Seconds from one line of metrics to the next in `async`."""
    callback: Names = ()
    """Class, or function that makes one, whose methods follow the run, as `module:Name` or
    `module:Name,size=5`; repeat it for further ones."""
    tensorboard: bool = False
    """Write event files for TensorBoard into `tensorboard` in the run's folder."""
    wandb: bool = False
    """Log to Weights & Biases, as its own variables such as `WANDB_MODE` say."""
    mlflow: bool = False
    """Log to MLflow, at `MLFLOW_TRACKING_URI`."""


class CheckpointOptions(SharedOptions):
    """What is saved, when and where; resuming."""

    heading = "checkpoints"

    resume: Url | None = None
    """Resume from a checkpoint: `auto` means the newest whole one of `run_dir`, if there is one; or a
    run's folder, a checkpoint's file or a URL."""
    checkpoint_seconds: Positive | None = 60.0
    """Seconds from one checkpoint to the next in `async`, which also ends with one; none means never."""
    checkpoint_period: Count | None = 50_000
    """Learner steps from one checkpoint to the next in `lockstep` and `serial`; each starts new episodes;
    none means never."""
    checkpoint_dir: Url | None = None
    """Folder or URL for checkpoints; none means `checkpoints` in the run's folder."""
    keep_checkpoints: Annotated[int, Field(ge=1, le=10**6)] = 2
    """Number of newest checkpoints kept, besides that of the best evaluation."""
    checkpoint_replay: bool = True
    """Save the replay buffer, too; without it a resumed run first fills it up to `min_replay_size`."""


class FaultOptions(SharedOptions):
    """Timeouts, and how many failures end a run."""

    heading = "faults"

    stall_timeout_seconds: Positive = 600.0
    """Longest time without progress, for example when the cluster has no room for a role, before the run
    gives up; a call that a role is running has a deadline of its own."""
    env_timeout_seconds: Positive = 60.0
    """Longest rollout before its process is replaced; an evaluation may take that for every ten episodes."""
    start_timeout_seconds: Positive = 120.0
    """Longest wait for a role to start, at first also for room on the cluster, or for the learner and
    replay to answer."""


class RunOptions(FaultOptions, CheckpointOptions, ReportOptions, GoalOptions, PlacementOptions):
    """Mode, actors, folder, Ray cluster."""

    heading = "run"

    mode: Literal["async", "lockstep", "serial"] = "async"
    """`async`: as fast as the machine allows; `lockstep`: in rounds, the same result every time;
    `serial`: the same result in one process, without Ray."""
    actors: Actors | Literal["auto"] = 4
    """Number of actors; `auto` means as many as the cluster or the machine has room for, at any time."""
    min_actors: Actors | None = None
    """Start with this many actors and add the rest when nodes join; none means all, and one for `auto`."""
    max_actors: Actors | None = None
    """Largest number of actors, which `auto` asks an autoscaling cluster for; none means no limit."""
    run_dir: Text | None = None
    """Folder for results; none means `runs/<env>-<time>`."""
    address: Annotated[Text, AfterValidator(validation.check_address)] | None = None
    """Ray cluster to join: `host:port`, or `auto` for the one on this machine; `local`, or `--local` for
    short, forces a private one; none means RAY_ADDRESS if set, else a private one."""


class ActingOptions(OfflineOptions, SharedOptions):
    """Rollouts, n-step returns, exploration, rewards."""

    heading = "acting"

    envs_per_actor: Annotated[int, Field(ge=1, le=65_536)] = 16
    """Number of environments that each actor steps together."""
    rollout_length: UpTo100K = 16
    """Steps of every environment in one rollout, after which weights may change."""
    n_step: Annotated[int, Field(ge=1, le=1000)] = 3
    """Env steps of reward in one transition."""
    watkins: bool | None = None
    """End an n-step window before the first later action that was not greedy, and bootstrap there, as the
    traces of Watkins's Q(lambda) end; none means only where observations have discrete parts alone."""
    discount: Fraction = 0.99
    """Discount per env step."""
    epsilon_start: Fraction = 1.0
    """Probability of a random action at first."""
    epsilon_end: Fraction = 0.02
    """Probability of a random action after `epsilon_decay_steps`."""
    epsilon_decay_steps: EnvSteps = 10_000
    """Env steps over which epsilon falls, from the first reward that is not 0 or episode that terminates."""
    epsilon_schedule: Shape = "linear"
    """How epsilon falls: `linear`, `cosine`, `piecewise` by `epsilon_points`; `constant`: not at all."""
    epsilon_points: Points[Fraction] | None = None
    """Env steps and values of `piecewise`, as in `0:1,10000:0.1,50000:0.02`."""
    epsilon_ladder: bool = False
    """Instead of a schedule, a fixed epsilon for each environment, from `epsilon_ladder_base` downwards."""
    epsilon_ladder_base: PositiveFraction = 0.4
    """Largest epsilon of the ladder."""
    epsilon_ladder_exponent: Annotated[float, Field(ge=0)] = 7.0
    """The smallest epsilon of the ladder is `epsilon_ladder_base` to the power of 1 plus this."""
    reward_scale: Positive = 1.0
    """Rewards are multiplied by this before learning."""
    reward_clip: Positive | None = None
    """Scaled rewards are clipped to plus or minus this; none means never."""
    failure_reward: Return | None = None
    """Reward to learn in place of that of a step that ends an episode before its env step `early_end_steps`;
    none means never."""
    early_end_steps: Annotated[int, Field(ge=1, le=10**9)] = 200
    """Env step of an episode before which its end is early."""
    bootstrap_on_termination: bool = False
    """Bootstrap where an episode terminated, too: a common mistake, to be studied."""


class ReplayOptions(SharedOptions):
    """Capacity, prioritized sampling, samples per insert."""

    heading = "replay"
    elsewhere: ClassVar = {"replay_shards": "run"}

    replay_capacity: Transitions = 100_000
    """Number of newest transitions that replay keeps."""
    min_replay_size: Transitions = 1000
    """Number of transitions in replay before learning starts."""
    samples_per_insert: Positive | None = None
    """Transitions sampled per transition inserted: couples learning to acting; none means `batch_size`,
    so one update per env step, and an eighth of that for images."""
    samples_per_insert_tolerance: PositiveFraction = 0.05
    """How far `samples_per_insert` may fall short, relative."""
    priority_exponent: Fraction = 0.6
    """Strength of `prioritized`: 0 is uniform, 1 is in proportion to priority."""
    importance_sampling_exponent_start: Fraction = 0.4
    """Strength of the importance weights of `prioritized` at first: 1 corrects fully."""
    importance_sampling_exponent_end: Fraction = 1.0
    """Strength of the importance weights after `importance_anneal_steps`."""
    importance_anneal_steps: EnvSteps = 100_000
    """Total env steps over which the strength of the importance weights changes, linearly."""
    replay_shards: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Number of processes that hold replay in `async`; each has its part of the capacity and the actors."""


class LearningOptions(SharedOptions):
    """Network, loss, optimizer, target network."""

    heading = "learning"

    hidden_sizes: Sizes = (128, 128)
    """Units of each hidden layer, separated by commas."""
    torso: Literal["auto", "dense", "small", "nature", "impala", "impala-wide"] = "auto"
    """Layers before the hidden ones: `dense` none; convolutions: `small` (MinAtar), `nature` (DQN),
    `impala` (residual), `impala-wide` (BTR's); `auto`: `dense` for vectors, `small` for images under 36
    pixels, else `nature`."""
    network: Text | Callable[..., Any] | None = None
    """Keras network of your own in place of torso and layers: `module:function`, called with the observation
    space and the number of actions; in Python also the function."""
    layer_norm: bool = True
    """Normalize hidden layers before their ReLU."""
    spectral_norm: bool = False
    """Keep the spectral norm of every convolution at 1."""
    output_init_scale: Rate | None = None
    """Initial kernel of the output layer: uniform within plus or minus this; none means Glorot's."""
    output_bias: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    """Initial bias of the output layer."""
    dueling: bool = False
    """Learn a value, and an advantage for each action, each with a last hidden layer of its own."""
    noisy: bool = False
    """Explore by learned noise in the weights; then set `epsilon_start` and `epsilon_end` to 0."""
    noisy_sigma: Positive = 0.5
    """Initial scale of that noise."""
    head: Literal["value", "quantile", "implicit", "categorical"] = "quantile"
    """What the network learns for each action: its `value`, or a distribution of returns, `quantile`
    (QR-DQN), `implicit` (IQN) or `categorical` (C51)."""
    atoms: Annotated[int, Field(ge=2, le=10_000)] | None = None
    """Number of quantiles, with `implicit` those of acting, or of returns; none means 11, 8 or 51."""
    tau_samples: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Quantile fractions drawn for each prediction of the implicit head."""
    target_tau_samples: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Quantile fractions drawn for each target of the implicit head."""
    v_min: Return = -10.0
    """Smallest return of the categorical head."""
    v_max: Return = 10.0
    """Largest return of the categorical head."""
    batch_size: Annotated[int, Field(ge=1, le=10**7)] | None = None
    """Number of transitions in one update; none means 128, and 64 for images."""
    updates_per_call: UpTo100K = 64
    """Number of updates in one compiled call of the learner."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    """Learning rate of Adam at first."""
    learning_rate_end: Rate = 2e-5
    """Learning rate of Adam after `learning_rate_decay_steps`."""
    learning_rate_decay_steps: EnvSteps = 100_000
    """Total env steps over which the learning rate falls."""
    learning_rate_schedule: Shape | None = None
    """`constant` stays at `learning_rate`; `linear` and `cosine` fall; `piecewise` follows
    `learning_rate_points`; none means `linear`, and `constant` for images."""
    learning_rate_points: Points[Rate] | None = None
    """Env steps and values of `piecewise`, as in `0:0.002,50000:0.0001`."""
    adam_epsilon: PositiveFraction = 1e-8
    """Constant in the denominator of Adam."""
    max_gradient_norm: Positive | None = 10.0
    """Gradients are clipped to this global norm; none means never."""
    loss: Literal["huber", "squared"] = "huber"
    """Loss of the value head's TD error: `huber` or `squared`."""
    conservative_weight: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Weight of CQL's term, which lowers the Q-values of actions that recorded data does not take."""
    double: bool = True
    """Double DQN: the online network chooses, the target network values."""
    munchausen: bool = False
    """Munchausen DQN: a softmax policy whose log-probability is added to the reward; needs `--no-double`."""
    munchausen_scale: Fraction = 0.9
    """Factor of that log-probability."""
    munchausen_temperature: Positive = 0.03
    """Temperature of the softmax policy, in units of reward."""
    munchausen_clip: Annotated[float, Field(ge=-1e9, le=0)] = -1.0
    """Lower limit of that log-probability times the temperature."""
    target_update_period: Period = 200
    """Learner steps from one update of the target network to the next."""
    target_update_rate: PositiveFraction = 1.0
    """Step of one such update: 1 copies the online network, less moves towards it."""
    weights_update_period: Period = 128
    """Learner steps from one version of the actors' weights to the next."""
    learner_threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """Threads of the learner; `auto` means 1, and all CPUs for convolutions in `async` on one machine."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of convolutions in the learner, but not of their weights; `auto` means float32, and in
    `async` bfloat16 if the processor has it and it is found faster at the start."""


class Config(LearningOptions, ReplayOptions, ActingOptions, RunOptions):
    """The options of one run. Mistakes raise one `ConfigError` that lists them all."""

    @classmethod
    def from_preset(cls, preset: str, **options: Any) -> Self:
        """The options of a preset, and `options` in place of some of them.

        Raises:
            ConfigError: there is no such preset, or the options are wrong.
        """
        return cls(**{**read_preset(preset), **options})

    def to_json(self) -> dict[str, Any]:
        """Every option as JSON can hold it; see `recorded_env`."""
        env, arguments = self.recorded_env()
        network = self.network and function_name(self.network)
        recorded: dict[str, Any] = {"env": env, "env_kwargs": arguments, "network": network}
        recorded |= self.model_dump(mode="json", exclude={*recorded})
        return {name: recorded[name] for name in type(self).model_fields}


document(Config)

# Of options in `--help`, each with what stands under it.
HEADINGS = {
    group.heading: (group.__doc__ or "").removesuffix(".")
    for group in (
        *(EnvironmentOptions, RunOptions, PlacementOptions, GoalOptions, ReportOptions, CheckpointOptions),
        *(FaultOptions, ActingOptions, OfflineOptions, ReplayOptions, LearningOptions),
    )
}


def resolved(value: T | None) -> T:
    """An option that `distdqn.training.resolve.resolve` has given a value; `ValueError` if it has none."""
    if value is None:
        raise ValueError("An option without a value was read: `resolve` comes first.")
    return value
