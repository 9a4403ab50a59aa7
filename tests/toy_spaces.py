"""Environments whose observations have several parts, and masks."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete


class BothTogether(gymnasium.Env[Any, int]):
    """Eight steps, each worth 1 for the side of a bright pixel, or for the other if `sign` is negative.

    Image and number are of no use alone. The third action is not allowed.
    """

    observation_space = Dict({"image": Box(0, 255, (5, 6), np.uint8), "sign": Box(-1, 1, (1,), np.float32)})
    action_space = Discrete(3)
    _step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._step = 0
        return self._observe()

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        assert action < 2, "an action that is not allowed"
        reward = float(action == (self._side if self._sign > 0 else 1 - self._side))
        self._step += 1
        observation, info = self._observe()
        return observation, reward, self._step == 8, False, info

    def _observe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        self._side, self._sign = int(self.np_random.integers(2)), float(self.np_random.choice([-1.0, 1.0]))
        image = np.zeros((5, 6), np.uint8)
        image[self.np_random.integers(5), self._side * 3 + self.np_random.integers(3)] = 255
        return {"image": image, "sign": np.array([self._sign], np.float32)}, {
            "action_mask": np.array([1, 1, 0])
        }
