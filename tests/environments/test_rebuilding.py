"""Environments that raise are rebuilt; too many consecutive errors end the run."""

import pickle
from functools import partial
from itertools import count

import numpy as np
import pytest
import toy_actors
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toy_actors import COUNTING_SPEC, make_evaluator, make_vector, step_once
from toy_environments import CountingEnvironment
from toy_faults import AlteredEnvironment, Plan, RaisingEnvironment, put

from distdqn.environments import vector as environments_module
from distdqn.errors import ConfigError, EnvironmentFault
from distdqn.types import PolicyWeights, RolloutRequest

PLENTY = RolloutRequest(env_steps=0, limit=10**9)
ALWAYS = range(1, 10**6)
LAYERS = [
    {"name": "observation", "kind": "input", "inputs": [], "arrays": []},
    {"name": "q", "kind": "dense", "inputs": ["observation"], "arrays": [0, 1], "activation": "linear"},
]
# Always action 0.
WEIGHTS = PolicyWeights(LAYERS, [np.zeros((3, 3), np.float32), np.array([1, 0, 0], np.float32)], (0, 1), 0)


def make_actor(plan, envs_per_actor=1, rollout_length=10, lengths=(40,), **options):
    source = partial(RaisingEnvironment, plan, lengths=lengths)
    options = {"envs_per_actor": envs_per_actor, "rollout_length": rollout_length, "n_step": 3} | options
    return toy_actors.make_actor(source, COUNTING_SPEC, **options)


def test_fault_ends_the_windows_before_it_and_is_no_transition_itself():
    actor = make_actor(Plan(steps=[5]))

    report, chunk = actor.rollout(PLENTY, WEIGHTS)

    # Steps 0 to 3 of an episode, the fault, and steps 0 to 4 of the next one; two windows stay open.
    assert (report.env_steps, report.transitions) == (4 + 5, 4 + 3)
    assert chunk.observation[:, 2].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert chunk.next_observation[:, 2].tolist() == [3, 4, 4, 4, 3, 4, 5]
    assert chunk.discount.tolist() == [0.125, 0.125, 0.25, 0.5, 0.125, 0.125, 0.125]
    assert chunk.reward[:4].tolist() == [0 + 5 + 5, 10 + 10 + 7.5, 20 + 15, 30]
    assert len({tuple(seed) for seed in chunk.observation[:4, :1]}) == 1
    assert chunk.observation[4, 0] != chunk.observation[0, 0]


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
@pytest.mark.parametrize("n_step", [1, 3])
def test_fault_22_every_real_step_starts_one_window_whatever_raises(mode, n_step, monkeypatch):
    generator = np.random.default_rng(n_step)
    plan = Plan(steps=set(generator.integers(600, size=12)), resets=set(generator.integers(200, size=6)))

    def make(source, environments):
        return SyncVectorEnv([source.env] * environments, autoreset_mode=mode)

    monkeypatch.setattr(environments_module, "make_vector_environment", make)
    actor = make_actor(plan, 3, 20, lengths=(3, 1, 4, 2, 5), n_step=n_step)
    pairs = [actor.rollout(PLENTY, WEIGHTS) for _ in range(9)]
    _, last = actor.flush(0)

    chunks = [*(chunk for _, chunk in pairs), last]
    assert sum(report.env_steps for report, _ in pairs) == sum(len(chunk) for chunk in chunks)
    assert sum(report.env_faults for report, _ in pairs) == plan.calls["build"] // 3 - 2 > 10
    for chunk in chunks:
        for i, (seed, episode, step) in enumerate(chunk.observation):
            covered = int(chunk.next_observation[i, 2] - step)
            assert chunk.next_observation[i, :2].tolist() == [seed, episode]
            assert 1 <= covered <= n_step
            assert chunk.reward[i] == sum(0.5**k * (100 * episode + 10 * (step + k)) for k in range(covered))


def test_fault_loses_the_open_episodes_of_all_environments_and_says_so():
    # Episodes of three steps and a reset: in the sixth vector step all are open, in the fourth none.
    steps = 3 * np.array([6 - 1]) - 1  # the second environment's; resets are no steps
    report, _ = make_actor(Plan(steps=steps), 3, 6, lengths=(3,)).rollout(PLENTY, WEIGHTS)
    between, _ = make_actor(Plan(resets=[3 + 2]), 3, 4, lengths=(3,)).rollout(PLENTY, WEIGHTS)

    assert (report.env_faults, report.episodes_lost, report.episode_lengths) == (1, 3, [3] * 3)
    assert (between.env_faults, between.episodes_lost, between.episode_lengths) == (1, 0, [3] * 3)


