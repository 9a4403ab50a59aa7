"""Where a run goes on from: finding a checkpoint, and whether it fits the options."""

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distdqn.checkpoints.store import CheckpointRef, Store, find_checkpoints, place_of
from distdqn.config.config import Config
from distdqn.errors import CheckpointDamaged, CheckpointError, ConfigError, NoCheckpoint
from distdqn.types import EnvironmentSpec, Tree


def structure(config: Config, spec: EnvironmentSpec) -> dict[str, Any]:
    """What networks and stored transitions depend on, by option, as they are built with it.

    An option without effect beside the others is left out, so two runs whose structures agree
    in all that both have can go on from each other's checkpoints. What only decides how
    learning begins or goes on (initial weights, losses, rates, sampling) is no part of it.
    """
    found: dict[str, Any] = {
        "env": config.to_json()["env"],
        "observation_shape": list(spec.observation_shape),
        "observation_dtype": spec.observation_dtype,
        "actions": spec.actions,
        "n_step": config.n_step,
        "discount": config.discount,
        "reward_scale": config.reward_scale,
        "reward_clip": config.reward_clip,
        "failure_reward": config.failure_reward,
        "bootstrap_on_termination": config.bootstrap_on_termination,
        "network": config.network,
        "head": config.head,
    }
    if spec.is_image:
        found["observation_high"] = spec.observation_high  # images are divided by it
    if config.failure_reward is not None:
        found["early_end_steps"] = config.early_end_steps
    if config.network is None:
        found |= {
            "torso": config.torso,
            "hidden_sizes": list(config.hidden_sizes),
            "layer_norm": config.layer_norm,
            "spectral_norm": config.spectral_norm,
            "dueling": config.dueling,
            "noisy": config.noisy,
        }
    if config.head != "value":
        found["atoms"] = config.atoms
    if config.head == "categorical":
        found |= {"v_min": config.v_min, "v_max": config.v_max}
    return found


_NOT_COMPARED = ("resume", "run_dir", "checkpoint_dir", "address", "versions")


def checkpoint_root(config: Config, folder: Path) -> str:
    """Folder or URL for the checkpoints of a run in `folder`."""
    return config.checkpoint_dir or str(folder / "checkpoints")


def run_folder(config: Config) -> tuple[str | None, bool]:
    """The folder for a run's results, and whether the run that is in it already goes on.

    That is `run_dir`, or the folder of the run that `resume` names. Another run's folder is
    not gone on in.

    Raises:
        CheckpointError: what `resume` names cannot be read.
    """
    if config.resume in (None, "auto"):
        return config.run_dir, config.resume is not None
    with _readable(config.resume):
        named = Path(str(config.resume)).resolve()
        if config.run_dir is None:
            holds_run = (named / "checkpoints").is_dir()
            return (str(config.resume) if holds_run else None), holds_run
        return config.run_dir, named.is_relative_to(Path(config.run_dir).resolve())


def find_start(config: Config, about: Tree) -> tuple[CheckpointRef | None, list[str]]:
    """The checkpoint that `resume` names, and lines to tell the user; None for a new run.

    Raises:
        CheckpointError: it is damaged, or does not fit the options.
        ConfigError: `auto` without a place to look in.
    """
    if config.resume is None:
        return None, []
    with _readable(config.resume):
        ref, passed_over = _newest(config) if config.resume == "auto" else (_named(config.resume), [])
    if ref is None:
        place = place_of(checkpoint_root(config, Path(config.run_dir or ".")))
        return None, [f"No checkpoint in {_words(place)}: starts a new run."]
    try:
        changes = _compare(about, ref.number, ref.document["about"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointDamaged(f"Checkpoint {ref.number} does not say what run it is of.") from error
    notes = [f"Checkpoint {number} is passed over: {why}" for number, why in passed_over]
    return ref, [*notes, f"Resumes from checkpoint {ref.number} in {_words(ref.store.place)}.", *changes]


def _words(place: str) -> str:
    """Where that is: a cluster may send a run to another host, with other folders."""
    return place if "://" in place else f"{place} on {socket.gethostname()}"


@contextlib.contextmanager
def _readable(resume: str | None) -> Iterator[None]:
    """Turns faults of the disk meanwhile into an error that names what was to be read.

    Raises:
        CheckpointError: there was one.
    """
    try:
        yield
    except OSError as error:
        what = error.filename or resume
        why = error.strerror or error
        raise CheckpointError(
            f"`resume`: {what} cannot be read: {why} (mend that, or name another)."
        ) from error


def _newest(config: Config) -> tuple[CheckpointRef | None, list[tuple[int, str]]]:
    """What `auto` finds, and the newer ones passed over; None if there is no checkpoint.

    Raises:
        CheckpointError: there are some, and none is whole.
        ConfigError: there is no place to look in.
    """
    if config.run_dir is None and config.checkpoint_dir is None:
        raise ConfigError("`resume` is `auto` without a place to look in (give `run_dir`).")
    try:
        return Store(checkpoint_root(config, Path(config.run_dir or "."))).newest_whole()
    except NoCheckpoint:
        return None, []


def _named(resume: str) -> CheckpointRef:
    """The checkpoint that a path or URL names.

    Raises:
        CheckpointError: there is none, or it is not whole.
    """
    try:
        store, numbers = find_checkpoints(resume)
    except NoCheckpoint as error:
        raise NoCheckpoint(f"`resume`: {error}") from error
    return CheckpointRef(store, numbers[-1], store.verify(numbers[-1]))


def describe_run(given: Config, config: Config, spec: EnvironmentSpec) -> Tree:
    """The options of a run as given, and the structure that follows from the resolved ones."""
    return {"config": given.to_json(), "structure": structure(config, spec)}


def _compare(now: Tree, number: int, about: Tree) -> list[str]:
    """Lines about options that are other than the checkpoint's.

    Raises:
        CheckpointError: some of them need a new run; one line for each.
    """
    structural = _changed(about["structure"], now["structure"])
    if structural:
        raise CheckpointError(
            [
                f"Checkpoint {number} is of a run with another network or other transitions (give its "
                "options, or start a new run). Option: checkpoint / now",
                *structural,
            ]
        )
    then, now = about["config"], now["config"]
    others = _changed(then, {name: value for name, value in now.items() if name not in _NOT_COMPARED})
    return (
        ["Resumes with options that differ from the checkpoint's. Option: checkpoint / now", *others]
        if others
        else []
    )


def _changed(then: Tree, now: Tree) -> list[str]:
    """A line for each option that both know and that differs."""
    pairs = {name: (then[name], _plain(value)) for name, value in now.items() if name in then}
    return [
        f"  {name}: {option_text(old)} / {option_text(new)}"
        for name, (old, new) in pairs.items()
        if old != new
    ]


def _plain(value: Any) -> Any:
    """An option's value as it comes back from a file, where tuples are lists."""
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def option_text(value: Any) -> str:
    """An option's value in one line that no terminal takes for a command, whatever a file holds."""
    return "none" if value is None else json.dumps(value).strip('"')
