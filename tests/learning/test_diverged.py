"""What the learner makes of updates that were skipped: counts, priorities, and an end."""

from typing import Any

import numpy as np
import pytest
from learning.learners import BATCH_SIZE, UPDATES, Batches, build_learner
from toy_replay_state import plain

from distdqn.errors import Diverged
from distdqn.learning.learner import Learner

BATCHES = Batches()
TEN_UPDATES = 10 // UPDATES  # calls


@pytest.fixture(scope="module")
def first_state() -> tuple[Learner, dict[str, Any]]:
    """A learner and its state after a call."""
    learner = build_learner()
    learner.learn(BATCHES.make(0), publish=True)
    return learner, learner.get_state()


@pytest.fixture
def learner(first_state: tuple[Learner, dict[str, Any]]) -> Learner:
    """The learner as it was after that call."""
    learner, state = first_state
    learner.set_state(state)
    return learner


def skip(learner: Learner, calls: int) -> None:
    """Calls whose every update is skipped."""
    for _ in range(calls):
        assert learner.learn(BATCHES.make(1, reward=np.nan), publish=False)[0].not_finite == UPDATES


def test_report_counts_skipped_updates_and_names_what_was_bad(learner: Learner) -> None:
    batches = BATCHES.make(1)
    batches.transitions.next_observation[1, 2] = np.inf
    before = learner.get_state()["learner_steps"]

    report, *_ = learner.learn(batches, publish=False)
    good, *_ = learner.learn(BATCHES.make(1), publish=False)

    assert (report.not_finite, report.first_not_finite) == (1, "next_observation")
    assert (good.not_finite, good.first_not_finite) == (0, None)
    assert [report.learner_steps, good.learner_steps] == [before + 2, before + 4]
    assert report.loss > 0.0  # of the update that was made


def test_items_of_a_skipped_update_get_the_smallest_priority(learner: Learner) -> None:
    batches = BATCHES.make(1)
    batches.transitions.reward[1, 2] = np.nan

    _, _, priorities = learner.learn(batches, publish=False)

    assert priorities is not None
    assert np.all(priorities.priority[0] > 0.0)
    assert priorities.priority[1].tolist() == [0.0] * BATCH_SIZE
    np.testing.assert_array_equal(priorities.item_id, batches.item_id)


def test_fault_21_weights_published_after_skipped_updates_are_the_last_finite_ones(learner: Learner) -> None:
    before = learner.publish()

    _, weights, _ = learner.learn(BATCHES.make(1, reward=np.nan), publish=True)

    assert weights is not None
    assert plain(weights.arrays) == plain(before.arrays)
    assert np.all(np.isfinite(np.concatenate([array.ravel() for array in weights.arrays])))


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
def test_fault_21_tenth_consecutive_skipped_update_ends_learning_with_the_last_finite_weights(
    learner: Learner,
) -> None:
    before = learner.publish()
    batches = BATCHES.make(2)
    batches.transitions.observation[:, 1] = -np.inf
    learner.learn(batches, publish=False)
    skip(learner, TEN_UPDATES - 2)

    with pytest.raises(
        Diverged, match="NaN or infinity in ten consecutive updates, first in the obs"
    ) as raised:
        learner.learn(BATCHES.make(1, reward=np.nan), publish=True)

    assert raised.value.exit_code == 6
    after = learner.publish()
    assert plain(after.arrays) == plain(before.arrays)
    assert learner.export(after)
    assert after.weights_version == (0, before.weights_version[1] + 1)


def test_one_applied_update_resets_the_count(learner: Learner) -> None:
    for _ in range(2):
        skip(learner, TEN_UPDATES - 1)
        half = BATCHES.make(3)
        half.transitions.reward[0] = np.nan  # the ninth, and then a good one
        assert learner.learn(half, publish=False)[0].not_finite == 1

    skip(learner, TEN_UPDATES - 1)
    with pytest.raises(Diverged):
        learner.learn(BATCHES.make(1, reward=np.nan), publish=False)


def test_count_of_skipped_updates_is_restored_from_a_checkpoint(learner: Learner) -> None:
    batches = BATCHES.make(2)
    batches.transitions.discount[:, 1] = np.nan
    learner.learn(batches, publish=False)
    skip(learner, TEN_UPDATES - 2)
    state = learner.get_state()
    learner.learn(BATCHES.make(3), publish=False)

    learner.set_state(state)

    with pytest.raises(Diverged, match="first in the discount"):
        learner.learn(BATCHES.make(1, reward=np.nan), publish=False)


def test_fault_21_weights_that_are_not_finite_are_not_published(learner: Learner) -> None:
    kernel = learner._loop.online.trainable_variables[0]
    kernel.assign(np.full(kernel.shape, np.nan))
    version = learner.get_state()["weights_version"]

    with pytest.raises(Diverged, match=f"the weights `{kernel.path}` are not finite"):
        learner.publish()
    with pytest.raises(Diverged):
        learner.learn(BATCHES.make(1), publish=True)

    assert learner.get_state()["weights_version"] == version
