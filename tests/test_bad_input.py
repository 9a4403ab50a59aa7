"""Bad environments and folders, given to real processes: exit codes and one line per mistake."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from launched import RUN, Fork, Launch, assert_refused, forker, make_launch


@pytest.fixture(scope="module")
def fork() -> Iterator[Fork]:
    with forker() as fork:
        yield fork


@pytest.fixture
def launch(tmp_path: Path, fork: Fork) -> Launch:
    """Starts `python -m` with the arguments given."""
    return make_launch(tmp_path, fork)


# Rows 25 and 26: environments.


@pytest.mark.parametrize(
    ("env", "mistake"),
    [
        ("CartPol-v1", "Did you mean: `CartPole`?"),
        ("CartPole-v9", "It provides versioned environments: [ `v0`, `v1` ]"),
        ("CartPole", "did you mean `CartPole-v1`?"),
        ("Nothing like it", "Nothing like it"),
        ("no_such_module:Plain", "cannot import `no_such_module`"),
        ("playground:Plane", "Plane"),
        (":Plain", ":Plain"),
        (".playground:Plain", ".playground"),
    ],
)
def test_fault_25_run_refuses_an_environment_that_does_not_exist(
    launch: Launch, env: str, mistake: str
) -> None:
    assert_refused(launch(*RUN, "--env", env, fresh=env == "CartPole"), 2, mistake)


@pytest.mark.parametrize("content", ["def (", "raise RuntimeError('no display')"])
def test_fault_25_run_refuses_a_module_that_fails_while_it_is_imported(
    launch: Launch, tmp_path: Path, content: str
) -> None:
    (tmp_path / "work" / "half_written.py").write_text(content)

    assert_refused(launch(*RUN, "--env", "half_written:Plain"), 2, "cannot import `half_written`")


@pytest.mark.parametrize(
    ("env", "mistakes"),
    [
        ("Pendulum-v1", ["DQN needs `Discrete` actions"]),
        ("playground:ManyActions", ["MultiDiscrete([100 100]) with 10,000 combinations"]),
        ("playground:Talking", ["holds no number"]),
    ],
)
def test_fault_26_run_refuses_spaces_that_dqn_cannot_use(
    launch: Launch, env: str, mistakes: list[str]
) -> None:
    assert_refused(launch(*RUN, "--env", env), 2, *mistakes)


def test_fault_22_run_shows_the_original_error_when_the_constructor_fails(launch: Launch) -> None:
    ended = launch(*RUN, "--env", "playground:Broken", fresh=True)

    assert_refused(ended, 5, "RuntimeError: the licence of the simulator has run out")


@pytest.mark.parametrize("env", ["Pixels", "FirstAxisPixels"])
def test_fault_27_run_refuses_images_that_exceed_the_memory_of_the_machine(launch: Launch, env: str) -> None:
    ended = launch(*RUN, "--env", f"playground:{env}", "--replay-capacity", str(10**10), fresh=True)

    assert_refused(ended, 2, "`replay_capacity` (10000000000) needs ")
    needed, there = re.findall(r"(?:needs|has) ([0-9]+)\.[0-9] GB", ended.lines[0])
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    assert int(needed) >= 10**10 * 84 * 84 // 2**30  # one new frame each
    assert int(there) == int(machine)


# The run's folder.


def test_fault_20_run_refuses_a_folder_that_is_a_file(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "work" / "taken").write_text("")

    assert_refused(launch(*RUN, "--run-dir", "taken"), 2, "`run_dir`: cannot write to taken")


@pytest.mark.parametrize("folder", ["/dev/null/run", "/sys/run", "long" * 100])
def test_fault_20_run_refuses_a_folder_that_cannot_be_written(launch: Launch, folder: str) -> None:
    assert_refused(launch(*RUN, "--run-dir", folder), 2, f"`run_dir`: cannot write to {folder}")


def test_run_refuses_a_folder_that_holds_another_run(launch: Launch, tmp_path: Path) -> None:
    old = tmp_path / "work" / "old"
    old.mkdir()
    (old / "metrics.jsonl").write_text("{}\n")

    assert_refused(launch(*RUN, "--run-dir", "old"), 2, "`run_dir`: old holds another run")
    assert [path.name for path in old.iterdir()] == ["metrics.jsonl"]


def test_run_leaves_no_folder_behind_when_its_options_are_wrong(launch: Launch, tmp_path: Path) -> None:
    launch(*RUN, "--env", "Pendulum-v1", "--run-dir", "new")
    launch(*RUN, "--actors", "0")

    assert [path for path in (tmp_path / "work").iterdir() if path.name in ("new", "runs")] == []


@pytest.mark.parametrize("folder", ["/dev/null/checkpoints", "taken/checkpoints"])
def test_fault_20_run_refuses_a_folder_for_checkpoints_that_cannot_be_written(
    launch: Launch, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "work" / "taken").write_text("")

    ended = launch(*RUN, "--checkpoint-dir", folder)

    assert_refused(ended, 2, f"`checkpoint_dir`: cannot write to {folder}")


def test_fault_34_checkpoints_on_s3_without_its_package_are_refused_with_its_name(launch: Launch) -> None:
    program = "import sys; sys.modules['s3fs'] = None; from distdqn.run import main; sys.exit(main())"

    ended = launch("-c", program, "--checkpoint-dir", "s3://bucket/folder")

    assert_refused(ended, 2, "s3://bucket/folder: Install s3fs to access S3")
