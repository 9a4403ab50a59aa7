"""A flush ends all episodes and windows, and what follows depends on it alone."""

import itertools
from functools import partial

import numpy as np
import pytest
import toy_actors
from gymnasium.vector import AutoresetMode
from toy_actors import COUNTING_SPEC, make_vector, step_once
from toy_environments import COUNTING_IDS, LENGTHS, CountingEnvironment, PicturesEnvironment
from toy_faults import Plan, RaisingEnvironment

from distdqn.environments.registry import inspect_environment
from distdqn.types import RolloutRequest

MODES = list(AutoresetMode)
IDS = [mode.name for mode in MODES]
PLENTY = RolloutRequest(env_steps=0, limit=10**9)
PICTURES = partial(PicturesEnvironment, stack=3, size=4, axis=0)
SOURCES = [
    *(pytest.param(COUNTING_IDS[mode], None, id=mode.name) for mode in MODES),
    pytest.param(PICTURES, None, id="pictures"),
    pytest.param("CartPole-v1", None, id="CartPole"),
    pytest.param("Acrobot-v1", None, id="Acrobot"),
    # It keeps its last action over a reset and may repeat it.
    pytest.param("MinAtar/SpaceInvaders-v1", "minatar", id="MinAtar"),
    pytest.param("ALE/Breakout-v5", "ale_py", id="ALE"),
]


make_actor = partial(
    toy_actors.make_actor,
    envs_per_actor=3,
    rollout_length=25,
    n_step=3,
    epsilon_start=0.5,
    epsilon_end=0.5,
    sampler="prioritized",
)


def make_weights(source):
    return toy_actors.make_random_weights(inspect_environment(source))


def everything(chunk):
    """All arrays of a chunk, by name."""
    arrays = chunk.columns() | {"priority": chunk.priority}
    if chunk.frames is not None:
        arrays |= {"image": chunk.frames.image, "key": chunk.frames.key}
    return arrays


def assert_same_future(first, second, weights, rollouts=3):
    for _ in range(rollouts):
        (report, chunk), (other_report, other) = (actor.rollout(PLENTY, weights) for actor in (first, second))
        for name, array in everything(chunk).items():
            np.testing.assert_array_equal(array, everything(other)[name], err_msg=name)
        assert report.episode_returns == other_report.episode_returns
        assert report.env_steps == other_report.env_steps > 0


@pytest.mark.parametrize(("source", "package"), SOURCES)
def test_new_actor_that_is_flushed_continues_like_one_that_acted_before(source, package):
    if package:
        pytest.importorskip(package)
    weights = make_weights(source)
    few = {"envs_per_actor": 1 if package == "ale_py" else 3}  # to be quick
    used, fresh = make_actor(source, **few), make_actor(source, **few)
    used.rollout(PLENTY)
    used.flush(0)
    for _ in range(2):
        used.rollout(PLENTY, weights)

    for actor in (used, fresh):
        actor.flush(1)

    assert_same_future(used, fresh, weights)


def test_actor_continues_alike_from_a_flush_though_its_environment_raised_before_and_raises_after():
    used_plan, fresh_plan = Plan(steps=(50,)), Plan()
    used, fresh = (
        make_actor(partial(RaisingEnvironment, plan), COUNTING_SPEC, envs_per_actor=1)
        for plan in (used_plan, fresh_plan)
    )
    weights = make_weights(CountingEnvironment)
    for _ in range(4):
        used.rollout(PLENTY, weights)

    for actor, plan in ((used, used_plan), (fresh, fresh_plan)):
        actor.flush(1)
        plan._raises["step"] = (plan.calls["step"] + 30,)

    assert used_plan.calls["build"] == fresh_plan.calls["build"] + 1
    assert_same_future(used, fresh, weights, rollouts=4)
    assert used_plan.seeds[-2:] == fresh_plan.seeds[-2:]  # of the flush and of the fault after it
    assert len(set(used_plan.seeds)) == len(used_plan.seeds) == 4


@pytest.mark.parametrize("other", [0, 2, None])
def test_every_flush_continues_differently(other):
    weights = make_weights("CartPole-v1")
    one, two = make_actor("CartPole-v1"), make_actor("CartPole-v1")
    one.flush(1)
    if other is not None:
        two.flush(other)

    _, chunk = one.rollout(PLENTY, weights)
    _, other_chunk = two.rollout(PLENTY, weights)

    assert not np.isin(chunk.observation[:, 0], other_chunk.observation[:, 0]).any()  # other environments
    length = min(len(chunk), len(other_chunk))
    assert (chunk.action[:length] != other_chunk.action[:length]).any()  # other exploration


