"""`python -m distdqn.scale RUN --actors N`: change the number of actors of a run while it trains."""

import sys
from pathlib import Path

from distdqn.config.command_line import command
from distdqn.config.config import Actors
from distdqn.config.model import Options, Text
from distdqn.errors import ClusterError, ConfigError
from distdqn.reporting.run_directory import read_options, read_status


class ScaleOptions(Options):
    """The run to change, and its new number of actors."""

    run: Text
    """Folder of the run, on a machine of its Ray cluster."""
    actors: Actors
    """Number of actors that the run should have."""


@command("distdqn scale RUN --actors N", ScaleOptions, positional="run")
def main(options: ScaleOptions) -> None:
    """Change the number of actors of a run in mode `async` while it trains, and wait for it."""
    run, actors = Path(options.run), options.actors
    config, status = read_options(run), read_status(run)
    if config.mode is None or status is None:
        raise ConfigError(f"{run} holds no run (name the folder that the run writes to).")
    if config.mode != "async":
        raise ConfigError(
            f"The run in {run} is of mode `{config.mode}`, whose result depends on its number of actors: "
            "only runs of mode `async` can be scaled (wait for it, or start another)."
        )
    most, shards = config.max_actors, config.replay_shards
    if most is not None and actors > most:
        raise ConfigError(f"`actors` ({actors}) exceeds the run's `max_actors` ({most}): ask for fewer.")
    if actors < shards:
        raise ConfigError(
            f"`actors` ({actors}) is below the run's `replay_shards` ({shards}): some would get nothing."
        )
    if status.state == "killed":
        raise ClusterError(f"The run in {run} was killed (`--resume auto` resumes it): nothing was changed.")
    if status.state not in ("starting", "running"):
        raise ClusterError(f"The run in {run} is over ({status.state}): nothing was changed.")
    if status.ray is None or status.ray.control is None:
        raise ClusterError(f"The run in {run} is still starting (try again in some seconds).")
    # Importing Ray takes a second, and mistakes are reported without it.
    from distdqn.cluster.control import scale

    try:
        scale(status.ray, actors, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print("The run continues to change its number of actors.", file=sys.stderr)
        raise


if __name__ == "__main__":
    sys.exit(main())