def test_fault_22_each_place_that_raises_is_reported_once_with_its_traceback():
    actor = make_actor(Plan(steps=[2, 14, 15], resets=[6]), lengths=(8,))

    reports = [actor.rollout(PLENTY, WEIGHTS)[0] for _ in range(4)]

    assert [report.env_faults for report in reports] == [1, 2, 1, 0]
    texts = [report.env_tracebacks for report in reports]
    assert [len(text) for text in texts] == [1, 0, 1, 0]
    assert "ArithmeticError: collision in step 2" in texts[0][0]
    assert "toy_faults.py" in texts[0][0]
    assert "ValueError: no level in reset 6" in texts[2][0]


def test_fault_22_environments_are_built_from_another_seed_after_each_fault():
    plan = Plan(steps=[3, 9, 11, 20], resets=[5])
    actor = make_actor(plan, envs_per_actor=2)
    for _ in range(3):
        actor.rollout(PLENTY, WEIGHTS)

    other = Plan()
    for number in range(5):
        make_actor(other, envs_per_actor=2, index=1).flush(number)

    assert len(plan.seeds) > 2 * 5
    assert len(set(plan.seeds)) == len(plan.seeds)
    assert max(plan.seeds) < 2**30  # never those of an evaluation
    assert not set(plan.seeds) & set(other.seeds)


@pytest.mark.parametrize("max_failures", [1, 5])
def test_fault_22_environment_that_always_raises_in_its_step_ends_the_run(max_failures):
    plan = Plan(steps=ALWAYS)
    actor = make_actor(plan, max_failures=max_failures)

    with pytest.raises(EnvironmentFault, match=f"raised {max_failures} consecutive errors") as caught:
        actor.rollout(PLENTY, WEIGHTS)

    assert plan.calls["step"] == max_failures
    assert f"ArithmeticError: collision in step {max_failures}" in str(caught.value)
    assert "Traceback (most recent call last)" in caught.value.details
    assert f"ArithmeticError: collision in step {max_failures}\n" in caught.value.details
    assert caught.value.exit_code == 5
    assert pickle.loads(pickle.dumps(caught.value)).details == caught.value.details


@pytest.mark.parametrize("method", ["build", "reset"])
def test_fault_22_environment_that_always_raises_before_its_first_step_ends_the_run(method):
    plan = Plan(**{f"{method}s": ALWAYS})

    with pytest.raises(EnvironmentFault, match=r"raised 5 consecutive errors.*no l(icence|evel)"):
        make_actor(plan)

    assert plan.calls[method] == 5


def test_environment_that_raises_at_first_is_built_until_it_works():
    actor = make_actor(Plan(builds=[1], resets=[1, 2]))

    report, _ = actor.rollout(PLENTY, WEIGHTS)

    assert (report.env_steps, report.env_faults, len(report.env_tracebacks)) == (10, 3, 2)


def test_successful_step_resets_the_count_of_failures():
    # Two consecutive failures, then one good step, over and over.
    plan = Plan(steps=[call for call in range(1, 100) if call % 3])
    actor = make_actor(plan, rollout_length=60, max_failures=3)

    report, chunk = actor.rollout(PLENTY, WEIGHTS)

    assert (report.env_steps, report.env_faults) == (20, 40)
    assert chunk.discount.tolist() == [0.5] * 19  # the last one is open


def test_reset_alone_does_not_reset_the_count_of_failures():
    plan = Plan(steps=[1, 2, 4], resets=[3])  # step, step, reset: each time after good resets

    with pytest.raises(EnvironmentFault, match="raised 3 consecutive errors"):
        make_actor(plan, max_failures=3).rollout(PLENTY, WEIGHTS)


def test_unknown_environment_is_refused_and_not_rebuilt():
    with pytest.raises(ConfigError, match="NoSuchThing"):
        toy_actors.make_actor("NoSuchThing-v0", COUNTING_SPEC)


