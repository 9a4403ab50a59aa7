"""`Config` from text and as JSON."""

import json
from typing import Any

import pytest

from distdqn.config.command_line import config_yaml, parse_run
from distdqn.config.config import Config
from distdqn.config.model import values_from_text
from distdqn.errors import ConfigError


def config_from_text(**texts: str) -> Config:
    """The options that a command line or a file gives as these texts."""
    return Config(**values_from_text(Config.model_fields, texts))


def mistakes_in_text(**texts: str) -> list[str]:
    """What is wrong with these texts."""
    try:
        config_from_text(**texts)
    except ConfigError as error:
        return error.mistakes
    return []


def make_pole() -> None:
    """Stands for a function that makes an environment."""


class Poles:
    """Stands for an object that makes environments."""

    def __call__(self) -> None:
        """Makes none."""


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("actors", "8", 8),
        ("actors", "auto", "auto"),
        ("max_env_steps", "1_000_000", 1_000_000),
        ("discount", "0.995", 0.995),
        ("learning_rate", "1e-4", 1e-4),
        ("samples_per_insert", "8", 8.0),
        ("target_return", "auto", "auto"),
        ("target_return", "none", None),
        ("target_return", "None", None),
        ("target_return", "-110", -110.0),
        ("max_seconds", "none", None),
        ("max_gradient_norm", "0.5", 0.5),
        ("run_dir", "none", None),
        ("run_dir", "results/first", "results/first"),
        ("address", "auto", "auto"),
        ("hidden_sizes", "32", (32,)),
        ("hidden_sizes", "32, 16,8", (32, 16, 8)),
        ("double", "false", False),
        ("double", "True", True),
        ("loss", "squared", "squared"),
        ("mode", "serial", "serial"),
        ("env", "none", "none"),
    ],
)
def test_text_becomes_a_value_of_the_type_of_its_option(option: str, text: str, value: Any) -> None:
    found = getattr(config_from_text(**{option: text}), option)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("option", "text", "wanted"),
    [
        ("actors", "1.5", "a whole number or `auto`"),
        ("actors", "1e9", "a whole number or `auto`"),
        ("actors", "", "a whole number or `auto`"),
        ("actors", "none", "a whole number or `auto`"),
        ("discount", "high", "a number"),
        ("max_actors", "8.0", "a whole number or `none`"),
        ("hidden_sizes", "64,,64", "whole numbers separated by commas"),
        ("hidden_sizes", "", "whole numbers separated by commas"),
        ("double", "yes", "`true` or `false`"),
        ("target_return", "best", "a number or `auto` or `none`"),
        ("max_seconds", "soon", "a number or `none`"),
    ],
)
def test_text_is_refused_when_it_is_not_of_the_type_of_its_option(
    option: str, text: str, wanted: str
) -> None:
    assert mistakes_in_text(**{option: text}) == [f"`{option}` must be {wanted}, not `{text}`."]


def test_texts_that_do_not_convert_are_listed_with_values_out_of_range() -> None:
    mistakes = mistakes_in_text(actors="x", hidden_sizes="a,b", discount="2", min_replay_size="0")

    assert len(mistakes) == 4
    for name in ("actors", "hidden_sizes", "discount", "min_replay_size"):
        assert f"`{name}` must be" in "\n".join(mistakes)


def test_text_that_does_not_convert_causes_no_second_mistake() -> None:
    # With the default capacity in its place, `min_replay_size` would exceed it.
    assert mistakes_in_text(replay_capacity="1e6", min_replay_size="150000") == [
        "`replay_capacity` must be a whole number, not `1e6`."
    ]


def test_json_holds_every_option_and_gives_it_back() -> None:
    config = Config(actors=3, hidden_sizes=(8, 4), target_return=None, env="module:Name")

    text = json.dumps(config.to_json(), allow_nan=False)

    assert list(json.loads(text)) == list(Config.model_fields)
    assert Config(**json.loads(text)) == config


@pytest.mark.parametrize(("env", "name"), [(make_pole, "make_pole"), (Poles(), "Poles"), (Poles, "Poles")])
def test_json_names_a_function_by_its_module(env: Any, name: str) -> None:
    written = json.loads(json.dumps(Config(env=env).to_json()))

    assert written["env"] == f"{__name__}:{name}"


