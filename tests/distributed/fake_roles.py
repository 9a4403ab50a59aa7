"""Roles that make up their results, for a fleet without processes.

What they give for a checkpoint, and how they take it back, is as real as with the real ones.
"""

import itertools

import numpy as np

from distdqn.types import Evaluation, FlushReport, LearnReport, PolicyWeights, ReplayInfo, RolloutReport

ROWS_PER_SEGMENT = 100

_values = itertools.count()  # no two rows of any replay are alike
_lives = itertools.count()


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

    def flush(self, number):  # noqa: ARG002
        return FlushReport(episodes_lost=0, transitions=0), "chunk of 0"


class FakeReplay:
    """Keeps one number for each transition, the newest `replay_capacity`; counts what goes in and out."""

    def __init__(self, capacity=10**9):
        self._capacity = capacity
        self.life = next(_lives)
        self.rows = []
        self.inserted = 0
        self.sampled = 0
        self.inserted_when_first_sampled = None
        self.exponents = []
        self.updates = []
        self.indexes = []  # every index given
        self.restored = []  # the methods that put something back, in order

    @property
    def first(self):
        return max(0, self.inserted - self._capacity)

    def insert(self, chunk):
        count = int(chunk.removeprefix("chunk of "))
        self.rows += itertools.islice(_values, count)
        self.inserted += count
        return self.info

    @property
    def info(self):
        size = self.inserted - self.first
        return ReplayInfo(self.inserted, size, float(size))

    def update_priorities(self, update):
        self.updates.append(update)
        return self.info

    def sample(self, batches, batch_size, importance_sampling_exponent):
        self.exponents.append(importance_sampling_exponent)
        self.draw(batches * batch_size)
        return [f"batch of {self.life}"] * batches

    def draw(self, count):
        if not self.inserted:
            raise ValueError("an empty replay was drawn from")
        if self.inserted_when_first_sampled is None:
            self.inserted_when_first_sampled = self.inserted
        self.sampled += count
        return [f"row of {self.life}"] * count

    def get_index(self):
        index = {
            "capacity": self._capacity,
            "first": self.first,
            "inserted": self.inserted,
            "rows_per_segment": ROWS_PER_SEGMENT,
            "frames": None,
            "frames_per_segment": 1,
        }
        self.indexes.append(index)
        return index

    def get_rows(self, begin, end):
        begin = max(begin, self.first)
        return {"begin": begin, "first": self.first, "columns": {"value": np.array(self.rows[begin:end])}}

    def set_rows(self, state):
        self.restored.append("set_rows")
        assert self.inserted == 0, "rows are put back before the index, into an empty replay"
        end = state["begin"] + len(state["columns"]["value"])
        self.rows += [-1] * (end - len(self.rows))
        self.rows[state["begin"] : end] = state["columns"]["value"].tolist()

    def set_index(self, index):
        self.restored.append("set_index")
        if -1 in self.rows[index["first"] : index["inserted"]] or len(self.rows) < index["inserted"]:
            raise ValueError("rows are missing")
        del self.rows[index["inserted"] :]
        self.inserted = index["inserted"]
        return self.info


class FakeLearner:
    """Counts updates and versions; whoever starts it sets `generation`."""

    def __init__(self, notice=None):
        self.generation = 0
        self._version = 0
        self.steps = 0
        self._notice = notice
        self.learning_rates = []
        self.batches_of = {}  # learner steps -> life of the replay whose batches they were
        self.restored = []  # learner steps put back

    def compile(self):
        return self._notice

    def learn(self, batches, publish, learning_rate):
        self.learning_rates.append(learning_rate)
        self.steps += len(batches)
        self.batches_of[self.steps] = int(batches[0].removeprefix("batch of "))
        weights = self.publish() if publish else None
        version = weights.weights_version if weights else None
        report = LearnReport(len(batches), self.steps, 0.5, 1.0, 2.0, 0.01, version)
        return report, weights, f"priorities {self.steps}"

    def learn_from_shards(self, split, publish, learning_rate, *parts):
        assert [len(rows) for rows in parts] == list(split.counts.values())
        batches = [rows[0].replace("row", "batch") for rows in parts] * len(split.shard)
        report, weights, _ = self.learn(batches[: len(split.shard)], publish, learning_rate)
        return report, weights, *(f"priorities {self.steps} for {rows[0]}" for rows in parts)

    def publish(self):
        self._version += 1
        arrays = [np.full(2, self.steps, np.float32)]
        return PolicyWeights([], arrays, (self.generation, self._version), self.steps)

    def export(self, weights):
        return f"network {weights.weights_version}".encode()

    def get_state(self):
        return {
            "networks": {"online": np.full(2, self.steps, np.float32)},
            "learner_steps": self.steps,
            "weights_version": [self.generation, self._version],
        }

    def set_state(self, state):
        self.restored.append(state["learner_steps"])
        assert state["networks"]["online"].tolist() == [state["learner_steps"]] * 2
        self.steps = state["learner_steps"]
        saved_epoch, saved_version = state["weights_version"]
        if self.generation <= saved_epoch:  # as `Learner.set_state`
            self.generation, self._version = saved_epoch, saved_version


class FakeControl:
    """Numbers the commands that it is given."""

    def __init__(self):
        self.commands = []
        self._given = 0

    def next_command(self):
        self._given += 1
        return self._given, self.commands.pop(0)


class FakeEvaluator:
    """Every episode of weights after `n` learner steps returns `score(n)`."""

    def __init__(self, score=lambda _steps: 10.0):
        self._score = score

    def evaluate(self, weights, episodes, number, seconds=None):  # noqa: ARG002
        score = self._score(weights.learner_steps)
        return Evaluation([score] * episodes, weights.weights_version, weights.learner_steps, 0.1)
