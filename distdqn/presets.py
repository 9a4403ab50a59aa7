"""Named sets of options: the algorithms of whole papers.

A preset says what an algorithm is made of. Sizes and rates that papers chose for two
hundred million Atari frames stay at this package's defaults.
"""

from typing import Any

_PLAIN = {"n_step": 1, "double": False, "sampler": "uniform", "dueling": False, "head": "value"}

PRESETS: dict[str, dict[str, Any]] = {
    # Mnih et al. (2015): one step, one network chooses and values, uniform replay.
    "dqn": {**_PLAIN},
    # van Hasselt, Guez, Silver (2016), arXiv:1509.06461.
    "double": {**_PLAIN, "double": True},
    # Horgan et al. (2018), arXiv:1803.00933, appendix C: n = 3, priorities to the power of
    # 0.6, importance weights to the power of 0.4 throughout, a ladder of epsilons.
    "apex": {
        "n_step": 3,
        "double": True,
        "dueling": True,
        "sampler": "prioritized",
        "priority_exponent": 0.6,
        "importance_exponent_start": 0.4,
        "importance_exponent_end": 0.4,
        "epsilon_ladder": True,
        "head": "value",
    },
    # Hessel et al. (2018), arXiv:1710.02298, table 1; its support of -10 to 10 is for
    # clipped Atari rewards and is made wide enough for 500 steps of 1 here.
    "rainbow": {
        "n_step": 3,
        "double": True,
        "dueling": True,
        "sampler": "prioritized",
        "priority_exponent": 0.5,
        "importance_exponent_start": 0.4,
        "importance_exponent_end": 1.0,
        "noisy": True,
        "noisy_sigma": 0.5,
        "epsilon_start": 0.0,
        "epsilon_end": 0.0,
        "head": "categorical",
        "atoms": 51,
        "v_min": -100.0,
        "v_max": 100.0,
    },
    # Dabney et al. (2018), arXiv:1710.10044, with fewer than its 200 quantiles.
    "qr": {**_PLAIN, "head": "quantile", "atoms": 51},
    # Vieillard, Pietquin, Geist (2020), arXiv:2007.14430, table 1.
    "munchausen": {
        **_PLAIN,
        "munchausen": True,
        "munchausen_scale": 0.9,
        "munchausen_temperature": 0.03,
        "munchausen_least": -1.0,
    },
}
