"""`Config`: defaults, mistakes listed together, text and JSON."""

import pickle
from typing import Any

import cloudpickle
import pydantic
import pytest

from distdqn.config.config import HEADINGS, ActingOptions, Config
from distdqn.config.model import bounds
from distdqn.errors import ConfigError, DistdqnError

OPTIONS = Config.model_fields


def mistakes_of(**options: Any) -> list[str]:
    """What `Config` says is wrong with the options, a line each; none if nothing is."""
    try:
        Config(**options)
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

    assert mistakes_of(**{name: option.default for name, option in OPTIONS.items()}) == []
    assert [getattr(config, name) for name in OPTIONS] == [option.default for option in OPTIONS.values()]


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_says_its_heading_and_meaning(name: str) -> None:
    assert Config.heading_of(name) in HEADINGS
    assert len(OPTIONS[name].description or "") > 5


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (0, "at least 1, not `0` (for a run in one process, give `--mode serial`)"),
        (-1, "at least 1, not `-1`"),
        (10**9, "at most 10000, not `1000000000`"),
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
        ("learner_gpus", [-1, 1.5, 2, "one", None]),
        ("priority_exponent", [-0.1, 1.1, 10]),
        ("envs_per_actor", [0, 65_537]),
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
        ("learner_gpus", [0, 0.25, 1]),
        ("priority_exponent", [0, 0.6, 1]),
        ("envs_per_actor", [1, 65_536]),
        ("learner_resources", [None, "fast=1", "fast=2,node:10.0.0.3=0.01", "accelerator_type:A100=0.5"]),
        ("env", ["module:Name", make_pole, Poles()]),
    ],
)
def test_option_takes_each_right_value(option: str, right: list[Any]) -> None:
    for value in right:
        assert mistakes_of(**{option: value}) == []


@pytest.mark.parametrize(
    "option", [name for name, field in OPTIONS.items() if "float" in str(field.annotation)]
)
def test_infinity_is_refused_since_json_cannot_hold_it(option: str) -> None:
    assert len(mistakes_of(**{option: float("inf")})) == 1


def test_hidden_sizes_become_a_tuple_when_given_as_a_list() -> None:
    assert Config(hidden_sizes=[3, 4]).hidden_sizes == (3, 4)  # type: ignore[arg-type]


def test_batch_and_minimum_are_refused_when_they_exceed_the_capacity() -> None:
    assert mistakes_of(replay_capacity=10, min_replay_size=10, batch_size=10) == []
    assert mistakes_of(replay_capacity=10, min_replay_size=11, batch_size=11) == [
        "`min_replay_size` (11) exceeds `replay_capacity` (10): sampling could never start "
        "(lower `min_replay_size` or raise `replay_capacity`).",
        "`batch_size` (11) exceeds `replay_capacity` (10): no batch could be all different "
        "(lower `batch_size`).",
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
    assert [mistake.split()[0] for mistake in found] == ["`resume`", "`checkpoint_dir`"]
    assert "hush" not in "".join(found)


def test_minimum_is_refused_when_it_exceeds_the_budget() -> None:
    assert mistakes_of(max_env_steps=1001, min_replay_size=1000) == []
    (mistake,) = mistakes_of(max_env_steps=1000, min_replay_size=1000)
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
    assert "`max_actors` and `actors auto` cannot be used" in mistake
    assert f"`{mode}`" in mistake


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("address", address) for address in ("local", "auto", "10.0.0.3:6379")),
        *(("learner_resources", "fast=1"), ("actor_resources", "fast=1")),
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

    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.actors = 3  # type: ignore[misc]


def test_config_travels_to_another_process_with_a_function_in_it() -> None:
    config = Config(env=lambda: 7, actors=3)

    found = pickle.loads(cloudpickle.dumps(config))

    assert (found.env(), found.actors, type(found)) == (7, 3, Config)


def test_config_that_does_not_exist_in_python_is_answered_with_the_nearest_name() -> None:
    assert mistakes_of(batchsize=3, buffer_size=5, actors=0) == [
        "`actors` must be at least 1, not `0` (for a run in one process, give `--mode serial`).",
        "Unknown option `batchsize` (did you mean `batch_size`?).",
        "`buffer_size` is `replay_capacity` here (see `--help` for its unit).",
    ]


