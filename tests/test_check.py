"""`distdqn check`: what it says of an environment."""

import pytest
from toy_environments import CountingEnvironment

from distdqn import check
from distdqn.cli import main
from distdqn.config.config import EnvironmentOptions
from distdqn.environments.registry import inspect_environment, make_vector_environment

SUMMARY = {
    "env_steps": 5_000,
    "learner_steps": 900,
    "episodes": 12,
    "train_returns": [20.0, 40.0],
    "not_finite_steps": 0,
    "env_faults": 0,
}
LINE = {"train_length_mean": 20.0, "actor_env_fraction": 0.2}


def judge(line=LINE, **changes):
    return " ".join(check._judge(SUMMARY | changes, [line], 10.0))


def test_training_without_oddities_is_told_in_two_sentences():
    assert judge() == (
        "10 s of training in one process: 5,000 env steps, 900 learner steps, 12 episodes. "
        "Returns of training episodes: 20 at first, 40 at the end."
    )


@pytest.mark.parametrize(
    ("line", "changes", "words"),
    [
        ({}, {"episodes": 0, "train_returns": []}, "No episode ended in 5,000 env steps"),
        ({}, {"train_returns": [-2_000.0]}, "Rewards are about 100 a step: `--reward-scale 0.01`"),
        ({"actor_env_fraction": 0.8}, {}, "80% of its time in the environment"),
        ({}, {"not_finite_steps": 3}, "3 steps with NaN or infinity"),
        ({}, {"env_faults": 2}, "2 errors"),
        ({}, {"learner_steps": 0}, "Learning did not start"),
    ],
)
def test_what_is_odd_or_slow_is_told(line, changes, words):
    assert words in judge(LINE | line, **changes)
    assert words not in judge()


def test_warnings_of_gymnasium_are_told_without_colours():
    vector = make_vector_environment("CartPole-v1", 1)
    found = list(check._gymnasium_warnings(vector, EnvironmentOptions(env="CartPole-v1")))
    assert found
    assert all(text.startswith("Gymnasium's checker warns: A Box observation space") for text in found)


def test_spaces_are_told_in_words():
    text = " ".join(check._describe_spaces(inspect_environment(CountingEnvironment)))
    assert text == "CountingEnvironment: 3 actions; an observation is numbers, shape (3,)."


def test_step_of_an_environment_that_ends_at_once_is_timed():
    vector = make_vector_environment("toy_environments:ShortAndLongEnvironment", 1)
    assert 0.0 < check._seconds_per_step(vector) < 0.1


def test_unknown_environment_is_refused(capsys):
    assert main(["check", "CartPole-v9"]) == 2
    assert "CartPole" in capsys.readouterr().err


def test_unknown_option_in_place_of_the_environment_is_refused_in_one_line(capsys):
    assert main(["check", "--faster", "--xyzzy"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("`")[1] for line in lines] == ["--faster", "--xyzzy"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_command_trains_and_tells_what_it_found(capsys):
    assert main(["check", "CartPole-v1", "--seconds", "15"]) == 0
    text = capsys.readouterr().out
    assert "It counts as solved at a mean return of 475." in text
    assert "Network: dense 4x128" in text
    assert "15 s of training in one process" in text
