"""An environment that talks while it is used."""

import sys

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Talker(gymnasium.Env):
    """Says a word when it is built and one at a reset, to either stream."""

    observation_space = Box(-1.0, 1.0, (2,), np.float32)
    action_space = Discrete(2)

    def __init__(self):
        self._resets = 0
        print("built and ready", flush=True)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self._resets += 1
        if self._resets < 3:
            print("reset and complaining", file=sys.stderr, flush=True)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        """One in ten steps is the last."""
        return np.zeros(2, np.float32), float(action), self.np_random.random() < 0.1, False, {}
