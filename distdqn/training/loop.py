"""The algorithm on one page.

`run_rounds` is what every run does, in its plainest order: all actors act, replay stores their transitions,
the learner makes the updates that these allow, and new weights go out. `serial` and `lockstep` run it as it
stands and end with the same weights, bit for bit. `async` lets the same calls overlap
(`distdqn.distributed.supervisor`).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from distdqn.checkpoints.checkpointer import Checkpointer
from distdqn.checkpoints.store import CheckpointRef
from distdqn.config.config import Config, resolved
from distdqn.networks.numpy_policy import policy_bytes
from distdqn.replay.rate_limiter import RateLimiter
from distdqn.reporting.metrics import Metrics
from distdqn.training.builders import learn_request
from distdqn.training.stopping import Goal, StopRequest, StopRequested
from distdqn.training.team import Team
from distdqn.types import Evaluation, EvaluationRequest, LearnRequest, RolloutRequest, Tree

# These end a round early.
_AT_ONCE = ("goal_reached", "interrupted", "terminated", "max_seconds", "max_learner_steps", "callback")
_MAX_RESERVED = 0.25  # of `max_seconds`, for saving and the last evaluation
_SAVE_SECONDS = 2.0  # for the networks and a checkpoint


@dataclass(frozen=True)
class Run:
    """What all modes of a run share."""

    config: Config  # resolved
    about: Tree  # what its checkpoints tell of it
    goal: Goal
    request: StopRequest
    rate_limiter: RateLimiter
    metrics: Metrics
    checkpointer: Checkpointer | None  # None: no checkpoints
    resume_from: CheckpointRef | None = None  # None: a new run

    @property
    def steps_per_rollout(self) -> int:
        """Most env steps of one rollout."""
        return self.config.rollout_length * self.config.envs_per_actor

    @property
    def samples_per_call(self) -> int:
        """Transitions that one call of the learner samples."""
        return self.config.updates_per_call * resolved(self.config.batch_size)

    def add_evaluation(self, request: EvaluationRequest, evaluation: Evaluation) -> None:
        """Judges an evaluation; the best policy so far is written at once, so no end of the run loses it."""
        self.goal.add(request, evaluation)
        if self.goal.best is evaluation:
            self.metrics.directory.write_bytes("policy.npz", policy_bytes(request.weights))

    @property
    def stop_reason(self) -> str | None:
        """Why the run ends now, or None.

        `max_env_steps` as soon as all env steps are taken, whatever is still to be learned from them.
        """
        counters, config = self.metrics.counters, self.config
        if self.goal.reached:
            return "goal_reached"
        if self.request.reason:
            return self.request.reason
        if config.max_seconds is not None:
            # The rest is for saving and for the evaluation of the last weights.
            needed = self.goal.seconds and self.goal.seconds + _SAVE_SECONDS
            reserved = min(needed, _MAX_RESERVED * config.max_seconds)
            if self.metrics.seconds >= config.max_seconds - reserved:
                return "max_seconds"
        if config.max_episodes is not None and counters.episodes >= config.max_episodes:
            return "max_episodes"
        if not self.may_learn(counters.learner_steps):
            return "max_learner_steps"
        if not self.env_steps_left(counters.env_steps):
            return "max_env_steps"
        return "callback" if self.metrics.callbacks.asks_to_stop else None

    def may_learn(self, learner_steps: int) -> bool:
        """Whether further updates may be requested after `learner_steps`."""
        return self.config.max_learner_steps is None or learner_steps < self.config.max_learner_steps

    def env_steps_left(self, env_steps: int) -> int:
        """Env steps that may still be requested after `env_steps`."""
        return max(0, self.config.max_env_steps - env_steps)


def run_rounds(run: Run, team: Team, save_if_due: Callable[[Team], None]) -> str:
    """Trains until the goal is reached, a budget is spent or a stop is requested; returns which.

    `save_if_due` makes a checkpoint between two rounds if one is due.
    """
    metrics, counters = run.metrics, run.metrics.counters
    while True:
        weights = team.publish()
        metrics.add_published(weights.weights_version)
        for report, info in team.rollout(_rollout_requests(run, len(team.actors)), weights):
            metrics.add_rollout(report, info.inserted)
            metrics.replay_size = info.size
        while run.rate_limiter.can_sample(counters.inserted, counters.sampled, run.samples_per_call):
            _learn(run, team, learn_request(run.config, counters.env_steps))
            evaluate_if_due(run, team)
            if run.stop_reason in _AT_ONCE:
                break
        if metrics.is_status_due():
            metrics.write_status("running", *team.describe())
        if (reason := run.stop_reason) is not None:
            return reason
        save_if_due(team)


def _rollout_requests(run: Run, actors: int) -> list[RolloutRequest]:
    """One request for each actor; together they stay within the budget."""
    counters = run.metrics.counters
    requested = counters.env_steps
    requests = []
    for position in range(actors):
        limit = min(run.steps_per_rollout, run.env_steps_left(requested))
        requests.append(RolloutRequest(counters.exploration_env_steps, limit, position, actors))
        requested += limit
    return requests


def _learn(run: Run, team: Team, request: LearnRequest) -> None:
    """One call of the learner, and the line of metrics that is due after it."""
    metrics, period = run.metrics, run.config.report_period
    metrics.reach("first learner call")
    before = metrics.counters.learner_steps
    metrics.add_learn(team.learn(request), run.samples_per_call, request.learning_rate)
    if metrics.counters.learner_steps // period > before // period:
        metrics.report(actors_alive=len(team.acting))


def evaluate_if_due(run: Run, team: Team, final: bool = False, until: float | None = None) -> None:
    """Makes every evaluation that is due, a confirming one included, and reports each.

    `final`: the newest weights are the last ones. An evaluation is cut at the second `until` of the run.
    """
    goal, learner_steps = run.goal, run.metrics.counters.learner_steps
    if not goal.is_due(learner_steps, final):
        return
    weights = team.publish()
    run.metrics.add_published(weights.weights_version)
    while request := goal.next_request(weights, learner_steps, final):
        if until is not None:
            request = dataclasses.replace(request, seconds=max(0.0, until - run.metrics.seconds))
        try:
            with run.request.ending_evaluations():
                evaluation = team.evaluate(request)
        except StopRequested:
            return
        run.add_evaluation(request, evaluation)
        run.metrics.counters.evaluations += 1
        run.metrics.report(evaluation, actors_alive=len(team.acting))
