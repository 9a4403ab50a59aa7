"""A refreshed panel on a terminal, plain lines elsewhere."""

import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console as RichConsole
from rich.text import Text
from run_contents import LINE

from distdqn.config.config import Config
from distdqn.reporting.callbacks import RunInfo
from distdqn.reporting.console import Console, Output, Panel, closing_words, count, describe_waits, number
from distdqn.types import EnvironmentSpec

ERASE_LINE, CURSOR_UP = "\x1b[2K", "\x1b[1A"
SPEC = EnvironmentSpec("CartPole-v1", (4,), 2, 475.0, "float32", -1.0, 1.0, None)
ROLES = [
    {"role": role, "pid": 1, "host": "here", "restarts": 0, "last_sign_of_life": 0.0}
    for role in ("learner", "replay", "evaluator", "actor-0", "actor-1")
]


class Clock:
    """Shows the time it is set to."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def make_line(**changes: Any) -> dict[str, Any]:
    """A line of metrics, as far as the console reads it."""
    return LINE | {"wall_seconds": 12.4} | changes


def start(console: Console, target_return: float | None = 475.0) -> None:
    """The start of a run with a budget of 100,000 env steps."""
    config = Config(max_env_steps=100_000)
    console.on_start(RunInfo(Path("run"), config, SPEC, target_return, console.note))


def make_console(
    is_terminal: bool, clock: Clock | None = None, width: int | None = None, verbose: bool = False
) -> tuple[Console, StringIO]:
    """A console of a run that has started, which writes to memory, and that memory."""
    file = StringIO()
    rich_console = RichConsole(file=file, force_terminal=is_terminal, highlight=False, width=width)
    console = Console(verbose=verbose, rich_console=rich_console, clock=clock or Clock())
    start(console)
    return console, file


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("end", ["pipe", "full", "closed"])
def test_fault_38_console_is_silent_once_nobody_reads(is_terminal: bool, end: str) -> None:
    reader, writer = os.pipe()
    if end == "full":
        writer = os.open("/dev/full", os.O_WRONLY)
    with os.fdopen(writer, "w") as file:
        console = Console(rich_console=Output(file=file, force_terminal=is_terminal))
        start(console)
        if end == "closed":
            file.close()
        os.close(reader)
        for _ in range(2):
            console.note("A note.")
            console.on_report(make_line())
        console.close()


def test_plain_line_comes_at_most_every_three_seconds_without_a_terminal() -> None:
    clock = Clock()
    console, file = make_console(False, clock)
    for tenth in range(100):  # ten seconds, ten reports a second
        clock.now = 50.0 + tenth / 10
        console.on_report(make_line(wall_seconds=tenth / 10))
    console.close()

    lines = file.getvalue().splitlines()
    assert len(lines) == 4
    assert [line.split(" s ")[0].strip() for line in lines] == ["0", "3", "6", "9"]


def test_plain_line_holds_no_control_characters() -> None:
    console, file = make_console(False)
    console.note("distdqn  CartPole-v1")
    console.on_report(make_line())
    console.close()

    assert "\x1b" not in file.getvalue()
    assert "\r" not in file.getvalue()


def test_plain_line_says_how_far_the_run_is() -> None:
    console, file = make_console(False)

    console.on_report(make_line(eval_return_mean=488.0))

    (line,) = file.getvalue().splitlines()
    assert line == (
        "12 s  25%  25 k env steps  4.3 k learner steps  train 412.6  evaluation 488.0  best 488.0  "
        "7.6 k env steps/s  epsilon 0.40  no waits"
    )


@pytest.mark.parametrize("seconds", [0.0, 5.0, 3600.0])
def test_plain_lines_are_rarer_as_a_run_gets_older(seconds: float) -> None:
    clock = Clock()
    console, file = make_console(False, clock)
    for second in range(400):
        clock.now = 50.0 + second
        console.on_report(make_line(wall_seconds=seconds + second))

    lines = len(file.getvalue().splitlines())
    assert (20 <= lines <= 75) if seconds < 3600 else lines == 3  # 3,600 s / 20 = 180 s between two


def test_plain_line_has_at_most_160_columns_and_ends_with_the_waits() -> None:
    console, file = make_console(False, verbose=True)
    for mean in (-999.9, -99.9):
        line = make_line(wall_seconds=99_999, env_steps=99_000, actors_wait_fraction=0.97)
        console.on_report(line | {"train_return_mean": mean, "eval_return_mean": mean})

    for text in file.getvalue().splitlines():
        assert len(text) <= 160 and text.endswith("  actors wait 97%")  # noqa: PT018


def test_every_line_of_metrics_is_shown_when_verbose() -> None:
    for is_terminal in (False, True):
        console, file = make_console(is_terminal, verbose=True)
        for _ in range(3):
            console.on_report(make_line())

        assert len(file.getvalue().splitlines()) == 3


def test_numbers_that_are_not_there_yet_are_shown_as_dashes() -> None:
    console, file = make_console(False)

    console.on_report(make_line(train_return_mean=None, loss=None, q_mean=None, samples_per_insert=None))

    assert "train -  evaluation -  best -  7.6 k" in file.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_panel_shows_budget_returns_rates_and_roles(width: int) -> None:
    console, file = make_console(True, width=width)
    console.on_report(make_line(eval_return_mean=100.0))
    console.on_status({"roles": [*ROLES, ROLES[-1] | {"role": "actor-2", "pid": None, "restarts": 2}]})
    shown = file.getvalue().rpartition(CURSOR_UP)[2]

    for text in (
        " 25%",
        "25 k of 100 k env steps",
        "train 412.6  evaluation 100.0  best 100.0  goal 475",
        "7.6 k env steps/s  2.9 k learner steps/s  samples per insert 16.0",
        "epsilon 0.40  loss 0.0213  Q 61.3  weights 128 learner steps old",
        "actors: env 54%, network 31%  learner: 0.50 ms an update  no waits",
        "learner",
        "up on here",
        "starting  2 restarts",
    ):
        assert text in shown
    assert all(Text.from_ansi(line).cell_len <= width for line in shown.splitlines())


def test_many_actors_share_a_row_of_the_panel() -> None:
    console, file = make_console(True, width=80)
    console.on_report(make_line())
    actors = [ROLES[-1] | {"role": f"actor-{index}", "restarts": index % 2} for index in range(32)]
    console.on_status({"roles": [*ROLES[:3], *actors, ROLES[0] | {"role": "actor-32", "pid": None}]})

    assert "32 up, 1 starting  16 restarts" in file.getvalue()
    assert "actor-7" not in file.getvalue()


def test_evaluations_are_drawn_as_blocks() -> None:
    console, file = make_console(True, width=160)
    for mean in (0.0, 50.0, 100.0):
        console.on_report(make_line(eval_return_mean=mean))

    assert "▁▅█" in file.getvalue()


def test_panel_is_refreshed_in_place_on_a_terminal() -> None:
    console, file = make_console(True, width=160)
    console.on_report(make_line(loss=0.1))
    first = file.getvalue()
    console.on_report(make_line(loss=0.2))
    second = file.getvalue()[len(first) :]
    console.close()

    assert "loss 0.1000" in first
    assert "loss 0.2000" in second
    # Each of the panel's five lines is erased before the new panel is written over it.
    assert second.count(ERASE_LINE) == 5
    assert second.count(CURSOR_UP) == 4
    assert second.index(CURSOR_UP) < second.index("loss 0.2000")


def test_panel_is_gone_when_the_run_ends_on_a_terminal() -> None:
    console, file = make_console(True)
    console.on_report(make_line())
    before = len(file.getvalue())
    console.close()

    assert file.getvalue()[before:].count(ERASE_LINE) >= 4


def test_console_that_showed_nothing_closes_without_a_trace() -> None:
    console, file = make_console(True)
    console.close()
    console.close()

    assert file.getvalue() == ""


def test_note_stays_above_the_panel_on_a_terminal() -> None:
    console, file = make_console(True)
    console.on_report(make_line())
    before = len(file.getvalue())
    console.note("actor 3 restarted")
    after = file.getvalue()[before:]
    console.close()

    assert after.index("actor 3 restarted") < after.index("412.6")


def test_note_is_printed_as_it_is_whatever_brackets_it_holds() -> None:
    console, file = make_console(False)

    console.note("MultiDiscrete[2 3] [bold]")

    assert file.getvalue() == "MultiDiscrete[2 3] [bold]\n"


@pytest.mark.parametrize("name", ["note", "on_report"])
def test_nothing_is_shown_when_quiet(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        console = Console(quiet=quiet)
        start(console)
        getattr(console, name)("text" if name == "note" else make_line())
        console.close()
        captured = capfd.readouterr()
        assert (captured.out == "") is quiet
        assert captured.err == ""


def test_best_evaluation_is_kept_and_the_newest_stays_until_the_next() -> None:
    clock = Clock()
    console, file = make_console(False, clock)
    for mean in (300.0, 500.0, None, 400.0):
        clock.now += 10.0
        console.on_report(make_line(eval_return_mean=mean))

    shown = [line.split("evaluation ")[1].split("  7.6 k")[0] for line in file.getvalue().splitlines()]
    assert shown == ["300.0  best 300.0", "500.0  best 500.0", "500.0  best 500.0", "400.0  best 500.0"]


def test_evaluation_between_two_plain_lines_is_shown_on_the_next() -> None:
    clock = Clock()
    console, file = make_console(False, clock)
    console.on_report(make_line())
    console.on_report(make_line(eval_return_mean=123.0))
    clock.now += 3.0
    console.on_report(make_line())

    assert "evaluation 123.0" in file.getvalue().splitlines()[1]


def test_run_without_a_goal_says_so() -> None:
    file = StringIO()
    console = Console(rich_console=RichConsole(file=file, width=300, force_terminal=True))
    start(console, target_return=None)
    console.on_report(make_line(env_steps=10))

    assert "goal none" in file.getvalue()


@pytest.mark.parametrize(
    ("actors", "learner", "words"),
    [
        (0.0, 0.04, "no waits"),
        (0.62, 0.1, "actors wait 62%"),
        (0.1, 0.62, "learner waits 62%"),
    ],
)
def test_progress_says_which_side_waits(actors: float, learner: float, words: str) -> None:
    assert describe_waits(make_line(actors_wait_fraction=actors, learner_wait_fraction=learner)) == words


def test_progress_says_when_learning_has_not_started() -> None:
    assert describe_waits(make_line(learner_steps=0, learner_wait_fraction=1.0)) == "learning has not started"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (812, "812"),
        (999.4, "999"),
        (999.9, "1.0 k"),
        (1000, "1.0 k"),
        (7612, "7.6 k"),
        (9990, "10 k"),
        (31_400, "31 k"),
        (999_900, "1.0 M"),
        (1_234_000, "1.2 M"),
        (31e6, "31 M"),
    ],
)
def test_count_is_shown_in_at_most_three_digits(value: float, text: str) -> None:
    assert count(value) == text


def test_number_has_fixed_digits_or_is_a_dash() -> None:
    assert [number(314.159), number(3.14159, 1), number(None)] == ["314.2", "3.1", "-"]


def test_returns_below_ten_are_shown_with_enough_digits() -> None:
    assert [number(0.744), number(-0.0468), number(9.5)] == ["0.744", "-0.047", "9.500"]


def make_summary(**changes: Any) -> dict[str, Any]:
    """The summary of a run that missed its goal."""
    summary = {
        "solved": False,
        "reason": "max_env_steps",
        "target_return": 475.0,
        "eval_return_mean": 487.3,
        "eval_return_lower_bound": 470.9,
        "eval_episodes": 20,
        "env_steps": 5000,
        "learner_steps": 4000,
        "total_seconds": 20.0,
        "run_dir": "runs/x",
    }
    return summary | changes


def test_last_lines_say_why_a_mean_above_the_goal_is_not_enough() -> None:
    words = closing_words(make_summary())

    assert words.startswith("Not solved (max_env_steps): mean return 487.3 over 20 greedy episodes")
    assert "The goal of 475 is reached when two standard errors below the mean reach it" in words
    assert "here they are 470.9" in words
    assert "distdqn run --resume runs/x --max-env-steps 10000" in words


def test_last_lines_offer_no_more_training_once_solved() -> None:
    words = closing_words(make_summary(solved=True, reason="goal_reached"))

    assert "distdqn play runs/x" in words
    assert "distdqn plot runs/x" in words
    assert "--resume" not in words


def test_last_lines_offer_to_play_only_what_another_process_can_make() -> None:
    for env, is_offered in (("CartPole-v1", True), (lambda: None, False)):
        file = StringIO()
        console = Console(rich_console=RichConsole(file=file, width=300))
        config = Config(env=env)
        console.on_start(RunInfo(Path("run"), config, SPEC, 475.0, console.note))
        console.on_end(make_summary())

        assert ("distdqn play runs/x" in file.getvalue()) is is_offered
        assert "distdqn plot runs/x" in file.getvalue()


@pytest.mark.parametrize(
    ("reason", "offered"),
    [
        ("max_env_steps", " --max-env-steps 10000"),
        ("max_seconds", " --max-seconds 40"),
        ("max_episodes", " --max-episodes 60"),
        ("interrupted", ""),
    ],
)
def test_last_lines_raise_the_budget_that_ended_the_run(reason: str, offered: str) -> None:
    words = closing_words(make_summary(reason=reason, episodes=30))

    assert words.splitlines()[-1] == f"Train on: distdqn run --resume runs/x{offered}"


def test_picture_of_evaluations_is_drawn_again_only_after_another_one() -> None:
    panel = Panel(1000, None, target_return=475.0, clock=Clock())
    drawn = []
    for mean in (None, 10.0, None, 20.0, None, 20.0):
        panel.add(make_line(env_steps=len(drawn), eval_return_mean=mean))
        drawn.append(panel.svg_curve())

    assert drawn[:3] == ["", "", ""]
    assert drawn[3].count("<svg") == 1
    assert drawn[4] is drawn[3]
    assert drawn[5] != drawn[3]
