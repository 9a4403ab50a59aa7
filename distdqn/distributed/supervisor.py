"""The supervisor of an `async` run: a state machine over counters, calls and deadlines.

It keeps one or two calls under way to every role and decides from counters alone who may
go on (`ordering`). Data is not unpacked here: the supervisor passes references on, from
actor to replay and from replay to learner. A call that fails or overruns its deadline is
how a fault is seen, and each fault has one answer (`replacing`).
"""

import dataclasses
import time
from collections.abc import Callable

from distdqn.checkpoints.store import CheckpointRef
from distdqn.distributed.actor_pool import ActorPool, Departure
from distdqn.distributed.calls import Calls, Ended, last_line
from distdqn.distributed.checkpointing import AsyncCheckpointer
from distdqn.distributed.faults import FaultHandler
from distdqn.distributed.limits import Limits
from distdqn.distributed.scheduler import Learning, PublishedWeights, Scheduler
from distdqn.distributed.watchdog import Watchdog
from distdqn.distributed.worker_group import WorkerGroup
from distdqn.replay.rate_limiter import RateLimiter
from distdqn.reporting.metrics import Metrics
from distdqn.training.backend import CallFailed, Ref
from distdqn.training.stopping import Budget, Goal, StopRequest
from distdqn.types import Evaluation, EvaluationRequest, LearnReport, PolicyWeights, ReplayInfo

_POLL_SECONDS = 0.2  # at least this often the supervisor looks at signals and deadlines

_REFILL_SECONDS = 0.02  # the same while replay is being put back


