"""What actors learn in place of the rewards that the environment gives."""

from functools import partial

import gymnasium
import numpy as np
import pytest
from toy_actors import make_actor
from toy_environments import CountingEnvironment

from distdqn.types import RolloutRequest

LENGTHS = (2, 3)  # of the episodes, in turns


def rollout(**options):
    """The transitions of one environment's first ten steps, and the report."""
    actor = make_actor(
        partial(CountingEnvironment, lengths=LENGTHS), envs_per_actor=1, rollout_length=14, **options
    )
    report, transitions = actor.rollout(RolloutRequest(env_steps=0, limit=10**9))
    return transitions, report


def is_last_step(transitions):
    """`[C]`, where the next observation's step is the length of its episode."""
    seed, episode, step = transitions.next_observation.T.astype(int)
    return step == np.array(LENGTHS)[(seed + episode) % 2]


def test_failure_reward_replaces_the_reward_only_where_a_short_episode_terminates():
    plain, plain_report = rollout()
    early, early_report = rollout(failure_reward=-7.0, early_end_steps=3)

    step = plain.next_observation[:, 2]
    is_early = is_last_step(plain) & (step < 3) & (plain.discount == 0.0)
    np.testing.assert_array_equal(early.reward, np.where(is_early, -7.0, plain.reward))
    assert is_early.any()
    assert (is_last_step(plain) & ~is_early).any()
    assert early_report.episode_returns == plain_report.episode_returns


def test_failure_reward_spares_an_episode_that_was_cut_off():
    early, _ = rollout(failure_reward=-7.0, early_end_steps=100)

    is_cut_off = is_last_step(early) & (early.discount > 0.0)  # the third episode is truncated
    assert is_cut_off.any()
    assert (early.reward[is_cut_off] != -7.0).all()
    assert (early.reward[is_last_step(early) & ~is_cut_off] == -7.0).all()


def test_failure_reward_is_not_scaled_or_clipped():
    early, _ = rollout(failure_reward=-7.0, early_end_steps=100, reward_scale=0.5, reward_clip=1.0)

    assert early.reward.min() == -7.0
    assert early.reward.max() == 1.0


def test_bootstrap_on_termination_keeps_the_discount_and_still_ends_the_window():
    plain, _ = rollout(n_step=3)
    changed, _ = rollout(n_step=3, bootstrap_on_termination=True)

    assert (plain.discount == 0.0).any()
    assert (changed.discount > 0.0).all()
    keeps = plain.discount > 0.0
    np.testing.assert_array_equal(changed.discount[keeps], plain.discount[keeps])
    np.testing.assert_array_equal(changed.reward, plain.reward)  # no window reaches into the next episode
    np.testing.assert_array_equal(changed.next_observation, plain.next_observation)


class Silent(gymnasium.Env):
    """Rewards `reward` after three steps, and ends there as `ends` says."""

    observation_space = gymnasium.spaces.Box(0.0, 9.0, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, reward, ends):
        self.reward, self.ends = reward, ends

    def reset(self, *, seed=None, options=None):  # noqa: ARG002
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):  # noqa: ARG002
        self.steps += 1
        is_last = self.steps == 3
        ends = (is_last and self.ends == "terminated", is_last and self.ends == "truncated")
        return np.full(1, self.steps, np.float32), self.reward * is_last, *ends, {}


@pytest.mark.parametrize(
    ("reward", "ends", "expected"),
    [(0.0, "truncated", False), (0.0, "terminated", True), (0.5, "truncated", True), (-1.0, "never", True)],
)
def test_rollout_has_a_signal_if_a_reward_is_not_zero_or_an_episode_terminated(reward, ends, expected):
    actor = make_actor(partial(Silent, reward, ends), envs_per_actor=2, rollout_length=2)

    found = [actor.rollout(RolloutRequest(env_steps=0, limit=10**9))[0].has_signal for _ in range(2)]

    assert found == [False, expected]
