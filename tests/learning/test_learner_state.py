"""A learner that is restored from a checkpoint continues like the one that was saved."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learning.learners import IMAGE, VECTOR, Batches, build_learner
from toy_networks import make_spec
from toy_replay_state import plain

from distdqn.checkpoints.store import Store
from distdqn.errors import CheckpointError
from distdqn.learning.learner import Learner
from distdqn.networks.numpy_policy import weights_from_learner
from distdqn.types import EnvironmentSpec

CASES: dict[str, tuple[EnvironmentSpec, dict[str, Any]]] = {
    "value": (VECTOR, {}),
    "noisy quantile": (VECTOR, {"head": "quantile", "noisy": True}),
    "noisy implicit": (VECTOR, {"head": "implicit", "noisy": True}),
    "categorical": (VECTOR, {"head": "categorical"}),
    "dueling images": (IMAGE, {"torso": "small", "spectral_norm": True, "dueling": True, "layer_norm": True}),
    "the user's with statistics and dropout": (IMAGE, {"network": "toy_user_networks:image"}),
}


def through_disk(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The state as a checkpoint gives it back."""
    store = Store(str(folder))
    store.check_writable()
    back: dict[str, Any] = store.read_tree(json.loads(json.dumps(store.write_tree(state))))
    return back


def continue_learning(learner: Learner, batches: Batches) -> list[Any]:
    """The results of two calls, but for the time they took."""
    results: list[Any] = []
    for number in (3, 4):
        report, weights, priorities = learner.learn(batches.make(number), publish=number == 4)
        assert priorities is not None
        results += [vars(replace(report, seconds=0.0)), priorities.priority]
    assert weights is not None
    return [*results, weights.arrays, weights.weights_version, state_of(learner)]


def state_of(learner: Learner) -> dict[str, Any]:
    """Its state without the layers, whose names count the networks of a process."""
    return {name: part for name, part in learner.get_state().items() if name != "policy"}


@pytest.mark.parametrize(("spec", "options"), CASES.values(), ids=CASES)
def test_restored_learner_continues_bit_for_bit_like_the_one_that_was_saved(
    spec: EnvironmentSpec, options: dict[str, Any], tmp_path: Path
) -> None:
    learner, batches = build_learner(spec, **options), Batches(spec)
    learner.publish()
    learner.learn(batches.make(1), publish=True)
    learner.learn(batches.make(2), publish=False, learning_rate=0.003)
    state = through_disk(learner.get_state(), tmp_path)
    uninterrupted = continue_learning(learner, batches)

    restored = build_learner(spec, **options)
    untrained = plain(state_of(restored))
    restored.set_state(state)
    del state["policy"]

    assert untrained != plain(state) == plain(state_of(restored))
    assert plain(continue_learning(restored, batches)) == plain(uninterrupted)
    assert uninterrupted[0]["learner_steps"] == 2 * 3
    assert uninterrupted[-2] == (0, 3)


@pytest.fixture(scope="module")
def shared() -> Learner:
    """A learner that made two updates, which tests may change."""
    learner = build_learner()
    learner.learn(Batches().make(1), publish=False)
    return learner


def test_state_stays_as_it_is_while_learning_continues(shared: Learner) -> None:
    state = shared.get_state()
    before = plain(state)

    shared.learn(Batches().make(2), publish=False)

    assert plain(state) == before != plain(shared.get_state())


def test_restored_learner_leaves_the_state_alone_and_takes_read_only_arrays(shared: Learner) -> None:
    state = shared.get_state()
    before = plain(state)
    for arrays in state["networks"].values():
        for array in arrays:
            array.setflags(write=False)

    shared.set_state(state)
    shared.learn(Batches().make(2), publish=False)

    assert plain(state) == before


@pytest.mark.parametrize(
    ("saved", "own", "expected"),
    [((0, 7), 0, (0, 8)), ((2, 7), 0, (2, 8)), ((0, 7), 1, (1, 1)), ((2, 7), 3, (3, 1)), ((3, 9), 4, (4, 1))],
    ids=["same generation", "older generation", "newer generation", "newer than a later one", "newest"],
)
def test_versions_continue_unless_the_learner_is_of_a_newer_generation(
    shared: Learner, saved: tuple[int, int], own: int, expected: tuple[int, int]
) -> None:
    state = shared.get_state() | {"weights_version": list(saved), "learner_steps": 30}

    learner = build_learner(generation=own)
    learner.set_state(state)

    weights = learner.publish()
    assert weights.weights_version == expected
    assert weights.learner_steps == 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_sizes": (6,)}, "dense relu 2x5 5 / dense relu 2x6 6"),
        ({"spec": make_spec((3,), 3)}, "dense relu 2x5 5 / dense relu 3x5 5"),
        ({"spec": make_spec((2,), 4)}, "dense linear 5x3 3 / dense linear 5x4 4"),
        ({"hidden_sizes": (5, 5)}, "none / dense linear 5x3 3"),
        ({"noisy": True}, "dense relu 2x5 5 / noisy_dense relu 2x5 5 2x5 5 2 5"),
        ({"network": "toy_user_networks:tanh"}, "dense relu 2x5 5 / dense tanh 2x5 5"),
        ({"network": "toy_user_networks:with_shared_layer"}, "input / keras 2x2 2 2x3 3"),
    ],
)
def test_fault_46_state_of_another_network_is_refused_and_changes_nothing(
    shared: Learner, changes: dict[str, Any], message: str
) -> None:
    learner = build_learner(**changes)
    before = plain(learner.get_state())

    with pytest.raises(CheckpointError, match=r"Layer: checkpoint / now") as caught:
        learner.set_state(shared.get_state())
    assert message in [line.strip() for line in caught.value.mistakes]

    assert plain(learner.get_state()) == before


@pytest.mark.parametrize(("spec", "options"), CASES.values(), ids=CASES)
def test_network_in_a_state_is_the_one_that_is_published(
    spec: EnvironmentSpec, options: dict[str, Any], tmp_path: Path
) -> None:
    learner = build_learner(spec, **options)
    published = learner.publish()

    found = weights_from_learner(through_disk(learner.get_state(), tmp_path))

    assert (found.layers, found.weights_version) == (published.layers, published.weights_version)
    assert plain(found.arrays) == plain(published.arrays)


def test_state_with_slots_of_another_shape_is_refused(shared: Learner) -> None:
    state = shared.get_state()
    state["networks"]["optimizer"][-1] = np.zeros(7, np.float32)

    with pytest.raises(CheckpointError, match=r"of `optimizer` must have the shape \(3,\), not \(7,\)"):
        shared.set_state(state)
