"""The page of faults: every row has a test, and its counts come from what ran."""

import ast
import json
import re
from pathlib import Path

import pytest
from reliability import BEGIN, END, PAGE, Row, main, rows_of, titles_of

TESTS = Path(__file__).parent
ROWS = set(range(1, 48))

CASES = """<testsuites><testsuite>
<testcase classname="tests.a" name="test_fault_3_replay_is_killed" />
<testcase classname="tests.a" name="test_fault_3_replay_is_killed_often[0]">
  <properties>
    <property name="injected" value="20" /><property name="lost_learner_steps" value="64" />
  </properties>
</testcase>
<testcase classname="tests.b" name="test_fault_4_learner_is_killed"><failure>no</failure></testcase>
<testcase classname="tests.b" name="test_fault_5_is_not_run_here"><skipped message="no root" /></testcase>
<testcase classname="tests.b" name="test_something_else_of_all" />
</testsuite></testsuites>"""


@pytest.fixture
def files(tmp_path):
    """A file of pytest's and one of a long run, made up."""
    tests, run = tmp_path / "tests.xml", tmp_path / "run.json"
    tests.write_text(CASES)
    faults = {"3": {"injected": 5, "survived": 4, "lost": {"learner steps": 6}}}
    run.write_text(json.dumps({"faults": faults, "says": ["A long run.", "It was fine."]}))
    return tests, run


def test_every_row_of_the_page_has_a_test_of_its_number():
    page = PAGE.read_text(encoding="utf-8")
    names = [
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    tested = {int(found[1]) for name in names if (found := re.match(r"test_fault_(\d+)_", name))}

    assert set(titles_of(page)) == ROWS
    assert tested == ROWS


def test_tests_and_long_runs_are_counted_by_the_row_in_their_name(files):
    tests, run = files

    rows = rows_of([tests], [run])

    assert rows == {
        3: Row(tests=2, injected=1 + 20 + 5, survived=1 + 20 + 4, lost={"learner steps": 64 + 6}),
        4: Row(tests=1, injected=1, survived=0),
    }


def test_test_that_ran_again_counts_once_as_it_ended_last(files, tmp_path):
    again = tmp_path / "again.xml"
    again.write_text(CASES.replace("<failure>no</failure>", ""))

    assert rows_of([files[0], again], [])[4] == Row(tests=1, injected=1, survived=1)


def test_page_is_filled_between_its_marks_alone(files, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n| 3 | replay is killed | restored |\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    arguments = ["--tests", str(files[0]), "--runs", str(files[1]), "--page", str(page)]

    assert main(arguments) == 1  # a run lost one, and row 4 failed
    assert "rows [3, 4]" in capsys.readouterr().err
    text = page.read_text()
    assert text.startswith("Before.\n\n| 3 | replay is killed | restored |\n\n")
    assert text.endswith(f"{END}\n\nAfter.\n")
    assert "| 3 | replay is killed | 2 | 26 | 25 | 70 learner steps |" in text
    assert "A long run.\nIt was fine." in text
    assert "old" not in text
