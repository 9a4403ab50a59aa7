"""What can be wrong with a checkpoint that is to be loaded."""

from distdqn.errors import DistdqnError


class CheckpointError(DistdqnError):
    """A checkpoint cannot be used."""

    exit_code = 4


class CheckpointDamaged(CheckpointError):
    """A file of a checkpoint is missing, or is not what was written."""


class CheckpointTooNew(CheckpointError):
    """A checkpoint is whole, and of a format that a later release writes."""


class NoCheckpoint(CheckpointError):
    """There is no checkpoint at all."""
