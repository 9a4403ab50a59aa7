"""What environments return is compared with what they promise, while their first episode lasts."""

from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from toy_actors import COUNTING_SPEC, make_actor, make_vector, step_once
from toy_environments import COUNTING_IDS, CountingEnvironment, PicturesEnvironment
from toy_faults import AlteredEnvironment, OwnVector, put, register_altered

from distdqn.environments import vector as environments_module
from distdqn.errors import EnvironmentFault
from distdqn.types import RolloutRequest

LONG = {"lengths": (4,)}


def message_of(source):
    """What the fault says that an actor with these environments ends with."""
    with pytest.raises(EnvironmentFault) as caught:
        make_actor(source, COUNTING_SPEC, envs_per_actor=2, rollout_length=20).rollout(
            RolloutRequest(0, 10**9)
        )
    assert caught.value.exit_code == 5
    assert len(caught.value.mistakes) == 1
    return str(caught.value)


def changed(position, value):
    """Puts `value` at one position of what `step` returns, in the first episode's second step."""

    def alter(result, episode, step):
        new = value(result[position]) if callable(value) else value
        return (*result[:position], new, *result[position + 1 :]) if (episode, step) == (0, 2) else result

    return alter


OBSERVATION, REWARD, TERMINATED, TRUNCATED, INFO = range(5)
ARRAY = "an array of float32 with shape (3,)"
FIVE = "a tuple (observation, reward, terminated, truncated, info) with a dict as info"
WRONG_STEPS = {
    "four": (lambda r, *_: (*r[:2], r[2] or r[3], r[4]), FIVE, "a tuple of 4, as Gym before 0.26 did"),
    "list": (lambda r, *_: list(r), FIVE, "(list)"),
    "info": (changed(INFO, None), FIVE, "a tuple of 5"),
    "shape": (changed(OBSERVATION, lambda o: o[:2]), ARRAY, "an array of float32 with shape (2,)"),
    "dtype": (changed(OBSERVATION, np.float64), ARRAY, "an array of float64 with shape (3,)"),
    "no array": (changed(OBSERVATION, lambda o: o.tolist()), ARRAY, "(list)"),
    "below": (changed(OBSERVATION, lambda o: o * [1, 1, -2]), ARRAY, "an array of float64 with shape (3,)"),
    "nan": (changed(OBSERVATION, lambda o: o + np.float32([0, np.nan, 0])), "finite", "nan at position (1,)"),
    "reward array": (changed(REWARD, np.ones(1)), "a real number", "an array of float64 with shape (1,)"),
    "no reward": (changed(REWARD, None), "a real number", "None (NoneType)"),
    "complex reward": (changed(REWARD, 1j), "a real number", "1j (complex)"),
    "nan reward": (changed(REWARD, np.nan), "finite numbers", "got nan"),
    "infinite reward": (changed(REWARD, -np.inf), "finite numbers", "got -inf"),
    "terminated": (changed(TERMINATED, 0), "a bool", "0 (int)"),
    "truncated": (changed(TRUNCATED, None), "a bool", "None (NoneType)"),
}


@pytest.mark.parametrize("is_made", [False, True], ids=["function", "id"])
@pytest.mark.parametrize(("alter", "expected", "got"), WRONG_STEPS.values(), ids=WRONG_STEPS)
def test_fault_24_wrong_step_ends_the_run_with_what_was_expected_and_got(alter, expected, got, is_made):
    if is_made:
        register_altered("ToyAltered-v0", max_episode_steps=9, alter_step=alter, **LONG)
    try:
        message = message_of(
            "ToyAltered-v0" if is_made else partial(AlteredEnvironment, alter_step=alter, **LONG)
        )
    finally:
        gymnasium.registry.pop("ToyAltered-v0", None)

    _, _, after = message.partition(" from `step`: expected ")
    assert expected in after.partition(" and got ")[0]
    assert got in after.partition(" and got ")[2] or f"got {got.removeprefix('got ')}" in after
    assert ("ToyAltered-v0" if is_made else "partial") in message


