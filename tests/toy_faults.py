"""Environments that break: they raise, or return what they must not."""

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv
from toy_environments import CountingEnvironment


class Plan:
    """When environments raise: in which calls, counted from 1 over all copies.

    `seeds` holds every seed that any copy was reset with, `closed` every copy that was closed.
    """

    def __init__(self, builds=(), resets=(), steps=()):
        self._raises = {"build": builds, "reset": resets, "step": steps}
        self.calls = {"build": 0, "reset": 0, "step": 0}
        self.seeds = []
        self.closed = []

    def called(self, method):
        """Counts one call and says whether it raises."""
        self.calls[method] += 1
        return self.calls[method] in self._raises[method]


class RaisingEnvironment(CountingEnvironment):
    """Raises where its plan says so, a different text every time."""

    def __init__(self, plan, **settings):
        super().__init__(**settings)
        self._plan = plan
        if plan.called("build"):
            raise RuntimeError(f"no licence in build {plan.calls['build']}")

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self._plan.seeds.append(seed)
        if self._plan.called("reset"):
            raise ValueError(f"no level in reset {self._plan.calls['reset']}")
        return super().reset(seed=seed, options=options)

    def step(self, action):
        if self._plan.called("step"):
            raise ArithmeticError(f"collision in step {self._plan.calls['step']}")
        return super().step(action)

    def close(self):
        self._plan.closed.append(self)


class AlteredEnvironment(CountingEnvironment):
    """Passes what `reset` and `step` return through functions of its own.

    `alter_step(result, episode, step)` gets the number of the episode and of the step, from 1.
    """

    def __init__(self, alter_reset=None, alter_step=None, **settings):
        super().__init__(**settings)
        self._alter_reset = alter_reset or (lambda result, _: result)
        self._alter_step = alter_step or (lambda result, *_: result)

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        return self._alter_reset(result, self._episode)

    def step(self, action):
        result = super().step(action)
        return self._alter_step(result, self._episode, self._step)


class OwnVector(VectorEnv):
    """A vector class that is no `SyncVectorEnv`; `alter_step(result, calls)` changes its steps."""

    def __init__(self, makers, alter_reset=None, alter_step=None):
        self._inner = SyncVectorEnv(makers)
        self.num_envs = len(makers)
        self.single_observation_space = self._inner.single_observation_space
        self.single_action_space = self._inner.single_action_space
        self.metadata = self._inner.metadata
        self._alter_reset = alter_reset or (lambda result: result)
        self._alter_step = alter_step or (lambda result, _: result)
        self._calls = 0

    def reset(self, *, seed=None, options=None):
        return self._alter_reset(self._inner.reset(seed=seed, options=options))

    def step(self, actions):
        self._calls += 1
        return self._alter_step(self._inner.step(actions), self._calls)


def put(place, value, what="observation"):
    """A copy of the result of `step` with one number of an observation or reward set to `value`."""

    def alter(result):
        observation, reward, *rest = result
        if what == "reward":
            return observation, value, *rest
        observation = observation.copy()
        observation[place] = value
        return observation, reward, *rest

    return alter


def register_altered(name, max_episode_steps=None, **settings):
    """Makes `AlteredEnvironment` known to Gymnasium, so that `make` puts its own wrappers around."""
    gymnasium.register(
        name, entry_point=AlteredEnvironment, max_episode_steps=max_episode_steps, kwargs=settings
    )


def nan_at(episode, step, what="reward"):
    """Puts NaN into one step of one episode: an `alter_step`."""
    alter = put(2, np.nan) if what == "observation" else put(0, np.nan, "reward")
    return lambda result, e, s: alter(result) if (e, s) == (episode, step) else result


def make_nan_later():
    """Every reward is NaN, once the first episode is over."""
    nan = put(0, np.nan, "reward")
    return AlteredEnvironment(alter_step=lambda result, e, _: nan(result) if e else result)


def make_wrong_dtype():
    """Observations are float64, though its space says float32."""
    return AlteredEnvironment(alter_step=lambda result, *_: (np.float64(result[0]), *result[1:]))


def make_raising():
    """Raises in every step."""
    return RaisingEnvironment(Plan(steps=range(1, 10**6)))


def make_unlevelled():
    """Raises in every reset."""
    return RaisingEnvironment(Plan(resets=range(1, 10**6)))


class HangingEnvironment(CountingEnvironment):
    """Hangs in a step while there is a file `hang`, or once if there is one `hang-once`.

    The files are looked for in the home folder. Where one says `interpreter`, the step holds
    the interpreter's lock meanwhile, so that no other thread of its process runs. Where it
    says `death`, the step kills its process.
    """

    def step(self, action):
        with contextlib.suppress(FileNotFoundError):
            taken = Path.home() / f"hang-taken-{os.getpid()}"
            (Path.home() / "hang-once").rename(taken)  # by one process alone
            _hang(taken.read_text())
        with contextlib.suppress(FileNotFoundError):
            _hang((Path.home() / "hang").read_text())
        return super().step(action)


def _hang(how):
    if how == "death":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "interpreter":
        ctypes.PyDLL(None).sleep(3600)  # unlike CDLL, it keeps the lock
    time.sleep(3600)


if "ToyHanging-v0" not in gymnasium.registry:
    gymnasium.register("ToyHanging-v0", entry_point=HangingEnvironment)
