"""Where a run resumes: which checkpoint, and whether it fits the options."""

import json
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distdqn.checkpoints.store import CheckpointRef, Store, find_checkpoints
from distdqn.config.config import Config
from distdqn.config.model import NOT_RESUMED
from distdqn.errors import CheckpointDamaged, CheckpointError, ConfigError, NoCheckpoint, restoring
from distdqn.reporting.run_directory import read_options, read_status
from distdqn.types import EnvironmentSpec, Tree

# What a run has learned, by the names of the files in its folder.
_RESULTS = ("policy.keras", "policy.npz", "final.keras", "final.npz", "summary.json")


def describe_run(given: Config, config: Config, spec: EnvironmentSpec) -> Tree:
    """What a checkpoint says of its run, as JSON: `config`, the options as given, and `structure`.

    The structure holds what networks and stored transitions depend on, from the resolved options,
    without options that have no effect. A run can resume from a checkpoint if their structures
    agree in all keys that both have.
    """
    names = ["n_step", "discount", "reward_scale", "reward_clip", "failure_reward"]
    names += ["bootstrap_on_termination", "network", "head", "value_rescaling"]
    if config.failure_reward is not None:
        names.append("early_end_steps")
    if config.network is None:
        names += ["torso", "hidden_sizes", "layer_norm", "spectral_norm", "dueling", "noisy"]
    if config.head not in ("value", "implicit"):  # whose atoms are those of acting alone
        names.append("atoms")
    if config.head == "categorical":
        names += ["v_min", "v_max"]
    options = config.to_json()
    structure: Tree = {
        **{name: options[name] for name in ("env", "env_kwargs", "wrapper")},
        "observation_shape": list(spec.observation_shape),
        "observation_dtype": spec.observation_dtype,
        "actions": spec.actions,
        **{name: options[name] for name in names},
    }
    if spec.is_image:
        structure["observation_high"] = spec.image_high  # images are divided by it
    if spec.parts:
        structure["parts"] = [{**asdict(part), "shape": list(part.shape)} for part in spec.parts]
    return {"config": given.to_json(), "structure": structure}


def checkpoint_dir(config: Config, folder: Path) -> str | None:
    """The option of that name; a resumed run in `folder` keeps the one that it used."""
    saved = None if config.resume is None else read_options(folder).checkpoint_dir
    return config.checkpoint_dir or saved


def checkpoint_root(config: Config, folder: Path) -> str:
    """Folder or URL for the checkpoints of a run in `folder`."""
    return checkpoint_dir(config, folder) or str(folder / "checkpoints")


def locate_checkpoints(place: str) -> tuple[Store, list[int]]:
    """Like `find_checkpoints`, also for the folder of a run that keeps its checkpoints elsewhere."""
    try:
        return find_checkpoints(place)
    except NoCheckpoint as error:
        if (elsewhere := read_options(Path(place)).checkpoint_dir) is not None:
            return find_checkpoints(elsewhere)
        if (status := read_status(Path(place))) is not None:
            raise NoCheckpoint(f"{place} holds no checkpoint; its run is `{status.state}`.") from error
        raise


def run_folder(config: Config) -> tuple[str | None, bool]:
    """The folder for results (None: a new one), and whether a run in it resumes.

    `CheckpointError` if the path in `resume` cannot be read.
    """
    if config.resume is None or config.resume == "auto":
        return config.run_dir, config.resume is not None
    with restoring(f"`resume`: {config.resume}"):
        named = Path(config.resume).resolve()
        if config.run_dir is not None:
            return config.run_dir, named.is_relative_to(Path(config.run_dir).resolve())
        is_run = (named / "checkpoints").is_dir()
        return (config.resume if is_run else None), is_run


def find_start(config: Config, about: Tree) -> tuple[CheckpointRef | None, list[str]]:
    """The checkpoint that `resume` names (None: a new run), and lines for the user.

    `about` is what `describe_run` returns for this run. `CheckpointError` if it is damaged or does not fit
    the options, `ConfigError` if `resume` is `auto` without a place to look in.
    """
    if config.resume is None:
        return None, []
    passed_over: list[tuple[int, str]] = []
    with restoring(f"`resume`: {config.resume}"):
        if config.resume != "auto":
            try:
                found, numbers = find_checkpoints(config.resume)
            except NoCheckpoint as error:
                raise NoCheckpoint(f"`resume`: {error}") from error
            ref = found.verify(numbers[-1])
        elif config.run_dir is None and config.checkpoint_dir is None:
            raise ConfigError("`resume` is `auto` without a place to look in (give `run_dir`).")
        else:
            store = Store(checkpoint_root(config, Path(config.run_dir or ".")))
            try:
                ref, passed_over = store.newest_whole()
            except NoCheckpoint:
                run_dir = config.run_dir
                if results := [each for each in _RESULTS if run_dir and (Path(run_dir) / each).exists()]:
                    place = _with_host(store.place)
                    raise NoCheckpoint(
                        f"`resume`: {place} holds no checkpoint, but {run_dir} holds "
                        f"{', '.join(results)} of a run (give its `checkpoint_dir`, or another `run_dir`)."
                    ) from None
                return None, [f"No checkpoint in {_with_host(store.place)}: starts a new run."]
    try:
        changes = _compare(about, ref.number, ref.document["about"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointDamaged(f"Checkpoint {ref.number} does not say what run it is of.") from error
    notes = [f"Checkpoint {number} is passed over: {why}" for number, why in passed_over]
    return ref, [*notes, f"Resumes from checkpoint {ref.number} in {_with_host(ref.store.place)}.", *changes]


def _with_host(place: str) -> str:
    """A URL, or a path with this host, as a cluster may start a run on another host."""
    return place if "://" in place else f"{place} on {socket.gethostname()}"


def _compare(now: Tree, number: int, about: Tree) -> list[str]:
    """Lines about options that differ from the checkpoint's; `CheckpointError` if some need a new run."""
    if structural := _changed(about["structure"], now["structure"]):
        what = f"Checkpoint {number} is of a run with another network or other transitions"
        title = f"{what} (give its options, or start a new run). Option: checkpoint / now"
        raise CheckpointError([title, *structural])
    options = {name: value for name, value in now["config"].items() if name not in NOT_RESUMED}
    others = _changed(about["config"], options)
    title = "Resumes with options that differ from the checkpoint's. Option: checkpoint / now"
    return [title, *others] if others else []


def _changed(then: Tree, now: Tree) -> list[str]:
    """A line for each option in both whose values differ."""
    return [
        f"  {name}: {option_text(then[name])} / {option_text(value)}"
        for name, value in now.items()
        if name in then and then[name] != value
    ]


def option_text(value: Any) -> str:
    """An option's value in one line without control characters, as a file may hold anything."""
    return "none" if value is None else json.dumps(value).strip('"')
