"""Environments that draw themselves, each in a way of its own."""

import gymnasium
import numpy as np


class DrawnEnvironment(gymnasium.Env):
    """Five steps that pay 1; the mask forbids action 1; the white row of a frame is the step."""

    metadata: dict[str, object] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, render_mode=None, size=8, length=5):
        self.render_mode, self.size, self.length = render_mode, size, length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.steps = 0
        return self._observe()

    def step(self, action):
        assert action != 1, "the mask forbids it"
        self.steps += 1
        observation, info = self._observe()
        return observation, 1.0, self.steps == self.length, False, info

    def render(self):
        assert self.render_mode == "rgb_array"
        frame = np.zeros((self.size, self.size, 3), np.uint8)
        frame[self.steps % self.size] = 255
        return frame

    def _observe(self):
        observation = np.full(2, self.steps / self.length, np.float32)
        return observation, {"action_mask": np.array([1, 0, 1], np.int8)}


class UndrawnEnvironment(DrawnEnvironment):
    """Says that it cannot be drawn."""

    metadata: dict[str, object] = {"render_modes": []}  # noqa: RUF012


class FailingEnvironment(DrawnEnvironment):
    """Raises when it is drawn."""

    def render(self):
        raise RuntimeError("no\nscreen")


class GreyEnvironment(DrawnEnvironment):
    """Draws a frame without colours."""

    def render(self):
        return super().render()[:, :, 0]


class FloatEnvironment(DrawnEnvironment):
    """Draws in numbers from 0 to 1, as MinAtar does."""

    def render(self):
        return super().render() / 255.0


class HalfEnvironment(gymnasium.RewardWrapper):
    """Halves rewards."""

    def reward(self, reward):
        return reward / 2


def make_without_mode(size=8):
    """Makes an environment without passing a `render_mode` on."""
    return DrawnEnvironment(size=size)
