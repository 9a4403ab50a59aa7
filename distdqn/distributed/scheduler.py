"""Who may go on: rollouts, learning and evaluations are ordered from counters alone."""

from dataclasses import dataclass

from distdqn.distributed.calls import Calls, Worker, evaluation_turns
from distdqn.distributed.limits import Limits
from distdqn.distributed.worker_group import WorkerGroup
from distdqn.replay.rate_limiter import RateLimiter
from distdqn.replay.shards import assign_shards
from distdqn.reporting.metrics import Metrics
from distdqn.seeding import make_generator
from distdqn.training.backend import Ref
from distdqn.training.stopping import Budget, Goal
from distdqn.types import EvaluationRequest, LearnRequest, ReplayInfo, RolloutRequest

_CALLS_AHEAD = 2  # under way to each actor and to the learner: one runs, one is queued


@dataclass(frozen=True)
class PublishedWeights:
    """The newest weights, by reference."""

    ref: Ref
    weights_version: tuple[int, int]
    learner_steps: int


@dataclass(frozen=True)
class Learning:
    """What a learner's call was made with.

    Attributes:
        parts: of its batches: the shard that was to draw, and what it draws.
        learning_rate: of its updates.
    """

    parts: list[tuple[Worker, Ref]]
    learning_rate: float


