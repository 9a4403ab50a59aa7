"""What can go wrong for a user, and the exit code that says so."""

from collections.abc import Iterable

GOAL_MISSED = 8

INTERRUPTED = 130

TERMINATED = 143


class DistdqnError(Exception):
    """A mistake or fault that a user can act on, one line per mistake.

    `mistakes` are the lines; `exit_code` is what a command returns with them; `details` is
    the traceback that led to them, if there is one.
    """

    exit_code = 1

    def __init__(self, mistakes: str | Iterable[str], details: str = "") -> None:
        self.mistakes = [mistakes] if isinstance(mistakes, str) else list(mistakes)
        self.details = details
        super().__init__("\n".join(self.mistakes))


class ConfigError(DistdqnError, ValueError):
    """Options that cannot work, or that do not fit the environment."""

    exit_code = 2


class ClusterError(DistdqnError):
    """The Ray cluster is unreachable, too small or gone, or nothing goes on there."""

    exit_code = 3


class EnvironmentFault(DistdqnError):
    """The environment cannot be built or used."""

    exit_code = 5


class Diverged(DistdqnError):
    """Numbers that are not finite came ten times running."""

    exit_code = 6


class RoleFailure(DistdqnError):
    """A role (actor, replay, learner, evaluator) keeps failing."""

    exit_code = 7


class CheckpointError(DistdqnError):
    """A checkpoint cannot be used."""

    exit_code = 4


class CheckpointDamaged(CheckpointError):
    """A file of a checkpoint is missing, or is not what was written."""


class CheckpointTooNew(CheckpointError):
    """A checkpoint is whole, and of a format that a later release writes."""


class NoCheckpoint(CheckpointError):
    """There is no checkpoint at all."""
