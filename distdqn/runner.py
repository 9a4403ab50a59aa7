"""One run from its config to its summary, in any mode."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from distdqn.checkpoints.checkpointer import Checkpointer
from distdqn.checkpoints.reshard import RestorePlan
from distdqn.checkpoints.resume import checkpoint_root, describe_run, find_start, run_folder
from distdqn.checkpoints.store import CheckpointRef, Store
from distdqn.config.config import Config
from distdqn.distributed.calls import Calls
from distdqn.distributed.supervisor import Supervisor
from distdqn.distributed.team import WorkerGroup
from distdqn.distributed.watchdog import StartupCheck
from distdqn.errors import (
    TERMINATED,
    CheckpointError,
    ClusterError,
    ConfigError,
    DistdqnError,
    Diverged,
    EnvironmentFault,
    RoleFailure,
)
from distdqn.networks.numpy_policy import save_policy
from distdqn.reporting.console import Console, number
from distdqn.reporting.metrics import Metrics
from distdqn.reporting.run_directory import RunDirectory, describe_process
from distdqn.training.backend import LocalBackend
from distdqn.training.builders import make_goal, make_rate_limiter, role_parts
from distdqn.training.checkpointing import RoundCheckpointer, restore_progress
from distdqn.training.loop import Run, Team, evaluate_if_due, run_rounds
from distdqn.training.resolve import check_fit, check_surroundings, describe_resolution, resolve
from distdqn.training.stopping import BUDGET_SPENT, Stopping, ended_by_signals
from distdqn.types import EnvironmentSpec, Tree


def train(config: Config, *, quiet: bool = False, started: float | None = None) -> dict[str, Any]:
    """Trains with these options and returns the run's summary.

    Ctrl-C ends the run in order: it saves what was learned, and the summary's `reason` says so.

    Args:
        config: the options.
        quiet: show nothing.
        started: `time.monotonic()` when the program started; None means now.

    Raises:
        DistdqnError: the environment, the cluster or a role makes the run impossible; `mistakes` say what to
        do.
    """
    started = time.monotonic() if started is None else started
    folder, is_resuming = run_folder(config)
    spec = check_surroundings(config.env, folder, config.network, is_resuming)
    given, config = config, resolve(config, spec)
    check_fit(config, spec)
    about = describe_run(given, config, spec)
    resume_from, notes = find_start(config, about)
    kept = resume_from.document["metrics"]["metrics_bytes"] if resume_from and is_resuming else 0
    directory = RunDirectory(folder, spec.name, is_resuming, kept)
    try:
        console = Console(config.max_env_steps, make_goal(config).target_return, quiet)
        metrics = Metrics(directory, console, config, started)
        checkpointer = _make_checkpointer(config, directory.path, resume_from, metrics.note)
        stopping, rate_limiter = Stopping(make_goal(config), config), make_rate_limiter(config)
        run = Run(config, about, stopping, rate_limiter, metrics, checkpointer)
        runner = _Runner(run, spec, directory, console, resume_from)
        return runner.run([*describe_resolution(given, config, spec), *notes])
    finally:
        directory.close()


def _make_checkpointer(
    config: Config, folder: Path, resume_from: CheckpointRef | None, note: Callable[[str], None]
) -> Checkpointer | None:
    """What writes the checkpoints, if the run makes any.

    Raises:
        ConfigError: nothing can be written there.
    """
    due = config.checkpoint_seconds if config.mode == "async" else config.checkpoint_period
    if due is None:
        return None
    root = checkpoint_root(config, folder)
    store = Store(root)
    if resume_from is not None and resume_from.store.place == store.place:
        store = resume_from.store  # which knows what it has read of the checkpoint to resume from
    try:
        store.check_writable()
    except OSError as error:
        raise ConfigError(f"`checkpoint_dir`: cannot write to {root}: {error} (name another).") from error
    return Checkpointer(store, config.keep_checkpoints, note)


class _Runner:
    """The start and the end of a run, and the mode between them."""

    def __init__(
        self,
        run: Run,
        spec: EnvironmentSpec,
        directory: RunDirectory,
        console: Console,
        resume_from: CheckpointRef | None,
    ) -> None:
        self._run = run
        self._config = run.config
        self._goal = run.stopping.goal
        self._metrics = run.metrics
        self._spec = spec
        self._directory = directory
        self._console = console
        self._resume_from = resume_from
        self._train_seconds: float | None = None

    def run(self, notes: Sequence[str]) -> dict[str, Any]:
        """Runs the mode and writes every file of the run; shows `notes` first."""
        config = self._config
        self._directory.write_json("config.json", self._run.about["config"])
        self._directory.write_json("run.json", {"resolved_options": config.to_json(), **describe_process()})
        processes = f"{config.actors} actors x {config.envs_per_actor} envs   {config.mode}"
        lines = [f"distdqn  {self._spec.name}   {processes}   {self._directory.path}", *notes]
        self._metrics.write_status("starting")
        state = "failed"
        try:
            with ended_by_signals() as raise_again:
                reason = (
                    self._run_serial(lines)
                    if config.mode == "serial"
                    else self._run_on_ray(lines, raise_again)
                )
            state = reason
        except (KeyboardInterrupt, SystemExit) as error:
            if isinstance(error, KeyboardInterrupt):
                state = "interrupted"
            elif error.code == TERMINATED:
                state = "terminated"
            if state != "failed" and not self._metrics.counters.env_steps:
                self._console.note(f"{state.title()} before training started: there is nothing to save.")
            raise
        finally:
            self._console.close()
            self._metrics.write_status(state)
        summary = self._summarize(reason)
        self._directory.write_json("summary.json", summary)
        self._console.note(_closing_words(summary))
        return summary

    def _run_serial(self, lines: Sequence[str]) -> str:
        self._show(lines)
        with self._run.stopping.request:
            calls = Calls(
                LocalBackend(lambda *role: role_parts(self._config, self._spec, *role)), self._config
            )
            return self._run_rounds(self._make_team(calls))

    def _run_on_ray(self, lines: Sequence[str], raise_again: Callable[[], None]) -> str:
        from distdqn.cluster.launch import launched

        def tell(why: str) -> None:
            self._show([f"Ray: {why}", *lines])

        with launched(self._config, self._spec, self._directory.path, tell) as launch:
            self._metrics.sinks.append(launch.sink)
            # Only now: connecting to Ray replaces signal handlers.
            if self._config.mode == "lockstep":
                team = self._make_team(launch.calls)  # it may wait for resources; a signal ends that
                raise_again()
                with self._run.stopping.request:
                    return self._run_rounds(team)
            raise_again()
            with self._run.stopping.request:
                return self._run_async(launch.calls, launch.actors)

    def _show(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._console.note(line)

    def _make_team(self, calls: Calls) -> WorkerGroup:
        """All roles of a `serial` or `lockstep` run, ready."""
        actors, seconds = int(self._config.actors), self._config.start_timeout_seconds
        team = WorkerGroup(calls, self._config, actors)
        team.wait_until_ready(StartupCheck(calls.backend, actors, seconds, self._metrics.note).check)
        return team

    def _run_rounds(self, team: WorkerGroup) -> str:
        """The modes `serial` and `lockstep`, which differ in their backend alone."""
        run = self._run
        if notice := team.compile():
            self._metrics.note(notice)
        checkpoints = RoundCheckpointer(run)
        checkpoints.restore(team, RestorePlan(self._resume_from, 1))
        with self._saving_networks(team):
            reason = run_rounds(run, team, checkpoints.save_if_due)
        return self._finish(team, reason)

    def _run_async(self, calls: Calls, actors: int) -> str:
        """The mode `async`; a thread reads and writes its checkpoints."""
        run = self._run
        restore_progress(run, RestorePlan(self._resume_from, self._config.replay_shards))
        with ThreadPoolExecutor(1) as executor:
            supervisor = Supervisor(run, calls, actors, self._resume_from, executor)
            team = supervisor.team
            try:
                with self._saving_networks(team):
                    reason = supervisor.run()
            except (RoleFailure, Diverged, EnvironmentFault, ClusterError):
                if team.can_save:
                    with contextlib.suppress(DistdqnError):  # learner or replay may be dead, too
                        supervisor.checkpoints.finish()
                raise
            if not supervisor.has_weights:
                return reason
            try:
                supervisor.checkpoints.finish()
            except DistdqnError as error:  # the networks can be saved all the same
                self._metrics.note(f"The last checkpoint could not be made: {error}")
            return self._finish(team, reason)

    def _finish(self, team: WorkerGroup, reason: str) -> str:
        """Evaluates the last weights if the budget is spent, and saves the networks."""
        run, metrics = self._run, self._metrics
        alive = sum(actor.is_ready for actor in team.actors)
        if reason in BUDGET_SPENT:
            evaluate_if_due(run, team, final=True, actors=alive)
            reason = "goal_reached" if self._goal.reached else reason
        begin = metrics.train_seconds_begin
        if self._goal.reached and begin is not None:
            self._train_seconds = metrics.seconds - begin
        if metrics.has_unreported_steps():
            metrics.report(actors_alive=alive)
        metrics.write_status("saving", *team.describe())
        self._save_networks(team)
        return reason

    @contextlib.contextmanager
    def _saving_networks(self, team: Team) -> Iterator[None]:
        """Saves the networks of a run that fails while its weights are good."""
        try:
            yield
        except (Diverged, CheckpointError):  # an update with NaN or infinity is never applied
            with contextlib.suppress(DistdqnError, OSError):
                self._save_networks(team)
            raise

    def _save_networks(self, team: Team) -> None:
        """Writes the last network and the best by evaluation, each for Keras and for NumPy."""
        last = team.publish()
        best = last if self._goal.best is None else team.value(self._goal.best_weights)
        self._directory.write_bytes("policy.keras", team.export(best))
        self._directory.write_bytes("final.keras", team.export(last))
        save_policy(self._directory.path / "policy.npz", best)
        save_policy(self._directory.path / "final.npz", last)

    def _summarize(self, reason: str) -> dict[str, Any]:
        goal, counters = self._goal, self._metrics.counters
        return {
            "solved": None if goal.target_return is None else goal.reached,
            "reason": reason,
            "target_return": goal.target_return,
            "eval_return_mean": goal.best.mean if goal.best else None,
            "eval_return_min": min(goal.best.returns) if goal.best else None,
            "eval_episodes": len(goal.best.returns) if goal.best else None,
            "env_steps": counters.env_steps,
            "learner_steps": counters.learner_steps,
            "episodes": counters.episodes,
            "train_returns": self._metrics.recent_returns,
            "train_seconds": self._train_seconds,
            "total_seconds": self._metrics.seconds,
            "seed": self._config.seed,
            "actors": self._config.actors,
            **{name: getattr(counters, name) for name in _FAULT_COUNTERS},
            "mode": self._config.mode,
            "env": self._spec.name,
            "run_dir": str(self._directory.path),
        }


_FAULT_COUNTERS = (
    "actor_restarts",
    "learner_restarts",
    "lost_learner_steps",
    "replay_restarts",
    "lost_transitions",
    "lost_rollouts",
    "episodes_lost",
    "env_faults",
    "not_finite_steps",
    "not_finite_updates",
)


def _closing_words(summary: Tree) -> str:
    """The last lines of a run: the result, and what to type next."""
    outcome = {True: "Solved", False: "Not solved", None: "Finished"}[summary["solved"]]
    lines = [
        f"{outcome} ({summary['reason']}): mean return {number(summary['eval_return_mean'])} over "
        f"{summary['eval_episodes'] or 0} greedy episodes, after {summary['env_steps']:,} env steps and "
        f"{summary['learner_steps']:,} learner steps, {summary['total_seconds']:.1f} s in all.",
    ]
    if summary["eval_episodes"]:
        lines.append(f"Play it: python -m distdqn.evaluate {Path(summary['run_dir'])} --episodes 100")
    return "\n".join(lines)
