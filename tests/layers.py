"""The order in which the modules of the package build on each other."""

# Every module imports from the lines above its own only.
LAYERS = [
    ["frames", "errors"],
    ["transition", "seeding", "schedules", "pacing", "stopping", "option_types", "presets", "noisy"],
    [
        "option_fields",
        "option_checks",
        "torsos",
        "user_network",
        "policy_layers",
        "tensorflow_process",
        "storage.errors",
    ],
    [
        "acting.families",
        "acting.first_episodes",
        "replay.ring",
        "replay.shards",
        "algorithm_options",
        "run_options",
    ],
    ["acting.environments", "acting.exploration", "acting.n_step", "replay.sum_tree", "replay.frame_store"],
    ["config", "policy", "translation", "acting.not_finite", "acting.recovery"],
    ["replay.samplers", "replay.sizes", "storage.arrays", "storage.files"],
    ["networks", "replay.buffer", "learning.losses", "storage.manifests"],
    ["keras_policy", "learning.heads", "storage.store"],
    ["acting.actor", "acting.evaluator", "learning.update"],
    ["goal", "learning.learner"],
    ["reporting.run_directory", "reporting.console"],
    ["reporting.journal", "checkpoints"],
    ["builders", "resharding"],
    ["fitting", "resuming"],
    ["saving"],
    ["serial"],
    ["distributed.control", "distributed.fleet", "distributed.cluster", "distributed.limits"],
    ["distributed.calls", "distributed.capacity"],
    ["distributed.commanding", "distributed.placing", "distributed.ray_fleet"],
    ["distributed.lockstep", "distributed.roster"],
    ["distributed.restoring"],
    ["distributed.async_saver", "distributed.ordering", "distributed.staffing"],
    ["distributed.replacing", "distributed.stalling"],
    ["distributed.supervisor"],
    ["distributed.launch"],
    ["training"],
    ["cli"],
    ["run", "evaluate", "inspect", "scale"],
    ["__main__"],
    ["__init__"],
]
FOLDERS = ["acting.__init__", "distributed.__init__", "learning.__init__", "replay.__init__"]
FOLDERS += ["reporting.__init__", "storage.__init__"]
FOLDER_NAMES = {folder.partition(".")[0] for folder in FOLDERS}
