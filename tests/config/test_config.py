"""`Config`: defaults, mistakes listed together, text and JSON."""

import dataclasses
import json
import typing
from dataclasses import fields
from typing import Any

import pytest

from distdqn.config.config import Config
from distdqn.config.option_types import Range
from distdqn.errors import ConfigError, DistdqnError


def mistakes_of(**options: Any) -> list[str]:
    """What `Config` says is wrong with the options, a line each; none if nothing is."""
    try:
        Config(**options)
    except ConfigError as error:
        return error.mistakes
    return []


def mistakes_in_text(**texts: str) -> list[str]:
    """What `Config.from_text` says is wrong."""
    try:
        Config.from_text(texts)
    except ConfigError as error:
        return error.mistakes
    return []


def make_pole() -> None:
    """Stands for a function that makes an environment."""


class Poles:
    """Stands for an object that makes environments."""

    def __call__(self) -> None:
        """Makes none."""


def test_default_of_every_option_is_valid() -> None:
    config = Config()

    assert mistakes_of(**{option.name: option.default for option in fields(Config)}) == []
    assert [getattr(config, o.name) for o in fields(Config)] == [o.default for o in fields(Config)]


@pytest.mark.parametrize("option", fields(Config), ids=lambda option: option.name)
def test_every_option_says_its_group_and_help(option: dataclasses.Field[Any]) -> None:
    assert option.metadata["group"]
    assert len(option.metadata["help"]) > 5


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (0, "at least 1, at most 10000, not `0`"),
        (-1, "at least 1, at most 10000, not `-1`"),
        (10**9, "at least 1, at most 10000, not `1000000000`"),
        (1.5, "a whole number or `auto`, not `1.5`"),
        (1e9, "a whole number or `auto`, not `1000000000.0`"),
        ("4", "a whole number or `auto`, not `4`"),
        (True, "a whole number or `auto`, not `True`"),
        (None, "a whole number or `auto`, not `None`"),
        (float("nan"), "a whole number or `auto`, not `nan`"),
    ],
)
def test_number_of_actors_is_refused_when_it_cannot_be(value: Any, complaint: str) -> None:
    assert mistakes_of(actors=value) == [f"`actors` must be {complaint}."]


@pytest.mark.parametrize("actors", [1, 10_000])
def test_number_of_actors_is_taken_at_both_ends_of_its_range(actors: int) -> None:
    assert Config(actors=actors).actors == actors


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("discount", [2, -0.1, 1.0001, float("nan"), "0.9", None, True]),
        ("epsilon_start", [1.5, -0.1]),
        ("learning_rate", [0, -1e-3, 11.0]),
        ("max_gradient_norm", [0.0, -1.0, "none", False]),
        ("target_update_rate", [0.0, 1.1]),
        ("samples_per_insert", [0, -1.0]),
        ("samples_per_insert_tolerance", [0.0, 1.5]),
        ("max_seconds", [0, -1]),
        ("target_return", ["high", float("nan"), True]),
        ("seed", [-1, 2**63, 0.0]),
        ("mode", ["fast", None, 1]),
        ("loss", ["absolute", None]),
        ("double", [1, 0, "true", None]),
        ("layer_norm", ["no", 0]),
        ("hidden_sizes", [(), [], (0,), (64, -1), (64.0,), (True,), 64, "64", None]),
        ("confirm_episodes", [1]),
        ("env", ["", 3, None]),
        ("run_dir", [3, False]),
        ("address", [6379, "head", "head:", ":6379", "head:0", "head:65536", "ray://head:10001"]),
        ("learner_gpus", [-1, 1.5, "one", None]),
        ("learner_resources", ["fast", "fast=", "=1", "fast=0", "fast=-1", "fast=1.5", "a=1,a=1", "GPU=1"]),
        ("actor_resources", ["fast=many", "fast=nan", "fast=inf", "CPU=2", 3]),
        ("batch_size", [0, True, 64.0]),
    ],
)
def test_option_refuses_each_wrong_value_in_one_line_with_its_name(option: str, wrong: list[Any]) -> None:
    for value in wrong:
        mistakes = mistakes_of(**{option: value})
        assert len(mistakes) == 1, (value, mistakes)
        assert mistakes[0].startswith(f"`{option}` must "), value


