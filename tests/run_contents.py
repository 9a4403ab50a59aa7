"""What is agreed of a run: the files of its folder and the keys of each line of metrics."""

FILES = {
    "config.json",
    "run.json",
    "metrics.jsonl",
    "summary.json",
    "policy.keras",
    "final.keras",
    "final.npz",
    "run.lock",
    "policy.npz",
    "status.json",
}
OPTIONAL = {"checkpoints", "logs", "learning_curve.png"}  # a signal leaves no curve
METRICS = {
    "wall_seconds",
    "env_steps",
    "learner_steps",
    "episodes",
    "train_return_mean",
    "eval_return_mean",
    "epsilon",
    "loss",
    "q_mean",
    "env_steps_per_second",
    "learner_steps_per_second",
    "samples_per_insert",
    "weights_version",
    "weights_age_steps",
    "replay_size",
    "actors_alive",
    "actor_restarts",
}

# A line of metrics, as far as a panel reads it.
LINE = {
    "wall_seconds": 60.0,
    "env_steps": 25_000,
    "learner_steps": 4321,
    "train_return_mean": 412.64,
    "eval_return_mean": None,
    "epsilon": 0.4,
    "loss": 0.0213,
    "q_mean": 61.3,
    "env_steps_per_second": 7612.0,
    "learner_steps_per_second": 2900.0,
    "samples_per_insert": 16.0,
    "weights_age_steps": 128.0,
    "actor_env_fraction": 0.54,
    "actor_network_fraction": 0.31,
    "seconds_per_update": 0.0005,
    "actors_wait_fraction": 0.0,
    "learner_wait_fraction": 0.0,
}
