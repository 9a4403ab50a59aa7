"""Finding the checkpoint that a run resumes from, and whether it fits the options."""

import dataclasses
import itertools
import json
import socket
from pathlib import Path

import numpy as np
import pytest

from distdqn.checkpoints.format import manifest_bytes, manifest_name
from distdqn.checkpoints.resume import checkpoint_root, describe_run, find_start, run_folder
from distdqn.checkpoints.store import Store
from distdqn.config.config import Config
from distdqn.errors import CheckpointDamaged, CheckpointError, CheckpointTooNew, ConfigError, NoCheckpoint
from distdqn.training.resolve import resolve
from distdqn.types import EnvironmentSpec

SPEC = EnvironmentSpec("CartPole-v1", (4,), 2, 475.0, "float32", -np.inf, np.inf, None)

_names = itertools.count()


def about_of(config, spec):
    return describe_run(config, resolve(config, spec), spec)


def find(config, spec):
    """The checkpoint that a run with these options resumes from, and what it tells."""
    return find_start(resolve(config, spec), about_of(config, spec))


def config_of(run_dir=None, resume="auto", **options):
    return Config(run_dir=None if run_dir is None else str(run_dir), resume=resume, **options)


def write(root, *numbers, spec=SPEC, **options):
    """Checkpoints of a run with these options, of which each has an array of its own."""
    store = Store(str(root))
    store.check_writable()
    for number in numbers:
        tree = {"about": about_of(Config(**options), spec), "learner": np.full(9, number)}
        store.write_manifest(number, store.write_tree(tree))
    return store


def number_of(start):
    """Which checkpoint it is."""
    return int(start.read("learner")[0])


def resumes_from(number, folder):
    """The line that says so: which folder, and of which host."""
    return f"Resumes from checkpoint {number} in {folder} on {socket.gethostname()}."


def damage(store, root, number):
    """Flips a bit in the array of a checkpoint; returns the file."""
    path = Path(root) / "blobs" / f"{store.read_manifest(number)['learner']['blob']}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path


@pytest.fixture
def run_dir(tmp_path):
    """A run's folder with the checkpoints 100, 200 and 300."""
    write(tmp_path / "run" / "checkpoints", 100, 200, 300)
    return tmp_path / "run"


# Where it looks.


def test_run_without_resume_starts_a_new_run_whatever_is_there(run_dir):
    assert find(config_of(run_dir, resume=None), SPEC) == (None, [])


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "a run without checkpoints"])
def test_auto_starts_a_new_run_where_there_is_no_checkpoint(tmp_path, there):
    folder = tmp_path / "run"
    if there != "nothing":
        folder.mkdir()
    if there == "a run without checkpoints":
        Store(str(folder / "checkpoints")).check_writable()
    start, (line,) = find(config_of(folder), SPEC)
    assert start is None
    assert line == f"No checkpoint in {folder}/checkpoints on {socket.gethostname()}: starts a new run."
    assert folder.exists() == (there != "nothing")


@pytest.mark.parametrize("name", ["policy.npz", "final.keras", "summary.json"])
def test_fault_40_auto_refuses_results_without_a_checkpoint_and_names_them(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError) as error:
        find(config_of(tmp_path), SPEC)
    (line,) = error.value.mistakes
    assert f"{tmp_path}/checkpoints" in line
    assert f"holds {name} of a run (give its `checkpoint_dir`, or another `run_dir`)" in line
    assert error.value.exit_code == 4


def test_fault_40_auto_looks_where_the_run_kept_its_checkpoints(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"checkpoint_dir": str(tmp_path / "elsewhere")}))
    write(tmp_path / "elsewhere", 100)
    assert find(config_of(folder), SPEC)[0].number == 100


def test_run_that_finds_nothing_to_resume_says_in_which_folder_or_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (line,) = find(config_of("run"), SPEC)[1]
    assert line == f"No checkpoint in {tmp_path}/run/checkpoints on {socket.gethostname()}: starts a new run."
    (line,) = find(config_of(None, checkpoint_dir="memory://empty/run"), SPEC)[1]
    assert line == "No checkpoint in memory://empty/run: starts a new run."


def test_auto_without_a_place_to_look_in_is_a_mistake_that_tells_what_to_give():
    with pytest.raises(ConfigError, match=r"`resume` is `auto` .*give `run_dir`"):
        find(config_of(None), SPEC)


def test_auto_takes_the_newest_checkpoint_of_the_runs_folder(run_dir):
    start, notes = find(config_of(run_dir), SPEC)
    assert number_of(start) == 300
    assert notes == [resumes_from(300, run_dir / "checkpoints")]


