"""Values that change over a run, as functions of its total env steps."""

import itertools
import math
from dataclasses import dataclass
from typing import Protocol

from typing_extensions import override

Points = tuple[tuple[int, float], ...]  # (env steps, value), env steps rising


class Schedule(Protocol):
    """A value for every env step of a run."""

    def at(self, env_steps: int) -> float:
        """The value after `env_steps` of all actors together."""
        ...


@dataclass(frozen=True)
class LinearSchedule(Schedule):
    """A value that changes linearly and then stays.

    `value = start + (end - start) * min(1, env_steps / steps)`
    """

    start: float  # at env step 0
    end: float  # from `steps` on
    steps: int  # total env steps; 0 means `end` from the start

    @override
    def at(self, env_steps: int) -> float:
        if env_steps >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * env_steps / self.steps


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    """A value that changes along half a cosine wave and then stays.

    `value = end + (start - end) * (1 + cos(pi * min(1, env_steps / steps))) / 2`

    Source: Loshchilov and Hutter (2017), equation 5 without restarts, arXiv:1608.03983.
    """

    start: float  # at env step 0
    end: float  # from `steps` on
    steps: int  # total env steps; 0 means `end` from the start

    @override
    def at(self, env_steps: int) -> float:
        if env_steps >= self.steps:
            return self.end
        return self.end + (self.start - self.end) * (1.0 + math.cos(math.pi * env_steps / self.steps)) / 2.0


@dataclass(frozen=True)
class PiecewiseSchedule(Schedule):
    """A value interpolated linearly between points, constant before the first and after the last."""

    points: Points

    @override
    def at(self, env_steps: int) -> float:
        if env_steps <= self.points[0][0]:
            return self.points[0][1]
        for (begin, start), (end, value) in itertools.pairwise(self.points):
            if env_steps < end:
                return start + (value - start) * (env_steps - begin) / (end - begin)
        return self.points[-1][1]


def make_schedule(shape: str, start: float, end: float, steps: int, points: Points | None) -> Schedule:
    """A schedule from `start` at env step 0 to `end` from `steps` total env steps on.

    `shape` is `constant` (at `start`), `linear`, `cosine`, or `piecewise` (through `points`).
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