class Scheduler:
    """Orders what may go on, and counts what is granted but not over yet.

    Attributes:
        weights: the newest that the learner has published, or None if they are lost.
        newest_version: of the weights that the learner has published, or None.
        is_compiled: whether the learner there is now has compiled its update.
        env_steps_under_way: of rollouts that replay has not accepted yet.
        published_at: learner steps when weights were last ordered.
        stocks: what each shard of replay holds, as it told last.
    """

    def __init__(
        self,
        calls: Calls,
        limits: Limits,
        goal: Goal,
        budget: Budget,
        rate_limiter: RateLimiter,
        metrics: Metrics,
        workers: WorkerGroup,
    ) -> None:
        self._calls = calls
        self._limits = limits
        self._goal = goal
        self._budget = budget
        self._rate_limiter = rate_limiter
        self._metrics = metrics
        self._workers = workers
        self._turn = 0  # index of the actor to be asked next, if there is one
        self.weights: PublishedWeights | None = None
        self.newest_version: tuple[int, int] | None = None
        self.is_compiled = False
        self.env_steps_under_way = 0
        self.published_at = metrics.counters.learner_steps
        self.replay_infos = [ReplayInfo() for _ in workers.shards]
        self._generator = make_generator(limits.seed, "shards")

    def send(self) -> None:
        """Orders all that may go on now."""
        self._order_rollouts()
        self._order_learning()
        self._order_evaluation()

    def finished(self) -> str | None:
        """Why there is nothing left to order, or None."""
        if self._goal.reached:
            return "goal_reached"
        if self._budget.is_out_of_time(self._metrics.seconds):
            return "max_seconds"
        if self._budget.is_out_of_episodes(self._metrics.counters.episodes):
            return "max_episodes"
        if self._budget.env_steps_left(self._metrics.counters.env_steps):
            return None
        is_working = self._calls.are_under_way("compile", "learn", "evaluate", "set_index", "set_chunk")
        return None if is_working or self._can_learn() else "max_env_steps"

    def who_waits(self) -> str | None:
        """`actors` or `learner`, if that side has nothing to do until the other goes on."""
        if not self.is_compiled:
            return None
        if not self._workers.learner.under_way:
            return "learner"
        return None if self._calls.are_under_way("rollout") else "actors"

    def take_weights(self, published: PublishedWeights) -> None:
        """Takes in weights, unless newer ones are there."""
        if self.newest_version is not None and published.weights_version <= self.newest_version:
            return
        self.weights, self.newest_version = published, published.weights_version
        self._metrics.add_published(published.weights_version)

    def forget_weights(self, actor: Worker) -> None:
        """Takes note that those last sent to this actor were lost, on a node that has died."""
        if self.weights is not None and self.weights.weights_version == actor.weights_version:
            self.weights = None
        actor.weights_version = None

    def describe_waits(self) -> list[str]:
        """Who waits for whom, in words."""
        counters = self._metrics.counters
        waits = []
        if not self._budget.env_steps_left(counters.env_steps + self.env_steps_under_way):
            waits.append("all env steps are taken or under way")
        elif not self._can_act(len(self._workers.acting)):
            waits.append("the actors wait for the learner")
        if not self.is_compiled:
            waits.append("the learner has not compiled")
        elif counters.inserted < self._rate_limiter.min_replay_size:
            waits.append(
                f"the learner waits for {self._rate_limiter.min_replay_size:,} transitions in replay"
            )
            waits[-1] += f", {counters.inserted:,} are in"
        elif not self._can_learn():
            waits.append("the learner waits for the actors")
        return waits

    def send_evaluation(self, order: EvaluationRequest) -> None:
        """Has the evaluator make this evaluation."""
        self._calls.send(
            "evaluate",
            self._workers.evaluator,
            order.weights,
            order.episodes,
            order.number,
            detail=order,
            turns=evaluation_turns(order.episodes),
        )

    @property
    def samples_under_way(self) -> int:
        """Transitions that granted calls of the learner draw."""
        return self._calls.count_under_way("learn") * self._limits.samples_per_call

    def _order_rollouts(self) -> None:
        """Orders rollouts: one from each actor before a second from any, and in turns."""
        acting = self._workers.acting
        for ahead in range(_CALLS_AHEAD):
            for place, actor in sorted(enumerate(acting), key=lambda each: each[1].index < self._turn):
                if actor.under_way != ahead:
                    continue
                env_steps = self._metrics.counters.env_steps
                left = self._budget.env_steps_left(env_steps + self.env_steps_under_way)
                if not left or not self._can_act(len(acting)):
                    return
                limit = min(left, self._limits.steps_per_rollout)
                order = RolloutRequest(env_steps, limit, place, len(acting))
                self.env_steps_under_way += order.limit
                self._calls.send("rollout", actor, order, *self._news_for(actor), returns=2, detail=order)
                self._turn = actor.index + 1

    def _news_for(self, actor: Worker) -> tuple[Ref, ...]:
        """The newest weights, unless they have been sent to this actor."""
        if self.weights is None or actor.weights_version == self.weights.weights_version:
            return ()
        actor.weights_version = self.weights.weights_version
        return (self.weights.ref,)

    def _order_learning(self) -> None:
        """Has replay draw batches and the learner learn from them, one call ahead."""
        limits = self._limits
        while self._workers.learner.under_way < _CALLS_AHEAD and self._can_learn():
            if self._metrics.train_seconds_begin is None:
                self._metrics.train_seconds_begin = self._metrics.seconds
            learner_steps = self._learner_steps + limits.updates_per_call
            publish = learner_steps - self.published_at >= limits.weights_update_period
            if publish:
                self.published_at = learner_steps
            self._send_learn(publish, limits.schedules.at(self._metrics.counters.env_steps))

    def _send_learn(self, publish: bool, order: LearnRequest) -> None:
        """Has the shards of replay draw, and the learner learn from that.

        Nobody waits here: the learner's call starts once all its batches are there.
        """
        call, shards = self._calls.backend.call, self._workers.shards
        shape = (self._limits.updates_per_call, self._limits.batch_size)
        if len(shards) == 1:
            refs = call(shards[0].handle, "sample", *shape, order.importance_sampling_exponent)
            parts = [(shards[0], refs[0])]
            method, arguments = "learn", (refs[0], publish, order.learning_rate)
        else:
            split = assign_shards(
                self.replay_infos, *shape, order.importance_sampling_exponent, self._generator
            )
            parts = [
                (shards[index], call(shards[index].handle, "draw", count)[0])
                for index, count in split.counts.items()
            ]
            refs = tuple(ref for _, ref in parts)
            method, arguments = "learn_from_shards", (split, publish, order.learning_rate, *refs)
        self._calls.send(
            "learn",
            self._workers.learner,
            *arguments,
            returns=2 + len(parts),
            detail=Learning(parts, order.learning_rate),
            method=method,
        )

    def _order_evaluation(self) -> None:
        """Orders the evaluation that is due, one at a time, of weights of the learner there is now."""
        if self.weights is None or self._calls.are_under_way("evaluate"):
            return
        if self.weights.weights_version[0] != self._workers.learner.restarts:
            return
        order = self._goal.next_order(self.weights.ref, self.weights.learner_steps)
        if order is not None:
            self.send_evaluation(order)

    @property
    def _learner_steps(self) -> int:
        """Learner steps made, those of granted calls included."""
        under_way = self._calls.count_under_way("learn") * self._limits.updates_per_call
        return self._metrics.counters.learner_steps + under_way

    def _can_act(self, actors: int) -> bool:
        counters = self._metrics.counters
        inserted = counters.inserted + self.env_steps_under_way
        return self._rate_limiter.can_insert(inserted, counters.sampled, actors)

    def _can_learn(self) -> bool:
        counters, count = self._metrics.counters, self._limits.samples_per_call
        sampled = counters.sampled + self.samples_under_way
        is_filled = any(info.total_priority for info in self.replay_infos)  # not while all are being put back
        return (
            self.is_compiled
            and is_filled
            and self._rate_limiter.can_sample(counters.inserted, sampled, count)
        )
