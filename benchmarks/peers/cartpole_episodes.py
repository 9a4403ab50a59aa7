"""Greedy episodes of CartPole-v1, and the rule by which distdqn calls it solved. For the scripts of peers."""

import gymnasium
import numpy as np

GOAL = 475.0  # Gymnasium's threshold
EPISODES, CONFIRM_EPISODES = 20, 200  # as in distdqn's `eval_episodes` and `confirm_episodes`


def play(choose_actions, episodes, seed):
    """Returns `[episodes]` of full episodes, all played together; `choose_actions` maps `[E, 4]` to `[E]`."""
    environments = gymnasium.make_vec(
        "CartPole-v1", num_envs=episodes, vectorization_mode="vector_entry_point"
    )
    observation, _ = environments.reset(seed=seed)
    returns, is_open = np.zeros(episodes), np.ones(episodes, bool)
    while is_open.any():
        observation, reward, terminated, truncated, _ = environments.step(choose_actions(observation))
        returns += reward * is_open
        is_open &= ~(terminated | truncated)
    environments.close()
    return returns


def lower_bound(returns):
    """Two standard errors below the mean of returns `[N]`."""
    return float(returns.mean() - 2.0 * returns.std(ddof=1) / np.sqrt(len(returns)))


def is_solved(choose_actions, seeds):
    """Judges as distdqn does: 20 episodes, and if they reach the goal, 200 fresh ones of the same weights.

    Both must reach it two standard errors below their mean. `seeds` is a generator of fresh seeds.
    """
    for episodes in (EPISODES, CONFIRM_EPISODES):
        if lower_bound(play(choose_actions, episodes, next(seeds))) < GOAL:
            return False
    return True


def fresh_seeds(seed):
    """Seeds of evaluations, which training with `seed` does not use."""
    generator = np.random.default_rng([seed, 1])
    while True:
        yield int(generator.integers(2**31))
