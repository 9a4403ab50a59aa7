"""A refreshed block on a terminal, a plain line every few seconds elsewhere."""

import os
from io import StringIO
from typing import Any

import pytest
from rich.console import Console as RichConsole

from distdqn.reporting.console import Console, Output, count, describe_waits, number

ERASE_LINE, CURSOR_UP = "\x1b[2K", "\x1b[1A"


class Clock:
    """Shows the time it is set to."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def make_line(**changes: Any) -> dict[str, Any]:
    """A line of metrics, as far as the console reads it."""
    line = {
        "wall_seconds": 12.4,
        "env_steps": 25_000,
        "learner_steps": 4321,
        "episodes": 812,
        "train_return_mean": 412.64,
        "eval_return_mean": None,
        "epsilon": 0.4,
        "loss": 0.0213,
        "q_mean": 61.3,
        "env_steps_per_second": 7612.0,
        "learner_steps_per_second": 2900.0,
        "samples_per_insert": 16.0,
        "actors_wait_fraction": 0.0,
        "learner_wait_fraction": 0.0,
    }
    return line | changes


def make_console(is_terminal: bool, clock: Clock | None = None) -> tuple[Console, StringIO]:
    """A console that writes to memory, and that memory."""
    file = StringIO()
    rich_console = RichConsole(file=file, force_terminal=is_terminal, highlight=False, soft_wrap=True)
    return Console(100_000, 475.0, rich_console=rich_console, clock=clock or Clock()), file


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("end", ["pipe", "full", "closed"])
def test_fault_38_console_is_silent_once_nobody_reads(is_terminal: bool, end: str) -> None:
    reader, writer = os.pipe()
    if end == "full":
        writer = os.open("/dev/full", os.O_WRONLY)
    with os.fdopen(writer, "w") as file:
        console = Console(100_000, 475.0, rich_console=Output(file=file, force_terminal=is_terminal))
        if end == "closed":
            file.close()
        os.close(reader)
        for _ in range(2):
            console.note("A note.")
            console.progress(make_line())
        console.close()


def test_plain_line_comes_at_most_every_three_seconds_without_a_terminal() -> None:
    clock = Clock()
    console, file = make_console(False, clock)
    for tenth in range(100):  # ten seconds, ten reports a second
        clock.now = 50.0 + tenth / 10
        console.progress(make_line(wall_seconds=tenth / 10))
    console.close()

    lines = file.getvalue().splitlines()
    assert len(lines) == 4
    assert [line.split(" s ")[0].strip() for line in lines] == ["0", "3", "6", "9"]


def test_plain_line_holds_no_control_characters() -> None:
    console, file = make_console(False)
    console.note("distdqn  CartPole-v1")
    console.progress(make_line())
    console.close()

    assert "\x1b" not in file.getvalue()
    assert "\r" not in file.getvalue()


def test_plain_line_says_how_far_the_run_is() -> None:
    console, file = make_console(False)

    console.progress(make_line(eval_return_mean=488.0))

    (line,) = file.getvalue().splitlines()
    for text in (
        "12 s",
        "25% of 100 k env steps",
        "learner steps 4.3 k",
        "episodes 812",
        "train 412.6",
        "evaluation 488.0  best 488.0",
        "goal 475",
        "env steps/s 7.6 k",
        "learner steps/s 2.9 k",
        "samples per insert 16.0",
        "epsilon 0.40",
        "loss 0.0213",
        "Q 61.3",
    ):
        assert text in line


def test_numbers_that_are_not_there_yet_are_shown_as_dashes() -> None:
    console, file = make_console(False)

    console.progress(make_line(train_return_mean=None, loss=None, q_mean=None, samples_per_insert=None))

    for text in ("train -", "evaluation -", "loss -", "Q -", "samples per insert -"):
        assert text in file.getvalue()


def test_block_is_refreshed_in_place_on_a_terminal() -> None:
    console, file = make_console(True)
    console.progress(make_line(episodes=1))
    first = file.getvalue()
    console.progress(make_line(episodes=2))
    second = file.getvalue()[len(first) :]
    console.close()

    assert "episodes 1" in first
    assert "episodes 2" in second
    # Each of the block's four lines is erased before the new block is written over it.
    assert second.count(ERASE_LINE) == 4
    assert second.count(CURSOR_UP) == 3
    assert second.index(CURSOR_UP) < second.index("episodes 2")


def test_block_is_gone_when_the_run_ends_on_a_terminal() -> None:
    console, file = make_console(True)
    console.progress(make_line())
    before = len(file.getvalue())
    console.close()

    assert file.getvalue()[before:].count(ERASE_LINE) >= 4


def test_console_that_showed_nothing_closes_without_a_trace() -> None:
    console, file = make_console(True)
    console.close()
    console.close()

    assert file.getvalue() == ""


def test_note_stays_above_the_block_on_a_terminal() -> None:
    console, file = make_console(True)
    console.progress(make_line())
    before = len(file.getvalue())
    console.note("actor 3 restarted")
    after = file.getvalue()[before:]
    console.close()

    assert after.index("actor 3 restarted") < after.index("episodes 812")


def test_note_is_printed_as_it_is_whatever_brackets_it_holds() -> None:
    console, file = make_console(False)

    console.note("MultiDiscrete[2 3] [bold]")

    assert file.getvalue() == "MultiDiscrete[2 3] [bold]\n"


@pytest.mark.parametrize("name", ["note", "progress"])
def test_nothing_is_shown_when_quiet(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        console = Console(100_000, 475.0, quiet=quiet)
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
        console.progress(make_line(eval_return_mean=mean))

    shown = [line.split("evaluation ")[1].split("  goal")[0] for line in file.getvalue().splitlines()]
    assert shown == ["300.0  best 300.0", "500.0  best 500.0", "500.0  best 500.0", "400.0  best 500.0"]


def test_evaluation_between_two_plain_lines_is_shown_on_the_next() -> None:
    clock = Clock()
    console, file = make_console(False, clock)
    console.progress(make_line())
    console.progress(make_line(eval_return_mean=123.0))
    clock.now += 3.0
    console.progress(make_line())

    assert "evaluation 123.0" in file.getvalue().splitlines()[1]


def test_run_without_a_goal_says_so() -> None:
    file = StringIO()
    Console(1000, None, rich_console=RichConsole(file=file, width=300)).progress(make_line(env_steps=10))

    assert "goal none" in file.getvalue()


@pytest.mark.parametrize(
    ("actors", "learner", "words"),
    [
        (0.0, 0.04, "no waits"),
        (0.62, 0.1, "actors wait for the learner 62%"),
        (0.1, 0.62, "learner waits for actors 62%"),
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
    assert [number(3.14159), number(3.14159, 3), number(None)] == ["3.1", "3.142", "-"]
