"""Where a run goes on from: finding a checkpoint, and whether it fits the options."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distdqn.acting.environments import EnvironmentSpec
from distdqn.checkpoints import Tree
from distdqn.config import Config
from distdqn.errors import ConfigError
from distdqn.storage.errors import CheckpointDamaged, CheckpointError, NoCheckpoint
from distdqn.storage.manifests import number_from_name
from distdqn.storage.store import Store

# What a network, or what is stored in replay, depends on: other values need a new run.
_STRUCTURAL = {"env", "n_step", "discount", "network", "torso", "hidden_sizes", "layer_norm", "spectral_norm"}
_STRUCTURAL |= {"dueling", "noisy", "head", "atoms", "v_min", "v_max"}
_NOT_COMPARED = ("resume", "run_dir", "checkpoint_dir", "address", "versions")


@dataclass(frozen=True)
class Start:
    """A checkpoint to go on from.

    Attributes:
        store: where it is.
        document: what it holds, arrays as entries of the store.
        notes: lines to tell the user.
    """

    store: Store
    document: Tree
    notes: list[str]


def checkpoint_root(config: Config, folder: Path) -> str:
    """Folder or URL for the checkpoints of a run in `folder`."""
    return config.checkpoint_dir or str(folder / "checkpoints")


def run_folder(config: Config) -> tuple[str | None, bool]:
    """The folder for a run's results, and whether the run that is in it already goes on.

    That is `run_dir`, or the folder of the run that `resume` names. Another run's folder is
    not gone on in.
    """
    if config.resume in (None, "auto"):
        return config.run_dir, config.resume is not None
    named = Path(str(config.resume)).resolve()
    if config.run_dir is None:
        holds_run = (named / "checkpoints").is_dir()
        return (str(config.resume) if holds_run else None), holds_run
    return config.run_dir, named.is_relative_to(Path(config.run_dir).resolve())


def find_start(config: Config, spec: EnvironmentSpec) -> Start | None:
    """The checkpoint that `resume` names; None if there is none to go on from.

    Raises:
        CheckpointError: it is damaged, or does not fit the options.
        ConfigError: `auto` without a place to look in.
    """
    if config.resume is None:
        return None
    if config.resume == "auto":
        if config.run_dir is None and config.checkpoint_dir is None:
            raise ConfigError("`resume` is `auto` without a place to look in (give `run_dir`).")
        store = Store(checkpoint_root(config, Path(config.run_dir or ".")))
        try:
            number, document, passed_over = store.newest_whole()
        except NoCheckpoint:
            return None
        notes = [f"Checkpoint {other} is passed over: {why}" for other, why in passed_over]
    else:
        store, number = _named(config.resume)
        document, notes = store.verify(number), []
    try:
        changes = _compare(config, spec, document["about"])
    except (KeyError, TypeError) as error:
        raise CheckpointDamaged(f"Checkpoint {number} does not say what run it is of.") from error
    return Start(store, document, [*notes, f"Goes on from checkpoint {number}.", *changes])


def _named(resume: str) -> tuple[Store, int]:
    """Store and number of the checkpoint that a path or URL names.

    Raises:
        NoCheckpoint: there is none.
    """
    root, _, name = resume.rpartition("/")
    number = number_from_name(name)
    if number is not None:
        return Store(root or "."), number
    inner = Path(resume) / "checkpoints"
    store = Store(str(inner) if inner.is_dir() else resume)
    numbers = [] if Path(resume).is_file() else store.numbers()
    if not numbers:
        raise NoCheckpoint(f"`resume`: {resume} holds no checkpoint (name the folder of a run).")
    return store, numbers[-1]


def describe_run(config: Config, spec: EnvironmentSpec) -> Tree:
    """What a checkpoint says of the run it is of."""
    return {
        "config": config.to_json(),
        "observation_shape": list(spec.observation_shape),
        "observation_dtype": spec.observation_dtype,
        "actions": spec.actions,
    }


def _compare(config: Config, spec: EnvironmentSpec, about: Tree) -> list[str]:
    """Lines about options that are other than the checkpoint's.

    Raises:
        CheckpointError: some of them need a new run; one line for each.
    """
    now = describe_run(config, spec)
    pairs: dict[str, tuple[Any, Any]] = {
        name: (about["config"].get(name), value)
        for name, value in _as_json(now.pop("config")).items()
        if name not in _NOT_COMPARED and name in about["config"]
    }
    shapes = {name: (about.get(name), value) for name, value in now.items()}
    changed = {name: pair for name, pair in {**shapes, **pairs}.items() if pair[0] != pair[1]}
    structural = [name for name in changed if name in _STRUCTURAL or name in shapes]
    lines = {
        name: f"`{name}`: {then} in the checkpoint, {value} now" for name, (then, value) in changed.items()
    }
    if structural:
        why = "(give the checkpoint's value, or start a new run)"
        raise CheckpointError([f"{lines[name]} {why}." for name in structural])
    return [f"{line}." for line in lines.values()]


def _as_json(values: Tree) -> Tree:
    """The options as they come back from a file, where tuples are lists."""

    def lists(value: Any) -> Any:
        return [lists(each) for each in value] if isinstance(value, list | tuple) else value

    return {name: lists(value) for name, value in values.items()}