WRONG_RESETS = {
    "only observation": (lambda r: r[0], "(observation, info)", "an array of float32 with shape (3,)"),
    "three": (lambda r: (*r, 0), "(observation, info)", "a tuple of 3"),
    "no info": (lambda r: (r[0], None), "(observation, info)", "a tuple of 2"),
    "shape": (lambda r: (r[0][None], r[1]), ARRAY, "with shape (1, 3)"),
    "nan": (lambda r: (r[0] * np.float32(np.nan), r[1]), "finite numbers", "nan at position (0,)"),
}


@pytest.mark.parametrize(("alter", "expected", "got"), WRONG_RESETS.values(), ids=WRONG_RESETS)
def test_fault_24_wrong_reset_ends_the_run_with_what_was_expected_and_got(alter, expected, got):
    message = message_of(lambda: AlteredEnvironment(alter_reset=lambda result, _: alter(result), **LONG))

    _, _, after = message.partition(" from `reset`: expected ")
    assert expected in after.partition(" and got ")[0]
    assert got in after.partition(" and got ")[2]


WRONG_VECTOR_STEPS = {
    "four": (lambda r: r[:4], FIVE, "a tuple of 4"),
    "shape": (lambda r: (r[0][:1], *r[1:]), "float32 with shape (2, 3)", "float32 with shape (1, 3)"),
    "nan": (put((1, 2), np.nan), "finite numbers", "nan at position (1, 2)"),
    "reward": (
        put(0, np.ones((2, 1)), "reward"),
        "real numbers with shape (2,)",
        "float64 with shape (2, 1)",
    ),
    "nan reward": (put(0, np.array([1, np.nan]), "reward"), "finite numbers", "nan at position (1,)"),
    "bools": (lambda r: (*r[:2], r[2] * 1.0, *r[3:]), "bools with shape (2,)", "float64 with shape (2,)"),
}


@pytest.mark.parametrize(("alter", "expected", "got"), WRONG_VECTOR_STEPS.values(), ids=WRONG_VECTOR_STEPS)
def test_fault_24_vector_class_of_its_own_is_checked_in_what_it_returns(alter, expected, got, monkeypatch):
    def make(_source, environments):
        makers = [partial(CountingEnvironment, **LONG)] * environments
        return OwnVector(makers, alter_step=lambda result, calls: alter(result) if calls == 2 else result)

    monkeypatch.setattr(environments_module, "make_vector_environment", make)

    _, _, after = message_of("unused").partition(" from `step`: expected ")
    assert expected in after.partition(" and got ")[0]
    assert got in after.partition(" and got ")[2]


def test_fault_24_vector_class_of_its_own_is_checked_in_its_reset(monkeypatch):
    def make(_source, environments):
        return OwnVector([CountingEnvironment] * environments, alter_reset=lambda result: result[0])

    monkeypatch.setattr(environments_module, "make_vector_environment", make)

    assert "from `reset`: expected a tuple (observation, info)" in message_of("unused")


@pytest.mark.parametrize("max_episode_steps", [None, 3], ids=["terminated", "time-limit"])
def test_check_is_gone_after_the_first_episode(max_episode_steps):
    def alter(result, episode, _):
        return (np.float64(result[0] + 1_000), *result[1:]) if episode > 0 else result

    register_altered("ToyAltered-v0", max_episode_steps, alter_step=alter, **LONG)
    try:
        vector = make_vector("ToyAltered-v0", 2, seed=0, checks_outputs=True)
        checked = vector._vector.envs[0]
        while not isinstance(checked.env, AlteredEnvironment):
            checked = checked.env
        assert checked.step != checked.env.step

        results = [step_once(vector, [0, 0])[0] for _ in range(12)]
    finally:
        gymnasium.registry.pop("ToyAltered-v0", None)

    assert max(result.next_observation.max() for result in results) > 1_000
    assert (checked.step, checked.reset) == (checked.env.step, checked.env.reset)


def test_check_of_a_vector_is_gone_after_the_first_episode_of_each(monkeypatch):
    def make(_source, environments):
        # The first environment ends after two steps, the second after four.
        makers = [partial(CountingEnvironment, lengths=(2 + 2 * e,)) for e in range(environments)]
        return OwnVector(makers, alter_step=lambda r, calls: put((0, 2), np.nan)(r) if calls > 2 else r)

    monkeypatch.setattr(environments_module, "make_vector_environment", make)
    vector = make_vector("unused", 2, seed=0, checks_outputs=True)

    for _ in range(3):
        assert vector._check is not None
        step_once(vector, [0, 0])  # NaN of the first, whose first episode is over by then
    step_once(vector, [0, 0])
    assert vector._check is None


