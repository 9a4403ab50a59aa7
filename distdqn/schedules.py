"""Numbers that change over a run, in absolute env steps: never as a share of a budget."""

import itertools
import math
from dataclasses import dataclass
from typing import Protocol

Points = tuple[tuple[int, float], ...]


class Schedule(Protocol):
    """A value for every env step of a run."""

    def at(self, env_steps: int) -> float:
        """The value after `env_steps` of all actors together."""
        ...


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


@dataclass(frozen=True)
class CosineSchedule:
    """A value that moves along half a cosine wave, slowly at both ends, and then stays.

    `value = end + (start - end) * (1 + cos(pi * min(1, env_steps / steps))) / 2`

    Attributes:
        start: at env step 0.
        end: from `steps` on.
        steps: in total env steps; 0 means `end` from the start.

    Source: Loshchilov and Hutter (2017), equation 5 without restarts, arXiv:1608.03983.
    """

    start: float
    end: float
    steps: int

    def at(self, env_steps: int) -> float:
        """The value after `env_steps` of all actors together."""
        if env_steps >= self.steps:
            return self.end
        return self.end + (self.start - self.end) * (1.0 + math.cos(math.pi * env_steps / self.steps)) / 2.0


@dataclass(frozen=True)
class PiecewiseSchedule:
    """A value given at some env steps, on straight lines between them.

    Before the first point it has that point's value, after the last one the last's.

    Attributes:
        points: `(env_steps, value)`, env steps rising.
    """

    points: Points

    def at(self, env_steps: int) -> float:
        """The value after `env_steps` of all actors together."""
        if env_steps <= self.points[0][0]:
            return self.points[0][1]
        for (begin, start), (end, value) in itertools.pairwise(self.points):
            if env_steps < end:
                return start + (value - start) * (env_steps - begin) / (end - begin)
        return self.points[-1][1]


def make_schedule(shape: str, start: float, end: float, steps: int, points: Points | None) -> Schedule:
    """The schedule that options describe.

    Args:
        shape: `constant` (which is `start`), `linear`, `cosine` or `piecewise`.
        start: at env step 0.
        end: from `steps` on.
        steps: in total env steps.
        points: of the piecewise one.
    """
    match shape:
        case "constant":
            return LinearSchedule(start, start, 0)
        case "cosine":
            return CosineSchedule(start, end, steps)
        case "piecewise" if points:
            return PiecewiseSchedule(points)
        case _:
            return LinearSchedule(start, end, steps)
