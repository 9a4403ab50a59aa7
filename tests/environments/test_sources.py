"""Arguments, wrappers and time limits of environments, and vector environments of the user's own."""

import functools

import gymnasium
import numpy as np
import pytest
import toy_sources
from gymnasium.vector import AutoresetMode
from toy_actors import make_actor, make_vector, step_once
from toy_sources import Chooses, Endless

from distdqn.config.config import EnvironmentOptions, SharedOptions
from distdqn.environments.registry import EnvironmentMaker, inspect_environment
from distdqn.environments.sources import why_forgotten
from distdqn.errors import ConfigError, EnvironmentFault
from distdqn.types import RolloutRequest


def options(env="toy_sources:Endless", **given):
    return EnvironmentOptions(env=env, **given)


def step_often(vector):
    for _ in range(5):
        step_once(vector, [0, 0])


def play(env, steps, action=1):
    """Observations, rewards and `truncated` of one environment's steps, and where its episodes ended."""
    vector = make_vector(env, 1, seed=0)
    rows = [step_once(vector, [action])[0] for _ in range(steps)]
    return [
        (float(row.next_observation.ravel()[0]), float(row.reward[0, 0]), bool(row.truncated[0, 0]))
        for row in rows
        if row.is_transition.all()
    ]


def test_arguments_wrappers_and_limit_make_one_environment():
    source = options(
        env_kwargs={"scale": 5.0, "offset": 1.0},
        wrapper=("toy_sources:SkipTwo", "toy_sources:Twice,factor=3,bonus=1", "toy_sources:Twice"),
        max_episode_steps=2,
    )

    # Two steps of the environment in one, so 2 * 5 + 1, and twice (3 * 1 + 1).
    assert play(source, 5) == [(11, 8, False), (21, 8, True), (11, 8, False), (21, 8, True)]


def test_limit_replaces_that_of_a_registered_environment():
    gymnasium.register("ToyEndless-v0", Endless, max_episode_steps=3, kwargs={"scale": 2.0})
    try:
        own, longer, shorter = (
            [truncated for *_, truncated in play(options("ToyEndless-v0", max_episode_steps=limit), 6)]
            for limit in (None, 5, 2)
        )
        (first, *_), *_ = play(options("ToyEndless-v0", env_kwargs={"scale": 4.0}), 1)
    finally:
        del gymnasium.registry["ToyEndless-v0"]

    assert own == [False, False, True, False, False]
    assert longer == [False, False, False, False, True]
    assert shorter == [False, True, False, True]
    assert first == 4.0


def test_limit_goes_to_the_vector_class_of_an_id():
    vector = make_vector(options("CartPole-v1", max_episode_steps=4), 3, seed=0)
    rows = [step_once(vector, [0, 1, 0])[0] for _ in range(4)]

    assert [row.truncated.tolist() for row in rows[2:]] == [[[False] * 3], [[True] * 3]]
    assert type(vector._vector).__name__ == "CartPoleVectorEnv"


def test_wrapper_takes_single_environments_in_place_of_a_vector_class():
    source = options("CartPole-v1", wrapper=("toy_sources:Twice",))

    assert "the vector class of `CartPole-v1` is not used" in inspect_environment(source).conversion
    assert [reward for _, reward, _ in play(source, 3)] == [2.0] * 3


def test_vector_wrapper_keeps_the_vector_class():
    vector = make_vector(options("CartPole-v1", wrapper=("toy_sources:VectorTwice",)), 2, seed=0)

    assert type(vector._vector.unwrapped).__name__ == "CartPoleVectorEnv"
    assert step_once(vector, [0, 1])[0].reward.tolist() == [[2.0, 2.0]]


def test_atari_game_is_truncated_after_the_limit():
    pytest.importorskip("ale_py")
    source = options("ALE/Pong-v5", max_episode_steps=25)

    assert [truncated for *_, truncated in play(source, 26)] == [*[False] * 24, True]


MISTAKES = {
    "missing": (
        options(),
        "`toy_sources:Endless` needs the argument `scale` (give `--env-kwargs scale=VALUE`)",
    ),
    "unknown": (
        options(env_kwargs={"scale": 1.0, "ofset": 2}),
        "`toy_sources:Endless` takes no argument `ofset` (did you mean `offset`?)",
    ),
    "missing of a partial": (
        options(functools.partial(Endless, offset=1)),
        "`partial` needs the argument `scale`",
    ),
    "unknown of an id": (
        options("FrozenLake-v1", env_kwargs={"slippery": 1}),
        "(did you mean `is_slippery`?)",
    ),
    "unknown of a vector class": (options("CartPole-v1", env_kwargs={"x": 1}), "takes no argument `x`"),
    "unknown of a wrapper": (
        options("CartPole-v1", wrapper=("toy_sources:Twice,factr=1",)),
        "`wrapper`: `toy_sources:Twice` takes no argument `factr` (did you mean `factor`?)",
    ),
    "missing of a wrapper": (
        options("CartPole-v1", wrapper=("gymnasium.wrappers:TimeLimit",)),
        "(give `--wrapper gymnasium.wrappers:TimeLimit,max_episode_steps=VALUE`)",
    ),
    "no wrapper": (
        options("CartPole-v1", wrapper=("toy_sources:Thrice",)),
        "there is no `toy_sources:Thrice`",
    ),
    "no module": (options("CartPole-v1", wrapper=("toy_source:Twice",)), "cannot import `toy_source`"),
    "single wrapper": (
        options("toy_sources:make_sync", wrapper=("toy_sources:Twice",)),
        "name a `gymnasium.vector.VectorWrapper`",
    ),
    "no limit": (options("toy_sources:make_sync", max_episode_steps=3), "no argument `max_episode_steps`"),
    "no number": (options("toy_sources:make_unasked"), "without an argument `num_envs`"),
}