@pytest.mark.parametrize(
    ("option", "right"),
    [
        ("discount", [0, 1, 0.5]),
        ("learning_rate", [1e-5, 1]),
        ("max_gradient_norm", [None, 5]),
        ("max_seconds", [None, 1, 0.5]),
        ("target_return", [None, "auto", -110, 475.0]),
        ("epsilon_decay_steps", [0]),
        ("hidden_sizes", [(1,), [3, 4]]),
        ("address", [None, "auto", "local", "head:6379", "10.0.0.1:1", "[::1]:6379"]),
        ("learner_gpus", [0, 0.25, 1, 4]),
        ("learner_resources", [None, "fast=1", "fast=2,node:10.0.0.3=0.01", "accelerator_type:A100=0.5"]),
        ("env", ["module:Name", make_pole, Poles()]),
    ],
)
def test_option_takes_each_right_value(option: str, right: list[Any]) -> None:
    for value in right:
        assert mistakes_of(**{option: value}) == []


@pytest.mark.parametrize(
    "option", [name for name, kind in typing.get_type_hints(Config).items() if "float" in str(kind)]
)
def test_infinity_is_refused_since_json_cannot_hold_it(option: str) -> None:
    assert len(mistakes_of(**{option: float("inf")})) == 1


def test_hidden_sizes_become_a_tuple_when_given_as_a_list() -> None:
    assert Config(hidden_sizes=[3, 4]).hidden_sizes == (3, 4)  # type: ignore[arg-type]


def test_batch_and_minimum_are_refused_when_they_exceed_the_capacity() -> None:
    assert mistakes_of(replay_capacity=10, min_replay_size=10, batch_size=10) == []
    assert mistakes_of(replay_capacity=10, min_replay_size=11, batch_size=11) == [
        "`min_replay_size` (11) exceeds `replay_capacity` (10): sampling could never start (lower `min_replay_size` or raise "
        "`replay_capacity`).",
        "`batch_size` (11) exceeds `replay_capacity` (10): no batch could be all different (lower `batch_size`).",
    ]


def test_shards_are_refused_when_some_would_stay_empty_or_the_mode_has_one_replay() -> None:
    assert mistakes_of(replay_shards=4, actors=4) == []
    assert mistakes_of(replay_shards=1, mode="serial") == []
    assert mistakes_of(replay_shards=5, actors=4) == [
        "`replay_shards` (5) exceeds `actors` (4): some would stay empty (lower it)."
    ]
    assert mistakes_of(replay_shards=5, actors="auto", max_actors=4) == [
        "`replay_shards` (5) exceeds `max_actors` (4): some would stay empty (lower it)."
    ]
    for mode in ("serial", "lockstep"):
        assert mistakes_of(replay_shards=2, mode=mode) == [
            "`replay_shards` (2) needs `mode` to be `async`: the other modes have one replay (leave it out)."
        ]


def test_url_with_a_password_is_refused_and_not_shown() -> None:
    for url in ("s3://bucket/run", "sftp://me@host:22/run", "/a:b@c"):
        assert mistakes_of(checkpoint_dir=url, resume=url) == []
    found = mistakes_of(checkpoint_dir="sftp://me:hush@host/run", resume="ftp://:hush@host")
    assert [mistake.split()[0] for mistake in found] == ["`checkpoint_dir`", "`resume`"]
    assert "hush" not in "".join(found)


def test_minimum_is_refused_when_it_exceeds_the_budget() -> None:
    assert mistakes_of(max_env_steps=1000, min_replay_size=1000) == []
    (mistake,) = mistakes_of(max_env_steps=999, min_replay_size=1000)
    assert "learning could never start" in mistake


@pytest.mark.parametrize(
    ("options", "exceeded"),
    [
        ({"min_actors": 5}, ["`min_actors` (5) exceeds `actors` (4)"]),
        ({"max_actors": 3}, ["`actors` (4) exceeds `max_actors` (3)"]),
        ({"actors": "auto", "min_actors": 5, "max_actors": 4}, ["`min_actors` (5) exceeds `max_actors` (4)"]),
        ({"actors": 4, "min_actors": 4, "max_actors": 4}, []),
        ({"actors": "auto", "min_actors": 2}, []),
    ],
)
def test_limits_of_the_number_of_actors_are_refused_when_they_cross(
    options: dict[str, Any], exceeded: list[str]
) -> None:
    assert [mistake.partition(":")[0] for mistake in mistakes_of(**options)] == exceeded


@pytest.mark.parametrize("mode", ["serial", "lockstep"])
def test_modes_that_repeat_themselves_take_a_fixed_number_of_actors_alone(mode: str) -> None:
    assert mistakes_of(mode=mode, actors=3) == []
    (mistake,) = mistakes_of(mode=mode, actors="auto", max_actors=9)
    assert "`max_actors` and `actors auto` cannot be had" in mistake
    assert f"`{mode}`" in mistake


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("address", address) for address in ("local", "auto", "10.0.0.3:6379")),
        *(("learner_gpus", 1.0), ("learner_resources", "fast=1"), ("actor_resources", "fast=1")),
    ],
)
def test_fault_29_option_of_ray_is_refused_in_the_mode_that_does_without_it(name: str, value: Any) -> None:
    assert mistakes_of(**{name: value, "mode": "lockstep"}) == []
    (mistake,) = mistakes_of(**{name: value, "mode": "serial"})
    assert mistake.startswith(f"`{name}` has no effect in mode `serial`")


