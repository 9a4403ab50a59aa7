"""The command line of `run`: made from `Config`, and nothing in it without effect."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from distdqn.config.command_line import (
    default_text,
    make_run_parser,
    options_table,
    parse_run_options,
    print_mistakes,
)
from distdqn.config.config import Config
from distdqn.errors import ClusterError, ConfigError

PACKAGE = Path(__file__).resolve().parents[2] / "distdqn"
OPTIONS = fields(Config)


@pytest.fixture
def help_text(monkeypatch: pytest.MonkeyPatch) -> str:
    """`--help`, every run of white space as one space."""
    monkeypatch.setenv("COLUMNS", "120")
    return " ".join(make_run_parser().format_help().split())


def flag_of(name: str) -> str:
    """The option as typed."""
    return "--" + name.replace("_", "-")


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_help_lists_the_option_with_its_meaning_and_default(option: object, help_text: str) -> None:
    name, meaning, default = option.name, option.metadata["help"], option.default  # type: ignore[attr-defined]
    # The next option, the next group or the end follows the default: nothing stands between.
    described = rf"{flag_of(name)}[ ,].{{0,60}}?{re.escape(' '.join(meaning.split()))} \(default: (\S*)\)"

    found = re.search(described, help_text)

    assert found is not None
    assert found.group(1) == default_text(default)


def test_help_lists_every_option_under_its_group(help_text: str) -> None:
    groups = list(dict.fromkeys(option.metadata["group"] for option in OPTIONS))
    assert len(groups) == 8
    begins = [help_text.index(f" {group}: ") for group in groups]
    assert begins == sorted(begins)

    for option in OPTIONS:
        position = begins[groups.index(option.metadata["group"])]
        following = [begin for begin in begins if begin > position] or [len(help_text)]
        found = re.compile(rf" {flag_of(option.name)}[ ,]").search(help_text, position)
        assert found is not None
        assert found.start() < following[0], option.name


def test_help_shows_every_line_within_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    lines = make_run_parser().format_help().splitlines()

    assert [line for line in lines if len(line) > 80] == []


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
    texts = {option.name: default_text(option.default) for option in OPTIONS}

    assert Config.from_text(texts) == Config()


def test_options_given_are_the_only_texts_that_come_back() -> None:
    texts, debug = parse_run_options(["--actors", "8", "--hidden-sizes=32,32", "--target-return", "-110"])

    assert texts == {"actors": "8", "hidden_sizes": "32,32", "target_return": "-110"}
    assert debug is False
    assert parse_run_options(["--debug"]) == ({}, True)


@pytest.mark.parametrize(("flag", "value"), [("--double", True), ("--no-double", False)])
def test_switch_is_set_by_its_name_and_unset_with_no_before_it(flag: str, value: bool) -> None:
    texts, _ = parse_run_options([flag])

    assert Config.from_text(texts).double is value
    assert Config.from_text(parse_run_options([])[0]).double is True


def test_local_is_short_for_the_address_of_a_private_ray() -> None:
    assert parse_run_options(["--local"])[0] == {"address": "local"}
    with pytest.raises(ConfigError, match="not allowed with"):
        parse_run_options(["--local", "--address", "head:6379"])


@pytest.mark.parametrize(
    ("given", "near"),
    [("--actor", "--actors"), ("--batchsize=3", "--batch-size"), ("--learning_rate", "--learning-rate")],
)
def test_unknown_option_is_answered_with_the_nearest_one(given: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_run_options([given])

    assert caught.value.mistakes == [f"Unknown option `{given}` (did you mean `{near}`?)."]


def test_unknown_option_is_sent_to_the_help_when_nothing_is_near() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_run_options(["--xyzzy"])

    assert caught.value.mistakes == ["Unknown option `--xyzzy` (see `--help`)."]


def test_unknown_options_are_all_listed_and_known_ones_are_kept() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_run_options(["--actor", "4", "--seed", "7", "--xyzzy"])

    assert len(caught.value.mistakes) == 2
    assert caught.value.texts == {"seed": "7"}  # type: ignore[attr-defined]


def test_shortened_option_is_unknown_since_a_later_one_may_take_its_name() -> None:
    with pytest.raises(ConfigError, match="Unknown option `--act`"):
        parse_run_options(["--act", "3"])


@pytest.mark.parametrize("arguments", [["--actors"], ["--actors", "--seed", "1"]])
def test_option_without_its_value_is_a_mistake_that_names_it(arguments: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_run_options(arguments)

    (mistake,) = caught.value.mistakes
    assert "--actors" in mistake


def test_mistakes_are_printed_a_line_each_and_give_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_mistakes(ConfigError(["One.", "Two."])) == 2
    assert print_mistakes(ClusterError("Three.")) == 3

    captured = capsys.readouterr()
    assert captured.err == "distdqn: error: One.\ndistdqn: error: Two.\ndistdqn: error: Three.\n"
    assert captured.out == ""


def test_options_table_has_one_row_for_each_option() -> None:
    head, rule, *rows = options_table().splitlines()

    assert (head, rule) == ("| option | default | meaning |", "|---|---|---|")
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    assert cells == [
        [f"`{flag_of(option.name)}`", f"`{default_text(option.default)}`", option.metadata["help"]]
        for option in OPTIONS
    ]


def test_every_option_is_read_somewhere_in_the_package() -> None:
    read = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name == "config.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Attribute(
                    value=ast.Name(id="config")
                    | ast.Attribute(value=ast.Name(id="self"), attr="config" | "_config"),
                    attr=name,
                    ctx=ast.Load(),
                ):
                    read.add(name)

    assert {option.name for option in OPTIONS} - read == set()
