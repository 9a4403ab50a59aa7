"""What must hold however options are combined, from the actor's steps to the policy."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from learning.fractions import midpoint_fractions
from toy_environments import LENGTHS, CountingEnvironment
from toy_parts import Parts, make_parts

from distdqn.networks.numpy_policy import NumpyPolicy
from distdqn.types import SampledBatches

DISCOUNT, BATCH_SIZE = 0.9, 24
V_MIN, V_MAX, ATOMS = -5.0, 40.0, 7
# Half of all, so chosen that any three of the options meet in every way.
COMBINATIONS = [
    (head, dueling, double, n_step, sampler)
    for head, dueling, double, n_step, sampler in itertools.product(
        ("value", "quantile", "implicit", "categorical"),
        (False, True),  # dueling
        (False, True),  # double
        (1, 3),  # env steps in a transition
        ("uniform", "prioritized"),
    )
    if (dueling + double + (n_step == 3) + (sampler == "prioritized")) % 2 == 0
]


class Combination(NamedTuple):
    """The parts of a run with some combination of options, and a batch `[1, B]` for its learner."""

    head: str
    double: bool
    n_step: int
    sampler: str
    parts: Parts
    batches: SampledBatches


def _name(values: tuple[Any, ...]) -> str:
    head, dueling, double, n_step, sampler = values
    return f"{head}-{'dueling' if dueling else 'single'}-{'double' if double else 'plain'}-{n_step}-{sampler}"


@pytest.fixture(scope="module", autouse=True)
def _eagerly() -> Iterator[None]:
    """Runs updates operation by operation: compiling them 32 times would take a minute."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module", params=COMBINATIONS, ids=map(_name, COMBINATIONS))
def combination(request: pytest.FixtureRequest) -> Combination:
    """Acted, learned a little, and then was given a target network that prefers other actions."""
    head, dueling, double, n_step, sampler = request.param
    parts = make_parts(
        CountingEnvironment,
        seed=3,
        envs_per_actor=4,
        rollout_length=12,
        n_step=n_step,
        discount=DISCOUNT,
        reward_scale=0.01,
        epsilon_start=1.0,
        epsilon_schedule="constant",
        sampler=sampler,
        head=head,
        dueling=dueling,
        double=double,
        hidden_sizes=(6,),
        atoms=None if head == "value" else ATOMS,
        v_min=V_MIN,
        v_max=V_MAX,
        updates_per_call=1,
        batch_size=BATCH_SIZE,
        learning_rate=0.01,
        target_update_period=10**6,
        **({"tau_samples": ATOMS, "target_tau_samples": ATOMS} if head == "implicit" else {}),
    )
    parts.act(2)
    parts.learn(2, 1, BATCH_SIZE)
    batches = parts.replay.sample(1, BATCH_SIZE, importance_sampling_exponent=0.5)
    made = Combination(head, double, n_step, sampler, parts, batches)
    generator = np.random.default_rng(5)
    while not np.any(favourites(made, "online") != favourites(made, "target")):
        target = parts.learner._loop.target
        target.set_weights([generator.normal(0.0, 1.0, array.shape) for array in target.get_weights()])
    return made


def favourites(combination: Combination, network: str) -> np.ndarray:
    """The best next action of each item `[B]` by the `online` or the `target` network."""
    outputs = getattr(combination.parts.learner._loop, network)(
        combination.batches.transitions.next_observation[0]
    )
    return np.argmax(means(distributions(combination.head, outputs.numpy())), axis=1)


def run(combination: Combination, weight: np.ndarray, learning_rate: float = 0.0) -> Any:
    """One update from the batch with these importance weights `[1, B]`, without a step unless asked."""
    loop = combination.parts.learner._loop
    return loop.run(combination.batches.transitions, 0, weight, learning_rate)


def test_every_trainable_weight_receives_a_gradient_whatever_is_combined(combination: Combination) -> None:
    variables = combination.parts.learner._loop.online.trainable_variables
    before = [variable.numpy() for variable in variables]

    run(combination, combination.batches.importance_weight, learning_rate=0.01)

    for variable, old in zip(variables, before, strict=True):
        assert np.any(variable.numpy() != old), variable.path
        variable.assign(old)


