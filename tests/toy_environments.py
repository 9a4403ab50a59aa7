"""Small deterministic environments whose every observation says where it comes from."""

from functools import partial

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.random.mtrand import _rand

LENGTHS = (3, 1, 4, 2, 5)


class CountingEnvironment(gymnasium.Env):
    """Observes `[seed, episode, step]` and pays `100 * episode + 10 * step + action`.

    Episode lengths go round in `lengths`, starting at the position `seed`. Of the episodes
    2, 5, 8, ... the even ones are truncated, the odd ones truncated and terminated at once;
    all others terminate.
    """

    metadata: dict[str, object] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, first_action: int = 0, dtype: type = np.float32, lengths: tuple[int, ...] = LENGTHS):
        self.observation_space = gymnasium.spaces.Box(0, 255, (3,), dtype)
        self.action_space = gymnasium.spaces.Discrete(3, start=first_action)
        self._first_action = first_action
        self._dtype = dtype
        self._lengths = lengths
        self._seed = 0
        self._episode = -1
        self._step = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        if seed is not None:
            self._seed, self._episode = seed % 200, -1
        self._episode += 1
        self._step = 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        assert self._step < self._length(), "stepped past the end of an episode"
        own_action = int(action) - self._first_action
        reward = 100.0 * self._episode + 10.0 * self._step + own_action
        self._step += 1
        ends = self._step == self._length()
        truncated = ends and self._episode % 3 == 2
        terminated = ends and (not truncated or self._episode % 2 == 1)
        return self._observe(), reward, terminated, truncated, {}

    def _length(self):
        return self._lengths[(self._seed + self._episode) % len(self._lengths)]

    def _observe(self):
        return np.array([self._seed, self._episode, self._step], self._dtype)


class PicturesEnvironment(CountingEnvironment):
    """The same in pictures: the newest of `stack` frames says `[seed, episode, step]`.

    The others are those of the steps before, black where the episode had not begun.
    """

    def __init__(self, stack=4, size=84, axis=-1, **settings):
        super().__init__(**settings)
        self._stack, self._size, self._axis = stack, size, axis
        self.observation_space = gymnasium.spaces.Box(0, 255, self._observe().shape, np.uint8)

    def _observe(self):
        steps = range(self._step - self._stack + 1, self._step + 1)
        return np.stack([self._frame(step) for step in steps], axis=self._axis)

    def _frame(self, step):
        frame = np.zeros((self._size, self._size), np.uint8)
        if step >= 0:
            frame[0, :3] = (self._seed, self._episode % 256, step)
        return frame


class ShortAndLongEnvironment(gymnasium.Env):
    """An even seed makes every episode one step long and worth 1, an odd one ten steps and worth 10."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        if seed is not None:
            self._length = 1 if seed % 2 == 0 else 10
        self._step = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self._step += 1
        return np.zeros(1, np.float32), 1.0, self._step == self._length, False, {}


class RandomRewardEnvironment(gymnasium.Env):
    """Three steps; each pays a number that the environment's own generator draws."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    seeds: list[int] = []  # noqa: RUF012 - every seed that any copy was reset with

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        if seed is not None:
            RandomRewardEnvironment.seeds.append(seed)
        self._step = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self._step += 1
        return np.zeros(1, np.float32), float(self.np_random.random()), self._step == 3, False, {}


class SpacesEnvironment(gymnasium.Env):
    """Has whatever spaces it is given and is never stepped."""

    def __init__(self, observation_space, action_space):
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        return self.observation_space.sample(), {}


def _make_counting_vector(num_envs=1, autoreset_mode=None, **settings):
    makers = [partial(CountingEnvironment, **settings)] * num_envs
    return SyncVectorEnv(makers, autoreset_mode=autoreset_mode)


COUNTING_IDS = {mode: f"ToyCounting{mode.name.title().replace('_', '')}-v0" for mode in AutoresetMode}

for _mode, _id in COUNTING_IDS.items():
    if _id not in gymnasium.registry:
        gymnasium.register(
            _id,
            entry_point=CountingEnvironment,
            vector_entry_point=partial(_make_counting_vector, autoreset_mode=_mode),
        )


def raise_missing_licence():
    """An environment's constructor that fails."""
    raise RuntimeError("no licence for 4711 robots")


def global_random_state() -> tuple[object, ...]:
    """The state of NumPy's global generator, which nothing may draw from."""
    state = _rand.get_state(legacy=False)
    return tuple(state["state"]["key"].tolist()), state["state"]["pos"]
