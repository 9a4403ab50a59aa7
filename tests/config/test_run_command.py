"""The command line of `run`: presets, files, help in groups, and the page about options."""

import json
import os
import re
import time
from pathlib import Path

import pytest
import yaml
from options_page import options_page

from distdqn import run
from distdqn.config.command_line import (
    RunOnly,
    config_yaml,
    default_text,
    flag,
    meaning,
    parse_run,
    prints_run_help,
)
from distdqn.config.config import HEADINGS, Config
from distdqn.errors import ConfigError

OPTIONS = {**RunOnly.model_fields, **Config.model_fields}
HEADING_OF = {name: model.heading_of(name) for model in (RunOnly, Config) for name in model.model_fields}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "options.md"


def help_on(topic: str, capsys: pytest.CaptureFixture[str]) -> str:
    """`--help TOPIC` without its frame, every run of white space as one space."""
    assert prints_run_help(["--help", topic] if topic else ["--help"])
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


def test_help_is_one_screen_that_names_every_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert prints_run_help(["--help"])

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert all(heading.split()[0] in " ".join(lines[8:12]) for heading in HEADINGS)
    assert {line.split()[0] for line in lines if line.startswith("  --")} >= {"--env", "--actors", "--seed"}


@pytest.mark.parametrize("heading", HEADINGS)
def test_help_on_a_group_lists_its_options_with_meaning_and_default(
    heading: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")

    text = help_on(heading.split()[0], capsys)

    expected = {name: option for name, option in OPTIONS.items() if HEADING_OF[name] == heading}
    shown = set(re.findall(r" (--[a-z][a-z-]+)(?= )", text)) & set(map(flag, OPTIONS))
    assert shown - {"--preset", "--config", "--local", "--no-double"} <= set(map(flag, expected))
    for name, option in expected.items():
        described = re.search(rf"{flag(name)} .*?{re.escape(meaning(option))} (\[default: ([^\]]*)\])?", text)
        is_switch = name in RunOnly.model_fields and option.annotation is bool
        assert described.group(2) == (None if is_switch else default_text(option.default)), name


def test_help_on_all_lists_every_option_under_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_on("all", capsys)

    places = [text.index(f"Gymnasium environment. {next(iter(HEADINGS))} "), len(text)]
    places[1:1] = [text.index(f" {heading} --", places[0]) for heading in list(HEADINGS)[1:]]
    assert places == sorted(places)
    for name in OPTIONS:
        index = list(HEADINGS).index(HEADING_OF[name])
        assert f" {flag(name)} " in text[places[index] : places[index + 1]], name


@pytest.mark.parametrize("topic", ["", "all", "learning"])
def test_help_shows_every_line_within_eighty_columns(
    topic: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    assert prints_run_help(["--help", topic] if topic else ["--help"])

    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--actors", "3"], None),
        (["--help"], "lists the options of a group"),
        (["--actors", "3", "-h"], "lists the options of a group"),
        (["--help", "goal"], "--target-return"),
        (["--help", "goal", "and", "budget", "--actors", "3"], "--target-return"),
    ],
)
def test_words_after_help_are_its_topic(
    arguments: list[str], shown: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prints_run_help(arguments) == (shown is not None)
    assert (shown or "") in capsys.readouterr().out


def test_help_on_a_group_that_does_not_exist_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no group `lerning` \(did you mean `learning`\?\)"):
        prints_run_help(["--help", "lerning"])


def test_local_is_short_for_the_address_of_a_private_ray() -> None:
    assert parse_run(["--local"])[0].address == "local"
    with pytest.raises(ConfigError, match="`--local` and `--address` exclude each other"):
        parse_run(["--local", "--address", "head:6379"])


def test_file_replaces_the_preset_and_the_command_line_replaces_both(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("n_step: 7\natoms: 33\nhead: quantile\n")

    config = parse_run(["--atoms", "44", "--config", str(path), "--preset", "rainbow"])[0]

    assert (config.actors, config.noisy, config.n_step, config.atoms) == (4, True, 7, 44)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "a.yaml",
            "hidden_sizes: [8, 4]\nlearning_rate: 1e-4\nmax_seconds: none\ndouble: false",
        ),
        (
            "a.yml",
            "hidden_sizes: 8,4\nlearning_rate: 0.0001\nmax_seconds: null\ndouble: 'false'",
        ),
        (
            "a.toml",
            'hidden_sizes = [8, 4]\nlearning_rate = 1e-4\nmax_seconds = "none"\ndouble = false',
        ),
        (
            "a.json",
            '{"hidden_sizes": [8, 4], "learning_rate": 1e-4, "max_seconds": null, "double": false}',
        ),
        ("empty.yaml", ""),
    ],
)
def test_every_kind_of_file_gives_the_same_options(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    expected = Config(hidden_sizes=(8, 4), learning_rate=1e-4, double=False)

    assert parse_run(["--config", str(tmp_path / name)])[0] == (expected if content else Config())


def test_mistakes_in_a_file_name_it_unless_the_command_line_replaces_them(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("discount: 2\nactors: true\nbuffer_size: 5\nn_step: 0\n")

    with pytest.raises(ConfigError) as caught:
        parse_run(["--config", str(path), "--n-step", "0", "--actors", "2"])

    assert caught.value.mistakes == [
        "`n_step` must be at least 1, not `0`.",
        f"{path}: `discount` must be at most 1, not `2`.",
        f"{path}: `buffer_size` is `replay_capacity` here (see `--help` for its unit).",
    ]


def test_printed_config_gives_the_same_options_again(tmp_path: Path) -> None:
    given = ["--epsilon-schedule", "piecewise", "--epsilon-points", "0:1,5000:0.1", "--adam-epsilon", "1e-7"]
    config = parse_run([*given, "--preset", "qr", "--run-dir", "runs/x"])[0]
    (tmp_path / "again.yaml").write_text(config_yaml(config))
    (tmp_path / "again.json").write_text(json.dumps(config.to_json()))

    for name in ("again.yaml", "again.json"):
        assert parse_run(["--config", str(tmp_path / name)])[0] == config
    assert set(yaml.safe_load(config_yaml(config))) == set(Config.model_fields)


def test_page_about_options_is_the_one_that_the_program_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == options_page()


@pytest.mark.parametrize("name", OPTIONS)
def test_page_about_options_has_a_row_for_each_option(name: str) -> None:
    (row,) = [line for line in options_page().splitlines() if line.startswith(f"| `{flag(name)}` |")]

    assert f"| `{default_text(OPTIONS[name].default)}` |" in row
    assert row.endswith(f"| {meaning(OPTIONS[name])} |")
    assert row.count("|") == 4


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="needs Linux")
@pytest.mark.parametrize(("age", "counted"), [(2.0, 2.0), (60.0, 0.0)])
def test_run_starts_with_its_process_but_not_with_the_shell_that_became_it(
    age: float, counted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    begin = ticks / os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(run, "_IMPORTED", now := time.monotonic())
    monkeypatch.setattr(time, "clock_gettime", lambda _clock: begin + age)

    assert now - run._process_start() == pytest.approx(counted, abs=0.5)
