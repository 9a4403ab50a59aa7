"""Errors that a user can act on, the exit codes of a command, and the count of consecutive failures."""

import contextlib
from collections.abc import Iterable, Iterator

GOAL_MISSED = 8
INTERRUPTED = 130
TERMINATED = 143

# What content of another structure than expected raises.
UNEXPECTED = (
    *(LookupError, TypeError, ValueError, AttributeError, ArithmeticError),
    *(MemoryError, RecursionError),
)


class DistdqnError(Exception):
    """A mistake or fault that a user can act on."""

    exit_code = 1  # of a command that ends with this error

    def __init__(self, mistakes: str | Iterable[str], details: str = "") -> None:
        self.mistakes = [mistakes] if isinstance(mistakes, str) else list(mistakes)  # one line each
        self.details = details  # the traceback behind them, if there is one
        super().__init__("\n".join(self.mistakes))


class ConfigError(DistdqnError, ValueError):
    """Options are invalid, or do not fit the environment."""

    exit_code = 2


class ClusterError(DistdqnError):
    """The Ray cluster is unreachable, too small or lost, or the run makes no progress there."""

    exit_code = 3


class CheckpointError(DistdqnError):
    """A checkpoint cannot be used."""

    exit_code = 4


class CheckpointDamaged(CheckpointError):
    """A file of a checkpoint is missing or differs from what was written."""


class CheckpointTooNew(CheckpointError):
    """A later release wrote the checkpoint."""


class NoCheckpoint(CheckpointError):
    """There is no checkpoint."""


class EnvironmentFault(DistdqnError):
    """The environment cannot be built or used."""

    exit_code = 5


class Diverged(DistdqnError):
    """Training diverged: NaN or infinity in ten consecutive updates."""

    exit_code = 6


class RoleFailure(DistdqnError):
    """A role (actor, replay, learner, evaluator) keeps failing."""

    exit_code = 7


class ConsecutiveFailures:
    """Counts failures without a success between them; `limit` of them are too many."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0

    def add(self) -> bool:
        """Counts one failure; returns whether the limit is reached."""
        self.count += 1
        return self.count >= self.limit

    def reset(self) -> None:
        """Restarts the count after a success."""
        self.count = 0


@contextlib.contextmanager
def collecting(mistakes: list[str]) -> Iterator[None]:
    """Adds the mistakes of a `ConfigError` in the block to `mistakes`, so that all are raised together."""
    try:
        yield
    except ConfigError as error:
        mistakes.extend(error.mistakes)


@contextlib.contextmanager
def restoring(what: str) -> Iterator[None]:
    """Raises errors that an unexpected content of `what` causes as a `CheckpointDamaged` of one line.

    `CheckpointError` if a file cannot be read.
    """
    try:
        yield
    except DistdqnError:
        raise
    except OSError as error:
        where = f"{what}: {error.filename}" if error.filename else what
        raise CheckpointError(f"{where} cannot be read: {error.strerror or error} (repair it).") from error
    except UNEXPECTED as error:
        why = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise CheckpointDamaged(f"{what} is damaged, or another release wrote it ({why}).") from error


def one_line(error: BaseException) -> str:
    """The message of an error in one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