def test_halved_importance_weight_halves_its_items_share_of_the_loss_and_no_other(
    combination: Combination,
) -> None:
    weight = combination.batches.importance_weight  # [1, B]
    whole = run(combination, weight)
    is_item = np.arange(BATCH_SIZE) == np.argmax(np.abs(whole.td_error))

    half = run(combination, np.where(is_item, 0.5 * weight, weight))
    of_item = run(combination, np.where(is_item, weight, 0.0))
    of_others = run(combination, np.where(is_item, 0.0, weight))

    assert (len(np.unique(weight)) > 1) is (combination.sampler == "prioritized")
    assert of_item.loss > 0.01 * whole.loss
    assert whole.loss == pytest.approx(of_item.loss + of_others.loss, rel=1e-5)
    assert half.loss == pytest.approx(0.5 * of_item.loss + of_others.loss, rel=1e-5)
    np.testing.assert_array_equal(half.td_error, whole.td_error)


def test_stored_discount_and_reward_are_those_of_the_definition(combination: Combination) -> None:
    """Windows of n env steps, or up to the episode's end; 0 where it terminates, not where truncated."""
    transitions = combination.parts.replay.sample(1, 200).transitions
    kinds = set()
    for i in range(200):
        seed, episode, step = transitions.observation[0, i].astype(int).tolist()
        length = LENGTHS[(seed + episode) % len(LENGTHS)]
        steps = min(combination.n_step, length - step)
        ends = step + steps == length
        is_cut_off = episode % 3 == 2 and episode % 2 == 0
        terminates = ends and not is_cut_off
        kinds.add((steps, ends, terminates))

        discount = transitions.discount[0, i]
        assert discount == pytest.approx(0.0 if terminates else DISCOUNT**steps)
        assert transitions.next_observation[0, i].tolist() == [seed, episode, step + steps]
        low = 0.01 * sum(DISCOUNT**k * (100 * episode + 10 * (step + k)) for k in range(steps))
        # Actions are 0, 1 and 2, and what was taken first is known.
        first = 0.01 * float(transitions.action[0, i])
        high = low + first + 0.01 * sum(DISCOUNT**k * 2 for k in range(1, steps))
        assert low + first - 1e-4 <= transitions.reward[0, i] <= high + 1e-4

    # The longest window may not reach the end, or, like each shorter one, be truncated or terminate.
    assert len(kinds) == 1 + 2 * combination.n_step


def test_td_error_applies_the_stored_discount_once_to_the_chosen_value(combination: Combination) -> None:
    """`reward + discount * value of the next action - value`, by loops over the networks' outputs."""
    transitions = combination.batches.transitions
    loop = combination.parts.learner._loop
    outputs = loop.online(transitions.observation[0]), loop.target(transitions.next_observation[0])
    now, target = (distributions(combination.head, each.numpy()) for each in outputs)
    best = favourites(combination, "online" if combination.double else "target")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(loop._head), "draw_fractions", lambda head, size, _: midpoint_fractions(head, size)
        )
        td_error = run(combination, combination.batches.importance_weight).td_error

    for i in range(BATCH_SIZE):
        returns, probability = (each[i, best[i]] for each in target)
        shifted = transitions.reward[0, i] + transitions.discount[0, i] * returns
        if combination.head == "categorical":
            shifted = np.clip(shifted, V_MIN, V_MAX)
        expected = shifted @ probability - means(now)[i, transitions.action[0, i]]
        assert td_error[0, i] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def distributions(head: str, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns and their probabilities, `[B, A, K]` each, of a network's outputs."""
    if head == "value":
        return outputs[:, :, None], np.ones((*outputs.shape, 1))
    if head in ("quantile", "implicit"):
        return outputs, np.full(outputs.shape, 1.0 / ATOMS)
    powers = np.exp(outputs - outputs.max(axis=2, keepdims=True))
    returns = np.broadcast_to(np.linspace(V_MIN, V_MAX, ATOMS), outputs.shape)
    return returns, powers / powers.sum(axis=2, keepdims=True)


def means(distribution: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Q-values `[B, A]`."""
    returns, probability = distribution
    return np.sum(returns * probability, axis=2)


def test_numpy_policy_equals_keras_whatever_is_combined(combination: Combination) -> None:
    learner = combination.parts.learner
    observation = combination.batches.transitions.observation[0]
    expected = learner._q_network(observation).numpy()

    found = NumpyPolicy(learner.publish()).q_values(observation)

    assert found.shape == (BATCH_SIZE, 3)
    assert np.all(np.abs(found - expected) <= 1e-5 * np.maximum(1.0, np.abs(expected)))
    assert np.ptp(expected) > 1e-3
    online = learner._loop.online(observation).numpy()
    np.testing.assert_allclose(found, means(distributions(combination.head, online)), rtol=1e-4, atol=1e-4)