def test_auto_looks_in_the_folder_for_checkpoints_if_one_is_given(run_dir, tmp_path):
    write(tmp_path / "other", 700)
    elsewhere = {"checkpoint_dir": str(tmp_path / "other")}
    assert number_of(find(config_of(run_dir, **elsewhere), SPEC)[0]) == 700
    assert number_of(find(config_of(None, **elsewhere), SPEC)[0]) == 700


@pytest.mark.parametrize(
    ("named", "number"),
    [
        ("", 300),
        ("/", 300),
        ("/checkpoints", 300),
        ("/checkpoints/checkpoint-000000000100.json", 100),
        ("/checkpoints/checkpoint-000000000300.json", 300),
    ],
)
def test_run_its_checkpoints_or_one_of_them_can_be_named(run_dir, named, number):
    assert number_of(find(config_of(resume=f"{run_dir}{named}"), SPEC)[0]) == number


def test_checkpoint_can_be_named_from_the_folder_it_is_in(run_dir, monkeypatch):
    monkeypatch.chdir(run_dir / "checkpoints")
    assert number_of(find(config_of(resume="checkpoint-000000000200.json"), SPEC)[0]) == 200
    assert number_of(find(config_of(resume="."), SPEC)[0]) == 300


@pytest.mark.parametrize(("named", "number"), [("", 20), ("/", 20), ("/checkpoint-000000000010.json", 10)])
def test_url_of_checkpoints_or_of_one_can_be_named(named, number):
    root = f"memory://resuming{next(_names)}/run"
    write(root, 10, 20)
    assert number_of(find(config_of(resume=root + named), SPEC)[0]) == number
    assert number_of(find(config_of(None, checkpoint_dir=root), SPEC)[0]) == 20


@pytest.mark.parametrize("named", ["nowhere", "run", "run/config.json", "run/checkpoint-000000000100.json"])
def test_named_checkpoint_that_is_not_there_is_an_error_that_names_it(tmp_path, named):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=named) as caught:
        find(config_of(resume=str(tmp_path / named)), SPEC)
    assert caught.value.exit_code == 4
    assert len(caught.value.mistakes) == 1


def test_named_url_without_checkpoints_or_of_no_known_kind_is_an_error_that_names_it():
    with pytest.raises(NoCheckpoint, match="memory://nothing/here"):
        find(config_of(resume="memory://nothing/here"), SPEC)
    with pytest.raises(ConfigError, match="nonsense://here"):
        find(config_of(resume="nonsense://here"), SPEC)


def test_run_resumes_in_the_given_folder_or_in_that_of_the_named_run(run_dir, tmp_path):
    other = str(tmp_path / "other")
    assert run_folder(config_of(None, resume=None)) == (None, False)
    assert run_folder(config_of(other, resume=None)) == (other, False)
    assert run_folder(config_of(other, resume="auto")) == (other, True)
    assert run_folder(config_of(other, resume=str(run_dir))) == (other, False)
    assert run_folder(config_of(run_dir, resume=str(run_dir))) == (str(run_dir), True)
    assert run_folder(config_of(None, resume=str(run_dir))) == (str(run_dir), True)
    # A checkpoint by itself may be any one of a run, which is left as it is.
    manifest = f"{run_dir}/checkpoints/checkpoint-000000000100.json"
    assert run_folder(config_of(None, resume=manifest)) == (None, False)
    assert run_folder(config_of(run_dir, resume=manifest)) == (str(run_dir), True)
    assert run_folder(config_of(None, resume="memory://somewhere")) == (None, False)


def test_checkpoints_are_in_the_runs_folder_unless_another_is_given():
    assert checkpoint_root(config_of(), Path("runs/x")) == "runs/x/checkpoints"
    assert checkpoint_root(config_of(checkpoint_dir="s3://bucket/x"), Path("runs/x")) == "s3://bucket/x"


