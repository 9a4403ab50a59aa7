"""The options of recorded data."""

from typing import Annotated

from pydantic import Field

from distdqn.config.model import Options, Text


class OfflineOptions(Options):
    """Learning from a recorded dataset."""

    heading = "offline data"
    has_opposites = True

    offline: Text | None = None
    """Id of a Minari dataset on this machine to learn from, as `distdqn record` writes it; its spaces are
    those of the environment; none means no recorded data."""
    offline_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the env steps of a run that are read from the dataset; 1 means that no actor steps an
    environment, and needs `max_learner_steps`."""

    @property
    def is_offline(self) -> bool:
        """Whether all env steps are recorded."""
        return self.offline is not None and self.offline_fraction == 1.0
