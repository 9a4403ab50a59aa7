"""Numbers that change over a run, in absolute env steps: never as a share of a budget."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearSchedule:
    """A value that moves in a straight line and then stays.

    `value = start + (end - start) * min(1, env_steps / steps)`

    Attributes:
        start: at env step 0.
        end: from `steps` on.
        steps: in total env steps; 0 means `end` from the start.
    """

    start: float
    end: float
    steps: int

    def at(self, env_steps: int) -> float:
        """The value after `env_steps` of all actors together."""
        if env_steps >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * env_steps / self.steps