def test_step_in_which_an_environment_raises_truncates_all_episodes_and_ends_none():
    vector = make_vector(partial(RaisingEnvironment, Plan(steps=[3])), 2, seed=1)
    step_once(vector, [0, 0])

    steps, ends = step_once(vector, [0, 0])

    assert ends is None
    assert (steps.is_transition.any(), steps.terminated.any(), steps.truncated.all()) == (False, False, True)
    assert steps.observation[0].tolist() == [[1, 0, 1], [2, 0, 1]]
    assert steps.next_observation[0].tolist() == vector.observation.tolist() == [[2, 0, 0], [3, 0, 0]]
    assert (vector.open_returns.tolist(), vector.open_lengths.tolist()) == ([0, 0], [0, 0])


def test_broken_environments_are_closed_and_those_that_replace_them_are_not():
    plan = Plan(steps=[3, 9], resets=[3 + 2])  # the second reset of the second environments
    actor = make_actor(plan, envs_per_actor=3)
    actor.rollout(PLENTY, WEIGHTS)

    assert plan.calls["build"] == 3 * 4
    assert len(set(map(id, plan.closed))) == len(plan.closed) == 3 * 3
    actor.flush(0)
    assert len(plan.closed) == 3 * 4


@pytest.mark.parametrize(("fault", "is_checked"), [(4, False), (3, True)])
def test_rebuilt_environments_are_checked_only_if_first_episodes_were_not_over(fault, is_checked):
    calls = count(1)

    def alter(result, _, step):
        call = next(calls)
        if call == fault:
            raise ArithmeticError
        return put(0, np.nan, "reward")(result) if call > fault and step == 2 else result

    source = partial(AlteredEnvironment, alter_step=alter, lengths=(3,))
    actor = toy_actors.make_actor(source, envs_per_actor=1, rollout_length=8)

    if is_checked:
        with pytest.raises(EnvironmentFault, match="expected finite numbers and got nan"):
            actor.rollout(PLENTY)
    else:
        report, _ = actor.rollout(PLENTY)
        assert (report.env_faults, report.not_finite) == (1, 1)


class Unclosable(CountingEnvironment):
    """Raises when it is closed, too."""

    def step(self, _action):
        raise ArithmeticError("collision")

    def close(self):
        raise OSError("the simulator is gone")


def test_environment_that_cannot_be_closed_is_replaced_all_the_same():
    actor = toy_actors.make_actor(Unclosable, COUNTING_SPEC, envs_per_actor=1)

    with pytest.raises(EnvironmentFault, match="5 consecutive errors, the last one ArithmeticError: c"):
        actor.rollout(PLENTY)


def test_fault_22_evaluation_is_played_again_when_the_environment_raises():
    plan = Plan(steps=[7], resets=[3 + 2])
    evaluator = make_evaluator(partial(RaisingEnvironment, plan, lengths=(4,)))

    first, second = (evaluator.evaluate(WEIGHTS, 3, number) for number in (0, 1))

    assert first.returns == [0.0 + 10 + 20 + 30] * 3
    assert (first.env_faults, second.env_faults) == (2, 0)
    assert [text.splitlines()[-1] for text in first.env_tracebacks] == [
        "ArithmeticError: collision in step 7",
        "ValueError: no level in reset 5",
    ]
    assert len(set(plan.seeds)) == len(plan.seeds)
    assert min(plan.seeds) >= 2**30  # all attempts keep to the evaluation's half


def test_finished_evaluation_resets_the_count_of_failures():
    plan = Plan(steps=[1, 2, 7, 8])  # two failures before each evaluation of four steps
    evaluator = make_evaluator(partial(RaisingEnvironment, plan, lengths=(4,)), max_failures=3)

    faults = [evaluator.evaluate(WEIGHTS, 1, number).env_faults for number in (0, 1)]

    assert faults == [2, 2]


def test_fault_22_evaluation_that_always_raises_ends_the_run():
    plan = Plan(steps=ALWAYS)
    evaluator = make_evaluator(partial(RaisingEnvironment, plan), max_failures=3)

    with pytest.raises(EnvironmentFault, match="raised 3 consecutive errors") as caught:
        evaluator.evaluate(WEIGHTS, 3, 0)
    assert plan.calls["step"] == 3
    assert "collision in step 3" in caught.value.details
