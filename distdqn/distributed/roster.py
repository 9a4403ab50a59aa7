"""Who fills which place of an `async` run, and what the end of a run asks of them."""

from typing import Any

from distdqn.acting.evaluator import Evaluation
from distdqn.distributed.calls import Calls, Worker, evaluation_turns
from distdqn.goal import EvaluationOrder
from distdqn.policy import PolicyWeights


class Roster:
    """The roles of a run as they are now. What is asked of them here is waited for.

    Attributes:
        learner: the learner's process.
        shards: replay's, one for each shard.
        actors: the actors', by index.
        evaluator: the evaluator's.
    """

    def __init__(self, calls: Calls, actors: int, epoch: int = 0, shards: int = 1) -> None:
        self._calls = calls
        # The learner first: its TensorFlow takes longest.
        self.learner = calls.start("learner", incarnation=epoch)
        self.shards = [calls.start("replay", index, is_numbered=shards > 1) for index in range(shards)]
        self.actors = [calls.start("actor", index) for index in range(actors)]
        self.evaluator = calls.start("evaluator")

    def everyone(self) -> list[Worker]:
        """All of them."""
        return [self.learner, *self.shards, self.evaluator, *self.actors]

    @property
    def acting(self) -> list[Worker]:
        """The actors that can be asked for rollouts: their processes are up."""
        return [actor for actor in self.actors if actor.about]

    @property
    def can_answer(self) -> bool:
        """Whether learner and replay are up, as for a checkpoint they must be."""
        return all(worker.about for worker in (self.learner, *self.shards))

    def is_on(self, worker: Worker) -> bool:
        """Whether this process fills its place now."""
        return any(worker is each for each in self.everyone())

    def replace(self, worker: Worker) -> Worker:
        """Starts another process in the place of one whose calls are abandoned already."""
        fresh = self._calls.start(worker.role, worker.index, worker.incarnation + 1, worker.is_numbered)
        fresh.failures = worker.failures
        match worker.role:
            case "actor":
                self.actors[worker.index] = fresh
            case "replay":
                self.shards[worker.index] = fresh
            case role:
                setattr(self, role, fresh)
        return fresh

    def shard_of(self, actor: Worker) -> Worker:
        """The shard of replay that takes what this actor sees."""
        return self.shards[actor.index % len(self.shards)]

    def publish(self) -> PolicyWeights:
        """See `Finisher`."""
        weights: PolicyWeights = self._calls.ask(self.learner, "publish")
        return weights

    def evaluate(self, order: EvaluationOrder) -> Evaluation:
        """See `Finisher`."""
        evaluation: Evaluation = self._calls.ask(
            self.evaluator,
            "evaluate",
            order.weights,
            order.episodes,
            order.number,
            turns=evaluation_turns(order.episodes),
        )
        return evaluation

    def export(self, weights: Any) -> bytes:
        """See `Finisher`."""
        content: bytes = self._calls.ask(self.learner, "export", weights)
        return content

    def value(self, weights: Any) -> PolicyWeights:
        """See `Finisher`."""
        if isinstance(weights, PolicyWeights):
            return weights
        value: PolicyWeights = self._calls.fetch(self.learner, "publish", weights)
        return value

    def ask(self, worker: Worker, method: str, *arguments: Any) -> Any:
        """Calls a method and waits for the answer."""
        return self._calls.ask(worker, method, *arguments)

    def ray(self) -> dict[str, Any]:
        """See `Finisher`."""
        return self._calls.fleet.about()

    def roles(self) -> list[dict[str, Any]]:
        """See `Finisher`."""
        return [worker.to_json() for worker in self.everyone()]
