"""Bad input, given to real processes: exit codes, one line per mistake, and nothing heavy loaded."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import distdqn

# Promised: one second for options, two for environments. Asserted: three times that.
OPTIONS_SECONDS, ENVIRONMENT_SECONDS = 3 * 1.0, 3 * 2.0

RECORDER = """
import atexit, os, sys

def write():
    with open(os.environ["LOADED_MODULES"], "w") as file:
        file.write("\\n".join(sys.modules))

atexit.register(write)
"""

ENVIRONMENTS = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

BOX = Box(-1.0, 1.0, (2,), np.float32)

class Plain(gymnasium.Env):
    observation_space = BOX
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, True, False, {}

class ManyActions(Plain):
    action_space = MultiDiscrete([2, 3])

class DictObservations(Plain):
    observation_space = Dict(left=BOX, right=BOX)

class TupleObservations(Plain):
    observation_space = Tuple((BOX, BOX))

class Pixels(Plain):
    observation_space = Box(0, 255, (84, 84, 4), np.uint8)

class FirstAxisPixels(Plain):
    observation_space = Box(0, 255, (4, 84, 84), np.uint8)

class AllWrong(Plain):
    observation_space = Dict(left=BOX)
    action_space = BOX

class Broken(Plain):
    def __init__(self):
        raise RuntimeError("the licence of the simulator\\nhas run out")
"""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    lines: list[str]  # of stderr
    seconds: float
    loaded: set[str]  # top-level modules


Launch = Callable[..., Ended]


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Starts `python -m` with the arguments given, in a folder with the module `playground`."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(RECORDER)
    work = tmp_path / "work"
    work.mkdir()
    (work / "playground.py").write_text(ENVIRONMENTS)
    record = tmp_path / "loaded"
    root = Path(distdqn.__file__).resolve().parents[1]

    def start(*arguments: str) -> Ended:
        path = os.pathsep.join([str(hooks), str(root)])
        begin = time.monotonic()
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=work,
            env={**os.environ, "PYTHONPATH": path, "LOADED_MODULES": str(record)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        seconds = time.monotonic() - begin
        loaded = {name.split(".")[0] for name in record.read_text().split()}
        return Ended(result.returncode, result.stdout, result.stderr.splitlines(), seconds, loaded)

    return start


def assert_refused(
    ended: Ended, code: int, *mistakes: str, most_seconds: float = ENVIRONMENT_SECONDS
) -> None:
    """One line per mistake, each holding the text given, in that order, and nothing else."""
    assert len(ended.lines) == len(mistakes), "\n".join(ended.lines)
    for line, text in zip(ended.lines, mistakes, strict=True):
        assert line.startswith("distdqn: error: ")
        assert text in line
    assert ended.code == code
    assert ended.out == ""
    assert not ended.loaded & {"ray", "tensorflow", "keras"}
    assert "sys" in ended.loaded  # the record was made
    assert ended.seconds < most_seconds


RUN = ("-m", "distdqn.run")


# Row 29: options.


@pytest.mark.parametrize("actors", ["0", "-1", "1.5", "1e9"])
@pytest.mark.parametrize("command", [("-m", "distdqn.run"), ("-m", "distdqn", "run")], ids=" ".join)
def test_fault_29_run_refuses_a_number_of_actors_that_cannot_be(
    launch: Launch, command: tuple[str, ...], actors: str
) -> None:
    assert_refused(launch(*command, "--actors", actors), 2, f"not `{actors}`", most_seconds=OPTIONS_SECONDS)


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        (["--discount", "2"], "`discount` must be at least 0, at most 1, not `2.0`."),
        (["--learning-rate", "nan"], "`learning_rate`"),
        (
            ["--replay-capacity", "50", "--min-replay-size", "50"],
            "`batch_size` (128) exceeds `replay_capacity` (50)",
        ),
        (["--replay-capacity", "500"], "`min_replay_size` (1000) exceeds `replay_capacity` (500)"),
        (["--loss", "absolute"], "`loss` must be one of `huber`, `squared`, not `absolute`."),
        (["--actors"], "--actors"),
        (["--layer-norm=maybe"], "--layer-norm"),
        (["--mode", "serial", "--local"], "`address` has no effect in mode `serial`"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_fault_29_run_refuses_an_option_that_cannot_work(
    launch: Launch, options: list[str], mistake: str
) -> None:
    assert_refused(launch(*RUN, *options), 2, mistake, most_seconds=OPTIONS_SECONDS)


def test_fault_29_run_lists_mistakes_of_all_kinds_together(launch: Launch) -> None:
    ended = launch(*RUN, "--batchsize=3", "--actors", "x", "--discount", "2", "--env", "CartPol-v1")

    assert_refused(
        ended,
        2,
        "Unknown option `--batchsize=3` (did you mean `--batch-size`?)",
        "`actors` must be a whole number or `auto`, not `x`.",
        "`discount` must be at least 0",
        "`env`: Environment `CartPol` doesn't exist. Did you mean: `CartPole`?",
        most_seconds=OPTIONS_SECONDS,
    )


def test_fault_29_run_lists_values_out_of_range_together_with_contradictions(launch: Launch) -> None:
    ended = launch(*RUN, "--discount", "2", "--replay-capacity", "500")

    assert_refused(
        ended,
        2,
        "`discount` must be",
        "`min_replay_size` (1000) exceeds `replay_capacity` (500)",
        most_seconds=OPTIONS_SECONDS,
    )


def test_fault_29_run_says_one_line_of_an_unknown_option_and_its_value(launch: Launch) -> None:
    ended = launch(*RUN, "--actor", "4")

    mistake = "Unknown option `--actor` (did you mean `--actors`?)"
    assert_refused(ended, 2, mistake, most_seconds=OPTIONS_SECONDS)


def test_run_shows_the_traceback_when_debugging(launch: Launch) -> None:
    ended = launch(*RUN, "--actors", "0", "--debug")

    assert ended.lines[0] == "Traceback (most recent call last):"
    assert "`actors` must be at least 1" in ended.lines[-1]
    assert ended.code != 0


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
    assert_refused(launch(*RUN, "--env", env), 2, mistake)


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
        ("playground:ManyActions", ["MultiDiscrete([2 3]), and DQN needs `Discrete` actions"]),
        ("playground:DictObservations", ["`Dict` space, and the network needs one `Box`"]),
        ("playground:TupleObservations", ["`Tuple` space, and the network needs one `Box`"]),
        ("playground:AllWrong", ["DQN needs `Discrete` actions", "the network needs one `Box`"]),
    ],
)
def test_fault_26_run_refuses_spaces_that_dqn_cannot_use(
    launch: Launch, env: str, mistakes: list[str]
) -> None:
    assert_refused(launch(*RUN, "--env", env), 2, *mistakes)


