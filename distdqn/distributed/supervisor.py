"""The supervisor of an `async` run: a state machine over counters, calls and deadlines.

It keeps one or two calls in flight to every role and decides from counters alone what comes next
(`scheduler`). Data does not pass through it: it hands references on, from actor to replay and from replay to
learner. A call that fails or passes its deadline is how a fault is seen, and each fault has one answer
(`faults`).
"""

import contextlib
from concurrent.futures import Executor

from distdqn.distributed.actor_pool import ActorPool
from distdqn.distributed.checkpointing import AsyncCheckpointer
from distdqn.distributed.faults import FaultHandler
from distdqn.distributed.replay_shards import ReplayShards
from distdqn.distributed.scheduler import Scheduler
from distdqn.distributed.watchdog import Watchdog
from distdqn.errors import ClusterError
from distdqn.networks.numpy_policy import policy_bytes
from distdqn.training.backend import CallFailed
from distdqn.training.calls import Calls, Ended
from distdqn.training.loop import Run
from distdqn.training.team import Team

_POLL_SECONDS = 0.2  # at least this often the supervisor looks at signals and deadlines
_RESTORE_SECONDS = 0.02  # the same while replay is being restored
_FETCH_SECONDS = 1.0  # for weights to come from another node
_KEEP_SECONDS = 10.0  # between two copies of the newest weights in the run's folder


class Supervisor:
    """Starts, paces, watches and replaces the roles of one run, whose goal and metrics are restored already.

    It starts with `actors`. The executor reads and writes checkpoints, one task at a time.
    """

    def __init__(self, run: Run, calls: Calls, actors: int, executor: Executor) -> None:
        self._run = run
        self._calls = calls
        self._kept_at = calls.clock()
        config, generation, flush_number = run.config, 0, None
        if (ref := run.resume_from) is not None:
            # Versions that the checkpoint's learner has published are not repeated.
            generation = ref.document["learner"]["weights_version"][0] + 1
            flush_number = run.metrics.counters.learner_steps
        self.team = Team(calls, config, actors, generation, flush_number)
        self.shards = ReplayShards(calls, run.metrics, config.replay_shards, executor)
        self.checkpoints = AsyncCheckpointer(run, self.team, self.shards, executor)
        self._scheduler = Scheduler(run, self.team, self.shards)
        self._faults = FaultHandler(run, self.team, self.shards, self._scheduler, self.checkpoints)
        self._watchdog = Watchdog(run, self.team, self._scheduler.describe_waits)
        self._faults.start()
        self._actor_pool = ActorPool(run, self.team, self.shards)

    def run(self) -> str:
        """Trains until the goal is reached, a budget is spent or a stop is requested; returns which.

        `RoleFailure` or `EnvironmentFault` if a role keeps failing or the environment keeps hanging,
        `ClusterError` without progress or where the cluster is too small for the run to start,
        `CheckpointError` if five consecutive checkpoints could not be written.
        """
        metrics = self._run.metrics
        try:
            while (reason := self._scheduler.stop_reason()) is None:
                self._actor_pool.advance(self._scheduler.is_compiled)
                self._scheduler.send()
                if not self.shards.is_restoring:  # else the checkpoint that is being read must stay
                    self.checkpoints.advance()
                elif unreadable := self.shards.advance():
                    self._faults.replace_unreadable(*unreadable)
                idle_side, begin = self._scheduler.idle_side(), self._calls.clock()
                # A part that has been read does not end the wait.
                poll_seconds = _RESTORE_SECONDS if self.shards.is_restoring else _POLL_SECONDS
                ended = self._calls.collect(poll_seconds)
                if idle_side:
                    metrics.waited[idle_side] += self._calls.clock() - begin
                for each in ended:
                    self._handle(each)
                self._watchdog.check()
                if metrics.seconds_since_report >= self._run.config.report_seconds:
                    metrics.report(actors_alive=len(self.team.acting))
                if metrics.is_status_due():
                    metrics.write_status("running", *self.team.describe(), self._actor_pool.to_json())
                    self._fetch_weights()
            return reason
        finally:
            self._fetch_weights()

    def _fetch_weights(self) -> None:
        """Copies the newest weights to this process, and every ten seconds to disk."""
        weights, backend = self._scheduler.weights, self._calls.backend
        with contextlib.suppress(CallFailed, ClusterError):
            if weights is not None and backend.state(weights.ref) == "done":
                self.team.newest = backend.get(weights.ref, _FETCH_SECONDS)
        if self.team.newest is not None and self._calls.clock() - self._kept_at >= _KEEP_SECONDS:
            self._kept_at = self._calls.clock()
            self._run.metrics.directory.write_bytes("final.npz", policy_bytes(self.team.newest))

    def _handle(self, ended: Ended) -> None:
        call = ended.call
        if ended.failure is not None:
            self._faults.handle(ended)
        elif self.team.is_current(call.worker):
            if call.method == "identify":
                self._run.metrics.reach(f"{call.worker.name} started")
            call.on_result(call, ended.result)
        else:  # it answered, but has been replaced since
            call.on_lost(ended)
