"""Command lines: what is given, and every mistake in it."""

import pytest

from distdqn.config.command_line import Command, default_text, print_mistakes
from distdqn.config.config import Config
from distdqn.config.model import Options, Text, values_from_text
from distdqn.errors import ClusterError, ConfigError


class Journey(Options):
    """Options of a command made up here."""

    place: Text
    """Where to."""
    days: int = 3
    """How long."""
    by_train: bool = False
    """Not by plane."""


JOURNEY = Command("travel PLACE [OPTION VALUE ...]", "Go away.", Journey, positional="place")
ALL = Command("run", "Train.", Config)


def mistakes_of(*arguments: str) -> list[str]:
    """What is wrong with options of a run, as far as the command line itself can say."""
    return ALL.collect(arguments)[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "true"),
        (False, "false"),
        ((64, 32), "64,32"),
        (1e-08, "1e-08"),
        (0.99, "0.99"),
        (200_000, "200000"),
        ("auto", "auto"),
    ],
)
def test_default_is_written_as_one_would_type_it(value: object, text: str) -> None:
    assert default_text(value) == text


def test_default_as_text_converts_to_the_default_of_every_option() -> None:
    texts = {name: default_text(field.default) for name, field in Config.model_fields.items()}

    assert Config(**values_from_text(Config.model_fields, texts)) == Config()


def test_options_given_are_the_only_ones_that_come_back() -> None:
    values, mistakes = ALL.collect(["--actors", "8", "--hidden-sizes=32,32", "--target-return", "-110"])

    assert values == {"actors": 8, "hidden_sizes": (32, 32), "target_return": -110.0}
    assert mistakes == []


@pytest.mark.parametrize("text", ["-110", "-1e3", "-0.5"])
def test_negative_number_is_a_value_and_no_option(text: str) -> None:
    assert ALL.read(["--target-return", text]).target_return == float(text)


def test_last_value_counts_when_an_option_is_given_twice() -> None:
    assert ALL.read(["--actors", "3", "--actors", "4"]).actors == 4
    assert ALL.read(["--double", "--no-double"]).double is False


@pytest.mark.parametrize(("flag", "value"), [("--double", True), ("--no-double", False)])
def test_switch_is_set_by_its_name_and_unset_with_no_before_it(flag: str, value: bool) -> None:
    assert ALL.read([flag]).double is value
    assert ALL.read([]).double is True


def test_option_may_be_written_with_underscores_as_in_python() -> None:
    assert ALL.read(["--learning_rate", "0.5"]).learning_rate == 0.5


@pytest.mark.parametrize(
    ("given", "near"),
    [("--actor", "--actors"), ("--batchsize=3", "--batch-size"), ("--learning.rate", "--learning-rate")],
)
def test_unknown_option_is_answered_with_the_nearest_one(given: str, near: str) -> None:
    assert mistakes_of(given) == [f"Unknown option `{given}` (did you mean `{near}`?)."]


def test_unknown_option_is_sent_to_the_help_when_nothing_is_near() -> None:
    assert mistakes_of("--xyzzy") == ["Unknown option `--xyzzy` (see `--help`)."]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--buffer-size", "--replay-capacity"),
        ("--learning-starts=5", "--min-replay-size"),
        ("--total-timesteps", "--max-env-steps"),
        ("--num-env-runners", "--actors"),
        ("--tau", "--target-update-rate"),
    ],
)
def test_name_of_another_project_is_answered_with_the_one_here(old: str, new: str) -> None:
    assert mistakes_of(old, "3") == [f"`{old.split('=')[0]}` is `{new}` here (see `--help` for its unit)."]


def test_unknown_options_are_all_listed_and_known_ones_are_kept() -> None:
    values, mistakes = ALL.collect(["--actor", "4", "--seed", "7", "--xyzzy"])

    assert len(mistakes) == 2
    assert values == {"seed": 7}


def test_shortened_option_is_unknown_since_a_later_one_may_take_its_name() -> None:
    (mistake,) = mistakes_of("--act", "3")

    assert mistake.startswith("Unknown option `--act`")


@pytest.mark.parametrize(
    "arguments", [["--actors"], ["--actors", "--seed", "1"], ["--seed", "1", "--actors"]]
)
def test_option_without_its_value_is_a_mistake_that_names_it(arguments: list[str]) -> None:
    values, mistakes = ALL.collect(arguments)

    assert mistakes == ["`--actors` needs a value (see `--help`)."]
    assert values == ({"seed": 1} if "--seed" in arguments else {})


def test_every_kind_of_mistake_is_listed_in_one_error() -> None:
    with pytest.raises(ConfigError) as caught:
        ALL.read(["--actor", "4", "--seed", "--double=maybe", "--discount", "2", "--loss", "--buffer-size=3"])

    assert [text.split("`")[1] for text in caught.value.mistakes] == [
        "--actor",
        "--buffer-size",
        "--seed",
        "--double",
        "--loss",
        "discount",
    ]


def test_option_without_a_default_is_given_by_its_position_or_missing() -> None:
    assert JOURNEY.read(["home", "--days", "5"]) == Journey(place="home", days=5)
    with pytest.raises(ConfigError) as caught:
        JOURNEY.read(["--days", "x"])
    assert caught.value.mistakes == [
        "`place` is missing (see `--help`).",
        "`days` must be a whole number, not `x`.",
    ]


@pytest.mark.parametrize("arguments", [["--help"], ["home", "-h"]])
def test_help_lists_every_option_of_a_command(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        JOURNEY.read(arguments)

    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: travel PLACE [OPTION VALUE ...]\n")
    assert [name in out for name in ("PLACE", "--days N", "--by-train", "--no-by-train")] == [
        True,
        True,
        True,
        False,
    ]


def test_mistakes_are_printed_a_line_each_and_give_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_mistakes(ConfigError(["One.", "Two."])) == 2
    assert print_mistakes(ClusterError("Three.")) == 3

    captured = capsys.readouterr()
    assert captured.err == "distdqn: error: One.\ndistdqn: error: Two.\ndistdqn: error: Three.\n"
    assert captured.out == ""
