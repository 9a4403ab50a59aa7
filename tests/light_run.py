"""`python -m distdqn.run` with a learner that only counts, so that a run is up in a second or two.

Everything else is as real as ever: commands, processes, checkpoints, faults. Two variables
set more of it: LIGHT_CPUS is what each role asks of its cluster, LIGHT_WEIGHTS_BYTES the
size of what the learner publishes.
"""

import dataclasses
import os
import sys
import time

import numpy as np

import distdqn.run
from distdqn.cluster import connection as cluster
from distdqn.training import builders
from distdqn.types import LearnReport, PolicyWeights

_SECONDS_PER_UPDATE = 0.001
_REAL_PARTS = builders.role_parts


class CountingLearner:
    """Learns nothing: counts its updates and publishes weights that never change."""

    def __init__(self, generation, inputs, actions, ballast_bytes):
        self._version = (generation, 0)
        self._steps = 0
        self._arrays = [
            np.ones((inputs, actions), np.float32),
            np.zeros(actions, np.float32),
            np.zeros(ballast_bytes // 4, np.float32),
        ]

    def compile(self):
        return None

    def learn(self, batches, publish, learning_rate):  # noqa: ARG002
        updates = len(batches.item_id)
        time.sleep(_SECONDS_PER_UPDATE * updates)
        self._steps += updates
        weights = self.publish() if publish else None
        version = weights.weights_version if weights else None
        return LearnReport(updates, self._steps, 0.5, 1.0, 2.0, 0.01, version), weights, None

    def publish(self):
        generation, version = self._version
        self._version = (generation, version + 1)
        return PolicyWeights(self._layers(), self._arrays, self._version, self._steps)

    @staticmethod
    def _layers():
        first = {"name": "x", "kind": "input", "inputs": [], "arrays": []}
        last = {"name": "q", "kind": "dense", "inputs": ["x"], "arrays": [0, 1], "activation": "linear"}
        return [first, last]

    def export(self, weights):
        return str(weights.weights_version).encode()

    def get_state(self):
        policy = {"layers": self._layers(), "positions": [0, 1], "other_arrays": []}
        state = {"networks": {"online": self._arrays[:2]}, "policy": policy}
        return {**state, "learner_steps": self._steps, "weights_version": list(self._version)}

    def set_state(self, state):
        self._steps = int(state["learner_steps"])
        generation, version = state["weights_version"]
        if self._version[0] <= generation:  # it was made before
            self._version = (generation, version)


def light_parts(config, spec, role, index, restarts):
    """`builders.role_parts`, but for the learner."""
    if role != "learner":
        return _REAL_PARTS(config, spec, role, index, restarts)
    ballast_bytes = int(os.environ.get("LIGHT_WEIGHTS_BYTES", "0"))
    inputs = int(np.prod(spec.observation_shape))
    return CountingLearner, (restarts, inputs, spec.actions, ballast_bytes)


def main():
    builders.role_parts = light_parts
    if cpus := os.environ.get("LIGHT_CPUS"):
        describe = cluster._describe
        cluster._describe = lambda *names, **values: dataclasses.replace(
            describe(*names, **values), cpus_per_role=float(cpus)
        )
    return distdqn.run.main()


if __name__ == "__main__":
    sys.exit(main())