def make_loop(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize("spoil", [Path.touch, make_loop], ids=["a file", "a loop of links"])
def test_runs_checkpoints_that_cannot_be_listed_are_an_error_that_names_the_run(tmp_path, spoil):
    spoil(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"`resume`: .* cannot be read") as caught:
        find(config_of(tmp_path), SPEC)
    assert caught.value.exit_code == 4
    assert str(tmp_path) in caught.value.mistakes[0]


def test_named_place_that_the_system_cannot_look_up_is_an_error_that_names_it(tmp_path):
    config = config_of(resume=str(tmp_path / ("x" * 300)))
    for look in (lambda: run_folder(config), lambda: find(config, SPEC)):
        with pytest.raises(CheckpointError, match=r"`resume`: .*xxx.* cannot be read: File name too long"):
            look()


# What is damaged.


def test_fault_13_auto_passes_over_a_damaged_checkpoint_and_says_which_file_and_why(run_dir):
    root = run_dir / "checkpoints"
    path = damage(write(root), root, 300)
    (root / manifest_name(200)).write_text("{")
    start, notes = find(config_of(run_dir), SPEC)
    assert number_of(start) == 100
    assert notes == [
        f"Checkpoint 300 is passed over: {path}: its content is not what was written (SHA-256 differs).",
        f"Checkpoint 200 is passed over: {root / manifest_name(200)}: is not a manifest (cut, or not JSON).",
        resumes_from(100, root),
    ]


@pytest.mark.parametrize("named", ["", "/checkpoints", "/checkpoints/checkpoint-000000000300.json"])
def test_damaged_checkpoint_that_is_named_is_an_error(run_dir, named):
    root = run_dir / "checkpoints"
    path = damage(write(root), root, 300)
    with pytest.raises(CheckpointDamaged, match=path.name) as caught:
        find(config_of(resume=f"{run_dir}{named}"), SPEC)
    assert caught.value.exit_code == 4
    older = f"{run_dir}/checkpoints/checkpoint-000000000200.json"
    assert number_of(find(config_of(resume=older), SPEC)[0]) == 200


@pytest.mark.parametrize("auto", [True, False])
def test_fault_14_nothing_is_deleted_when_all_are_damaged(run_dir, auto):
    root = run_dir / "checkpoints"
    store = write(root)
    paths = [damage(store, root, number) for number in (100, 200, 300)]
    before = sorted(run_dir.rglob("*"))
    with pytest.raises(CheckpointDamaged) as caught:
        find(config_of(run_dir) if auto else config_of(resume=str(run_dir)), SPEC)
    assert caught.value.exit_code == 4
    assert all(path.name in str(caught.value) for path in (paths if auto else paths[2:]))
    assert sorted(run_dir.rglob("*")) == before


@pytest.mark.parametrize("auto", [True, False])
def test_fault_16_checkpoint_of_a_newer_format_is_an_error_that_names_both_formats(run_dir, auto):
    content = manifest_bytes(400, {}, version=7)
    (run_dir / "checkpoints" / manifest_name(400)).write_bytes(content)
    with pytest.raises(CheckpointTooNew, match=r"format 7, this release reads 4") as caught:
        find(config_of(run_dir) if auto else config_of(resume=str(run_dir)), SPEC)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "document", [{}, {"about": None}, {"about": {"config": {}}}, {"about": {"config": {}, "structure": 3}}]
)
def test_checkpoint_that_does_not_say_what_it_is_of_is_an_error(tmp_path, document):
    store = Store(str(tmp_path / "checkpoints"))
    store.check_writable()
    store.write_manifest(1, document)
    with pytest.raises(CheckpointError):
        find(config_of(tmp_path), SPEC)


# What differs.


STRUCTURAL = [
    ({"env": "Acrobot-v1"}, {}, ["env: Acrobot-v1 / CartPole-v1"]),
    ({}, {"n_step": 5}, ["n_step: 3 / 5"]),
    ({}, {"discount": 0.9}, ["discount: 0.99 / 0.9"]),
    ({}, {"reward_scale": 0.1}, ["reward_scale: 1.0 / 0.1"]),
    ({"reward_clip": 1.0}, {}, ["reward_clip: 1.0 / none"]),
    ({"failure_reward": -1.0}, {}, ["failure_reward: -1.0 / none"]),
    (
        {"failure_reward": -1.0},
        {"failure_reward": -1.0, "early_end_steps": 9},
        ["early_end_steps: 200 / 9"],
    ),
    ({}, {"bootstrap_on_termination": True}, ["bootstrap_on_termination: false / true"]),
    ({}, {"hidden_sizes": (64,)}, ["hidden_sizes: [128, 128] / [64]"]),
    ({}, {"layer_norm": False}, ["layer_norm: true / false"]),
    ({"torso": "small"}, {}, ["torso: small / dense"]),
    ({}, {"dueling": True}, ["dueling: false / true"]),
    ({"noisy": True}, {}, ["noisy: true / false"]),
    ({}, {"head": "value"}, ["head: quantile / value"]),
    ({}, {"head": "categorical"}, ["head: quantile / categorical", "atoms: 11 / 51"]),
    ({}, {"atoms": 21}, ["atoms: 11 / 21"]),
    ({"head": "categorical"}, {"head": "categorical", "v_max": 50.0}, ["v_max: 10.0 / 50.0"]),
    ({"network": "mine:net"}, {}, ["network: mine:net / none"]),
    ({"spectral_norm": True}, {}, ["spectral_norm: true / false"]),
]


