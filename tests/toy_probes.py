"""Environments so small that every value is known, each with one more thing to learn than the last."""

import gymnasium
import numpy as np


class _Probe(gymnasium.Env):
    """One number is observed; an episode is one step long."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(1)
    number = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.number = self._first_number()
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self._observe(), self._reward(int(action)), True, False, {}

    def _first_number(self):
        return 0.0

    def _observe(self):
        return np.array([self.number], np.float32)


class OneReward(_Probe):
    """Pays 1."""

    def _reward(self, _action):
        return 1.0


class RewardIsObserved(_Probe):
    """Observes -1 or 1, and pays that."""

    def _first_number(self):
        return float(self.np_random.choice([-1, 1]))

    def _reward(self, _action):
        return self.number


class RewardIsLate(_Probe):
    """Observes 0 and then 1; pays 1 for the second step."""

    def step(self, action):
        assert self.action_space.contains(action)
        was_second, self.number = self.number == 1.0, 1.0
        return self._observe(), float(was_second), was_second, False, {}


class ActionDecides(_Probe):
    """Pays -1 for the action 0 and 1 for the action 1."""

    action_space = gymnasium.spaces.Discrete(2)

    def _reward(self, action):
        return 2.0 * action - 1.0


class ActionMustSuit(RewardIsObserved):
    """Observes -1 or 1, and pays that for the action 1, the opposite for the action 0."""

    action_space = gymnasium.spaces.Discrete(2)

    def _reward(self, action):
        return self.number * (2.0 * action - 1.0)