def test_group_of_options_checks_its_own_and_knows_no_others() -> None:
    assert ActingOptions(n_step=5).n_step == 5
    with pytest.raises(ConfigError) as caught:
        ActingOptions(n_step=0, epsilon_schedule="piecewise", actors=2)

    assert [text.split("`")[1] for text in caught.value.mistakes] == ["n_step", "actors", "epsilon_schedule"]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("actors", ["at least 1", "at most 10000"]),
        ("eval_period", ["at least 1"]),
        ("learning_rate", ["above 0", "at most 10"]),
        ("max_seconds", ["above 0"]),
        ("hidden_sizes", ["at least 1", "at most 1e+06"]),
        ("epsilon_points", ["at least 0", "at most 1"]),
        ("target_return", []),
        ("loss", []),
    ],
)
def test_range_of_an_option_is_told_in_words(option: str, words: list[str]) -> None:
    assert bounds(OPTIONS[option]) == words


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("learning_rate", 0, "above 0, not `0`"),
        ("learning_rate", 11, "at most 10, not `11`"),
        ("max_env_steps", 0, "at least 1, not `0`"),
        ("hidden_sizes", [64, 0], "at least 1, not `0`"),
        ("hidden_sizes", [64, 2.5], "a whole number, not `2.5`"),
        ("hidden_sizes", 64, "whole numbers separated by commas, not `64`"),
        ("hidden_sizes", (), "at least one value, not `()`"),
        ("epsilon_points", [[0, 2]], "at most 1, not `2`"),
        ("epsilon_points", [[0, 1, 2]], "a pair, not `(0, 1, 2)`"),
        ("epsilon_points", [0, 1], "a pair, not `0`"),
        ("epsilon_points", "0:1", "points like `0:1,5000:0.1` or `none`, not `0:1`"),
        ("target_return", "high", "a number or `auto` or `none`, not `high`"),
        ("target_return", float("nan"), "a finite number or `auto` or `none`, not `nan`"),
        ("loss", "absolute", "`huber` or `squared`, not `absolute`"),
        ("torso", 3, "`auto`, `dense`, `small`, `nature`, `impala` or `impala-wide`, not `3`"),
        ("env", 3, "text, not `3`"),
        ("run_dir", "", "text or `none`, not ``"),
    ],
)
def test_mistake_says_in_words_what_an_option_must_be(option: str, value: Any, words: str) -> None:
    assert mistakes_of(**{option: value}) == [f"`{option}` must be {words}."]


@pytest.mark.parametrize(
    "option",
    [{"dueling": True}, {"noisy": True}, {"noisy_sigma": 0.1}, {"torso": "nature"}, {"hidden_sizes": [64]}],
)
def test_network_of_ones_own_leaves_no_other_option_without_effect(option: dict[str, Any]) -> None:
    (mistake,) = mistakes_of(network="module:function", **option)

    assert f"`{next(iter(option))}` has no effect on a `network` of your own" in mistake


@pytest.mark.parametrize("name", ["tau_samples", "target_tau_samples"])
def test_drawn_fractions_are_options_of_the_implicit_head_alone(name: str) -> None:
    (mistake,) = mistakes_of(**{name: 4}, head="value")

    assert mistake == f"`{name}` has no effect without the `implicit` head (leave it out, or set `head`)."
    assert mistakes_of(**{name: 4}, head="implicit") == []


def test_implicit_head_is_refused_for_a_network_of_ones_own_with_another_head() -> None:
    (mistake,) = mistakes_of(network="module:function", head="implicit")

    assert mistake.startswith("`head` cannot be `implicit` with a `network` of your own")
    assert "choose `quantile`" in mistake


def test_network_of_ones_own_may_stand_beside_the_defaults_of_a_file() -> None:
    assert mistakes_of(network="module:function", hidden_sizes=[128, 128], dueling=False, output_bias=0) == []
