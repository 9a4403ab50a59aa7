"""How many actors a run has: starting, draining, and the commands that change their number."""

from typing import Any

from distdqn.config.config import Config
from distdqn.distributed.replay_shards import ReplayShards
from distdqn.training.calls import Call, Ended, Worker
from distdqn.training.loop import Run
from distdqn.training.team import Team
from distdqn.types import ActorPoolStatus, FlushReport

_DRAIN_SECONDS = 10.0  # for the rollouts of a draining actor; then its process is ended all the same
_FOLLOW_SECONDS = 5.0  # between two looks at the cluster's free resources
_TELL_SECONDS = 5.0  # between two messages about the same number of actors
_LISTEN_SECONDS = 10.0  # of training until the process that takes commands starts: short runs do without


def min_actors(config: Config) -> int:
    """With how many actors a run starts, and how few it may have where it follows the cluster."""
    if config.actors != "auto":
        return config.min_actors or config.actors
    return max(config.min_actors or 1, config.replay_shards)  # no shard may stay empty


def initial_actors(config: Config, capacity: int) -> int:
    """How many actors a run starts where `capacity` actors fit."""
    if config.actors != "auto":
        return config.actors
    return max(min_actors(config), min(capacity, config.max_actors or capacity))


class ActorPool:
    """Keeps the number of actors at what is wanted: by option, by command, or by the cluster's resources.

    A draining actor gets no new rollouts. Its running rollouts and open n-step windows are inserted first,
    then its process ends.
    """

    def __init__(self, run: Run, team: Team, shards: ReplayShards) -> None:
        self._run = run
        self._team = team
        self._shards = shards
        self._calls = team.calls
        self._clock = team.calls.clock
        config, backend = run.config, team.calls.backend
        self._min_actors, self._max_actors = min_actors(config), config.max_actors
        self._wanted = len(team.actors)
        self._follows = config.actors == "auto" and backend.capacity().cpus_per_role > 0.0
        self._followed_at = self._clock()
        self._waiting: list[Worker] = []  # for resources, at the last look
        self._command = 0  # number of the last one
        self._listens_from: float | None = None
        self._listens_to: Worker | None = None
        self._told: tuple[Worker, ActorPoolStatus] | None = None  # whom, and what
        self._told_at = self._clock()
        if self._follows:
            others = [each.role for each in team.workers if each.role != "actor"]
            backend.request_resources([*others, *["actor"] * (self._max_actors or self._min_actors)])

    def advance(self, is_training: bool) -> None:
        """Takes the next steps. `is_training`: the learner is ready."""
        now = self._clock()
        if is_training and self._listens_from is None:
            self._listens_from = now + _LISTEN_SECONDS
        if self._listens_from is not None and now >= self._listens_from:
            self._listen()
        if self._follows and now - self._followed_at >= _FOLLOW_SECONDS:
            self._followed_at = now
            self._follow_cluster()
        for actor in self._team.actors:
            if actor.drains_until is not None and actor.drains_until <= now:
                if actor.in_flight:  # else replay has yet to store its last chunk
                    why = "did not finish its rollout in time and is ended with it"
                    self._run.metrics.note(f"{actor.name} {why}.")
                self._team.end_actor(actor)
        self._start_and_drain(now)
        self._tell(now)

    def to_json(self) -> dict[str, Any]:
        """The entry in `status.json`."""
        return {"wanted": self._wanted, "acting": len(self._team.acting)}

    def _listen(self) -> None:
        """Keeps one call in flight that ends when a command comes."""
        control = self._team.control = self._team.control or self._calls.start("control")
        if self._listens_to is not control:
            self._listens_to, self._command = control, 0  # a new process starts to count at zero
        if not self._calls.count("next_command"):
            self._calls.send(control, "next_command", on_result=self._receive_command, turns=float("inf"))

    def _receive_command(self, _call: Call, command: tuple[int, int]) -> None:
        self._command, self._wanted = command
        self._run.metrics.note(f"A command asks for {self._wanted} actors.")
        if self._follows:
            self._follows = False
            self._calls.backend.request_resources([])

    def _tell(self, now: float) -> None:
        """Tells the process for commands how many actors there are; repeats it, as a message may be lost."""
        control = self._team.control
        if control is None or not control.is_ready:
            return
        starting = [actor for actor in self._team.staying if not actor.is_ready]
        status = ActorPoolStatus(
            wanted=self._wanted,
            acting=len(self._team.acting),
            starting=len(starting),
            waiting=sum(bool(actor.lacks) for actor in starting),
            draining=len(self._team.actors) - len(self._team.staying),
            command=self._command,
        )
        if self._told != (control, status) or now - self._told_at >= _TELL_SECONDS:
            self._told, self._told_at = (control, status), now
            self._calls.backend.call(control.handle, "tell", status)

    def _follow_cluster(self) -> None:
        """Wants as many actors as fit, after the roles that a run cannot do without."""
        staying, before = self._team.staying, self._waiting
        self._waiting = [each for each in self._team.workers if each.lacks]
        if self._waiting:  # at two looks: a process that finds resources does so within moments
            wanted = len(staying) - sum(each in before for each in self._waiting)
        elif all(actor.is_ready for actor in staying):
            wanted = len(staying) + self._calls.backend.capacity().actors
        else:
            return
        self._wanted = max(self._min_actors, min(wanted, self._max_actors or wanted))

    def _start_and_drain(self, now: float) -> None:
        """Starts the actors that are missing, and drains those that are too many."""
        staying = self._team.staying
        for _ in range(self._wanted - len(staying)):
            self._team.add_actor()
        # Those that are not up have nothing to insert.
        by_loss = sorted(staying, key=lambda actor: (actor.is_ready, -actor.index))
        for actor in by_loss[: max(0, len(staying) - self._wanted)]:
            if not actor.is_ready:
                self._team.end_actor(actor)
                continue
            actor.drains_until = now + _DRAIN_SECONDS
            self._calls.send(actor, "flush", 0, returns=2, on_result=self._store_rest)  # after its rollouts

    def _store_rest(self, call: Call, report: FlushReport) -> None:
        """Stores the open windows of a draining actor, then ends it."""

        def stored() -> None:
            metrics = self._run.metrics
            metrics.add_flush(report, metrics.counters.inserted + report.transitions)
            if self._team.is_current(call.worker):
                self._team.end_actor(call.worker)

        self._shards.insert(self._team.shard_of(call.worker), call.refs[1], stored, self._lose_rest)

    def _lose_rest(self, _ended: Ended) -> None:
        self._run.metrics.counters.lost_rollouts += 1
