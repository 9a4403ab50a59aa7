"""CartPole-v1 that steps slowly while it is evaluated, and leaves a file when an evaluation begins."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium

SECONDS, MARK = "SLOW_EVALUATION_SECONDS", "SLOW_EVALUATION_MARK"  # variables of the environment


class SlowEvaluation(gymnasium.Wrapper):
    """Sleeps in each step of an evaluation; steps of training cost nothing more."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("CartPole-v1"))
        self._seconds = float(os.environ.get(SECONDS, "0")) if _is_evaluating() else 0.0
        if self._seconds:
            Path(os.environ[MARK]).touch()

    def step(self, action: Any) -> Any:
        """Sleeps, then steps."""
        if self._seconds:
            time.sleep(self._seconds)
        return self.env.step(action)


def _is_evaluating() -> bool:
    """Whether the evaluator is what makes this environment."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__") == "distdqn.acting.evaluator":
            return True
    return False
