"""Bad options, given to real processes: exit codes, one line per mistake, and nothing heavy loaded."""

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import pytest
from launched import OPTIONS_SECONDS, RUN, Fork, Launch, assert_refused, forker, make_launch


@pytest.fixture(scope="module")
def fork() -> Iterator[Fork]:
    with forker() as fork:
        yield fork


@pytest.fixture
def launch(tmp_path: Path, fork: Fork) -> Launch:
    """Starts `python -m` with the arguments given."""
    return make_launch(tmp_path, fork)


# Row 29: options.


@pytest.mark.parametrize("actors", ["0", "-1", "1.5", "1e9"])
@pytest.mark.parametrize("command", [("-m", "distdqn.run"), ("-m", "distdqn", "run")], ids=" ".join)
def test_fault_29_run_refuses_a_number_of_actors_that_cannot_be(
    launch: Launch, command: tuple[str, ...], actors: str
) -> None:
    ended = launch(*command, "--actors", actors, fresh=actors == "0")

    assert_refused(ended, 2, f"not `{actors}`", most_seconds=OPTIONS_SECONDS)


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        (["--discount", "2"], "`discount` must be at most 1, not `2.0`."),
        (["--learning-rate", "nan"], "`learning_rate`"),
        (
            ["--replay-capacity", "50", "--min-replay-size", "50"],
            "`batch_size` (128) exceeds `replay_capacity` (50)",
        ),
        (["--replay-capacity", "500"], "`min_replay_size` (1000) exceeds `replay_capacity` (500)"),
        (["--loss", "absolute"], "`loss` must be `huber` or `squared`, not `absolute`."),
        (["--actors"], "`--actors` needs a value"),
        (["--layer-norm=maybe"], "`--layer-norm` must be `true` or `false`, not `maybe`."),
        (["--mode", "serial", "--local"], "`address` has no effect in mode `serial`"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_fault_29_run_refuses_an_option_that_cannot_work(
    launch: Launch, options: list[str], mistake: str
) -> None:
    assert_refused(launch(*RUN, *options), 2, mistake, most_seconds=OPTIONS_SECONDS)


def test_fault_29_run_lists_mistakes_of_all_kinds_together(launch: Launch) -> None:
    options = ("--batchsize=3", "--actors", "x", "--discount", "2", "--env", "CartPol-v1")
    ended = launch(*RUN, *options, fresh=True)

    assert_refused(
        ended,
        2,
        "Unknown option `--batchsize=3` (did you mean `--batch-size`?)",
        "`actors` must be a whole number or `auto`, not `x`.",
        "`discount` must be at most 1, not `2.0`.",
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("options.yaml", "discount: 2\nbatchsize: 3\nactors: 8"),
        ("options.toml", "discount = 2\nbatchsize = 3\nactors = 8"),
        ("options.json", '{"discount": 2, "batchsize": 3, "actors": 8}'),
    ],
)
def test_fault_29_run_names_the_file_of_a_mistake_in_a_file(
    launch: Launch, tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / "work" / name).write_text(content)

    ended = launch(*RUN, "--config", name, "--actors", "0", "--env", "CartPol-v1")

    assert_refused(
        ended,
        2,
        "distdqn: error: `actors` must be at least 1",
        f"distdqn: error: {name}: `discount` must be at most 1, not `2`.",
        f"distdqn: error: {name}: Unknown option `batchsize` (did you mean `batch_size`?).",
        "`env`: Environment `CartPol` doesn't exist.",
        most_seconds=OPTIONS_SECONDS,
    )


@pytest.mark.parametrize(
    ("name", "content", "mistake"),
    [
        ("nowhere.yaml", None, "nowhere.yaml cannot be read: No such file"),
        ("options.yaml", "actors: [", "options.yaml is no YAML"),
        ("options.toml", "actors", "options.toml is no TOML"),
        ("options.json", "{", "options.json is no JSON"),
        ("options.yaml", "- 3", "options.yaml must hold options by name"),
        ("options.txt", "actors: 3", "must name a file that ends in"),
    ],
)
def test_fault_29_run_refuses_a_file_of_options_that_it_cannot_read(
    launch: Launch, tmp_path: Path, name: str, content: str | None, mistake: str
) -> None:
    if content is not None:
        (tmp_path / "work" / name).write_text(content)

    assert_refused(launch(*RUN, "--config", name), 2, mistake, most_seconds=OPTIONS_SECONDS)


