"""One run from its config to its summary, in whichever mode."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distdqn.checkpoints.checkpointer import Checkpointer
from distdqn.checkpoints.resume import (
    checkpoint_root,
    describe_run,
    find_start,
    run_folder,
)
from distdqn.checkpoints.store import CheckpointRef, Store, place_of
from distdqn.config.config import Config, resolved
from distdqn.environments.registry import EnvironmentSource, inspect_environment
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
from distdqn.networks.custom_network import check_importable
from distdqn.networks.numpy_policy import save_policy
from distdqn.reporting.console import Console, number
from distdqn.reporting.metrics import Metrics
from distdqn.reporting.run_directory import RunDirectory, check_folder, versions
from distdqn.training import builders
from distdqn.training.checkpointing import RoundCheckpointer, restore_state
from distdqn.training.loop import Finisher, SerialTeam, Team, evaluate_if_due, run_rounds
from distdqn.training.resolve import check_fit, describe_resolution, resolve
from distdqn.training.stopping import StopRequest, ended_by_signals
from distdqn.types import EnvironmentSpec, Tree

if TYPE_CHECKING:
    from distdqn.cluster.launch import Launch


_IN_FULL = (
    "max_env_steps",
    "max_seconds",
    "max_episodes",
)  # ends after which the last weights are evaluated, too


def train(config: Config, *, quiet: bool = False, started: float | None = None) -> dict[str, Any]:
    """Trains as `config` says and returns the run's summary.

    Ctrl-C ends it in order: what was learned is saved, and the summary's `reason` says so.

    Args:
        config: the options.
        quiet: show nothing.
        started: `time.monotonic()` when the program started; now, if not given.

    Raises:
        DistdqnError: the environment, the cluster or a role makes the run impossible; its
            `mistakes` say what and how to mend it.
    """
    started = time.monotonic() if started is None else started
    folder, is_resuming = run_folder(config)
    spec = check_surroundings(config.env, folder, config.network, is_resuming)
    given, config = config, resolve(config, spec)
    check_fit(config, spec)
    about = describe_run(given, config, spec)
    start, notes = find_start(config, about)
    kept = start.document["metrics"]["metrics_bytes"] if start and is_resuming else 0
    directory = RunDirectory.create(folder, spec.name, is_resuming, kept)
    try:
        run = _Run(config, spec, directory, quiet, started, start, about)
        return run.to_its_end([*describe_resolution(given, config, spec), *notes])
    finally:
        directory.close()


def check_surroundings(
    env: EnvironmentSource, run_dir: str | None, network: str | None = None, is_resuming: bool = False
) -> EnvironmentSpec:
    """What the rest of a run needs to know of its environment.

    Args:
        env: the environment.
        run_dir: folder for results, or None.
        network: `module:function` of the user's network, or None.
        goes_on: the folder may hold a run.

    Raises:
        ConfigError: the environment, the folder for results or the user's network cannot
            be used; all mistakes together.
        EnvironmentFault: the environment cannot be built.
    """
    errors: list[DistdqnError] = []
    try:
        check_folder(run_dir, is_resuming)
    except ConfigError as error:
        errors.append(error)
    try:
        if network is not None:
            check_importable(network)
    except ConfigError as error:
        errors.append(error)
    try:
        spec = inspect_environment(env)
    except DistdqnError as error:
        errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ConfigError([mistake for error in errors for mistake in error.mistakes])
    return spec


class _Run:
    """What the modes have in common: the beginning, the end, and what lies around them."""

    def __init__(
        self,
        config: Config,
        spec: EnvironmentSpec,
        directory: RunDirectory,
        quiet: bool,
        started: float,
        start: CheckpointRef | None,
        about: Tree,
    ) -> None:
        self._about = about
        self._config = config
        self._spec = spec
        self._directory = directory
        self._goal = builders.make_goal(config)
        self._budget = builders.make_budget(config)
        self._rate_limiter = builders.make_rate_limiter(config)
        self._console = Console(config.max_env_steps, self._goal.target_return, quiet)
        self._metrics = Metrics(directory, self._console, config, started)
        self._stop = StopRequest()
        self._start = start
        self._checkpoints = self._make_checkpoints()
        self._notes: list[str] = []
        self._train_seconds: float | None = None

    def _make_checkpoints(self) -> Checkpointer | None:
        """Where checkpoints go, if any are to be made.

        Raises:
            ConfigError: nothing can be written there.
        """
        config = self._config
        due = config.checkpoint_seconds if config.mode == "async" else config.checkpoint_period
        if due is None:
            return None
        root = checkpoint_root(config, self._directory.path)
        start = self._start
        # One store for both: it knows then what of the checkpoint to go on from it has read.
        store = start.store if start is not None and start.store.place == place_of(root) else Store(root)
        try:
            store.check_writable()
        except OSError as error:
            raise ConfigError(f"`checkpoint_dir`: cannot write to {root}: {error} (name another).") from error
        return Checkpointer(store, config.keep_checkpoints, self._metrics.note)

    def to_its_end(self, notes: Sequence[str]) -> dict[str, Any]:
        """Runs the mode and writes every file of the run; tells `notes` first."""
        config = self._config
        self._directory.write_json("config.json", {**self._about["config"], "versions": versions()})
        processes = f"{config.actors} actors x {config.envs_per_actor} envs   {config.mode}"
        self._notes = [f"distdqn  {self._spec.name}   {processes}   {self._directory.path}", *notes]
        self._metrics.write_status("starting")
        state = "failed"
        try:
            with ended_by_signals() as raise_again:
                reason = self._run_serial() if config.mode == "serial" else self._run_on_ray(raise_again)
            state = reason
        except (KeyboardInterrupt, SystemExit) as error:
            if isinstance(error, KeyboardInterrupt):
                state = "interrupted"
            elif error.code == TERMINATED:
                state = "terminated"
            if state != "failed" and not self._metrics.counters.env_steps:
                self._console.note(f"{state.title()} before training began: there is nothing to save.")
            raise
        finally:
            self._console.close()
            self._metrics.write_status(state)
        summary = self._summary(reason)
        self._directory.write_json("summary.json", summary)
        self._console.note(_closing_words(summary))
        return summary

    def _tell_all(self, *first: str) -> None:
        """The first lines of a run."""
        for text in (*first, *self._notes):
            self._console.note(text)

    def _run_serial(self) -> str:
        self._tell_all()
        with self._stop:
            team = SerialTeam(self._config, self._spec)
            return self._run_in_rounds(team)

    def _run_on_ray(self, raise_again: Callable[[], None]) -> str:
        from distdqn.cluster.launch import launched

        def tell(why: str) -> None:
            self._tell_all(f"Ray: {why}")

        with launched(self._config, self._spec, self._directory.path, tell) as launch:
            self._metrics.sinks.append(launch.show)
            # Only now: connecting to Ray replaces handlers that were there before.
            if self._config.mode == "lockstep":
                team = launch.make_team(self._metrics.note)  # it may wait for room; a signal ends that
                raise_again()
                with self._stop:
                    return self._run_in_rounds(team)
            raise_again()
            with self._stop:
                return self._run_async(launch)

    def _run_async(self, launch: "Launch") -> str:
        """The mode `async`, its checkpoints written by a thread."""
        from distdqn.distributed.checkpointing import AsyncCheckpointer

        config, goal, metrics = self._config, self._goal, self._metrics
        if self._start is not None:
            restore_state(self._start, goal, metrics, self._rate_limiter, config.replay_shards)
        with ThreadPoolExecutor(1) as executor:
            saver = AsyncCheckpointer(
                self._checkpoints,
                config.checkpoint_seconds,
                config.checkpoint_replay,
                self._about,
                executor,
            )
            supervisor = launch.make_supervisor(
                goal, self._budget, self._rate_limiter, metrics, self._stop, saver, self._start
            )
            workers = supervisor.workers
            try:
                with self._keeping_networks(workers):
                    reason = supervisor.run()
            except (RoleFailure, Diverged, EnvironmentFault, ClusterError):
                if workers.can_answer:
                    with contextlib.suppress(DistdqnError):  # of a learner or replay that is dead, too
                        saver.finish(goal, metrics, workers)
                raise
            if supervisor.has_weights:
                try:
                    saver.finish(goal, metrics, workers)
                except DistdqnError as error:  # the networks can be saved all the same
                    metrics.note(f"The last checkpoint could not be made: {error}")
            return self._finish(workers, reason, supervisor.has_weights)

    def _run_in_rounds(self, team: Team) -> str:
        """The mode `serial` or `lockstep`, which differ in their team alone."""
        config = self._config
        if notice := team.compile():
            self._metrics.note(notice)
        saver = RoundCheckpointer(
            self._checkpoints,
            config.checkpoint_period,
            config.checkpoint_replay,
            self._about,
        )
        if self._start is not None:
            saver.restore(team, self._goal, self._metrics, self._rate_limiter, self._start, self._stop)
        with self._keeping_networks(team):
            reason = run_rounds(
                team,
                self._goal,
                self._budget,
                self._rate_limiter,
                self._metrics,
                self._stop,
                actors=int(config.actors),  # `auto` is for `async` alone
                steps_per_rollout=config.rollout_length * config.envs_per_actor,
                samples_per_call=config.updates_per_call * resolved(config.batch_size),
                schedules=builders.make_learning_schedules(config),
                report_period=config.report_period,
                saver=saver,
            )
        return self._finish(team, reason, has_weights=True)

    def _finish(self, team: Finisher, reason: str, has_weights: bool) -> str:
        """Evaluates what is left to evaluate and saves the networks."""
        if not has_weights:
            return reason
        alive = sum(role["role"].startswith("actor") and role["pid"] is not None for role in team.roles())
        if reason in _IN_FULL:
            evaluate_if_due(team, self._goal, self._metrics, alive, final=True)
            reason = "goal_reached" if self._goal.reached else reason
        begin = self._metrics.train_seconds_begin
        if self._goal.reached and begin is not None:
            self._train_seconds = self._metrics.seconds - begin
        if self._metrics.has_unreported_steps():
            self._metrics.report(actors_alive=alive)
        self._metrics.write_status("saving", team.ray(), team.roles())
        self._save_networks(team)
        return reason

    @contextlib.contextmanager
    def _keeping_networks(self, team: Finisher) -> Iterator[None]:
        """Saves the networks where the run fails and they are good: as it diverges, or cannot save itself."""
        try:
            yield
        except (Diverged, CheckpointError):  # what would have spoilt the weights was never applied
            with contextlib.suppress(DistdqnError, OSError):
                self._save_networks(team)
            raise

    def _save_networks(self, team: Finisher) -> None:
        """Writes the last network and that of the best evaluation, for Keras and without it."""
        last = team.publish()
        best = last if self._goal.best is None else team.value(self._goal.best_weights)
        self._directory.write_bytes("policy.keras", team.export(best))
        self._directory.write_bytes("final.keras", team.export(last))
        save_policy(self._directory.path / "policy.npz", best)
        save_policy(self._directory.path / "final.npz", last)

    def _summary(self, reason: str) -> dict[str, Any]:
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
            "actor_restarts": counters.actor_restarts,
            "learner_restarts": counters.learner_restarts,
            "lost_learner_steps": counters.lost_learner_steps,
            "replay_restarts": counters.replay_restarts,
            "lost_transitions": counters.lost_transitions,
            "lost_rollouts": counters.lost_rollouts,
            "episodes_lost": counters.episodes_lost,
            "env_faults": counters.env_faults,
            "not_finite_steps": counters.not_finite_steps,
            "not_finite_updates": counters.not_finite_updates,
            "mode": self._config.mode,
            "env": self._spec.name,
            "run_dir": str(self._directory.path),
        }


def _closing_words(summary: dict[str, Any]) -> str:
    """The last lines of a run: what was reached, where it is, what to type next."""
    outcome = {True: "Solved", False: "Not solved", None: "Finished"}[summary["solved"]]
    lines = [
        f"{outcome} ({summary['reason']}): mean return {number(summary['eval_return_mean'])} over "
        f"{summary['eval_episodes'] or 0} greedy episodes, after {summary['env_steps']:,} env steps and "
        f"{summary['learner_steps']:,} learner steps, {summary['total_seconds']:.1f} s in all.",
    ]
    if summary["eval_episodes"]:
        lines.append(f"Play it: python -m distdqn.evaluate {Path(summary['run_dir'])} --episodes 100")
    return "\n".join(lines)
