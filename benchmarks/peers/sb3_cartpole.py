"""Trains DQN of Stable-Baselines3 until CartPole-v1 is solved. Prints one line of JSON.

    python sb3_cartpole.py --seed 100

The hyperparameters are those that rl-zoo3 tuned for this environment, and so is the budget of 50,000 env
steps. Every 1,024 env steps the greedy policy is judged by the rule of distdqn. `train_seconds` starts with
the first update, as in distdqn, and includes the evaluations.
"""

import argparse
import json
import time

import gymnasium
import stable_baselines3
import torch
from cartpole_episodes import fresh_seeds, is_solved
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback

BUDGET = 50_000
PERIOD = 1024  # four rollouts of 256 env steps
# https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/hyperparams/dqn.yml
TUNED = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1000,
    "gamma": 0.99,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
    "policy_kwargs": {"net_arch": [256, 256]},
}


class Goal(BaseCallback):
    """Ends training once the environment is solved."""

    def __init__(self, seed):
        super().__init__()
        self.seeds = fresh_seeds(seed)
        self.is_solved = False
        self.evaluations, self.evaluation_seconds = 0, 0.0
        self.first_update = None  # time
        self._next = PERIOD

    def _on_rollout_end(self):
        if self.first_update is None and self.num_timesteps > self.model.learning_starts:
            self.first_update = time.perf_counter()

    def _on_rollout_start(self):  # the updates of the last rollout are made
        self.judge()

    def _on_step(self):
        return not self.is_solved

    def judge(self):
        """Evaluates if it is time."""
        if self.first_update is None or self.num_timesteps < self._next:
            return
        self._next = self.num_timesteps + PERIOD
        begin = time.perf_counter()
        self.is_solved = is_solved(self._greedy_actions, self.seeds)
        self.evaluations += 1
        self.evaluation_seconds += time.perf_counter() - begin

    def _greedy_actions(self, observation):
        with torch.no_grad():
            return self.model.q_net(torch.as_tensor(observation)).argmax(1).numpy()


def main():
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--env-steps", type=int, default=BUDGET, help=f"budget (default: {BUDGET})")
    options = parser.parse_args()
    model = DQN("MlpPolicy", gymnasium.make("CartPole-v1"), seed=options.seed, device="cpu", **TUNED)
    # Epsilon falls as in the whole budget, however early the goal is reached.
    goal = Goal(options.seed)
    model.learn(options.env_steps, callback=goal)
    if not goal.is_solved:
        goal.judge()
    seconds = time.perf_counter() - (goal.first_update or time.perf_counter())
    print(
        json.dumps(
            {
                "solved": goal.is_solved,
                "train_seconds": seconds,
                "evaluation_seconds": goal.evaluation_seconds,
                "evaluations": goal.evaluations,
                "env_steps": model.num_timesteps,
                "learner_steps": model._n_updates,
                "threads": torch.get_num_threads(),
                "versions": {
                    "stable-baselines3": stable_baselines3.__version__,
                    "torch": torch.__version__,
                    "gymnasium": gymnasium.__version__,
                },
            }
        )
    )


if __name__ == "__main__":
    main()