@pytest.mark.parametrize(("then", "now", "lines"), STRUCTURAL)
@pytest.mark.parametrize("auto", [True, False])
def test_fault_15_structural_option_that_differs_is_an_error_with_both_values(
    tmp_path, then, now, lines, auto
):
    write(tmp_path / "checkpoints", 1, **then)
    place = {"run_dir": tmp_path} if auto else {"resume": str(tmp_path)}
    with pytest.raises(CheckpointError) as caught:
        find(config_of(**place, **now), SPEC)
    assert caught.value.exit_code == 4
    title, *table = caught.value.mistakes
    assert title.startswith("Checkpoint 1 is of a run with another network or other transitions")
    assert title.endswith("Option: checkpoint / now")
    assert [line.strip() for line in table] == lines


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ({}, {"v_min": -99.0, "v_max": 99.0}),  # of the categorical head alone
        ({"head": "implicit"}, {"head": "implicit", "atoms": 16, "tau_samples": 4}),
        ({"head": "categorical", "atoms": 51}, {"head": "categorical"}),
        ({"head": "value"}, {"head": "value", "atoms": 21}),
        ({}, {"torso": "dense"}),
        ({}, {"early_end_steps": 9}),
        ({"network": "mine:net"}, {"network": "mine:net", "layer_norm": False}),
        ({}, {"noisy_sigma": 0.1}),
        ({}, {"sampler": "prioritized"}),
        ({}, {"output_bias": -0.2, "output_init_scale": 0.03}),  # of the first weights alone
    ],
)
def test_option_that_changes_neither_network_nor_transitions_is_told_and_no_error(tmp_path, then, now):
    write(tmp_path / "checkpoints", 1, **then)
    start, notes = find(config_of(tmp_path, **now), SPEC)
    assert number_of(start) == 1
    assert len(notes) > 2


def test_all_structural_differences_are_listed_in_one_error(tmp_path):
    then = dataclasses.replace(SPEC, observation_shape=(84, 84, 4), observation_dtype="uint8", actions=6)
    write(tmp_path / "checkpoints", 1, spec=then, n_step=5, learning_rate=0.01, head="value")
    with pytest.raises(CheckpointError) as caught:
        find(config_of(tmp_path), SPEC)
    assert sorted(line.strip() for line in caught.value.mistakes[1:]) == [
        "actions: 6 / 2",
        "head: value / quantile",
        "n_step: 5 / 3",
        "observation_dtype: uint8 / float32",
        "observation_shape: [84, 84, 4] / [4]",
        "torso: nature / dense",
    ]


def test_other_options_that_differ_are_told_and_have_their_new_values(tmp_path):
    write(tmp_path / "checkpoints", 1, learning_rate=0.01, actors=2, replay_capacity=5_000)
    _, notes = find(config_of(tmp_path, max_env_steps=10**6), SPEC)
    assert notes[:2] == [
        resumes_from(1, tmp_path / "checkpoints"),
        "Resumes with options that differ from the checkpoint's. Option: checkpoint / now",
    ]
    assert sorted(line.strip() for line in notes[2:]) == [
        "actors: 2 / 4",
        "learning_rate: 0.01 / 0.001",
        "max_env_steps: 500000 / 1000000",
        "replay_capacity: 5000 / 100000",
    ]


@pytest.mark.parametrize(
    "same",
    [
        {},
        {"hidden_sizes": (64, 32)},
        {"epsilon_schedule": "piecewise", "epsilon_points": ((0, 1.0), (500, 0.1))},
        {"discount": 0.1 + 0.2},
    ],
)
def test_nothing_is_told_of_options_that_are_the_same_after_a_file(tmp_path, same):
    write(tmp_path / "checkpoints", 1, **same)
    _, notes = find(config_of(tmp_path, **same), SPEC)
    assert notes == [resumes_from(1, tmp_path / "checkpoints")]


def test_where_the_run_is_and_how_it_was_started_are_not_compared(tmp_path):
    write(tmp_path / "there", 1, run_dir="runs/first", address="auto", resume=None)
    _, notes = find(config_of(tmp_path, checkpoint_dir=str(tmp_path / "there"), address="local"), SPEC)
    assert notes == [resumes_from(1, tmp_path / "there")]
