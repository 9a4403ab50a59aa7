"""One run from its config to its summary, in any mode."""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from distdqn.checkpoints.checkpointer import Checkpointer
from distdqn.checkpoints.resume import checkpoint_dir, checkpoint_root, describe_run, find_start, run_folder
from distdqn.checkpoints.store import CheckpointRef, Store
from distdqn.config.config import Config
from distdqn.distributed.supervisor import Supervisor
from distdqn.distributed.watchdog import Watchdog
from distdqn.environments.recorded import check_dataset
from distdqn.errors import TERMINATED, CheckpointError, ConfigError, DistdqnError, restoring
from distdqn.learning.learner import export_network
from distdqn.networks.numpy_policy import policy_bytes
from distdqn.reporting.callbacks import Callbacks, RunInfo
from distdqn.reporting.console import Console, closing_words
from distdqn.reporting.metrics import Metrics
from distdqn.reporting.plots import LearningCurve, draw_runs, read_run
from distdqn.reporting.run_directory import RunDirectory, describe_process
from distdqn.training.backend import LocalBackend
from distdqn.training.builders import make_callbacks, make_rate_limiter, role_parts
from distdqn.training.calls import Calls
from distdqn.training.checkpointing import RoundCheckpointer, restore_progress
from distdqn.training.loop import Run, evaluate_if_due, run_rounds
from distdqn.training.resolve import check_fit, check_surroundings, describe_resolution, resolve
from distdqn.training.stopping import BUDGET_SPENT, REQUESTED, Goal, StopRequest, ended_by_signals
from distdqn.training.team import Team
from distdqn.types import EnvironmentSpec, PolicyWeights

_HURRY_SECONDS = 4.0  # for each answer of a role while a run ends after a signal or an error


def train(
    config: Config,
    *,
    callbacks: Sequence[Any] = (),
    quiet: bool = False,
    verbose: bool = False,
    started: float | None = None,
) -> "Result":
    """Trains with these options and returns the run's summary.

    Ctrl-C ends the run in order: it saves what was learned, and the summary's `reason` says so.

    Args:
        config: the options.
        callbacks: follow the run, before those that the options name; see `distdqn.Callback`.
        quiet: show nothing.
        verbose: show every line of metrics.
        started: `time.monotonic()` when the program started; None means now.

    Raises:
        DistdqnError: the environment, the cluster or a role makes the run impossible; `mistakes` say what to
        do.
    """
    started = time.monotonic() if started is None else started
    folder, is_resuming = run_folder(config)
    spec = check_surroundings(config, folder, config.network, is_resuming, config.action_masks)
    recorded_steps = config.offline and check_dataset(config, spec, "offline", config.offline)
    given, config = config, resolve(config, spec, recorded_steps or 0)
    check_fit(config, spec)
    followers = [*callbacks, *make_callbacks(config)]
    about = describe_run(given, config, spec)
    with contextlib.closing(RunDirectory(folder, spec.name, is_resuming)) as directory:
        console = Console(quiet, verbose)
        every = Callbacks([directory, *followers, LearningCurve(), console], console.note)
        metrics = Metrics(directory, every, config, started)
        metrics.reach("options checked")
        with directory.removed_if_refused():
            resume_from, notes = find_start(config, about)
            with restoring("The checkpoint to resume from"):
                checkpointer = _make_checkpointer(config, directory.path, resume_from, metrics.note)
                kept = resume_from.document["metrics"]["metrics_bytes"] if resume_from and is_resuming else 0
                directory.begin_metrics(kept)
        goal, limiter = Goal(config), make_rate_limiter(config)
        run = Run(config, about, goal, StopRequest(), limiter, metrics, checkpointer, resume_from)
        used = {"checkpoint_dir": checkpoint_dir(config, directory.path)}
        directory.write_json("config.json", about["config"] | used)
        directory.write_json("run.json", {"resolved_options": config.to_json(), **describe_process()})
        directory.note = metrics.note  # from now on, a full disk ends nothing
        runner = _Runner(run, spec, directory, [*describe_resolution(given, config, spec), *notes])
        info = RunInfo(directory.path, config, spec, goal.target_return, metrics.note)
        metrics.callbacks.call("on_start", info)
        return Result(runner.run_to_end())


class Result(dict[str, Any]):
    """The summary of a run, as in `summary.json`; printed, it says what was reached and what to type next."""

    @override
    def __repr__(self) -> str:
        return closing_words(self)

    def plot(self) -> Any:
        """The learning curve, losses, rates and waits as a figure of `matplotlib`."""
        return draw_runs([read_run(Path(self["run_dir"]))], [])


