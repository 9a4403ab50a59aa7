"""The roles of a run, in any mode and on any backend."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from distdqn.config.config import Config, resolved
from distdqn.errors import RoleFailure
from distdqn.training.backend import Ref
from distdqn.training.calls import Calls, Ended, Worker, evaluation_turns, last_line
from distdqn.types import (
    Evaluation,
    EvaluationRequest,
    FlushReport,
    LearnReport,
    LearnRequest,
    PolicyWeights,
    ReplayInfo,
    RolloutReport,
    RolloutRequest,
)


class Team:
    """Which process fills which role now, and what all of them do together.

    `generation` is that of the first learner's weights. A `flush_number` flushes each new actor, so that a
    resumed run plays other episodes.
    """

    def __init__(
        self, calls: Calls, config: Config, actors: int, generation: int = 0, flush_number: int | None = None
    ) -> None:
        self.calls = calls
        self._flush_number = flush_number
        self._batches = (config.updates_per_call, resolved(config.batch_size))
        self._prioritized = config.sampler == "prioritized"
        self._starts: dict[int, int] = {}  # of actors: index -> how many there were
        self._published: tuple[PolicyWeights, Ref] | None = None
        self.newest: PolicyWeights | None = None  # a copy here, which no fault of a role loses
        # The learner first: its TensorFlow takes longest.
        self.learner = calls.start("learner", restarts=generation)
        self.shards = [calls.start("replay", index) for index in range(config.replay_shards)]
        self.evaluators: list[Worker] = []  # by index
        self.add_evaluators(1 if config.evaluators == "auto" else config.evaluators)
        self.actors: list[Worker] = []  # by index, draining ones included; last: a run can do with fewer
        for _ in range(actors):
            self.add_actor()
        self.control: Worker | None = None  # the process that takes commands

    @property
    def workers(self) -> list[Worker]:
        """All roles that the run needs."""
        return [self.learner, *self.shards, *self.evaluators, *self.actors]

    @property
    def all_workers(self) -> list[Worker]:
        """All roles, the one that takes commands included."""
        return self.workers if self.control is None else [*self.workers, self.control]

    @property
    def staying(self) -> list[Worker]:
        """The actors that do not drain."""
        return [actor for actor in self.actors if actor.drains_until is None]

    @property
    def acting(self) -> list[Worker]:
        """The actors that can get rollouts: they stay, and their processes are up."""
        return [actor for actor in self.staying if actor.is_ready]

    def describe(self) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """For `status.json`: the Ray cluster, and process, host and restarts of each role."""
        return self.calls.backend.describe(), [worker.to_json() for worker in self.all_workers]

    def add_evaluators(self, count: int) -> None:
        """Starts evaluators until there are `count`."""
        for index in range(len(self.evaluators), count):
            self.evaluators.append(self.calls.start("evaluator", index))

    def add_actor(self) -> None:
        """Starts an actor with the lowest free index."""
        taken = {actor.index for actor in self.actors}
        index = next(index for index in itertools.count() if index not in taken)
        self.actors = sorted([*self.actors, self._start_actor(index)], key=lambda actor: actor.index)

    def end_actor(self, actor: Worker, *failed: Ended) -> None:
        """Ends an actor's process. Its calls, and those that `failed` before, are lost."""
        lost = [*failed, *self.calls.abandon(actor)]
        self.actors = [each for each in self.actors if each is not actor]
        for ended in lost:
            ended.call.on_lost(ended)

    def is_current(self, worker: Worker) -> bool:
        """Whether this process fills its role now."""
        return worker in self.all_workers

    def replace(self, worker: Worker) -> Worker:
        """Starts another process in place of one whose calls are abandoned already."""
        if worker.role == "actor":
            fresh = self._start_actor(worker.index)
            self.actors = [fresh if each is worker else each for each in self.actors]
        else:
            fresh = self.calls.start(worker.role, worker.index, worker.restarts + 1)
            several = {"replay": self.shards, "evaluator": self.evaluators}.get(worker.role)
            if several is None:
                setattr(self, worker.role, fresh)
            else:
                several[worker.index] = fresh
        fresh.failures = worker.failures
        return fresh

    def shard_of(self, actor: Worker) -> Worker:
        """The shard of replay that stores this actor's transitions; no shard goes without."""
        return self.shards[self.actors.index(actor) % len(self.shards)]

    def split_episodes(self, episodes: int) -> list[tuple[Worker, int]]:
        """Evaluators, each with its part of so many episodes, at least one."""
        count = min(episodes, len(self.evaluators))
        return [(self.evaluators[i], len(range(i, episodes, count))) for i in range(count)]

    def _start_actor(self, index: int) -> Worker:
        """Starts an actor; no two actors of a run with the same index have the same number of restarts."""
        restarts = self._starts.get(index, 0)
        self._starts[index] = restarts + 1
        actor = self.calls.start("actor", index, restarts)
        if self._flush_number is not None:
            self.calls.send(actor, "flush", self._flush_number, returns=2)
        return actor

    # Each of the following waits for its result.

    def wait_until_ready(self, check: Callable[[], None]) -> str | None:
        """Waits until every process is up and the learner's update is compiled.

        Calls `check` once a second. Returns a line if something is slower than it could be. `RoleFailure` if
        one does not start: in rounds, a new process could not continue where it stopped.
        """
        notices: list[str | None] = []
        self.calls.send(self.learner, "compile", on_result=lambda _call, notice: notices.append(notice))
        while self.calls.in_flight():
            for ended in self.calls.collect(1.0):
                if ended.failure is not None:
                    name, why = ended.call.worker.name, ended.failure
                    raise RoleFailure(f"{name} does not start: {last_line(why)}", details=why)
                ended.call.on_result(ended.call, ended.result)
            check()
        return notices[0]

    def publish(self) -> PolicyWeights:
        """The newest weights as a new version."""
        (self._published,) = self.calls.ask_each("publish", [(self.learner, ())])
        self.newest = self._published[0]
        return self.newest

    def rollout(
        self, requests: Sequence[RolloutRequest], weights: PolicyWeights
    ) -> list[tuple[RolloutReport, ReplayInfo]]:
        """Every actor acts and inserts in its turn; reports, and what replay holds after each."""
        call, fetch = self.calls.backend.call, self.calls.fetch
        replay, results = self.shards[0], []
        for actor, request in zip(self.actors, requests, strict=True):
            report, chunk = call(actor.handle, "rollout", request, self._ref(weights), returns=2)
            # Replay runs calls in the order they are made in, whichever chunk is there first.
            results.append((actor, report, *call(replay.handle, "insert", chunk)))
        return [
            (fetch(actor, "rollout", report), fetch(replay, "insert", info))
            for actor, report, info in results
        ]

    def learn(self, request: LearnRequest) -> LearnReport:
        """Samples `U` batches, makes `U` updates, and returns new priorities to replay."""
        call, replay = self.calls.backend.call, self.shards[0].handle
        (batches,) = call(replay, "sample", *self._batches, request.importance_sampling_exponent)
        refs = call(self.learner.handle, "learn", batches, False, request.learning_rate, returns=3)
        if self._prioritized:
            call(replay, "update_priorities", refs[2])
        report: LearnReport = self.calls.fetch(self.learner, "learn", refs[0])
        return report

    def flush(self, number: int) -> list[tuple[FlushReport, ReplayInfo]]:
        """Every actor ends its episodes and inserts its open windows; reports, and what replay then holds."""
        call, fetch, replay = self.calls.backend.call, self.calls.fetch, self.shards[0]
        refs = [call(actor.handle, "flush", number, returns=2) for actor in self.actors]
        inserts = [call(replay.handle, "insert", chunk)[0] for _, chunk in refs]
        return [
            (fetch(actor, "flush", report), fetch(replay, "insert", info))
            for actor, (report, _), info in zip(self.actors, refs, inserts, strict=True)
        ]

    def evaluate(self, request: EvaluationRequest) -> Evaluation:
        """Plays the requested greedy episodes."""
        weights, turns = self._ref(request.weights), evaluation_turns(request.episodes)
        parts = self.split_episodes(request.episodes)
        asked = [(each, (weights, episodes, request.number, request.seconds)) for each, episodes in parts]
        return Evaluation.joined([part for part, _ in self.calls.ask_each("evaluate", asked, turns)])

    def export(self, weights: PolicyWeights) -> bytes:
        """`weights` as a `.keras` file."""
        content: bytes = self.calls.ask(self.learner, "export", self._ref(weights))
        return content

    def _ref(self, weights: Any) -> Any:
        """The reference to `weights` if they are the newest published here, so that they are sent once."""
        if self._published is not None and self._published[0] is weights:
            return self._published[1]
        return weights
