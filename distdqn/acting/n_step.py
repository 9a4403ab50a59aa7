"""n-step transitions from the steps of many environments."""

from dataclasses import replace

import numpy as np

from distdqn.types import BoolArray, FloatArray, IntArray, Steps, Transitions


class NStepWindows:
    """Turns steps into n-step transitions, and keeps open windows from call to call.

    The window that starts at step t covers steps t to t+m-1, where m is n, or less if the
    episode ends before:

    `reward = sum_k discount^k * reward[t+k]`, `discount = discount^m * (1 - terminated)`

    Every real step starts exactly one window, so the last n-1 steps of an episode have shorter
    ones. No window contains steps of two episodes, or an exploratory action after its first.

    Source: Sutton and Barto (2018), section 7.1; the bootstrap on truncation is
    Pardo et al. (2018), arXiv:1712.00378; the end before an exploratory action is that of the
    traces of Watkins (1989), "Learning from delayed rewards", chapter 7.
    """

    def __init__(self, n_step: int, discount: float, no_steps: Steps) -> None:
        self._n_step = n_step  # longest window, in env steps
        self._discount = discount  # per env step, in [0, 1]
        self._open = no_steps  # at most the last n-1 vector steps; at first [0, E], which gives the shapes
        self._starts = no_steps.is_transition  # [T', E], where in them a window is open

    def add(self, steps: Steps) -> Transitions:
        """The transitions `[C]` that the next `steps` `[T, E]` complete, by time, then environment."""
        starts = np.concatenate([self._starts, steps.is_transition])
        steps = self._open.followed_by(steps)
        reward, discount, last, complete = n_step_returns(steps, self._n_step, self._discount)
        emitted = starts & complete  # [T, E]
        start, environment = np.nonzero(emitted)  # [C], [C]
        transitions = Transitions(
            observation=steps.observation[start, environment],
            action=steps.action[start, environment],
            reward=reward[start, environment],
            discount=discount[start, environment],
            next_observation=steps.next_observation[last[start, environment], environment],
        )
        keep = slice(max(0, len(steps) - (self._n_step - 1)), None)
        # Copied, so that all other steps are freed.
        self._open, self._starts = steps[keep].followed_by(steps[:0]), (starts & ~emitted)[keep]
        return transitions

    def close(self) -> Transitions:
        """The transitions `[C]` of all open windows, as if every episode was truncated after the last step.

        They bootstrap from its `next_observation` with `discount^m`, and are ordered by time, then
        environment. Later windows contain only later steps.
        """
        self._open = replace(self._open, truncated=self._open.truncated.copy())
        self._open.truncated[-1:] = True
        transitions = self.add(self._open[:0])
        self._open, self._starts = self._open[:0], self._starts[:0]
        return transitions


def n_step_returns(
    steps: Steps, n_step: int, discount: float
) -> tuple[FloatArray, FloatArray, IntArray, BoolArray]:
    """What the windows contain that start at each of `steps` `[T, E]`; all results are `[T, E]`.

    Returns:
        reward: float32, discounted sum over the window.
        discount: float32, `discount^m`, 0 where the window terminated.
        last: index of the window's last step.
        complete: bool; False where later steps would extend the window.
    """
    length, environments = steps.reward.shape
    # A masked step and an exploratory action end the window before them, as a truncation does.
    cut_follows = np.zeros_like(steps.is_transition)
    cut_follows[:-1] = ~steps.is_transition[1:] | steps.is_exploratory[1:]
    ends = steps.terminated | steps.truncated | cut_follows  # [T, E]
    reward = np.zeros((length, environments), np.float32)
    product = np.ones((length, environments), np.float32)
    last = np.repeat(np.arange(length)[:, None], environments, axis=1)  # [T, E]
    grows = steps.is_transition.copy()  # windows that contain their k-th step
    for k in range(min(n_step, length)):
        reached = length - k  # later windows would need steps that are not known yet
        grows[reached:] = False
        growing = grows[:reached]
        reward[:reached] += np.where(growing, np.float32(discount**k) * steps.reward[k:], np.float32(0.0))
        product[:reached] = np.where(growing, np.float32(discount ** (k + 1)), product[:reached])
        last[:reached] += growing if k > 0 else 0
        grows[:reached] &= ~ends[k:]
    ended = np.take_along_axis(ends, last, axis=0)  # [T, E]
    terminated = np.take_along_axis(steps.terminated, last, axis=0)  # [T, E]
    covered = last - np.arange(length)[:, None] + 1  # [T, E], steps in the window
    complete = steps.is_transition & (ended | (covered == n_step))
    return reward, np.where(terminated, np.float32(0.0), product), last, complete
