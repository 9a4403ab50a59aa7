"""Measures env steps/s of DQN of Stable-Baselines3 while it learns ALE/Pong-v5. Prints one line of JSON.

    python sb3_pong.py --seconds 60

The algorithm, the network and the numbers are those of Mnih et al. (2015): batches of 32, one update every
four env steps, 84 x 84 x 4 grey frames, every fourth frame. As distdqn has it, actions are sticky with
probability 0.25.
"""

import argparse
import json
import time

import ale_py
import gymnasium
import stable_baselines3
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

SETTLE_SECONDS = 10.0  # after the first update
ENV_STEPS_PER_UPDATE = 4


class Clock(BaseCallback):
    """Measures from some seconds after the first update, and ends training when the time is up."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds
        self.first_update = None  # time
        self.begin = self.end = None  # time, env steps and updates

    def _on_step(self):
        now, updates = time.time(), self.model._n_updates
        if updates and self.first_update is None:
            self.first_update = now
        if self.begin is None:
            if self.first_update is not None and now - self.first_update >= SETTLE_SECONDS:
                self.begin = (now, self.num_timesteps, updates)
            return True
        self.end = (now, self.num_timesteps, updates)
        return now - self.begin[0] < self.seconds


def main():
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="measured (default: 60)")
    parser.add_argument("--started", type=float, default=time.time(), help="Unix time of the command")
    parser.add_argument("--envs", type=int, default=8, help="stepped together (default: 8)")
    parser.add_argument("--replay-capacity", type=int, default=10_000)
    parser.add_argument("--min-replay-size", type=int, default=2000)
    options = parser.parse_args()
    gymnasium.register_envs(ale_py)
    environments = make_atari_env(
        "ALE/Pong-v5",
        n_envs=options.envs,
        seed=options.seed,
        # The wrapper skips frames.
        env_kwargs={"frameskip": 1, "repeat_action_probability": 0.25},
        wrapper_kwargs={"terminal_on_life_loss": False},
    )
    clock = Clock(options.seconds)
    model = DQN(
        "CnnPolicy",
        VecFrameStack(environments, n_stack=4),
        learning_rate=1e-4,
        batch_size=32,
        buffer_size=options.replay_capacity,
        learning_starts=options.min_replay_size,
        train_freq=ENV_STEPS_PER_UPDATE,  # of every environment
        gradient_steps=options.envs,
        target_update_interval=1000,
        exploration_fraction=0.1,
        exploration_final_eps=0.01,
        seed=options.seed,
        device="cpu",
    )
    model.learn(10**7, callback=clock)
    (begin, env_steps, updates), (end, last_env_steps, last_updates) = clock.begin, clock.end
    print(
        json.dumps(
            {
                "env_steps_per_second": (last_env_steps - env_steps) / (end - begin),
                "learner_steps_per_second": (last_updates - updates) / (end - begin),
                "ready_seconds": clock.first_update - options.started,
                "measured_seconds": end - begin,
                "threads": torch.get_num_threads(),
                "versions": {
                    "stable-baselines3": stable_baselines3.__version__,
                    "torch": torch.__version__,
                    "gymnasium": gymnasium.__version__,
                    "ale-py": ale_py.__version__,
                },
            }
        )
    )


if __name__ == "__main__":
    main()
