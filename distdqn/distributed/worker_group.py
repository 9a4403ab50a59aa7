"""Who fills which place of an `async` run, and what the end of a run asks of them."""

import itertools
from typing import Any

from distdqn.distributed.calls import Calls, Worker, evaluation_turns
from distdqn.types import Evaluation, EvaluationRequest, PolicyWeights


class WorkerGroup:
    """The roles of a run as they are now. What is asked of them here is waited for.

    Attributes:
        learner: the learner's process.
        shards: replay's, one for each shard.
        actors: the actors', by index, those that leave included.
        evaluator: the evaluator's.
        control: that of the process which takes commands, once there is one.
    """

    def __init__(
        self, calls: Calls, actors: int, generation: int = 0, shards: int = 1, flush_number: int | None = None
    ) -> None:
        self._calls = calls
        self._flush_number = flush_number
        self._lives: dict[int, int] = {}  # of actors: index -> how many there have been
        # The learner first: its TensorFlow takes longest.
        self.learner = calls.start("learner", restarts=generation)
        self.shards = [calls.start("replay", index, is_numbered=shards > 1) for index in range(shards)]
        self.evaluator = calls.start("evaluator")
        self.actors: list[Worker] = []  # last: a run can do with fewer of them
        for _ in range(actors):
            self.add_actor()
        self.control: Worker | None = None

    def working(self) -> list[Worker]:
        """All that the run needs to get on."""
        return [self.learner, *self.shards, self.evaluator, *self.actors]

    def everyone(self) -> list[Worker]:
        """All of them."""
        return self.working() if self.control is None else [*self.working(), self.control]

    @property
    def staying(self) -> list[Worker]:
        """The actors that are not to leave."""
        return [actor for actor in self.actors if actor.leaves_by is None]

    @property
    def acting(self) -> list[Worker]:
        """The actors that can be asked for rollouts: they stay, and their processes are up."""
        return [actor for actor in self.staying if actor.about]

    def add_actor(self) -> Worker:
        """Starts an actor with the lowest index that is free."""
        taken = {actor.index for actor in self.actors}
        index = next(index for index in itertools.count() if index not in taken)
        fresh = self._start_actor(index)
        self.actors = sorted([*self.actors, fresh], key=lambda actor: actor.index)
        return fresh

    def remove(self, actor: Worker) -> None:
        """Strikes off an actor whose process has been ended."""
        self.actors = [each for each in self.actors if each is not actor]

    def start_control(self) -> Worker:
        """Starts the process that takes commands."""
        self.control = self._calls.start("control")
        return self.control

    def _start_actor(self, index: int) -> Worker:
        """Starts an actor in a life of its own: no two of a run draw the same numbers."""
        life = self._lives.get(index, 0)
        self._lives[index] = life + 1
        actor = self._calls.start("actor", index, life)
        if self._flush_number is not None:  # other episodes than in the run that goes on here
            self._calls.send("flush", actor, self._flush_number, returns=2)
        return actor

    @property
    def can_answer(self) -> bool:
        """Whether learner and replay are up, as for a checkpoint they must be."""
        return all(worker.about for worker in (self.learner, *self.shards))

    def is_on(self, worker: Worker) -> bool:
        """Whether this process fills its place now."""
        return any(worker is each for each in self.everyone())

    def replace(self, worker: Worker) -> Worker:
        """Starts another process in the place of one whose calls are abandoned already."""
        if worker.role == "actor":
            fresh = self._start_actor(worker.index)
            self.actors = [fresh if each is worker else each for each in self.actors]
        else:
            lives = worker.restarts + 1
            fresh = self._calls.start(worker.role, worker.index, lives, worker.is_numbered)
            if worker.role == "replay":
                self.shards[worker.index] = fresh
            else:
                setattr(self, worker.role, fresh)
        fresh.failures = worker.failures
        return fresh

    def shard_of(self, actor: Worker) -> Worker:
        """The shard of replay that takes what this actor, one of those there are, sees.

        They take shards in turns, whoever has left: none of these goes without.
        """
        place = next(place for place, each in enumerate(self.actors) if each is actor)
        return self.shards[place % len(self.shards)]

    def publish(self) -> PolicyWeights:
        """See `Finisher`."""
        weights: PolicyWeights = self._calls.ask(self.learner, "publish")
        return weights

    def evaluate(self, order: EvaluationRequest) -> Evaluation:
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
        return self._calls.backend.describe()

    def roles(self) -> list[dict[str, Any]]:
        """See `Finisher`."""
        return [worker.to_json() for worker in self.everyone()]
