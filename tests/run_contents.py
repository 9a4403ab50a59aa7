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