class Beyond(CountingEnvironment):
    """Its third number is the step of the episode, and its space says at most 2."""

    def __init__(self, is_discrete=False):
        super().__init__(lengths=(6,))
        self.observation_space = gymnasium.spaces.Box(0, np.float32([255, 255, 2]), (3,), np.float32)
        if is_discrete:
            self.observation_space = gymnasium.spaces.MultiDiscrete([256, 256, 3])

    def _observe(self):
        return (
            super()._observe()
            if isinstance(self.observation_space, gymnasium.spaces.Box)
            else self._numbers()
        )

    def _numbers(self):
        return super()._observe().astype(np.int64)


def test_fault_24_number_outside_the_bounds_of_a_box_is_a_warning_with_the_worst_value():
    actor = make_actor(Beyond, envs_per_actor=2, rollout_length=9)
    first, second = (actor.rollout(RolloutRequest(0, 10**9))[0] for _ in range(2))

    assert first.env_warnings == {
        "observation": "The environment `Beyond` returned 6 at position (2,) of an observation, which is at "
        "most 2 by its space: training continues (correct the space)."
    }
    assert (first.env_faults, len(first.episode_returns)) == (0, 2)
    assert second.env_warnings == {}


def test_fault_24_vector_class_of_its_own_warns_of_numbers_outside_its_bounds(monkeypatch):
    def make(_source, environments):
        return OwnVector([Beyond] * environments, alter_step=lambda r, calls: put((1, 0), -0.5 * calls)(r))

    monkeypatch.setattr(environments_module, "make_vector_environment", make)
    actor = make_actor(Beyond, COUNTING_SPEC, envs_per_actor=2, rollout_length=9)
    (line,) = actor.rollout(RolloutRequest(0, 10**9))[0].env_warnings.values()

    assert "6 at position (0, 2) of an observation, which is at most 2 by" in line


def test_fault_24_discrete_number_outside_its_space_is_an_error():
    with pytest.raises(EnvironmentFault, match="at most 2 by its space and got 3 at position"):
        make_actor(partial(Beyond, is_discrete=True)).rollout(RolloutRequest(0, 10**9))


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_check_changes_nothing_that_good_environments_return(mode):
    plain, checked = (make_vector(COUNTING_IDS[mode], 3, 0, checks) for checks in (False, True))

    for _ in range(20):
        (result, _), (expected, _) = (step_once(vector, [0, 1, 2]) for vector in (checked, plain))
        np.testing.assert_array_equal(result.next_observation, expected.next_observation)
        np.testing.assert_array_equal(result.reward, expected.reward)
        np.testing.assert_array_equal(checked.observation, plain.observation)


class Rounding(CountingEnvironment):
    """Its numbers lie a little beyond their bounds, as sums of rounded numbers do."""

    def __init__(self):
        super().__init__()
        self.observation_space = gymnasium.spaces.Box(0, np.float32(0.3), (3,), np.float32)

    def _observe(self):
        return np.array([-1e-8, np.float32(0.3) + 1e-7, 0.1], np.float32)


class Unbounded(CountingEnvironment):
    """Its space ends where its dtype does."""

    def __init__(self):
        super().__init__()
        greatest = np.finfo(np.float32).max
        self.observation_space = gymnasium.spaces.Box(-greatest, np.inf, (3,), np.float32)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        (Rounding, None),
        (Unbounded, None),
        (partial(PicturesEnvironment, size=4), None),
        (partial(CountingEnvironment, dtype=np.float64), None),
        ("CartPole-v1", None),
        ("Acrobot-v1", None),
        ("MountainCar-v0", None),
        *((f"MinAtar/{game}-v1", "minatar") for game in ("Breakout", "Freeway", "Seaquest")),
        ("ALE/Breakout-v5", "ale_py"),
    ],
    ids=str,
)
def test_environments_that_are_as_they_should_be_pass_the_check(name, package):
    if package:
        pytest.importorskip(package)
    actor = make_actor(name, envs_per_actor=1, rollout_length=50)

    for _ in range(4):
        report, _ = actor.rollout(RolloutRequest(0, 10**9))
        assert (report.env_faults, report.not_finite) == (0, 0)