def _make_checkpointer(
    config: Config, folder: Path, resume_from: CheckpointRef | None, note: Callable[[str], None]
) -> Checkpointer | None:
    """What writes the checkpoints, if the run makes any; `ConfigError` if nothing can be written there."""
    due = config.checkpoint_seconds if config.mode == "async" else config.checkpoint_period
    if due is None:
        return None
    root = checkpoint_root(config, folder)
    store = Store(root)
    if resume_from is not None and resume_from.store.place == store.place:
        store = resume_from.store  # it knows what it has read of the checkpoint
    try:
        store.check_writable()
    except OSError as error:
        raise ConfigError(f"`checkpoint_dir`: cannot write to {root}: {error} (name another).") from error
    return Checkpointer(store, config.keep_checkpoints, note, resume_from)


@dataclass
class _Runner:
    """Starts the roles of a run, trains in its mode, and saves what was learned."""

    run: Run
    spec: EnvironmentSpec
    directory: RunDirectory
    notes: Sequence[str]  # shown first
    train_seconds: float | None = None  # from the first call of the learner until the goal was reached
    has_saved: bool = False  # networks of this run

    def run_to_end(self) -> dict[str, Any]:
        """Trains and saves what was learned; returns the summary."""
        metrics, state = self.run.metrics, "failed"
        metrics.write_status("starting")
        try:
            with ended_by_signals() as raise_again:
                state = self._run_mode(raise_again)
            self.has_saved = True  # if only a summary
        except (KeyboardInterrupt, SystemExit) as error:
            if isinstance(error, KeyboardInterrupt):
                state = "interrupted"
            elif error.code == TERMINATED:
                state = "terminated"
            if state != "failed" and not metrics.counters.env_steps:
                metrics.note(f"{state.title()} before training started: there is nothing to save.")
            raise
        finally:
            summary = self.summarize(state)
            if self.has_saved:
                self.directory.write_json("summary.json", summary)
            metrics.write_status(state)
            metrics.callbacks.call("on_end", summary)
        return summary

    def _run_mode(self, raise_again: Callable[[], None]) -> str:
        """Starts the roles, in this process or on Ray, and trains; returns why the run ended."""
        run, config = self.run, self.run.config
        if config.mode == "serial":
            self._show_start()
            calls = Calls(LocalBackend(functools.partial(role_parts, config, self.spec)), config)
            with run.request:
                return self._run_rounds(self._make_team(calls))
        from distdqn.cluster.launch import launched

        with launched(run, self.spec, self.directory.path, self._show_start) as (calls, actors):
            # It may wait for resources; a signal ends that.
            team = self._make_team(calls) if config.mode == "lockstep" else None
            raise_again()
            with run.request:  # only now: connecting to Ray replaces signal handlers
                return self._run_rounds(team) if team else self._run_async(calls, actors)

    def _show_start(self, ray: str | None = None) -> None:
        """Shows the first lines: what is run, where, and on which Ray."""
        config = self.run.config
        processes = f"{config.actors} actors x {config.envs_per_actor} envs   {config.mode}"
        if config.offline is not None:
            played = "" if config.is_offline else f" {config.offline_fraction:.0%}, {processes}"
            processes = f"recorded {config.offline}{played}   {config.mode}"
        target = self.run.goal.target_return
        goal = "no goal" if target is None else f"goal {target:g}"
        head = f"distdqn  {self.spec.name}   {goal}   {processes}   {self.directory.path}"
        for line in [*([f"Ray: {ray}"] if ray else []), head, *self.notes]:
            self.run.metrics.note(line)

    def _make_team(self, calls: Calls) -> Team:
        """All roles of a `serial` or `lockstep` run, ready."""
        config = self.run.config
        team = Team(calls, config, int(config.actors))  # `auto` is for `async` alone
        check = Watchdog(self.run, team).check if config.mode == "lockstep" else lambda: None
        if notice := team.wait_until_ready(check):
            self.run.metrics.note(notice)
        return team

    def _run_rounds(self, team: Team) -> str:
        """The modes `serial` and `lockstep`, which differ in their backend alone."""
        checkpoints = RoundCheckpointer(self.run)
        checkpoints.restore(team)
        train_rounds = functools.partial(run_rounds, self.run, team, checkpoints.save_if_due)
        return self._train_and_save(team, train_rounds, functools.partial(checkpoints.save, team))

    def _run_async(self, calls: Calls, actors: int) -> str:
        """The mode `async`; a thread reads and writes its checkpoints."""
        restore_progress(self.run)
        with ThreadPoolExecutor(1) as executor:
            supervisor = Supervisor(self.run, calls, actors, executor)
            return self._train_and_save(supervisor.team, supervisor.run, supervisor.checkpoints.finish)

    def _train_and_save(
        self, team: Team, train: Callable[[], str], save_checkpoint: Callable[[], None]
    ) -> str:
        """Trains, then saves the networks and a checkpoint, also if `train` raises; returns why it ended.

        The last evaluation of a spent budget follows, so its failure cannot lose them.
        """
        metrics = self.run.metrics
        error: Exception | None = None
        try:
            reason = train()
        except Exception as failure:
            reason, error = "failed", failure
        metrics.reach("training ended")
        if team.newest is not None:  # else nothing was learned
            metrics.write_status("saving", *team.describe())
            if error or reason in REQUESTED:
                team.calls.start_timeout_seconds = min(team.calls.start_timeout_seconds, _HURRY_SECONDS)
            if metrics.has_unreported_steps():
                metrics.report(actors_alive=len(team.acting))
            self._save_networks(team)
            if not isinstance(error, CheckpointError):
                try:
                    save_checkpoint()
                except DistdqnError as failure:  # the networks are saved
                    metrics.note(f"The last checkpoint could not be made: {failure}")
            metrics.reach("saved")
            if reason in BUDGET_SPENT:
                self._evaluate_last(team)
                reason = self.run.request.reason or reason
            if self.run.goal.reached:
                reason = "goal_reached"
                if (begin := metrics.timeline.get("first learner call")) is not None:
                    self.train_seconds = metrics.seconds - begin
        if error is not None:
            requested = self.run.request.reason
            if requested is None or not isinstance(error, DistdqnError):  # others are faults of this program
                raise error
            metrics.note(f"A role failed while the run was ended: {error}")
            reason = requested
        return reason

    def _evaluate_last(self, team: Team) -> None:
        """Evaluates the last weights, and saves the networks again if they are the best now."""
        goal, config, seconds = self.run.goal, self.run.config, self.run.metrics.seconds
        before = goal.best
        until = config.max_seconds
        if config.mode == "async" and until is None:
            until = seconds + config.start_timeout_seconds
        if until is not None and seconds >= until:
            self.run.metrics.note("`max_seconds` leaves no time to evaluate the last weights.")
            return
        try:
            evaluate_if_due(self.run, team, True, until)
        except DistdqnError as error:
            self.run.metrics.note(f"The last weights could not be evaluated: {error}")
        if goal.best is not before:
            self._save_networks(team)

    def _save_networks(self, team: Team) -> None:
        """Writes the last network and the best by evaluation; if the learner is down, from the copy here."""
        export: Callable[[PolicyWeights], bytes] = team.export
        try:
            last = team.publish()
        except DistdqnError:
            if team.newest is None:
                return
            last, export = team.newest, functools.partial(export_network, self.run.config, self.spec)
        self.has_saved = True
        networks = {"policy": self.run.goal.best_weights or last, "final": last}
        for name, weights in networks.items():  # first, because these need no other process
            self.directory.write_bytes(f"{name}.npz", policy_bytes(weights))
        for name, weights in networks.items():
            try:
                self.directory.write_bytes(f"{name}.keras", export(weights))
            except Exception as error:  # the layers may be the user's; the same weights are in NumPy's file
                self.run.metrics.note(f"{name}.keras could not be written: {error}")

    def summarize(self, reason: str) -> dict[str, Any]:
        """The content of `summary.json`."""
        goal, metrics, config = self.run.goal, self.run.metrics, self.run.config
        return {
            "solved": None if goal.target_return is None else goal.reached,
            "reason": reason,
            "target_return": goal.target_return,
            "eval_return_mean": goal.best and goal.best.mean,
            "eval_return_min": goal.best and min(goal.best.returns),
            "eval_return_lower_bound": goal.best and goal.best.lower_bound,
            "eval_episodes": goal.best and len(goal.best.returns),
            **asdict(metrics.counters),
            "train_returns": metrics.recent_returns,
            "train_seconds": self.train_seconds,
            "total_seconds": metrics.seconds,
            "timeline": metrics.timeline,
            "seed": config.seed,
            "actors": config.actors,
            "mode": config.mode,
            "env": self.spec.name,
            "run_dir": str(self.directory.path),
        }