def test_run_shows_the_traceback_when_debugging(launch: Launch) -> None:
    ended = launch(*RUN, "--actors", "0", "--debug")

    assert ended.lines[0] == "Traceback (most recent call last):"
    assert "`actors` must be at least 1" in ended.lines[-1]
    assert ended.code != 0


# The other commands, and none.


@pytest.mark.parametrize("command", [("-m", "distdqn.evaluate"), ("-m", "distdqn", "evaluate")], ids=" ".join)
def test_evaluate_lists_all_its_mistakes_together(launch: Launch, command: tuple[str, ...]) -> None:
    ended = launch(*command, "nowhere", "--episodes", "0", "--seed", "-1", fresh=True)

    assert_refused(
        ended,
        2,
        "`episodes` must be at least 1, not `0`.",
        "`seed` must be at least 0, not `-1`.",
        "`run_dir`: nowhere holds no `policy.npz`",
    )


def test_evaluate_lists_what_is_no_number_with_its_other_mistakes(launch: Launch) -> None:
    ended = launch("-m", "distdqn", "evaluate", "nowhere", "--episodes", "x")

    assert_refused(ended, 2, "`episodes` must be a whole number, not `x`.", "nowhere holds no `policy.npz`")


def test_evaluate_lists_the_environment_with_its_other_mistakes(launch: Launch) -> None:
    ended = launch("-m", "distdqn", "evaluate", "nowhere", "--env", "CartPol-v1")

    assert_refused(ended, 2, "`run_dir`: nowhere holds no `policy.npz`", "Did you mean: `CartPole`?")


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        ([], "`run_dir` is missing"),
        (["nowhere", "--episodes"], "`--episodes` needs a value"),
        (["nowhere", "--games", "3"], "Unknown option `--games`"),
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
    assert "Usage: distdqn COMMAND [OPTION ...]" in ended.lines
    assert ended.lines[0].startswith("distdqn: error: Unknown command `train`") == bool(arguments)


def test_unknown_command_is_answered_with_the_nearest_one(launch: Launch) -> None:
    ended = launch("-m", "distdqn", "evalute")

    assert ended.code == 2
    assert ended.lines[0] == "distdqn: error: Unknown command `evalute` (did you mean `evaluate`?)."


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["run", "--help", "goal"],
        *([c, "-h"] for c in ("evaluate", "inspect", "scale")),
    ],
    ids=" ".join,
)
def test_help_goes_to_stdout_and_ends_well(launch: Launch, arguments: list[str]) -> None:
    ended = launch("-m", "distdqn", *arguments)

    assert (ended.code, ended.lines) == (0, [])
    assert ended.out.startswith("Usage: distdqn")
    assert not ended.loaded & {"ray", "tensorflow", "keras"}


@pytest.mark.parametrize(
    "arguments", [["--version"], ["run", "--help"], ["run", "--print-config"]], ids=" ".join
)
def test_what_needs_no_environment_is_answered_without_numpy(launch: Launch, arguments: list[str]) -> None:
    ended = launch("-m", "distdqn", *arguments, fresh=True)

    assert (ended.code, ended.lines) == (0, [])
    assert not ended.loaded & {"ray", "tensorflow", "keras", "gymnasium", "numpy", "rich"}
    assert ended.seconds < OPTIONS_SECONDS


def test_version_is_the_one_that_is_installed(launch: Launch) -> None:
    assert launch("-m", "distdqn", "--version").out == f"distdqn {importlib.metadata.version('distdqn')}\n"


def test_console_script_finds_modules_of_the_current_folder(launch: Launch, tmp_path: Path) -> None:
    script = tmp_path / "hooks" / "script.py"
    script.write_text("import sys; from distdqn.cli import main; sys.exit(main())")

    ended = launch(str(script), "run", "--env", "playground:Broken")

    assert_refused(ended, 5, "RuntimeError: the licence of the simulator has run out")


def test_importing_the_package_loads_nothing_heavy(launch: Launch) -> None:
    ended = launch("-c", "import distdqn; distdqn.Config(actors=2)")

    assert (ended.code, ended.lines) == (0, [])
    assert "distdqn" in ended.loaded
    assert not ended.loaded & {"ray", "tensorflow", "keras", "gymnasium", "rich", "numpy"}
