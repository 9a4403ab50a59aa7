"""The team of a `lockstep` run: Ray processes that do what `serial` does, in its order."""

from collections.abc import Sequence
from typing import Any

from distdqn.distributed.calls import Calls, evaluation_turns, last_line
from distdqn.distributed.startup_check import StartupCheck
from distdqn.errors import RoleFailure
from distdqn.training.backend import Ref
from distdqn.types import (
    Evaluation,
    EvaluationRequest,
    FlushReport,
    LearnReport,
    LearnRequest,
    PolicyWeights,
    RolloutReport,
    RolloutRequest,
)


class RayTeam:
    """See `distdqn.serial.Team`. All actors act at once; they insert in their order.

    A role that fails ends the run: a replacement could not go on where it stopped.
    """

    def __init__(
        self,
        calls: Calls,
        startup_check: StartupCheck,
        actors: int,
        updates_per_call: int,
        batch_size: int,
        prioritized: bool,
    ) -> None:
        self._calls = calls
        self._batches = (updates_per_call, batch_size)
        self._prioritized = prioritized
        self._learner = calls.start("learner")
        self._replay = calls.start("replay")
        self._actors = [calls.start("actor", index) for index in range(actors)]
        self._evaluator = calls.start("evaluator")
        self._published: tuple[PolicyWeights, Any] | None = None
        workers = (self._learner, self._replay, self._evaluator, *self._actors)
        while not all(worker.about for worker in workers):
            for ended in calls.collect(1.0):
                if ended.failure is not None:
                    name, why = ended.call.worker.name, ended.failure
                    raise RoleFailure(f"{name} does not start: {last_line(why)}", details=why)
            startup_check.check(workers)

    def compile(self) -> str | None:
        """See `Team`."""
        notice: str | None = self._calls.ask(self._learner, "compile")
        return notice

    def rollout(
        self, orders: Sequence[RolloutRequest], weights: PolicyWeights
    ) -> list[tuple[RolloutReport, int]]:
        """See `Team`."""
        backend = self._calls.backend
        reports: list[Ref] = []
        inserts: list[Ref] = []
        for actor, order in zip(self._actors, orders, strict=True):
            report, chunk = backend.call(actor.handle, "rollout", order, self._ref(weights), returns=2)
            reports.append(report)
            # Replay takes calls in the order they are made in, whichever chunk is there first.
            inserts += backend.call(self._replay.handle, "insert", chunk)
        fetch = self._calls.fetch
        return [
            (fetch(actor, "rollout", report), fetch(self._replay, "insert", insert).inserted)
            for actor, report, insert in zip(self._actors, reports, inserts, strict=True)
        ]

    def learn(self, order: LearnRequest) -> LearnReport:
        """See `Team`."""
        backend = self._calls.backend
        (batches,) = backend.call(
            self._replay.handle, "sample", *self._batches, order.importance_sampling_exponent
        )
        refs = backend.call(self._learner.handle, "learn", batches, False, order.learning_rate, returns=3)
        if self._prioritized:
            backend.call(self._replay.handle, "update_priorities", refs[2])
        report: LearnReport = self._calls.fetch(self._learner, "learn", refs[0])
        return report

    def flush(self, number: int) -> list[tuple[FlushReport, int]]:
        """See `Checkpointable`."""
        backend, fetch = self._calls.backend, self._calls.fetch
        refs = [backend.call(actor.handle, "flush", number, returns=2) for actor in self._actors]
        inserts = [backend.call(self._replay.handle, "insert", chunk)[0] for _, chunk in refs]
        return [
            (fetch(actor, "flush", report), fetch(self._replay, "insert", insert).inserted)
            for actor, (report, _), insert in zip(self._actors, refs, inserts, strict=True)
        ]

    def ask(self, role: str, method: str, *arguments: Any) -> Any:
        """See `Checkpointable`."""
        worker = {"learner": self._learner, "replay": self._replay}[role]
        return self._calls.ask(worker, method, *arguments)

    def publish(self) -> PolicyWeights:
        """See `Team`."""
        (ref,) = self._calls.backend.call(self._learner.handle, "publish")
        weights: PolicyWeights = self._calls.fetch(self._learner, "publish", ref)
        self._published = (weights, ref)
        return weights

    def evaluate(self, order: EvaluationRequest) -> Evaluation:
        """See `Team`."""
        evaluation: Evaluation = self._calls.ask(
            self._evaluator,
            "evaluate",
            self._ref(order.weights),
            order.episodes,
            order.number,
            turns=evaluation_turns(order.episodes),
        )
        return evaluation

    def export(self, weights: PolicyWeights) -> bytes:
        """See `Team`."""
        content: bytes = self._calls.ask(self._learner, "export", self._ref(weights))
        return content

    def value(self, weights: PolicyWeights) -> PolicyWeights:
        """See `Team`."""
        return weights

    def ray(self) -> dict[str, Any]:
        """See `Team`."""
        return self._calls.backend.describe()

    def roles(self) -> list[dict[str, Any]]:
        """See `Team`."""
        return [w.to_json() for w in (self._learner, self._replay, self._evaluator, *self._actors)]

    def _ref(self, weights: PolicyWeights) -> Any:
        """The reference to `weights` if they are the newest, so that they are sent once."""
        if self._published is not None and self._published[0] is weights:
            return self._published[1]
        return weights