@pytest.mark.parametrize(("source", "words"), MISTAKES.values(), ids=MISTAKES)
def test_fault_25_environment_that_lacks_an_argument_is_told_from_a_broken_one(source, words):
    with pytest.raises(ConfigError) as caught:
        inspect_environment(source)

    assert words in str(caught.value)


def test_fault_22_environment_that_takes_its_arguments_and_fails_is_broken():
    with pytest.raises(EnvironmentFault, match="cannot be built: TypeError: unsupported licence"):
        inspect_environment(options("toy_sources:Broken", env_kwargs={"scale": 1}))


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
@pytest.mark.parametrize("name", ["make_async", "make_sync"])
def test_vector_environment_of_ones_own_is_used_in_its_autoreset_mode(name, mode):
    source = options(f"toy_sources:{name}", env_kwargs={"mode": mode.value})
    vector, plain = (
        make_vector(source, 3, seed=0),
        make_vector("toy_environments:CountingEnvironment", 3, seed=0),
    )
    episodes = []
    for each in (vector, plain):
        rows = [step_once(each, [0, 1, 2])[0] for _ in range(24)]
        found = [
            (int(row.observation[0, e, 0]), *row.next_observation[0, e].tolist(), float(row.reward[0, e]))
            for e in range(3)
            for row in rows
            if row.is_transition[0, e]
        ]
        episodes.append(found)
        each.close()

    # Modes without steps that only reset get further.
    assert set(episodes[1]) <= set(episodes[0])
    assert (
        type(vector._vector).__name__ == {"make_async": "AsyncVectorEnv", "make_sync": "SyncVectorEnv"}[name]
    )


def test_vector_class_of_gymnasium_is_used_by_its_name():
    name = "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv"
    source = options(name, env_kwargs={"sutton_barto_reward": True}, max_episode_steps=30)
    actor = make_actor(
        name, inspect_environment(source), **source.model_dump(exclude={"env"}), envs_per_actor=3
    )
    reports = [actor.rollout(RolloutRequest(0, 10**9))[0] for _ in range(10)]

    returns = [each for report in reports for each in report.episode_returns]
    assert len(returns) > 5
    assert set(returns) <= {-1.0, 0.0}
    assert max(each for report in reports for each in report.episode_lengths) <= 30


def test_vector_environment_that_names_no_mode_is_taken_for_one_that_resets_in_the_next_step():
    assert "names no `autoreset_mode`" in inspect_environment(options("toy_sources:Unnamed")).conversion
    source = options("toy_sources:Unnamed", env_kwargs={"mode": "SameStep"})
    vector = make_vector(source, 2, seed=0)
    with pytest.raises(EnvironmentFault, match="is that of `SAME_STEP`"):
        step_often(vector)


def test_vector_environment_without_final_observations_is_refused():
    source = options("toy_sources:Unnamed", env_kwargs={"mode": "SameStep", "named": "SameStep"})
    vector = make_vector(source, 2, seed=0)

    with pytest.raises(EnvironmentFault, match="has no `final_obs` where an episode ends"):
        step_often(vector)


def test_final_observations_may_be_a_batch_of_parts():
    spec = inspect_environment("toy_sources:Batched")
    vector = make_vector("toy_sources:Batched", 2, seed=0)
    step_once(vector, [0, 0])
    last, ends = step_once(vector, [0, 0])

    parts = {part.name: part.read(last.next_observation[0]).tolist() for part in spec.parts}
    assert parts == {"kind": [[0, 0, 1]] * 2, "x": [[0, 2], [1, 2]]}
    assert [end.length for end in ends] == [2, 2]
    assert spec.parts[1].read(vector.observation).tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize("name", ["make_two", "make_one"])
def test_argument_for_the_number_of_environments_must_be_followed(name):
    with pytest.raises(EnvironmentFault, match="has an argument `num_envs`, and did not make"):
        inspect_environment(f"toy_sources:{name}")


def test_vector_environment_with_a_wrong_mode_is_refused():
    with pytest.raises(EnvironmentFault, match="wrong `autoreset_mode` in its `metadata`: `now`"):
        inspect_environment(options("toy_sources:Unnamed", env_kwargs={"named": "now"}))


FORGOTTEN = {
    "name": ("toy_sources:Endless", False),
    "function": (toy_sources.make_sync, False),
    "class": (Endless, False),
    "partial": (toy_sources.PARTIAL, False),
    "lambda": (lambda: Endless(1), True),
    "partial with what JSON cannot hold": (functools.partial(Endless, scale=np.float32(1)), True),
    "partial with values by place": (functools.partial(Endless, 1), True),
    "object": (EnvironmentMaker("CartPole-v1").make, True),
}


@pytest.mark.parametrize(("env", "is_forgotten"), FORGOTTEN.values(), ids=FORGOTTEN)
def test_functions_that_evaluate_cannot_find_again_are_said(env, is_forgotten):
    line = why_forgotten(SharedOptions(env=env))

    assert (line is not None) == is_forgotten
    assert line is None or "give `evaluate` its `--env`" in line


def test_partial_is_recorded_as_its_function_and_arguments():
    found = options(toy_sources.PARTIAL, env_kwargs={"offset": 2}).recorded_env()

    assert found == ("toy_sources:Endless", {"scale": 3.0, "offset": 2})


def test_local_function_is_said_at_the_start():
    def make():
        return Chooses([2, 3])

    assert "<locals>.make`, which `evaluate` cannot make again" in why_forgotten(make)
