"""Environments with arguments, wrappers, vector environments and actions of several choices."""

from functools import partial

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorRewardWrapper
from gymnasium.vector.utils import batch_space
from toy_environments import CountingEnvironment


class Endless(gymnasium.Env):
    """Observes how many steps it took, times `scale`; its episodes never end."""

    action_space = Discrete(2)

    def __init__(self, scale, offset=0.0):
        self.observation_space = Box(0, 1e6, (1,), np.float32)
        self._scale, self._offset = scale, offset
        self._steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self._steps = 0
        return self._observe(), {}

    def step(self, action):
        self._steps += 1
        return self._observe(), float(action), False, False, {}

    def _observe(self):
        return np.array([self._steps * self._scale + self._offset], np.float32)


class Broken(Endless):
    """Takes its argument, and fails all the same."""

    def __init__(self, scale):
        super().__init__(scale)
        raise TypeError("unsupported licence")


class Twice(gymnasium.RewardWrapper):
    """Pays `factor` times the reward, and `bonus` more."""

    def __init__(self, env, factor=2.0, *, bonus=0.0):
        super().__init__(env)
        self._factor, self._bonus = factor, bonus

    def reward(self, reward):
        return self._factor * reward + self._bonus


class SkipTwo(gymnasium.Wrapper):
    """Takes each action twice."""

    def step(self, action):
        self.env.step(action)
        return self.env.step(action)


class VectorTwice(VectorRewardWrapper):
    """Doubles the rewards of a vector environment."""

    def rewards(self, rewards):
        return 2 * rewards


class Chooses(gymnasium.Env):
    """Pays the chosen values as digits. Its mask, if it has one, is what `mask` says."""

    def __init__(self, nvec, start=None, mask=None, in_observation=None):
        self.action_space = MultiDiscrete(nvec, start=start)
        self._mask = mask
        self.observation_space = Box(0, 1, (1,), np.float32)
        self._in_observation = in_observation
        if in_observation is not None:
            shape = np.shape(in_observation)
            self.observation_space = Dict(
                {"x": self.observation_space, "action_mask": Box(0, 1, shape, np.int8)}
            )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        return self._observe(), self._info()

    def step(self, action):
        assert self.action_space.contains(action), action
        reward = float("".join(map(str, np.ravel(action))))
        return self._observe(), reward, False, False, self._info()

    def _info(self):
        return {} if self._mask is None else {"action_mask": self._mask}

    def _observe(self):
        x = np.zeros(1, np.float32)
        return x if self._in_observation is None else {"x": x, "action_mask": self._in_observation}


def make_async(num_envs=1, mode="NextStep"):
    """Processes that each step a counting environment."""
    return AsyncVectorEnv([CountingEnvironment] * num_envs, autoreset_mode=AutoresetMode(mode))


def make_sync(num_envs=1, mode="NextStep"):
    """The same in one process."""
    return SyncVectorEnv([CountingEnvironment] * num_envs, autoreset_mode=AutoresetMode(mode))


def make_unasked():
    """A vector environment of a size of its own."""
    return make_sync(2)


def make_two(num_envs):  # noqa: ARG001
    """As many as it likes."""
    return make_sync(2)


def make_one(num_envs):  # noqa: ARG001
    """A single environment."""
    return CountingEnvironment()


class Unnamed(VectorEnv):
    """Resets as `mode` says, and names `named` as its mode, or none."""

    def __init__(self, num_envs, mode="NextStep", named=None):
        self._inner = make_sync(num_envs, mode)
        self.num_envs = num_envs
        self.single_observation_space = self._inner.single_observation_space
        self.single_action_space = self._inner.single_action_space
        self.metadata = {} if named is None else {"autoreset_mode": named}

    def reset(self, *, seed=None, options=None):
        return self._inner.reset(seed=seed, options=options)

    def step(self, actions):
        *result, info = self._inner.step(actions)
        if self.metadata and "final_obs" in info:
            del info["final_obs"]
        return *result, info


PARTIAL = partial(Endless, scale=3.0)


class Batched(VectorEnv):
    """Two-step episodes in `SAME_STEP`, whose `final_obs` is a batch of parts: `[environment, step]`."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.single_observation_space = Dict({"x": Box(0, 99, (2,), np.float32), "kind": Discrete(3)})
        self.single_action_space = Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):  # noqa: ARG002
        self._steps = 0
        return self._observe(), {}

    def step(self, actions):  # noqa: ARG002
        self._steps += 1
        ended = np.full(self.num_envs, self._steps == 2)
        info = {}
        if ended.any():
            info["final_obs"], self._steps = self._observe(), 0
        return self._observe(), np.ones(self.num_envs), ended, np.zeros_like(ended), info

    def _observe(self):
        x = np.stack([np.arange(self.num_envs), np.full(self.num_envs, self._steps)], axis=1)
        return {"x": x.astype(np.float32), "kind": np.full(self.num_envs, self._steps)}
