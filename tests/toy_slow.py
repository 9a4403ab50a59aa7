"""An environment whose speed is its own, however many of it share the machine."""

import time

from gymnasium.envs.classic_control import CartPoleEnv

STEP_SECONDS = 0.02


class SlowCartPole(CartPoleEnv):
    """CartPole that waits before every step and uses no CPU meanwhile."""

    def step(self, action):
        time.sleep(STEP_SECONDS)
        return super().step(action)