def test_fault_22_run_shows_the_original_error_when_the_constructor_fails(launch: Launch) -> None:
    ended = launch(*RUN, "--env", "playground:Broken")

    assert_refused(ended, 5, "RuntimeError: the licence of the simulator has run out")


@pytest.mark.parametrize("env", ["Pixels", "FirstAxisPixels"])
def test_fault_27_run_refuses_images_that_exceed_the_memory_of_the_machine(launch: Launch, env: str) -> None:
    ended = launch(*RUN, "--env", f"playground:{env}", "--replay-capacity", str(10**10))

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


# The other command, and none.


@pytest.mark.parametrize("command", [("-m", "distdqn.evaluate"), ("-m", "distdqn", "evaluate")], ids=" ".join)
def test_evaluate_lists_all_its_mistakes_together(launch: Launch, command: tuple[str, ...]) -> None:
    ended = launch(*command, "nowhere", "--episodes", "0", "--seed", "-1")

    assert_refused(
        ended,
        2,
        "`episodes` must be at least 1, not `0`.",
        "`seed` must be at least 0, not `-1`.",
        "`run_dir`: nowhere holds no `policy.npz`",
    )


def test_evaluate_lists_the_environment_with_its_other_mistakes(launch: Launch) -> None:
    ended = launch("-m", "distdqn", "evaluate", "nowhere", "--env", "CartPol-v1")

    assert_refused(ended, 2, "`run_dir`: nowhere holds no `policy.npz`", "Did you mean: `CartPole`?")


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        ([], "RUN_DIR"),
        (["nowhere", "--episodes", "x"], "--episodes"),
        (["nowhere", "--games", "3"], "--games"),
    ],
)
def test_evaluate_says_one_line_of_options_it_cannot_read(
    launch: Launch, arguments: list[str], mistake: str
) -> None:
    assert_refused(launch("-m", "distdqn", "evaluate", *arguments), 2, mistake)


@pytest.mark.parametrize("arguments", [[], ["train"]])
def test_program_shows_its_usage_when_the_command_is_missing_or_unknown(
    launch: Launch, arguments: list[str]
) -> None:
    ended = launch("-m", "distdqn", *arguments)

    assert ended.code == 2
    assert ended.out == ""
    assert "usage: distdqn COMMAND [OPTION ...]" in ended.lines
    assert ended.lines[0].startswith("distdqn: error: Unknown command `train`") == bool(arguments)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["evaluate", "--help"]])
def test_help_goes_to_stdout_and_ends_well(launch: Launch, arguments: list[str]) -> None:
    ended = launch("-m", "distdqn", *arguments)

    assert (ended.code, ended.lines) == (0, [])
    assert ended.out.startswith("usage: distdqn")
    assert not ended.loaded & {"ray", "tensorflow", "keras"}


def test_importing_the_package_loads_nothing_heavy(launch: Launch) -> None:
    ended = launch("-c", "import distdqn; distdqn.Config(actors=2)")

    assert (ended.code, ended.lines) == (0, [])
    assert "distdqn" in ended.loaded
    assert not ended.loaded & {"ray", "tensorflow", "keras", "gymnasium", "rich", "numpy"}
