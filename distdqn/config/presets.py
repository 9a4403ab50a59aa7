"""Named sets of options: the algorithms of whole papers.

A preset says what an algorithm is made of. Sizes and rates that papers chose for two
hundred million Atari frames stay at this package's defaults, but for batches of 64, which are
nearer to the papers' 32 than the default is.
"""

from typing import Any

from distdqn.errors import ConfigError

_PLAIN = {
    "n_step": 1,
    "double": False,
    "sampler": "uniform",
    "dueling": False,
    "head": "value",
    "layer_norm": False,
    "learning_rate_schedule": "constant",
    "batch_size": 64,
}

PRESETS: dict[str, dict[str, Any]] = {
    "dqn": {**_PLAIN},
    "double": {**_PLAIN, "double": True},
    "apex": {
        "n_step": 3,
        "double": True,
        "dueling": True,
        "sampler": "prioritized",
        "priority_exponent": 0.6,
        "importance_sampling_exponent_start": 0.4,
        "importance_sampling_exponent_end": 0.4,
        "epsilon_ladder": True,
        "head": "value",
        "layer_norm": False,
        "learning_rate_schedule": "constant",
        "batch_size": 64,
    },
    "rainbow": {
        "n_step": 3,
        "double": True,
        "dueling": True,
        "sampler": "prioritized",
        "priority_exponent": 0.5,
        "importance_sampling_exponent_start": 0.4,
        "importance_sampling_exponent_end": 1.0,
        "noisy": True,
        "noisy_sigma": 0.5,
        "epsilon_start": 0.0,
        "epsilon_end": 0.0,
        "head": "categorical",
        "atoms": 51,
        "v_min": -100.0,
        "v_max": 100.0,
        "layer_norm": False,
        "learning_rate_schedule": "constant",
        "batch_size": 64,
    },
    # The notebook of a first lecture on deep Q-learning, mistakes included: nothing lags behind
    # the network that learns (a copy after every update is none), values go on past an
    # episode's end, and a fall is paid for by hand.
    "lecture": {
        **_PLAIN,
        "envs_per_actor": 1,
        "rollout_length": 1,
        "discount": 0.8,
        "epsilon_schedule": "constant",
        "epsilon_start": 0.1,
        "failure_reward": -1.0,
        "early_end_steps": 200,
        "bootstrap_on_termination": True,
        "replay_capacity": 5000,
        "min_replay_size": 64,
        "samples_per_insert": 64.0,
        "hidden_sizes": (24, 24),
        "output_init_scale": 0.03,
        "output_bias": -0.2,
        "batch_size": 64,
        "updates_per_call": 1,
        "weights_update_period": 1,
        "learning_rate": 0.01,
        "loss": "squared",
        "max_gradient_norm": None,
        "target_update_period": 1,
        "target_update_rate": 1.0,
    },
    "qr": {**_PLAIN, "head": "quantile", "atoms": 51},
    "munchausen": {
        **_PLAIN,
        "munchausen": True,
        "munchausen_scale": 0.9,
        "munchausen_temperature": 0.03,
        "munchausen_clip": -1.0,
    },
}

# Where the settings of each preset come from, for the README's table.
SOURCES = {
    "dqn": "Mnih et al. (2015): one step, one network chooses and values, uniform replay",
    "double": "van Hasselt, Guez, Silver (2016), arXiv:1509.06461",
    "apex": "Horgan et al. (2018), arXiv:1803.00933, section 4.1 and appendix C",
    "rainbow": "Hessel et al. (2018), arXiv:1710.02298, table 1; but for the support and the target "
    "network's period: for images and clipped rewards, as there, add "
    "`--v-min -10 --v-max 10 --target-update-period 1000`; noise from Fortunato et al. (2018), "
    "arXiv:1706.10295",
    "lecture": "the notebook of a first lecture on deep Q-learning",
    "qr": "Dabney et al. (2018), arXiv:1710.10044, section 4; but for the number of quantiles, which is 200 "
    "there",
    "munchausen": "Vieillard, Pietquin, Geist (2020), arXiv:2007.14430, table 1",
}


def preset_options(preset: str | None) -> dict[str, Any]:
    """The options that a preset sets; none for None.

    Raises:
        ConfigError: there is no such preset.
    """
    if preset is None:
        return {}
    if preset not in PRESETS:
        names = ", ".join(f"`{name}`" for name in PRESETS)
        raise ConfigError(f"`preset` must be one of {names}, not `{preset}`.")
    return dict(PRESETS[preset])