class Supervisor:
    """Starts, paces, watches and replaces the roles of one run."""

    def __init__(
        self,
        calls: Calls,
        limits: Limits,
        goal: Goal,
        budget: Budget,
        rate_limiter: RateLimiter,
        metrics: Metrics,
        stop: StopRequest,
        saver: AsyncCheckpointer,
        start: CheckpointRef | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = calls
        self._limits = limits
        self._goal = goal
        self._metrics = metrics
        self._stop = stop
        self._saver = saver
        self._clock = clock
        self._reported_at = clock()
        # Versions of the weights that the checkpoint's learner has published are not given out again.
        generation = 0 if start is None else start.document["learner"]["weights_version"][0] + 1
        cut = None if start is None else metrics.counters.learner_steps
        self.workers = WorkerGroup(calls, limits.actors, generation, limits.replay_shards, cut)
        self._scheduler = Scheduler(calls, limits, goal, budget, rate_limiter, metrics, self.workers)
        self._fault_handler = FaultHandler(
            calls, limits, goal, rate_limiter, metrics, saver, self.workers, self._scheduler, start
        )
        self._watchdog = Watchdog(calls, limits, metrics, self.workers, self._scheduler, clock)
        self._fault_handler.begin()
        self._actor_pool = ActorPool(
            calls, limits, metrics, self.workers, self._fault_handler.forget, saver.refill.insert, clock
        )

    def run(self) -> str:
        """Trains until the goal is reached or a budget is spent; returns which, as a word.

        Raises:
            RoleFailure: a role keeps failing.
            EnvironmentFault: the environment keeps hanging.
            ClusterError: nothing goes on, or the cluster is too small for the run to start.
        """
        while (reason := self._finished()) is None:
            self._actor_pool.advance(self._scheduler.is_compiled)
            self._scheduler.send()
            if (unreadable := self._saver.advance(self._calls, self.workers)) is not None:
                self._fault_handler.fill_again(unreadable)
            waiting, begin = self._scheduler.who_waits(), self._clock()
            # A part that was read wakes nobody.
            ended = self._calls.collect(_REFILL_SECONDS if self._saver.refill.is_running else _POLL_SECONDS)
            if waiting:
                self._metrics.add_wait(waiting, self._clock() - begin)
            for end in ended:
                self._take(end)
            self._watchdog.look()
            if self._clock() - self._reported_at >= self._limits.report_seconds:
                self._report()
            if self._metrics.is_status_due():
                roles, actors = self.workers.roles(), self._actor_pool.to_json()
                self._metrics.write_status("running", self.workers.ray(), roles, actors)
        return reason

    def _finished(self) -> str | None:
        """Why the run is over, or None."""
        if self._stop.reason and not self._goal.reached:
            return self._stop.reason
        reason = self._scheduler.finished()
        return None if reason == "max_env_steps" and self._saver.refill.is_running else reason

    def _take(self, ended: Ended) -> None:
        """Takes in the end of one call."""
        call, result = ended.call, ended.result
        if ended.failure is not None:
            self._fault_handler.replace(ended)
            return
        if not self.workers.is_on(call.worker):  # it answered, but has been replaced since
            self._fault_handler.forget(call)
            return
        if self._saver.take(call, result, self._goal, self._metrics, self.workers):
            return
        match call.kind:
            case "rollout":
                # It counts once replay has accepted its chunk.
                detail = (call.detail, result)
                shard = self.workers.shard_of(call.worker)
                self._saver.refill.insert(self._calls, shard, call.refs[1], detail)
            case "insert":
                order, report = call.detail
                self._scheduler.env_steps_under_way -= order.limit
                inserted = self._metrics.counters.inserted
                if isinstance(report, Departure):
                    inserted += report.report.transitions
                    self._actor_pool.take_departure(report, inserted)
                else:
                    inserted += report.transitions
                    self._metrics.add_rollout(report, inserted)
                self._set_replay_info(call.worker.index, result)
            case "update_priorities" | "set_index" | "set_chunk":
                self._set_replay_info(call.worker.index, result)
            case "flush":
                self._actor_pool.take_last_words(call, result)
            case "next_command":
                self._actor_pool.take_command(result)
            case "learn":
                self._end_learn(result, call.detail, *call.refs[1:])
            case "publish":
                published = PublishedWeights(call.refs[0], result.weights_version, result.learner_steps)
                self._scheduler.take_weights(published)
            case "evaluate":
                self._end_evaluation(call.detail, result)
            case "compile":
                self._scheduler.is_compiled = True
                if result:
                    self._metrics.note(result)

    def _set_replay_info(self, shard: int, info: ReplayInfo) -> None:
        replay_infos = self._scheduler.replay_infos
        # What is being put back, part by part, is counted already.
        inserted = max(info.inserted, replay_infos[shard].inserted)
        replay_infos[shard] = dataclasses.replace(info, inserted=inserted)
        self._metrics.replay_size = sum(each.size for each in replay_infos)

    def _end_evaluation(self, order: EvaluationRequest, evaluation: Evaluation) -> None:
        """Judges weights once they are here, where no node that dies takes them along."""
        weights = order.weights
        try:
            if not isinstance(weights, PolicyWeights):
                weights = self._calls.backend.get(weights)
        except CallFailed as error:
            self._metrics.note(f"An evaluation is left out, as its weights are lost: {last_line(str(error))}")
        else:
            self._goal.add(dataclasses.replace(order, weights=weights), evaluation)
        self._metrics.counters.evaluations += 1
        self._report(evaluation)

    def _end_learn(self, report: LearnReport, learning: Learning, weights: Ref, *priorities: Ref) -> None:
        for (shard, _), update in zip(learning.parts, priorities, strict=True):
            shard.failures = ()
            # Another process in its place gives the same numbers to other items.
            if self._limits.prioritized and self.workers.is_on(shard):
                self._calls.send("update_priorities", shard, update)
        self._metrics.add_learn(report, report.updates * self._limits.batch_size, learning.learning_rate)
        if report.weights_version is not None:
            self._scheduler.take_weights(
                PublishedWeights(weights, report.weights_version, report.learner_steps)
            )

    def _report(self, evaluation: Evaluation | None = None) -> None:
        self._reported_at = self._clock()
        self._metrics.report(evaluation, actors_alive=len(self.workers.acting))

    @property
    def has_weights(self) -> bool:
        """Whether the learner has published any."""
        return self._scheduler.newest_version is not None
