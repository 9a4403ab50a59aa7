"""`distdqn tune`: mistakes in a space of options, and a small search."""

import csv
from pathlib import Path
from typing import Any

import pytest

from distdqn.config.command_line import parse_run
from distdqn.tune import main


def write_space(folder: Path, text: str) -> str:
    """A file of options to search."""
    path = folder / "space.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "learning_rat: {uniform: [0.1, 0.2]}",
            "Unknown option `learning_rat` (did you mean `learning_rate`?)",
        ),
        ("n_step: 3", "searches nothing"),
        ("mode: {choice: [serial]}", "each trial has a `mode` of its own"),
        ("n_step: {choice: 3}", "`n_step` needs a list"),
        ("n_step: {choice: [1, 0]}", "`n_step` must be at least 1, not `0`"),
        ("discount: {uniform: [0.9, 1.5]}", "`discount` must be at most 1, not `1.5`"),
        ("n_step: {randint: [0, 3]}", "`n_step` must be at least 1, not `0`"),
    ],
)
def test_mistake_in_a_space_is_one_line(text: str, words: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["--space", write_space(tmp_path, text)]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_upper_end_of_whole_numbers_is_not_drawn_so_it_may_be_too_large(tmp_path: Path, capsys: Any) -> None:
    text = "n_step: {randint: [1, 1001]}\nhead: {choice: [value, nothing]}"
    assert main(["--space", write_space(tmp_path, text)]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "`head`" in line


@pytest.mark.slow
def test_search_writes_the_best_options_as_a_file_for_a_run(tmp_path: Path, capfd: Any) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    space = write_space(
        tmp_path,
        "env: CartPole-v1\nmax_env_steps: 600\nmin_replay_size: 100\ntarget_return: null\nbatch_size: 16\n"
        "eval_period: 100\neval_episodes: 2\nlearning_rate: {loguniform: [0.0001, 0.01]}\n",
    )

    assert main(["--space", space, "--trials", "2", "--output", str(tmp_path / "out")]) == 0

    best = parse_run(["--config", str(tmp_path / "out" / "best.yaml")])[0]
    assert 0.0001 <= best.learning_rate <= 0.01
    assert (best.batch_size, best.max_env_steps) == (16, 600)
    with (tmp_path / "out" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert f"learning_rate {best.learning_rate}" in capfd.readouterr().out