@pytest.mark.parametrize("n_step", [1, 2, 5])
@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_every_real_step_starts_one_window_though_actors_are_flushed(mode, n_step):
    actor = make_actor(COUNTING_IDS[mode], n_step=n_step, sampler="uniform")
    generator = np.random.default_rng(n_step)
    chunks = []
    for number in range(10):
        env_steps, starts = 0, []
        for _ in range(int(generator.integers(1, 4))):
            report, chunk = actor.rollout(RolloutRequest(0, int(generator.integers(1, 40))))
            env_steps += report.env_steps
            chunks.append(chunk)
            starts += chunk.observation.tolist()
        chunks.append(actor.flush(number)[1])
        starts += chunks[-1].observation.tolist()
        assert env_steps == len(starts) == len({tuple(start) for start in starts}) > 0

    for chunk in chunks:
        for i, (seed, episode, step) in enumerate(chunk.observation):
            covered = int(chunk.next_observation[i, 2] - step)
            assert chunk.next_observation[i, :2].tolist() == [
                seed,
                episode,
            ]  # spans no flush
            assert 1 <= covered <= n_step
            paid = sum(0.5**k * (100 * episode + 10 * (step + k)) for k in range(covered))
            assert 0 <= chunk.reward[i] - paid <= 2 * 2  # actions 0 to 2, halved each step
            ended = step + covered == LENGTHS[int(seed + episode) % len(LENGTHS)]
            terminated = ended and (episode % 3 != 2 or episode % 2 == 1)
            assert chunk.discount[i] == (0.0 if terminated else 0.5**covered)


@pytest.mark.parametrize(
    ("rollout_length", "lost", "windows"),
    [
        (1, 4, 4 * 1),
        (2, 4, 4 * 2),
        (3, 0, 0),  # all episodes just ended
        (4, 0, 0),  # all were just reset
        (9, 4, 4 * 1),
    ],
)
def test_flush_reports_episodes_that_had_a_step_and_windows_that_were_open(rollout_length, lost, windows):
    source = partial(CountingEnvironment, lengths=(3,))
    actor = make_actor(source, envs_per_actor=4, rollout_length=rollout_length, n_step=3)
    actor.rollout(PLENTY)

    report, transitions = actor.flush(0)

    assert (report.episodes_lost, report.transitions, len(transitions)) == (lost, windows, windows)


def test_flush_clears_resets_that_were_due_and_returns_that_were_open():
    source = partial(CountingEnvironment, lengths=(3,))
    actor = make_actor(source, envs_per_actor=4, rollout_length=3)
    actor.rollout(PLENTY)  # all ended: their next vector step would be a reset
    actor.flush(0)
    report, _ = actor.rollout(RolloutRequest(0, 4 * 2))
    actor.flush(1)

    later, _ = actor.rollout(PLENTY)

    assert report.env_steps == 4 * 2
    assert later.env_steps == 4 * 3
    assert later.episode_lengths == [3] * 4
    assert all(0 + 10 + 20 <= value <= 0 + 10 + 20 + 3 * 2 for value in later.episode_returns)


def test_windows_closed_by_a_flush_have_priorities_and_frames_like_any_others():
    weights = make_weights(PICTURES)
    actor = make_actor(partial(PICTURES, lengths=(99,)), rollout_length=7, envs_per_actor=2)
    actor.rollout(PLENTY, weights)

    _, chunk = actor.flush(0)

    assert len(chunk) == len(chunk.priority) == 2 * (3 - 1)
    layout = chunk.frames.layout
    before, after = (
        layout.join(chunk.frames.image[at]) for at in (chunk.observation, chunk.next_observation)
    )
    # The newest frame says the step: windows begin with steps 5 and 6, and all end after step 7.
    assert before[:, 2, 0, 2].tolist() == [5, 5, 6, 6]
    assert after[:, 2, 0, 2].tolist() == [7] * 4
    assert chunk.discount.tolist() == [0.25, 0.25, 0.5, 0.5]


@pytest.mark.parametrize("source", [PICTURES, CountingEnvironment], ids=["pictures", "vectors"])
def test_flush_of_an_actor_that_never_acted_returns_nothing(source):
    actor = make_actor(source)

    (report, nothing), (_, chunk) = actor.flush(0), actor.rollout(PLENTY)

    assert (report.episodes_lost, report.transitions, len(nothing)) == (0, 0, 0)
    for name, column in chunk.columns().items():
        assert (nothing.columns()[name].shape[1:], nothing.columns()[name].dtype) == (
            column.shape[1:],
            column.dtype,
        )


@pytest.mark.parametrize(("source", "package"), SOURCES)
def test_environments_that_restart_continue_like_new_ones_of_that_seed(source, package):
    if package:
        pytest.importorskip(package)
    actions = np.random.default_rng(0).integers(inspect_environment(source).actions, size=(60, 2))
    used = make_vector(source, 2, seed=1)
    for row in actions[:37]:
        step_once(used, row)
    used.restart(itertools.count(9))
    new = make_vector(source, 2, seed=9)

    np.testing.assert_array_equal(used.observation, new.observation)
    assert (used.open_returns.tolist(), used.open_lengths.tolist()) == ([0, 0], [0, 0])
    for row in actions:
        (steps, ends), (expected, expected_ends) = step_once(used, row), step_once(new, row)
        for name, column in vars(expected).items():
            np.testing.assert_array_equal(getattr(steps, name), column, err_msg=name)
        assert ends == expected_ends
