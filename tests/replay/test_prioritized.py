import numpy as np
import pytest
from toy_replay_state import make_replay

from distdqn.replay.shards import importance_weights
from distdqn.types import PriorityUpdate, Transitions

CHI_SQUARE_7_DEGREES = 24.3  # exceeded by chance once in a thousand


def make_chunk(numbers, priority=None):
    column = np.array(numbers, np.float32)
    given = None if priority is None else np.array(priority, np.float32)
    return Transitions(column[:, None], column.astype(np.int32), column, column, column[:, None], given)


def make_prioritized(capacity, exponent=1.0, seed=0):
    return make_replay(capacity, "prioritized", seed, exponent)


def update(replay, item_id, priority):
    """Gives new priorities."""
    shape = (1, len(item_id))
    replay.update_priorities(
        PriorityUpdate(np.array(item_id).reshape(shape), np.array(priority, np.float32).reshape(shape))
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0])
def test_items_are_drawn_in_proportion_to_a_power_of_their_priority(exponent, seed):
    priority = np.array([0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
    replay = make_prioritized(8, exponent, seed)
    replay.insert(make_chunk(range(8), priority))

    # One draw for each batch: within a batch draws are stratified, so not independent.
    drawn = replay.sample(20_000, 1).item_id.ravel()

    expected = priority**exponent / (priority**exponent).sum() * drawn.size
    counts = np.bincount(drawn, minlength=8)
    assert ((counts - expected) ** 2 / expected).sum() < CHI_SQUARE_7_DEGREES


def test_strata_give_every_item_its_share_almost_exactly():
    replay = make_prioritized(4)
    replay.insert(make_chunk(range(4), [1.0, 1.0, 2.0, 4.0]))

    counts = np.bincount(replay.sample(1, 800).item_id[0])

    assert np.abs(counts - [100, 100, 200, 400]).max() <= 1


def test_importance_weights_are_above_zero_for_the_largest_and_the_smallest_priority():
    replay = make_prioritized(2)
    replay.insert(make_chunk([1, 2], [np.finfo(np.float32).max, 0.0]))
    probability = replay._sampler.probability(0, 2, np.array([0, 1]))

    weight = importance_weights(probability[None], 2, 1.0)

    assert 0.0 < weight[0, 0] < 1e-37
    assert weight[0, 1] == 1.0


@pytest.mark.parametrize("importance_sampling_exponent", [0.0, 0.4, 1.0])
def test_importance_weights_equal_their_definition(importance_sampling_exponent):
    priority = np.array([1.0, 2.0, 4.0, 8.0])
    replay = make_prioritized(4, exponent=0.5)
    replay.insert(make_chunk(range(4), priority))

    batches = replay.sample(3, 5, importance_sampling_exponent)

    probability = np.sqrt(priority) / np.sqrt(priority).sum()
    weight = (4 * probability[batches.item_id]) ** -importance_sampling_exponent  # (N * P)^-beta
    np.testing.assert_allclose(
        batches.importance_weight, weight / weight.max(axis=1, keepdims=True), rtol=1e-5
    )


def test_uniform_replay_weighs_all_items_alike():
    replay = make_replay(10)
    replay.insert(make_chunk(range(7)))

    assert replay.sample(2, 3, 0.7).importance_weight.tolist() == [[1.0] * 3] * 2


def test_updated_items_are_drawn_by_their_new_priority():
    replay = make_prioritized(3)
    replay.insert(make_chunk(range(3), [1.0, 1.0, 1.0]))

    update(replay, [0, 1, 2], [0.0, 5.0, 0.0])

    assert set(replay.sample(10, 10).item_id.ravel().tolist()) == {1}


def test_priority_update_is_ignored_when_the_item_was_evicted():
    replay = make_prioritized(3)
    replay.insert(make_chunk(range(5), [1.0] * 5))  # items 2, 3, 4 are left
    before = replay._sampler._tree.get(np.arange(3)).tolist()

    update(replay, [0, 1], [100.0, 100.0])

    assert replay._sampler._tree.get(np.arange(3)).tolist() == before


def test_item_of_no_error_at_all_can_still_be_drawn():
    replay = make_prioritized(2)
    replay.insert(make_chunk(range(2), [0.0, 0.0]))

    assert set(replay.sample(1, 10).item_id.ravel().tolist()) == {0, 1}


def test_items_without_priority_count_as_one_each():
    replay = make_prioritized(4)
    replay.insert(make_chunk([0, 1]))
    replay.insert(make_chunk([2, 3], [1.0, 1.0]))

    assert np.bincount(replay.sample(1, 400).item_id[0]).tolist() == pytest.approx([100] * 4, abs=1)


@pytest.mark.parametrize("seed", range(5))
def test_tree_and_storage_agree_under_random_operations(seed):
    generator = np.random.default_rng(seed)
    capacity = int(generator.integers(1, 20))
    replay = make_prioritized(capacity, 0.6, seed)
    for _ in range(30):
        count = int(generator.integers(0, 2 * capacity + 1))
        replay.insert(make_chunk(range(count), generator.random(count) * 3))
        if replay.size:
            batches = replay.sample(2, 3, 0.5)
            stored = batches.item_id >= replay.inserted - replay.size
            assert stored.all()
            assert (batches.item_id < replay.inserted).all()
            update(replay, batches.item_id.ravel(), generator.random(6))
        assert replay.check_valid() == (True, "")


def test_check_tells_when_an_item_has_lost_its_priority():
    replay = make_prioritized(4)
    replay.insert(make_chunk(range(3)))
    replay._sampler._tree.set(np.array([1]), np.array([0.0]))

    is_valid, reason = replay.check_valid()

    assert not is_valid
    assert "[1]" in reason


def test_priorities_are_not_stored_with_the_transitions():
    replay = make_prioritized(2)
    replay.insert(make_chunk(range(2), [1.0, 2.0]))

    assert replay.sample(1, 2).transitions.priority is None
