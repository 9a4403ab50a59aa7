"""Values that change over a run, as functions of its total env steps."""

import math
from dataclasses import dataclass

import numpy as np

Points = tuple[tuple[int, float], ...]  # (env steps, value), env steps rising


@dataclass(frozen=True)
class Schedule:
    """A value that changes over the first env steps of a run and then stays.

    - `constant`: `start`.
    - `linear`: `start + (end - start) * min(1, env_steps / steps)`
    - `cosine`: `end + (start - end) * (1 + cos(pi * min(1, env_steps / steps))) / 2`
    - `piecewise`: linear between `points`, constant before the first and after the last.

    Source: Loshchilov and Hutter (2017), equation 5 without restarts, arXiv:1608.03983, for `cosine`.
    """

    shape: str
    start: float  # at env step 0
    end: float  # from `steps` on
    steps: int  # total env steps; 0 means `end` from the start
    points: Points | None = None  # of `piecewise`

    def at(self, env_steps: int) -> float:
        """The value after `env_steps` of all actors together."""
        if self.shape == "piecewise" and self.points:
            return float(np.interp(env_steps, *np.transpose(self.points)))
        if self.shape == "constant":
            return self.start
        if env_steps >= self.steps:
            return self.end
        if self.shape == "cosine":
            return self.end + (self.start - self.end) * (1 + math.cos(math.pi * env_steps / self.steps)) / 2
        return self.start + (self.end - self.start) * env_steps / self.steps