def test_every_mistake_is_listed_in_one_error() -> None:
    mistakes = mistakes_of(
        actors=1.5, discount=2, learning_rate=float("nan"), hidden_sizes=(), double=1, loss="absolute"
    )

    assert [text.split("`")[1] for text in mistakes] == [
        "actors",
        "discount",
        "hidden_sizes",
        "learning_rate",
        "loss",
        "double",
    ]


def test_contradictions_are_listed_together_with_single_mistakes() -> None:
    mistakes = mistakes_of(actors=0, discount=2, replay_capacity=10, min_replay_size=11, batch_size=12)

    assert len(mistakes) == 4
    for text in ("`actors`", "`discount`", "`min_replay_size` (11) exceeds", "`batch_size` (12) exceeds"):
        assert text in "\n".join(mistakes)


def test_contradictions_are_not_looked_for_in_options_that_are_wrong_themselves() -> None:
    assert len(mistakes_of(replay_capacity="many")) == 1
    assert len(mistakes_of(replay_capacity=0)) == 1


def test_error_is_a_value_error_with_exit_code_two() -> None:
    with pytest.raises(ValueError, match="`actors`") as caught:
        Config(actors=0)

    assert isinstance(caught.value, DistdqnError)
    assert caught.value.exit_code == 2


def test_config_cannot_be_changed_once_made() -> None:
    config = Config()

    with pytest.raises(dataclasses.FrozenInstanceError):
        config.actors = 3  # type: ignore[misc]


def test_range_tells_in_words_what_it_contains() -> None:
    assert [str(Range(1)), str(Range(0, 1)), str(Range(0, 10, above=True))] == [
        "at least 1",
        "at least 0, at most 1",
        "above 0, at most 10",
    ]
    assert [x in Range(0, 1, above=True) for x in (0, 0.1, 1, 1.1)] == [False, True, True, False]
    assert [x in Range(0, 1) for x in (-0.1, 0, 1)] == [False, True, True]


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
    found = getattr(Config.from_text({option: text}), option)

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

    assert list(json.loads(text)) == [option.name for option in fields(Config)]
    assert Config(**json.loads(text)) == config


@pytest.mark.parametrize(("env", "name"), [(make_pole, "make_pole"), (Poles(), "Poles"), (Poles, "Poles")])
def test_json_names_a_function_by_its_module(env: Any, name: str) -> None:
    written = json.loads(json.dumps(Config(env=env).to_json()))

    assert written["env"] == f"{__name__}:{name}"


def test_points_of_a_schedule_are_read_as_pairs() -> None:
    config = Config.from_text({"epsilon_schedule": "piecewise", "epsilon_points": "0:1,5000:0.1"})

    assert config.epsilon_points == ((0, 1.0), (5000, 0.1))
    assert Config(**json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ({"epsilon_schedule": "piecewise"}, "`epsilon_schedule` is `piecewise` without points"),
        ({"epsilon_points": "0:1"}, "`epsilon_points` need `epsilon_schedule` to be `piecewise`"),
        ({"epsilon_schedule": "piecewise", "epsilon_points": "9:1,5:0"}, "rise, not [9, 5]"),
        ({"epsilon_schedule": "piecewise", "epsilon_points": "0:2"}, "at most 1, not `2.0`"),
        ({"epsilon_schedule": "piecewise", "epsilon_points": "0-1"}, "points like `0:1,5000:0.1`"),
        ({"epsilon_schedule": "step"}, "one of `constant`, `linear`, `cosine`, `piecewise`"),
        ({"learning_rate_schedule": "step"}, "`constant` or `linear` or `cosine` or `piecewise` or `none`"),
    ],
)
def test_schedule_that_cannot_be_is_refused_with_the_reason(texts: dict[str, str], complaint: str) -> None:
    mistakes = mistakes_in_text(**texts)

    assert len(mistakes) == 1
    assert complaint in mistakes[0]


@pytest.mark.parametrize("option", [{"dueling": True}, {"noisy": True}, {"torso": "nature"}])
def test_network_of_ones_own_leaves_no_other_option_without_effect(option: dict[str, Any]) -> None:
    (mistake,) = mistakes_of(network="module:function", **option)

    assert f"`{next(iter(option))}` has no effect on a `network` of your own" in mistake
