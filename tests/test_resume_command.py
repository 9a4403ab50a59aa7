"""`--resume` with checkpoints that cannot be used, as the command answers it: code 4, and words."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from distdqn.checkpoints.format import manifest_bytes, manifest_name
from distdqn.checkpoints.resume import describe_run
from distdqn.checkpoints.store import Store
from distdqn.config.config import Config
from distdqn.environments.registry import inspect_environment
from distdqn.reporting.run_directory import RunDirectory
from distdqn.run import main
from distdqn.training.resolve import resolve


@pytest.fixture
def run_dir(tmp_path):
    """The folder of a run with the checkpoints 100 and 200, of which each has an array of its own."""
    store = Store(str(tmp_path / "run" / "checkpoints"))
    store.check_writable()
    spec = inspect_environment("CartPole-v1")
    about = describe_run(Config(), resolve(Config(), spec), spec)
    for number in (100, 200):
        store.write_manifest(number, store.write_tree({"about": about, "learner": np.full(99, number)}))
    return tmp_path / "run"


def blob_of(run_dir, number):
    """The file of a checkpoint's own array."""
    root = run_dir / "checkpoints"
    return root / "blobs" / f"{Store(str(root)).read_manifest(number)['learner']['blob']}.safetensors"


def refused(capsys, *arguments):
    """What the command says, which must end with 4 and one line for each mistake."""
    assert main([*map(str, arguments), "--actors", "1"]) == 4
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert all(line.startswith("distdqn: error: ") for line in lines)
    assert captured.out == ""
    return [line.removeprefix("distdqn: error: ") for line in lines]


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("what", ["an array", "the manifest"])
def test_fault_13_damaged_checkpoint_that_is_named_ends_the_command(run_dir, capsys, what, damage):
    manifest = run_dir / "checkpoints" / manifest_name(200)
    path = blob_of(run_dir, 200) if what == "an array" else manifest
    damage(path)
    (line,) = refused(capsys, "--resume", manifest)
    assert str(path) in line


def test_fault_14_run_of_which_all_is_corrupt_ends_the_command_and_loses_no_file(run_dir, capsys):
    for number in (100, 200):
        flip(blob_of(run_dir, number))
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    summary, *lines = refused(capsys, "--run-dir", run_dir, "--resume", "auto")
    assert "no checkpoint is whole; nothing was deleted" in summary
    for number, line in zip((200, 100), lines, strict=True):
        assert blob_of(run_dir, number).name in line
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


def test_fault_19_folder_is_locked_before_its_checkpoints_are_read(run_dir, capsys):
    first = RunDirectory(str(run_dir), "CartPole-v1", is_resuming=True)
    for number in (100, 200):  # as a run may leave them for a moment
        flip(blob_of(run_dir, number))
    assert main(["--run-dir", str(run_dir), "--resume", "auto", "--actors", "1"]) == 2
    assert f"it is in use by process {os.getpid()} on" in capsys.readouterr().err
    first.close()


@pytest.mark.parametrize("resume", ["the run", "one of its checkpoints"])
def test_refused_resume_leaves_no_new_folder_and_no_new_file(run_dir, capsys, tmp_path, monkeypatch, resume):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    named = run_dir if resume == "the run" else run_dir / "checkpoints" / manifest_name(100)
    refused(capsys, "--resume", named, "--hidden-sizes", "64")
    assert sorted(tmp_path.rglob("*")) == before


def test_fault_15_checkpoint_of_another_network_ends_the_command_with_a_table(run_dir, capsys):
    title, *table = refused(capsys, "--resume", run_dir, "--hidden-sizes", "64", "--reward-scale", "0.1")
    assert title.endswith("Option: checkpoint / now")
    assert [line.strip() for line in table] == ["reward_scale: 1.0 / 0.1", "hidden_sizes: [128, 128] / [64]"]


def test_fault_15_checkpoint_of_an_environment_made_otherwise_ends_the_command_with_a_table(run_dir, capsys):
    words = ["--wrapper", "gymnasium.wrappers:RecordEpisodeStatistics", "--env-kwargs", "render_mode=null"]
    _, *table = refused(capsys, "--resume", run_dir, "--max-episode-steps", 9, *words)

    assert [line.strip() for line in table] == [
        'env_kwargs: {} / {"render_mode": null}',
        'wrapper: [] / ["gymnasium.wrappers:RecordEpisodeStatistics"]',
    ]


def test_fault_16_checkpoint_of_a_newer_format_ends_the_command(run_dir, capsys):
    (run_dir / "checkpoints" / manifest_name(300)).write_bytes(manifest_bytes(300, {}, version=99))
    (line,) = refused(capsys, "--run-dir", run_dir, "--resume", "auto")
    assert "has format 99, this release reads" in line


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return Path.touch, (self._path,)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("a pickle", "SHA-256 differs"),
        ("a way out of the folder", "`blob`: String should match"),
        ("a link", "is a symbolic link"),
        ("an absurd shape", "is larger than its file"),
    ],
)
def test_fault_17_hostile_checkpoint_ends_the_command(run_dir, capsys, tmp_path, kind, reason):
    root, bomb = run_dir / "checkpoints", tmp_path / "exploded"
    store = Store(str(root))
    document, path = store.read_manifest(200), blob_of(run_dir, 200)
    ref = document["learner"]
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(path.read_bytes())
    match kind:
        case "a pickle":
            path.write_bytes(pickle.dumps(Bomb(bomb)).ljust(ref["bytes"], b"\0"))
        case "a link":
            path.unlink()
            path.symlink_to(secret)
        case _:
            ref |= {"blob": "../../secret"} if kind == "a way out of the folder" else {"shape": [2**62]}
            # Signed by the same rule, as an attacker would, without what we check before.
            content = manifest_bytes(200, document)
            (root / manifest_name(200)).write_bytes(content)
    (line,) = refused(capsys, "--resume", root / manifest_name(200))
    assert reason in line
    assert not bomb.exists()


@pytest.mark.parametrize("named", ["a-file", "a-file/below", "/proc/nowhere"])
def test_fault_20_place_for_checkpoints_that_cannot_be_written_ends_the_command(tmp_path, capsys, named):
    (tmp_path / "a-file").touch()
    place = str(tmp_path / named)
    assert main(["--run-dir", str(tmp_path / "run"), "--checkpoint-dir", place, "--actors", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"distdqn: error: `checkpoint_dir`: cannot write to {place}: ")