def test_points_of_a_schedule_are_read_as_pairs() -> None:
    config = config_from_text(epsilon_schedule="piecewise", epsilon_points="0:1,5000:0.1")

    assert config.epsilon_points == ((0, 1.0), (5000, 0.1))
    assert Config(**json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ({"epsilon_schedule": "piecewise"}, "`epsilon_schedule` is `piecewise` without points"),
        ({"epsilon_points": "0:1"}, "`epsilon_points` need `epsilon_schedule` to be `piecewise`"),
        ({"epsilon_schedule": "piecewise", "epsilon_points": "9:1,5:0"}, "rising env steps, not [9, 5]"),
        ({"epsilon_schedule": "piecewise", "epsilon_points": "0:2"}, "at most 1, not `2.0`"),
        ({"epsilon_schedule": "piecewise", "epsilon_points": "0-1"}, "points like `0:1,5000:0.1`"),
        ({"epsilon_schedule": "step"}, "`constant`, `linear`, `cosine` or `piecewise`, not"),
        ({"learning_rate_schedule": "step"}, "`constant`, `linear`, `cosine` or `piecewise` or `none`"),
    ],
)
def test_schedule_that_cannot_be_is_refused_with_the_reason(texts: dict[str, str], complaint: str) -> None:
    mistakes = mistakes_in_text(**texts)

    assert len(mistakes) == 1
    assert complaint in mistakes[0]


ARGUMENTS = {
    "one": ("size=5", {"size": 5}),
    "several": ("size=5,slippery=false,name=ice", {"size": 5, "slippery": False, "name": "ice"}),
    "commas inside": ("shape=[4,4],names=a,b", {"shape": [4, 4], "names": "a,b"}),
    "words of python": ("a=True,b=None", {"a": True, "b": None}),
    "json": ('{"size": 5, "inner": {"a": 1}}', {"size": 5, "inner": {"a": 1}}),
    "equals sign": ("path=a=b", {"path": "a=b"}),
    "none": ("none", {}),
    "from a file": ({"size": 5}, {"size": 5}),
}


@pytest.mark.parametrize(("given", "expected"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_of_the_environment_are_read(given, expected):
    assert Config(env_kwargs=given).env_kwargs == expected


@pytest.mark.parametrize(
    "given", ["size", "=5", "a=1,a=2", "5", "[1]", "", 5, [1], ["a=1", "a=2"], {"a": object()}]
)
def test_arguments_of_another_form_are_refused(given):
    with pytest.raises(ConfigError, match="`env_kwargs` must "):
        Config(env_kwargs=given)


@pytest.mark.parametrize("given", ["Name", "module:", "module:Name,size", [1], 5])
def test_wrappers_of_another_form_are_refused(given):
    with pytest.raises(ConfigError, match="`wrapper` must be "):
        Config(wrapper=given)


def test_repeated_arguments_and_wrappers_add_up_in_order():
    words = "--env-kwargs a=1,b=x --wrapper m:One,k=[1,2] --env-kwargs c=2.5 --wrapper m:Two"
    config = parse_run([*words.split(), "--max-episode-steps", "9"])[0]

    assert config.env_kwargs == {"a": 1, "b": "x", "c": 2.5}
    assert config.wrapper == ("m:One,k=[1,2]", "m:Two")
    assert config.max_episode_steps == 9


def test_arguments_and_wrappers_survive_a_file_and_are_replaced_by_the_command_line(tmp_path):
    given = Config(env_kwargs={"shape": (4, 4)}, wrapper=["m:One"], max_episode_steps=9)
    for name, text in (("a.json", json.dumps(given.to_json())), ("a.yaml", config_yaml(given))):
        (tmp_path / name).write_text(text)
        assert parse_run(["--config", str(tmp_path / name)])[0] == given

    words = ["--config", str(tmp_path / "a.json"), "--env-kwargs", "none", "--wrapper", "none"]
    assert (parse_run(words)[0].env_kwargs, parse_run(words)[0].wrapper) == ({}, ())
