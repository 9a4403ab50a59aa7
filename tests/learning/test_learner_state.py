"""A learner that goes on from a checkpoint does what the one that was saved goes on to do."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learning.learners import IMAGE, Batches, build_learner, make_plan
from toy_replay_state import plain

from distdqn.checkpoints.store import Store
from distdqn.learning.learner import Learner
from distdqn.networks.q_network import NetworkPlan

PLANS = {
    "value": make_plan(),
    "dueling quantile with noise": make_plan(head="quantile", dueling=True, layer_norm=True, noisy_sigma=0.5),
    "categorical": make_plan(head="categorical"),
    "images with spectral norm": make_plan(torso="small", spectral_norm=True, **IMAGE),
    "the user's with statistics and dropout": make_plan(network="toy_user_networks:image", **IMAGE),
}


def through_disk(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The state as a checkpoint gives it back."""
    store = Store(str(folder))
    store.check_writable()
    back: dict[str, Any] = store.read_tree(json.loads(json.dumps(store.write_tree(state))))
    return back


def go_on(learner: Learner, batches: Batches) -> list[Any]:
    """Two calls and all they bring, but for the time they took."""
    results: list[Any] = []
    for number in (3, 4):
        report, weights, priorities = learner.learn(batches.make(number), publish=number == 4)
        assert priorities is not None
        results += [vars(replace(report, seconds=0.0)), priorities.priority]
    assert weights is not None
    return [*results, weights.arrays, weights.weights_version, learner.get_state()]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_restored_learner_goes_on_bit_for_bit_like_the_one_that_was_saved(
    plan: NetworkPlan, tmp_path: Path
) -> None:
    learner, batches = build_learner(plan), Batches(plan)
    learner.publish()
    learner.learn(batches.make(1), publish=True)
    learner.learn(batches.make(2), publish=False, learning_rate=0.003)
    state = through_disk(learner.get_state(), tmp_path)
    uninterrupted = go_on(learner, batches)

    restored = build_learner(plan)
    untrained = plain(restored.get_state())
    restored.set_state(state)

    assert untrained != plain(state) == plain(restored.get_state())
    assert plain(go_on(restored, batches)) == plain(uninterrupted)
    assert uninterrupted[0]["learner_steps"] == 2 * 3
    assert uninterrupted[-2] == (0, 3)


@pytest.fixture(scope="module")
def shared() -> Learner:
    """A learner that made two updates, which tests may change."""
    learner = build_learner(make_plan())
    learner.learn(Batches(make_plan()).make(1), publish=False)
    return learner


def test_state_stays_as_it_is_while_learning_goes_on(shared: Learner) -> None:
    state = shared.get_state()
    before = plain(state)

    shared.learn(Batches(make_plan()).make(2), publish=False)

    assert plain(state) == before != plain(shared.get_state())


def test_restored_learner_leaves_the_state_alone_and_takes_read_only_arrays(shared: Learner) -> None:
    state = shared.get_state()
    before = plain(state)
    for arrays in state["networks"].values():
        for array in arrays:
            array.setflags(write=False)

    shared.set_state(state)
    shared.learn(Batches(make_plan()).make(2), publish=False)

    assert plain(state) == before


@pytest.mark.parametrize(
    ("saved", "own", "expected"),
    [((0, 7), 0, (0, 8)), ((2, 7), 0, (2, 8)), ((0, 7), 1, (1, 1)), ((2, 7), 3, (3, 1))],
    ids=["same epoch", "older epoch", "newer epoch", "newer than a later one"],
)
def test_versions_go_on_unless_the_learner_lives_in_a_newer_epoch(
    shared: Learner, saved: tuple[int, int], own: int, expected: tuple[int, int]
) -> None:
    state = shared.get_state() | {"weights_version": list(saved), "learner_steps": 30}

    shared.set_state(state, generation=own)

    weights = shared.publish()
    assert weights.weights_version == expected
    assert weights.learner_steps == 30


def test_epoch_is_that_of_the_constructor_unless_it_is_given(shared: Learner) -> None:
    learner = build_learner(make_plan(), generation=4)

    learner.set_state(shared.get_state() | {"weights_version": [3, 9]})

    assert learner.publish().weights_version == (4, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_sizes": (6,)}, r"`\S+/kernel` of `online` must have the shape \(2, 6\), not \(2, 5\)\."),
        ({"observation_shape": (3,)}, r"must have the shape \(3, 5\), not \(2, 5\)\."),
        ({"actions": 4}, r"must have the shape \(5, 4\), not \(5, 3\)\."),
        ({"hidden_sizes": (5, 5)}, r"`online` has 4 arrays for 6 variables\."),
        ({"noisy_sigma": 0.5}, r"`online` has 4 arrays for 12 variables\."),
    ],
)
def test_state_of_another_network_is_refused_and_changes_nothing(
    shared: Learner, changes: dict[str, Any], message: str
) -> None:
    learner = build_learner(replace(make_plan(), **changes))
    before = plain(learner.get_state())

    with pytest.raises(ValueError, match=message):
        learner.set_state(shared.get_state())

    assert plain(learner.get_state()) == before


def test_state_with_slots_of_another_shape_is_refused(shared: Learner) -> None:
    state = shared.get_state()
    state["networks"]["optimizer"][-1] = np.zeros(7, np.float32)

    with pytest.raises(ValueError, match=r"of `optimizer` must have the shape \(3,\), not \(7,\)"):
        shared.set_state(state)
