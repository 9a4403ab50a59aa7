"""Every option of the algorithm, in groups: what more than one role reads, acting, replay, learning."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from distdqn.config.option_fields import option
from distdqn.config.option_types import Range
from distdqn.schedules import Points

_Shape = Literal["constant", "linear", "cosine", "piecewise"]

_RUN, _FAULTS = "run", "faults"
_ACTING, _REPLAY, _LEARNING = "acting", "replay", "learning"


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """What more than one role reads."""

    env: str | Callable[[], Any] = option(
        _RUN, "CartPole-v1", "Gymnasium id, or `module:Name`; from Python also a function that makes one"
    )
    seed: int = option(_RUN, 0, "fixes every random stream", Range(0, 2**63 - 1))
    max_failures: int = option(
        _FAULTS,
        5,
        "failures running, without a completed call between, before the run gives up",
        Range(1, 10**6),
    )
    sampler: Literal["uniform", "prioritized"] = option(
        _REPLAY,
        "uniform",
        "`uniform`, or `prioritized` by TD error, with first priorities from the actors",
    )


@dataclass(frozen=True, kw_only=True)
class ActingOptions(SharedOptions):
    """What an actor reads."""

    envs_per_actor: int = option(_ACTING, 16, "environments each actor steps together", Range(1, 100_000))
    rollout_length: int = option(
        _ACTING,
        16,
        "steps of every environment in one rollout, after which weights may change",
        Range(1, 100_000),
    )
    n_step: int = option(_ACTING, 3, "env steps of reward in one transition", Range(1, 1000))
    discount: float = option(_ACTING, 0.99, "discount per env step", Range(0, 1))
    epsilon_start: float = option(_ACTING, 1.0, "probability of a random action at first", Range(0, 1))
    epsilon_end: float = option(
        _ACTING, 0.02, "probability of a random action after `epsilon_decay_steps`", Range(0, 1)
    )
    epsilon_decay_steps: int = option(
        _ACTING, 10_000, "total env steps over which epsilon falls", Range(0, 10**15)
    )
    epsilon_schedule: _Shape = option(
        _ACTING,
        "linear",
        "how it falls: `linear` or `cosine`; `constant` stays at `epsilon_start`; `piecewise` goes by "
        "`epsilon_points`",
    )
    epsilon_points: Points | None = option(
        _ACTING, None, "of `piecewise`, as in `0:1,10000:0.1,50000:0.02`: env steps and value", Range(0, 1)
    )
    epsilon_ladder: bool = option(
        _ACTING,
        False,
        "instead of a schedule, a fixed epsilon for each environment, from `epsilon_ladder_base` downwards",
    )
    epsilon_ladder_base: float = option(
        _ACTING, 0.4, "largest epsilon of the ladder", Range(0, 1, above=True)
    )
    epsilon_ladder_exponent: float = option(
        _ACTING, 7.0, "the ladder ends at `epsilon_ladder_base` to the power of 1 plus this", Range(0)
    )
    reward_scale: float = option(
        _ACTING, 1.0, "rewards are multiplied with this before learning", Range(0, above=True)
    )
    reward_clip: float | None = option(
        _ACTING, None, "scaled rewards are cut to plus or minus this; none means never", Range(0, above=True)
    )
    failure_reward: float | None = option(
        _ACTING,
        None,
        "learn this in place of the reward of a step that ends an episode before its env step "
        "`early_end_steps`; none means never",
        Range(-1e9, 1e9),
    )
    early_end_steps: int = option(
        _ACTING, 200, "env steps of an episode before which its end is early", Range(1, 10**9)
    )
    bootstrap_on_termination: bool = option(
        _ACTING,
        False,
        "go on with the value of the next observation even where the episode is over for good: a common "
        "mistake, here to be looked at",
    )


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(SharedOptions):
    """What replay reads."""

    replay_capacity: int = option(_REPLAY, 100_000, "transitions replay keeps, the newest", Range(1, 10**10))
    min_replay_size: int = option(
        _REPLAY, 1000, "transitions in replay before learning starts", Range(1, 10**10)
    )
    samples_per_insert: float | None = option(
        _REPLAY,
        None,
        "transitions sampled per transition inserted: couples learning to acting; none means `batch_size`, "
        "so one update per env step, images an eighth of that",
        Range(0, above=True),
    )
    samples_per_insert_tolerance: float = option(
        _REPLAY, 0.05, "how far `samples_per_insert` may fall short, relative", Range(0, 1, above=True)
    )
    priority_exponent: float = option(
        _REPLAY, 0.6, "how far `prioritized` goes: 0 is uniform, 1 is in proportion", Range(0, 10)
    )
    importance_sampling_exponent_start: float = option(
        _REPLAY, 0.4, "how far importance weights undo `prioritized` at first: 1 is wholly", Range(0, 1)
    )
    importance_sampling_exponent_end: float = option(
        _REPLAY, 1.0, "the same after `importance_anneal_steps`", Range(0, 1)
    )
    importance_anneal_steps: int = option(
        _REPLAY, 100_000, "total env steps over which that exponent changes, linearly", Range(0, 10**15)
    )
    replay_shards: int = option(
        _RUN,
        1,
        "processes that replay is spread over in `async`; each has its part of capacity and actors",
        Range(1, 10_000),
    )


@dataclass(frozen=True, kw_only=True)
class LearningOptions(SharedOptions):
    """What the learner and the networks read."""

    hidden_sizes: tuple[int, ...] = option(
        _LEARNING, (128, 128), "units of each hidden layer, separated by commas", Range(1, 1_000_000)
    )
    torso: Literal["auto", "dense", "small", "nature", "impala"] = option(
        _LEARNING,
        "auto",
        "layers before the hidden ones: `dense` none; convolutions: `small` (MinAtar), `nature` (DQN), "
        "`impala` (residual); `auto`: `dense` for vectors, `small` for images under 36 pixels, else `nature`",
    )
    network: str | None = option(
        _LEARNING,
        None,
        "your own network in place of torso and layers: `module:function` of observation space and number of "
        "actions that returns a Keras model",
    )
    layer_norm: bool = option(_LEARNING, True, "normalize hidden layers before their ReLU")
    spectral_norm: bool = option(_LEARNING, False, "keep the spectral norm of every convolution at 1")
    output_init_scale: float | None = option(
        _LEARNING,
        None,
        "initial kernel of the output layer uniform within plus or minus this; none means Glorot's",
        Range(0, 10),
    )
    output_bias: float = option(_LEARNING, 0.0, "initial bias of the output layer", Range(-1e6, 1e6))
    dueling: bool = option(
        _LEARNING, False, "a value and an advantage for each action, each with a last hidden layer of its own"
    )
    noisy: bool = option(
        _LEARNING,
        False,
        "noisy networks: explore by learned noise in the weights; then set `epsilon_start` and "
        "`epsilon_end` to 0",
    )
    noisy_sigma: float = option(_LEARNING, 0.5, "initial amount of that noise", Range(0, above=True))
    head: Literal["value", "quantile", "categorical"] = option(
        _LEARNING,
        "quantile",
        "what the network learns for each action: its `value`, or a distribution of returns, "
        "`quantile` (QR-DQN) or `categorical` (C51)",
    )
    atoms: int | None = option(
        _LEARNING,
        None,
        "quantiles, or returns of the categorical head; none means 11 quantiles, or 51 returns",
        Range(2, 10_000),
    )
    v_min: float = option(_LEARNING, -10.0, "smallest return of the categorical head", Range(-1e9, 1e9))
    v_max: float = option(_LEARNING, 10.0, "largest return of the categorical head", Range(-1e9, 1e9))
    batch_size: int | None = option(
        _LEARNING, None, "transitions in one update; none means 128, images 64", Range(1, 10**7)
    )
    updates_per_call: int = option(
        _LEARNING, 64, "updates in one compiled call of the learner", Range(1, 100_000)
    )
    learning_rate: float = option(_LEARNING, 1e-3, "of Adam, at first", Range(0, 10, above=True))
    learning_rate_end: float = option(
        _LEARNING, 2e-5, "of Adam, after `learning_rate_decay_steps`", Range(0, 10)
    )
    learning_rate_decay_steps: int = option(
        _LEARNING, 100_000, "total env steps over which the learning rate falls", Range(0, 10**15)
    )
    learning_rate_schedule: _Shape | None = option(
        _LEARNING,
        None,
        "`constant` stays at `learning_rate`; `linear` and `cosine` fall; `piecewise` goes by "
        "`learning_rate_points`; none means linear, images constant",
    )
    learning_rate_points: Points | None = option(
        _LEARNING, None, "of `piecewise`, as in `0:0.002,50000:0.0001`: env steps and value", Range(0, 10)
    )
    adam_epsilon: float = option(
        _LEARNING, 1e-8, "of Adam, added to its denominator", Range(0, 1, above=True)
    )
    max_gradient_norm: float | None = option(
        _LEARNING, 10.0, "gradients are clipped to this global norm; none means never", Range(0, above=True)
    )
    loss: Literal["huber", "squared"] = option(
        _LEARNING, "huber", "of the value head's TD error: `huber` or `squared`"
    )
    double: bool = option(
        _LEARNING, True, "double DQN: the online network chooses, the target network values"
    )
    munchausen: bool = option(
        _LEARNING,
        False,
        "Munchausen DQN: a softmax policy, paid for being sure; needs `--no-double`",
    )
    munchausen_scale: float = option(_LEARNING, 0.9, "of that pay", Range(0, 1))
    munchausen_temperature: float = option(
        _LEARNING, 0.03, "of the softmax policy, in units of reward", Range(0, above=True)
    )
    munchausen_clip: float = option(_LEARNING, -1.0, "where that pay is cut off", Range(-1e9, 0))
    target_update_period: int = option(
        _LEARNING, 200, "learner steps from one update of the target network to the next", Range(1, 10**12)
    )
    target_update_rate: float = option(
        _LEARNING,
        1.0,
        "how far the target network then moves: 1 copies, less moves softly",
        Range(0, 1, above=True),
    )
    weights_update_period: int = option(
        _LEARNING, 128, "learner steps from one version of the actors' weights to the next", Range(1, 10**12)
    )
    learner_threads: int = option(_LEARNING, 1, "threads of the learner's computations", Range(1, 1024))
