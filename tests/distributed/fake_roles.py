"""Roles that make up their results, for a fleet without processes."""

from distdqn.acting.actor import RolloutReport
from distdqn.acting.evaluator import Evaluation
from distdqn.learning.learner import LearnReport
from distdqn.policy import PolicyWeights


class FakeActor:
    """Takes as many env steps as it may, less `shortfall` of them if the order has as many."""

    def __init__(self, shortfall=0):
        self._shortfall = shortfall
        self._version = None
        self._learner_steps = 0

    def rollout(self, order, weights=None):
        if weights is not None:
            self._version, self._learner_steps = weights.weights_version, weights.learner_steps
        steps = order.limit - self._shortfall if order.limit > self._shortfall else order.limit
        return RolloutReport(
            env_steps=steps,
            transitions=steps,
            episode_returns=[9.0],
            episode_lengths=[9],
            epsilon=0.5,
            weights_version=self._version,
            weights_learner_steps=self._learner_steps,
            env_seconds=0.1,
            network_seconds=0.1,
            total_seconds=1.0,
        ), f"chunk of {steps}"


class FakeReplay:
    """Counts what goes in and out."""

    def __init__(self):
        self.inserted = 0
        self.sampled = 0
        self.inserted_when_first_sampled = None
        self.exponents = []
        self.updates = []

    def insert(self, chunk):
        self.inserted += int(chunk.removeprefix("chunk of "))
        return self.inserted

    def update_priorities(self, update):
        self.updates.append(update)

    def sample(self, batches, batch_size, importance_exponent):
        self.exponents.append(importance_exponent)
        if self.inserted_when_first_sampled is None:
            self.inserted_when_first_sampled = self.inserted
        self.sampled += batches * batch_size
        return ["batch"] * batches


class FakeLearner:
    """Counts updates and versions."""

    def __init__(self, epoch=0, notice=None):
        self._version = (epoch, 0)
        self._steps = 0
        self._notice = notice

    def compile(self):
        return self._notice

    def learn(self, batches, publish):
        self._steps += len(batches)
        weights = self.publish() if publish else None
        version = weights.weights_version if weights else None
        report = LearnReport(len(batches), self._steps, 0.5, 1.0, 2.0, 0.01, version)
        return report, weights, f"priorities {self._steps}"

    def publish(self):
        self._version = (self._version[0], self._version[1] + 1)
        return PolicyWeights([], [], self._version, self._steps)

    def export(self, weights):
        return f"network {weights.weights_version}".encode()


class FakeEvaluator:
    """Every episode of weights after `n` learner steps returns `score(n)`."""

    def __init__(self, score=lambda _steps: 10.0):
        self._score = score

    def evaluate(self, weights, episodes, number):  # noqa: ARG002
        score = self._score(weights.learner_steps)
        return Evaluation(
            [score] * episodes, [9] * episodes, weights.weights_version, weights.learner_steps, 0.1
        )
