"""Requests rollouts, learner calls and evaluations from counters alone, and handles their results."""

import dataclasses
import functools
import math
from dataclasses import dataclass

from distdqn.config.config import resolved
from distdqn.distributed.replay_shards import ReplayShards
from distdqn.replay.shards import assign_shards
from distdqn.seeding import make_generator
from distdqn.training.backend import CallFailed, Ref
from distdqn.training.builders import learn_request
from distdqn.training.calls import Call, Ended, Worker, evaluation_turns, last_line
from distdqn.training.loop import Run
from distdqn.training.team import Team
from distdqn.types import (
    Evaluation,
    EvaluationRequest,
    LearnReport,
    LearnRequest,
    PolicyWeights,
    RolloutReport,
    RolloutRequest,
)

_MAX_EVALUATORS = 8  # of `auto`
_IDLE_SECONDS = 0.0005  # of an env step, for which there is one evaluator
_CALLS_AHEAD = 2  # in flight to each actor and to the learner: one runs, one is queued


@dataclass(frozen=True)
class PublishedWeights:
    """The newest weights, by reference."""

    ref: Ref
    weights_version: tuple[int, int]
    learner_steps: int


class Scheduler:
    """Requests what the budget and the rate limiter allow, and keeps count of what is in flight."""

    def __init__(self, run: Run, team: Team, shards: ReplayShards) -> None:
        self.weights: PublishedWeights | None = None  # the newest; None if they are lost
        self.newest_version: tuple[int, int] | None = None  # that the learner has published
        self.is_compiled = False  # whether the present learner has compiled its update
        self.env_steps_in_flight = 0  # of rollouts that replay has not stored yet
        self._run = run
        self._calls = team.calls
        self._team = team
        self._shards = shards
        self._turn = 0  # index of the actor that is next
        self._idle_seconds = 0.0  # of the actors in these env steps
        self._idle_env_steps = 0
        self._parts: dict[int, Evaluation] = {}  # of the evaluation that runs, by evaluator
        self._skipped = 0  # number of the last evaluation whose weights are lost
        self._published_at = run.metrics.counters.learner_steps
        self._generator = make_generator(run.config.seed, "shards")

    def send(self) -> None:
        """Requests all that is allowed now."""
        self._send_rollouts()
        self._send_learning()
        self._send_evaluation()

    def stop_reason(self) -> str | None:
        """Why the run ends now, or None. All env steps are learned from first."""
        reason = self._run.stop_reason
        if reason != "max_env_steps":
            return reason
        running = self._calls.count("compile", "evaluate", "set_index", "set_chunk") + self._learn_calls
        return None if running or self._shards.is_restoring or self._can_learn() else reason

    def idle_side(self) -> str | None:
        """`actors` or `learner`, if that side has nothing to do until the other side has made progress."""
        if not self.is_compiled:
            return None
        if not self._team.learner.in_flight:
            return "learner"
        return None if self._calls.count("rollout") else "actors"

    def describe_waits(self) -> list[str]:
        """Which side waits for which, in words."""
        counters = self._run.metrics.counters
        min_replay_size = self._run.config.min_replay_size
        waits = []
        if not self._run.env_steps_left(counters.env_steps + self.env_steps_in_flight):
            waits.append("all env steps are taken or requested")
        elif not self._can_act(len(self._team.acting)):
            waits.append("the actors wait for the learner")
        if not self.is_compiled:
            waits.append("the learner has not compiled")
        elif counters.inserted < min_replay_size:
            stored = f"{counters.inserted:,} are stored"
            waits.append(f"the learner waits for {min_replay_size:,} transitions in replay, {stored}")
        elif not self._can_learn():
            waits.append("the learner waits for the actors")
        return waits

    @property
    def samples_in_flight(self) -> int:
        """Transitions that the learner calls in flight sample."""
        return self._learn_calls * self._run.samples_per_call

    def _send_rollouts(self) -> None:
        """Requests rollouts: one from each actor before a second from any, and in turns."""
        acting = self._team.acting
        for ahead in range(_CALLS_AHEAD):
            for position, actor in sorted(enumerate(acting), key=lambda each: each[1].index < self._turn):
                if actor.in_flight != ahead:
                    continue
                counters = self._run.metrics.counters
                left = self._run.env_steps_left(counters.env_steps + self.env_steps_in_flight)
                if not left or not self._can_act(len(acting)):
                    return
                limit = min(left, self._run.steps_per_rollout)
                env_steps = counters.exploration_env_steps
                self._send_rollout(actor, RolloutRequest(env_steps, limit, position, len(acting)))
                self._turn = actor.index + 1

    def _send_rollout(self, actor: Worker, request: RolloutRequest) -> None:
        self.env_steps_in_flight += request.limit
        self._calls.send(
            actor,
            "rollout",
            request,
            *self._new_weights(actor),
            returns=2,
            on_result=functools.partial(self._store_rollout, request),
            on_lost=functools.partial(self._lose_rollout, request),
            plays=True,
        )

    def _new_weights(self, actor: Worker) -> tuple[Ref, ...]:
        """The newest weights, unless they have been sent to this actor."""
        if self.weights is None or actor.weights_version == self.weights.weights_version:
            return ()
        actor.weights_version = self.weights.weights_version
        return (self.weights.ref,)

    def _store_rollout(self, request: RolloutRequest, call: Call, report: RolloutReport) -> None:
        """Stores a rollout's chunk. The rollout counts once replay has it."""

        def stored() -> None:
            self.env_steps_in_flight -= request.limit
            self._idle_seconds += report.idle_seconds
            self._idle_env_steps += report.env_steps
            metrics = self._run.metrics
            metrics.add_rollout(report, metrics.counters.inserted + report.transitions)

        lost = functools.partial(self._lose_rollout, request)
        self._shards.insert(self._team.shard_of(call.worker), call.refs[1], stored, lost)

    def _lose_rollout(self, request: RolloutRequest, ended: Ended) -> None:
        self.env_steps_in_flight -= request.limit
        self._run.metrics.counters.lost_rollouts += 1
        actor = ended.call.worker
        if ended.lacks_input and actor.role == "actor":  # the weights, with the node that had them
            if self.weights is not None and self.weights.weights_version == actor.weights_version:
                self.weights = None
            actor.weights_version = None

    def _can_act(self, actors: int) -> bool:
        counters = self._run.metrics.counters
        inserted = counters.inserted + self.env_steps_in_flight
        return self._run.rate_limiter.can_insert(inserted, counters.sampled, actors)

    def start_learner(self) -> None:
        """Lets a new learner publish its weights and compile its update."""
        self._published_at = self._run.metrics.counters.learner_steps
        self.is_compiled = False
        learner = self._team.learner
        self._calls.send(learner, "publish", on_result=self._receive_published)
        self._calls.send(learner, "compile", on_result=self._end_compile)

    def _receive_published(self, call: Call, weights: PolicyWeights) -> None:
        self._set_weights(PublishedWeights(call.refs[0], weights.weights_version, weights.learner_steps))

    def _set_weights(self, published: PublishedWeights) -> None:
        """Keeps weights, unless newer ones are known."""
        if self.newest_version is not None and published.weights_version <= self.newest_version:
            return
        self.weights, self.newest_version = published, published.weights_version
        self._run.metrics.add_published(published.weights_version)

    def _end_compile(self, _call: Call, notice: str | None) -> None:
        self.is_compiled = True
        self._run.metrics.reach("update compiled")
        if notice:
            self._run.metrics.note(notice)

    @property
    def _learn_calls(self) -> int:
        return self._calls.count("learn", "learn_from_shards")

    @property
    def _requested_learner_steps(self) -> int:
        """Learner steps that are made or in flight."""
        requested = self._learn_calls * self._run.config.updates_per_call
        return self._run.metrics.counters.learner_steps + requested

    def _can_learn(self) -> bool:
        counters = self._run.metrics.counters
        sampled = counters.sampled + self.samples_in_flight
        is_filled = any(info.total_priority for info in self._shards.infos)  # not while all are restored
        return (
            self.is_compiled
            and is_filled
            and self._run.may_learn(self._requested_learner_steps)
            and self._run.rate_limiter.can_sample(counters.inserted, sampled, self._run.samples_per_call)
        )

    def _send_learning(self) -> None:
        """Lets replay sample batches and the learner learn from them, one call ahead."""
        config, metrics = self._run.config, self._run.metrics
        while self._team.learner.in_flight < _CALLS_AHEAD and self._can_learn():
            metrics.reach("first learner call")
            learner_steps = self._requested_learner_steps + config.updates_per_call
            publish = learner_steps - self._published_at >= config.weights_update_period
            if publish:
                self._published_at = learner_steps
            self._send_learn(publish, learn_request(config, metrics.counters.env_steps))

    def _send_learn(self, publish: bool, request: LearnRequest) -> None:
        """Lets the shards of replay sample, and the learner learn from that once all batches are there."""
        call, shards, config = self._calls.backend.call, self._team.shards, self._run.config
        shape = (config.updates_per_call, resolved(config.batch_size))
        exponent = request.importance_sampling_exponent
        if len(shards) == 1:
            batches = call(shards[0].handle, "sample", *shape, exponent)
            parts = [(shards[0], batches[0])]
            method, arguments = "learn", (batches[0], publish, request.learning_rate)
        else:
            assignment = assign_shards(self._shards.infos, *shape, exponent, self._generator)
            parts = [
                (shards[index], call(shards[index].handle, "draw", count)[0])
                for index, count in assignment.counts.items()
            ]
            rows = [ref for _, ref in parts]
            method, arguments = "learn_from_shards", (assignment, publish, request.learning_rate, *rows)
        self._calls.send(
            self._team.learner,
            method,
            *arguments,
            returns=2 + len(parts),
            on_result=functools.partial(self._end_learn, parts, request.learning_rate),
            find_culprit=functools.partial(self._find_learn_culprit, parts),
            is_work=True,
        )

    def _end_learn(
        self, parts: list[tuple[Worker, Ref]], learning_rate: float, call: Call, report: LearnReport
    ) -> None:
        _, weights, *priorities = call.refs
        for (shard, _), update in zip(parts, priorities, strict=True):
            shard.failures = ()
            # Another process in its place gives the same item ids to other transitions.
            if self._run.config.sampler == "prioritized" and self._team.is_current(shard):
                self._calls.send(shard, "update_priorities", update, on_result=self._shards.update_info)
        sampled = report.updates * resolved(self._run.config.batch_size)
        self._run.metrics.add_learn(report, sampled, learning_rate)
        if report.weights_version is not None:
            self._set_weights(PublishedWeights(weights, report.weights_version, report.learner_steps))

    def _find_learn_culprit(self, parts: list[tuple[Worker, Ref]], ended: Ended) -> Worker | None:
        """The shard whose batches are missing, else the learner; nobody if other arguments are lost."""
        wanted = "failed" if ended.lacks_input else "running"
        for shard, rows in parts if ended.lacks_input or ended.is_overdue else ():
            if self._calls.backend.state(rows) == wanted:
                return shard
        return None if ended.lacks_input else ended.call.worker

    def _send_evaluation(self) -> None:
        """Requests the evaluation that is due, one at a time, of weights of the present learner."""
        if self.weights is None or self._calls.count("evaluate"):
            return
        if self.weights.weights_version[0] != self._team.learner.restarts:
            return
        request = self._run.goal.next_request(self.weights.ref, self.weights.learner_steps)
        if request is not None:
            self._evaluate(request)

    def _evaluate(self, request: EvaluationRequest) -> None:
        """Lets every evaluator play its part of the episodes."""
        config = self._run.config
        if config.evaluators == "auto" and self._idle_env_steps:
            wanted = wanted_evaluators(self._idle_seconds / self._idle_env_steps)
            self._team.add_evaluators(min(wanted, config.eval_episodes))
        parts = self._team.split_episodes(request.episodes)
        self._parts = {}
        for evaluator, episodes in parts:
            self._evaluate_part(dataclasses.replace(request, episodes=episodes), len(parts), evaluator.index)

    def _evaluate_part(self, request: EvaluationRequest, parts: int, index: int) -> None:
        turns = evaluation_turns(request.episodes)
        self._calls.send(
            self._team.evaluators[index],
            "evaluate",
            request.weights,
            request.episodes,
            request.number,
            turns * self._calls.env_timeout_seconds,  # cut before its deadline, so that its role lives on
            on_result=functools.partial(self._end_part, request, parts),
            on_lost=functools.partial(self._lose_part, request, parts),
            turns=turns + 1.0,
            plays=True,
        )

    def _end_part(self, request: EvaluationRequest, parts: int, call: Call, evaluation: Evaluation) -> None:
        self._parts[call.worker.index] = evaluation
        if len(self._parts) == parts:
            self._end_evaluation(request, Evaluation.joined([self._parts[i] for i in range(parts)]))

    def _end_evaluation(self, request: EvaluationRequest, evaluation: Evaluation) -> None:
        """Judges weights once they are in this process, where no lost node takes them along."""
        weights, metrics = request.weights, self._run.metrics
        try:
            if not isinstance(weights, PolicyWeights):
                weights = self._calls.backend.get(weights)
        except CallFailed as error:
            metrics.note(f"An evaluation is skipped because its weights are lost: {last_line(str(error))}")
        else:
            self._run.add_evaluation(dataclasses.replace(request, weights=weights), evaluation)
        metrics.counters.evaluations += 1
        metrics.report(evaluation, actors_alive=len(self._team.acting))

    def _lose_part(self, request: EvaluationRequest, parts: int, ended: Ended) -> None:
        """Repeats a part, unless its weights are lost: the next evaluation is of newer weights."""
        if not ended.lacks_input:
            self._evaluate_part(request, parts, ended.call.worker.index)
        elif request.number != self._skipped:
            self._skipped = request.number
            why = last_line(ended.failure or "")
            self._run.metrics.note(f"An evaluation is skipped because its weights are lost: {why}")


def wanted_evaluators(idle_seconds: float) -> int:
    """Evaluators for an environment that idles so long in each step: only those that idle gain by many."""
    return min(_MAX_EVALUATORS, max(1, math.ceil(idle_seconds / _IDLE_SECONDS)))
