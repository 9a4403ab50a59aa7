"""Trains DQN of RLlib on CartPole-v1 until the time is up. Prints one line of JSON.

    python rllib_cartpole.py --seconds 60

The new API stack with four env runners; all other settings are those of RLlib's own tuned example for this
environment. The time starts with the command and ends with training; greedy episodes follow.
"""

import argparse
import json
import time

import gymnasium
import ray
import torch
from cartpole_episodes import fresh_seeds, play
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

EPISODES = 100
# https://github.com/ray-project/ray/blob/master/rllib/examples/algorithms/dqn/cartpole_dqn.py
REPLAY = {"type": "PrioritizedEpisodeReplayBuffer", "capacity": 50_000, "alpha": 0.6, "beta": 0.4}
TRAINING = {
    "lr": 5e-4,
    "train_batch_size_per_learner": 32,
    "replay_buffer_config": REPLAY,
    "n_step": (2, 5),
    "double_q": True,
    "dueling": True,
    "epsilon": [(0, 1.0), (10_000, 0.02)],
}
NETWORK = {
    "fcnet_hiddens": [256],
    "fcnet_activation": "tanh",
    "fcnet_bias_initializer": "zeros_",
    "head_fcnet_bias_initializer": "zeros_",
    "head_fcnet_hiddens": [256],
}


def make_algorithm(seed, env_runners):
    """The algorithm, with its processes started."""
    # Ray's `num_cpus` is a number of places for processes.
    ray.init(address="local", num_cpus=env_runners + 2, include_dashboard=False, log_to_driver=False)
    config = (
        DQNConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=env_runners)
        .training(**TRAINING)
        .rl_module(model_config=DefaultModelConfig(**NETWORK))
        .debugging(seed=seed, log_level="ERROR")
    )
    return config.build_algo()


def env_steps_of(result):
    """Env steps so far."""
    return int(result["env_runners"]["num_env_steps_sampled_lifetime"])


def updates_of(result):
    """Updates so far; 0 before the first one."""
    learners = result.get("learners", {}).get("default_policy", {})
    return (
        int(learners.get("num_module_steps_trained_lifetime", 0)) // TRAINING["train_batch_size_per_learner"]
    )


def greedy_actions(module, observation):
    """Actions `[E]` for observations `[E, 4]`."""
    with torch.no_grad():
        return module.forward_inference({"obs": torch.as_tensor(observation)})["actions"].numpy()


def main():
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the whole command (default: 60)")
    parser.add_argument("--started", type=float, default=time.time(), help="Unix time of the command")
    parser.add_argument("--env-runners", type=int, default=4)
    options = parser.parse_args()
    algorithm = make_algorithm(options.seed, options.env_runners)
    begin = now = None  # time, env steps and updates
    while now is None or now[0] - options.started < options.seconds:
        result = algorithm.train()
        now = (time.time(), env_steps_of(result), updates_of(result))
        if begin is None and now[2]:
            begin = now
    module = algorithm.get_module()
    returns = play(lambda each: greedy_actions(module, each), EPISODES, next(fresh_seeds(options.seed)))
    figures = {"env_steps": now[1], "learner_steps": now[2], "eval_return_mean": float(returns.mean())}
    if begin is not None:
        figures["ready_seconds"] = begin[0] - options.started
        if (period := now[0] - begin[0]) > 0.0:
            figures |= {
                "env_steps_per_second": (now[1] - begin[1]) / period,
                "learner_steps_per_second": (now[2] - begin[2]) / period,
                "measured_seconds": period,
            }
    versions = {"ray": ray.__version__, "torch": torch.__version__, "gymnasium": gymnasium.__version__}
    print(json.dumps({**figures, "threads": torch.get_num_threads(), "versions": versions}))
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
