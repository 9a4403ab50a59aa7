"""Every option of a run, once: type, default, range and help.

The command line, the README's table and a run's `config.json` all come from here.
"""

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from distdqn.errors import ConfigError
from distdqn.option_checks import contradictions, mistake_in
from distdqn.option_types import Range, Unreadable, parse
from distdqn.presets import preset_options
from distdqn.schedules import Points

_Shape = Literal["constant", "linear", "cosine", "piecewise"]


def _option(group: str, default: Any, text: str, allowed: Range | None = None) -> Any:
    return field(default=default, metadata={"group": group, "help": text, "allowed": allowed})


_RUN, _GOAL, _ACTING, _REPLAY = "run", "goal and budget", "acting", "replay"
_LEARNING, _CHECKPOINTS, _FAULTS = "learning", "checkpoints", "faults"


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options of one run. Mistakes raise one `ConfigError` that lists them all."""

    env: str | Callable[[], Any] = _option(
        _RUN, "CartPole-v1", "Gymnasium id, or `module:Name`; from Python also a function that makes one"
    )
    mode: Literal["async", "lockstep", "serial"] = _option(
        _RUN,
        "async",
        "`async`: as fast as the machine allows; `lockstep`: in rounds, the same result every time; "
        "`serial`: the same result in one process, without Ray",
    )
    actors: int = _option(_RUN, 4, "number of actors", Range(1, 10_000))
    seed: int = _option(_RUN, 0, "fixes every random stream", Range(0, 2**63 - 1))
    run_dir: str | None = _option(_RUN, None, "folder for results; none means `runs/<env>-<time>`")
    address: str | None = _option(
        _RUN,
        None,
        "Ray cluster to join, `auto` or `host:port`; `local` means a private one; none means RAY_ADDRESS if "
        "set, else a private one",
    )

    target_return: float | Literal["auto"] | None = _option(
        _GOAL,
        "auto",
        "mean return at which the run is solved; `auto` means the environment's own threshold; "
        "none means no goal",
    )
    max_env_steps: int = _option(_GOAL, 500_000, "budget in env steps of all actors", Range(1, 10**15))
    max_episodes: int | None = _option(
        _GOAL, None, "budget in training episodes of all actors; none means no limit", Range(1, 10**15)
    )
    max_seconds: float | None = _option(
        _GOAL, None, "budget in seconds from the start of the run; none means no limit", Range(0, above=True)
    )
    eval_period: int = _option(_GOAL, 1024, "learner steps from one evaluation to the next", Range(1))
    eval_episodes: int = _option(_GOAL, 20, "episodes of a regular evaluation", Range(1, 100_000))
    confirm_episodes: int = _option(
        _GOAL,
        200,
        "fresh episodes of the evaluation that confirms that the goal is reached",
        Range(2, 100_000),
    )
    report_period: int = _option(
        _GOAL, 1024, "learner steps from one line of metrics to the next in `lockstep` and `serial`", Range(1)
    )
    report_seconds: float = _option(
        _GOAL, 1.0, "seconds from one line of metrics to the next in `async`", Range(0, above=True)
    )

    envs_per_actor: int = _option(_ACTING, 16, "environments each actor steps together", Range(1, 100_000))
    rollout_length: int = _option(
        _ACTING,
        16,
        "steps of every environment in one rollout, after which weights may change",
        Range(1, 100_000),
    )
    n_step: int = _option(_ACTING, 3, "env steps of reward in one transition", Range(1, 1000))
    discount: float = _option(_ACTING, 0.99, "discount per env step", Range(0, 1))
    epsilon_start: float = _option(_ACTING, 1.0, "probability of a random action at first", Range(0, 1))
    epsilon_end: float = _option(
        _ACTING, 0.02, "probability of a random action after `epsilon_decay_steps`", Range(0, 1)
    )
    epsilon_decay_steps: int = _option(
        _ACTING, 10_000, "total env steps over which epsilon falls", Range(0, 10**15)
    )
    epsilon_schedule: _Shape = _option(
        _ACTING,
        "linear",
        "how it falls: `linear` or `cosine`; `constant` stays at `epsilon_start`; `piecewise` goes by "
        "`epsilon_points`",
    )
    epsilon_points: Points | None = _option(
        _ACTING, None, "of `piecewise`, as in `0:1,10000:0.1,50000:0.02`: env steps and value", Range(0, 1)
    )

    epsilon_ladder: bool = _option(
        _ACTING,
        False,
        "instead of a schedule, a fixed epsilon for each environment, from `epsilon_ladder_base` downwards",
    )
    epsilon_ladder_base: float = _option(
        _ACTING, 0.4, "largest epsilon of the ladder", Range(0, 1, above=True)
    )
    epsilon_ladder_exponent: float = _option(
        _ACTING, 7.0, "the ladder ends at `epsilon_ladder_base` to the power of 1 plus this", Range(0)
    )
    reward_scale: float = _option(
        _ACTING, 1.0, "rewards are multiplied with this before learning", Range(0, above=True)
    )
    reward_clip: float | None = _option(
        _ACTING, None, "scaled rewards are cut to plus or minus this; none means never", Range(0, above=True)
    )
    early_end_reward: float | None = _option(
        _ACTING,
        None,
        "learn this in place of the reward of a step that ends an episode before its env step "
        "`early_end_steps`; none means never",
        Range(-1e9, 1e9),
    )
    early_end_steps: int = _option(
        _ACTING, 200, "env steps of an episode before which its end is early", Range(1, 10**9)
    )
    bootstrap_on_termination: bool = _option(
        _ACTING,
        False,
        "go on with the value of the next observation even where the episode is over for good: a common "
        "mistake, here to be looked at",
    )

    capacity: int = _option(_REPLAY, 100_000, "transitions replay keeps, the newest", Range(1, 10**10))
    min_size: int = _option(_REPLAY, 1000, "transitions in replay before learning starts", Range(1, 10**10))
    samples_per_insert: float | None = _option(
        _REPLAY,
        None,
        "transitions sampled per transition inserted: couples learning to acting; none means 64, images 8",
        Range(0, above=True),
    )
    samples_per_insert_tolerance: float = _option(
        _REPLAY, 0.05, "how far `samples_per_insert` may fall short, relative", Range(0, 1, above=True)
    )

    sampler: Literal["uniform", "prioritized"] = _option(
        _REPLAY,
        "uniform",
        "`uniform`, or `prioritized` by TD error, with first priorities from the actors",
    )
    priority_exponent: float = _option(
        _REPLAY, 0.6, "how far `prioritized` goes: 0 is uniform, 1 is in proportion", Range(0, 10)
    )
    importance_exponent_start: float = _option(
        _REPLAY, 0.4, "how far importance weights undo `prioritized` at first: 1 is wholly", Range(0, 1)
    )
    importance_exponent_end: float = _option(
        _REPLAY, 1.0, "the same after `importance_anneal_steps`", Range(0, 1)
    )
    importance_anneal_steps: int = _option(
        _REPLAY, 100_000, "total env steps over which that exponent changes, linearly", Range(0, 10**15)
    )

    hidden_sizes: tuple[int, ...] = _option(
        _LEARNING, (128, 128), "units of each hidden layer, separated by commas", Range(1, 1_000_000)
    )
    torso: Literal["auto", "dense", "small", "nature", "impala"] = _option(
        _LEARNING,
        "auto",
        "layers before the hidden ones: `dense` none; convolutions: `small` (MinAtar), `nature` (DQN), "
        "`impala` (residual); `auto`: `dense` for vectors, `small` for images under 36 pixels, else `nature`",
    )
    network: str | None = _option(
        _LEARNING,
        None,
        "your own network in place of torso and layers: `module:function` of observation space and number of "
        "actions that returns a Keras model",
    )
    layer_norm: bool = _option(_LEARNING, True, "normalize hidden layers before their ReLU")
    spectral_norm: bool = _option(_LEARNING, False, "keep the spectral norm of every convolution at 1")
    output_kernel_reach: float | None = _option(
        _LEARNING,
        None,
        "initial kernel of the output layer uniform within plus or minus this; none means Glorot's",
        Range(0, 10),
    )
    output_bias: float = _option(_LEARNING, 0.0, "initial bias of the output layer", Range(-1e6, 1e6))
    dueling: bool = _option(
        _LEARNING, False, "a value and an advantage for each action, each with a last hidden layer of its own"
    )
    noisy: bool = _option(
        _LEARNING,
        False,
        "noisy networks: explore by learned noise in the weights; then set `epsilon_start` and "
        "`epsilon_end` to 0",
    )
    noisy_sigma: float = _option(_LEARNING, 0.5, "initial amount of that noise", Range(0, above=True))
    head: Literal["value", "quantile", "categorical"] = _option(
        _LEARNING,
        "quantile",
        "what the network learns for each action: its `value`, or a distribution of returns, "
        "`quantile` (QR-DQN) or `categorical` (C51)",
    )
    atoms: int | None = _option(
        _LEARNING,
        None,
        "quantiles, or returns of the categorical head; none means 11 quantiles, or 51 returns",
        Range(2, 10_000),
    )
    v_min: float = _option(_LEARNING, -10.0, "smallest return of the categorical head", Range(-1e9, 1e9))
    v_max: float = _option(_LEARNING, 10.0, "largest return of the categorical head", Range(-1e9, 1e9))
    batch_size: int = _option(_LEARNING, 64, "transitions in one update", Range(1, 10**7))
    updates_per_call: int = _option(
        _LEARNING, 64, "updates in one compiled call of the learner", Range(1, 100_000)
    )
    learning_rate: float = _option(_LEARNING, 1e-3, "of Adam, at first", Range(0, 10, above=True))
    learning_rate_end: float = _option(
        _LEARNING, 1e-4, "of Adam, after `learning_rate_decay_steps`", Range(0, 10)
    )
    learning_rate_decay_steps: int = _option(
        _LEARNING, 50_000, "total env steps over which the learning rate falls", Range(0, 10**15)
    )
    learning_rate_schedule: _Shape = _option(
        _LEARNING,
        "constant",
        "`constant` stays at `learning_rate`; `linear` and `cosine` fall; `piecewise` goes by "
        "`learning_rate_points`",
    )
    learning_rate_points: Points | None = _option(
        _LEARNING, None, "of `piecewise`, as in `0:0.002,50000:0.0001`: env steps and value", Range(0, 10)
    )
    adam_epsilon: float = _option(
        _LEARNING, 1e-8, "of Adam, added to its denominator", Range(0, 1, above=True)
    )
    max_gradient_norm: float | None = _option(
        _LEARNING, 10.0, "gradients are clipped to this global norm; none means never", Range(0, above=True)
    )
    loss: Literal["huber", "squared"] = _option(
        _LEARNING, "huber", "of the value head's TD error: `huber` or `squared`"
    )
    double: bool = _option(
        _LEARNING, True, "double DQN: the online network chooses, the target network values"
    )
    munchausen: bool = _option(
        _LEARNING,
        False,
        "Munchausen DQN: a softmax policy, paid for being sure; needs `--no-double`",
    )
    munchausen_scale: float = _option(_LEARNING, 0.9, "of that pay", Range(0, 1))
    munchausen_temperature: float = _option(
        _LEARNING, 0.03, "of the softmax policy, in units of reward", Range(0, above=True)
    )
    munchausen_least: float = _option(_LEARNING, -1.0, "where that pay is cut off", Range(-1e9, 0))
    target_update_period: int = _option(
        _LEARNING, 200, "learner steps from one update of the target network to the next", Range(1, 10**12)
    )
    target_update_rate: float = _option(
        _LEARNING,
        1.0,
        "how far the target network then moves: 1 copies, less moves softly",
        Range(0, 1, above=True),
    )
    publish_period: int = _option(
        _LEARNING, 128, "learner steps from one version of the actors' weights to the next", Range(1, 10**12)
    )
    learner_threads: int = _option(_LEARNING, 1, "threads of the learner's computations", Range(1, 1024))

    resume: str | None = _option(
        _CHECKPOINTS,
        None,
        "go on from a checkpoint: `auto` means the newest whole one of `run_dir`, if it has any; or a run's "
        "folder, a checkpoint's file or a URL",
    )
    checkpoint_seconds: float | None = _option(
        _CHECKPOINTS,
        60.0,
        "seconds from one checkpoint to the next in `async`, which ends with one, too; none means never",
        Range(0, above=True),
    )
    checkpoint_period: int | None = _option(
        _CHECKPOINTS,
        50_000,
        "learner steps from one checkpoint to the next in `lockstep` and `serial`; each begins new episodes; "
        "none means never",
        Range(1),
    )
    checkpoint_dir: str | None = _option(
        _CHECKPOINTS, None, "folder or URL for checkpoints; none means `checkpoints` in the run's folder"
    )
    keep_checkpoints: int = _option(
        _CHECKPOINTS,
        2,
        "newest checkpoints kept; that of the best evaluation is kept besides",
        Range(1, 10**6),
    )
    checkpoint_replay: bool = _option(
        _CHECKPOINTS,
        True,
        "save replay, too; without it a run that goes on has to fill it up to `min_size` first",
    )

    max_failures: int = _option(
        _FAULTS,
        5,
        "failures running, without a completed call between, before the run gives up",
        Range(1, 10**6),
    )
    env_timeout_seconds: float = _option(
        _FAULTS,
        60.0,
        "longest rollout before its process is replaced; an evaluation may take that for every ten episodes",
        Range(0, above=True),
    )
    start_timeout_seconds: float = _option(
        _FAULTS,
        120.0,
        "longest wait for a role to start, or for the learner and replay to answer",
        Range(0, above=True),
    )

    def __post_init__(self) -> None:
        for name in ("hidden_sizes", "epsilon_points", "learning_rate_points"):
            if isinstance(given := getattr(self, name), list):  # as JSON has them
                pairs = (tuple(each) if isinstance(each, list) else each for each in given)
                object.__setattr__(self, name, tuple(pairs))
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        found = {
            option.name: mistake_in(
                option.name, OPTION_TYPES[option.name], option.metadata["allowed"], values[option.name]
            )
            for option in fields(self)
        }
        right = {name: value for name, value in values.items() if not found[name]}
        mistakes = [*filter(None, found.values()), *contradictions(right)]
        if mistakes:
            raise ConfigError(mistakes)

    @classmethod
    def from_text(cls, texts: Mapping[str, str]) -> "Config":
        """A config from options as text, by name; `preset` among them is looked up first.

        Raises:
            ConfigError: lists every text that is not of its option's type, and all else
                that is wrong.
        """
        mistakes: list[str] = []
        values: dict[str, Any] = {}
        try:
            values = preset_options(texts.get("preset"))
        except ConfigError as error:
            mistakes = error.mistakes
        for name in texts.keys() - {"preset"}:
            try:
                values[name] = parse(OPTION_TYPES[name], texts[name])
            except ValueError:
                values[name] = Unreadable(texts[name])
        try:
            config = cls(**values)
        except ConfigError as error:
            mistakes = mistakes + error.mistakes
        if mistakes:
            raise ConfigError(mistakes)
        return config

    @classmethod
    def from_preset(cls, preset: str, **options: Any) -> "Config":
        """The options of a preset, and `options` in place of some of them."""
        return cls(**{**preset_options(preset), **options})

    def to_json(self) -> dict[str, Any]:
        """Every option as JSON can hold it; a function stands as `module:Name`."""
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        if not isinstance(self.env, str):
            name = getattr(self.env, "__qualname__", type(self.env).__qualname__)
            values["env"] = f"{self.env.__module__}:{name}"
        return values


OPTION_TYPES: dict[str, Any] = typing.get_type_hints(Config)
