import numpy as np
import pytest
from toy_replay_state import make_replay

from distdqn.replay.shards import assign_shards, merge, shard_capacities, split_update
from distdqn.types import PriorityUpdate, ReplayInfo, Transitions

PRIORITY = np.random.default_rng(7).gamma(0.7, size=40) + 0.02  # of items 0 to 39
OWNERS = np.array([0] * 4 + [1] * 22 + [2] * 1 + [3] * 13)  # the shard of each
CHI_SQUARE_39_DEGREES = 72.1  # exceeded by chance once in a thousand


def make_chunk(numbers):
    column = np.array(numbers, np.float32)
    priority = PRIORITY[numbers].astype(np.float32)
    return Transitions(column[:, None], column.astype(np.int32), column, column, column[:, None], priority)


def make_shards(sampler="prioritized", seed=0):
    """Four shards with the items that are theirs."""
    shards = [make_replay(64, sampler, seed, shard=shard) for shard in range(4)]
    for index, shard in enumerate(shards):
        shard.insert(make_chunk(np.flatnonzero(index == OWNERS)))
    return shards


def draw(shards, batches, batch_size, exponent, generator):
    """Batches from all shards, and the assignment of their draws."""
    assignment = assign_shards([shard.info for shard in shards], batches, batch_size, exponent, generator)
    parts = [shards[index].draw(count) for index, count in assignment.counts.items()]
    return merge(assignment, parts), assignment


def probabilities(sampler):
    """How likely one replay with all items draws each."""
    power = np.ones(40) if sampler == "uniform" else (PRIORITY.astype(np.float32) + 1e-6) ** 0.6
    return power / power.sum()


def test_capacities_of_shards_are_almost_alike_and_make_up_the_whole():
    assert shard_capacities(10, 1) == [10]
    assert shard_capacities(11, 4) == [3, 3, 3, 2]


# Frequencies and weights.


@pytest.mark.parametrize("sampler", ["uniform", "prioritized"])
def test_four_shards_draw_every_item_as_often_as_one_replay_does(sampler):
    one, shards = make_replay(64, sampler), make_shards(sampler)
    generator = np.random.default_rng(0)
    one.insert(make_chunk(np.arange(40)))

    # Few draws a call: within a call they are stratified, so not independent.
    drawn = [draw(shards, 1, 2, 0.5, generator)[0].transitions.action for _ in range(3_000)]
    counts = np.bincount(np.concatenate(drawn, axis=None), minlength=40)
    of_one = np.bincount(one.sample(6_000, 1).transitions.action.ravel(), minlength=40)

    expected = 6_000 * probabilities(sampler)
    assert ((counts - expected) ** 2 / expected).sum() < CHI_SQUARE_39_DEGREES
    # Two samples of the same distribution: each count varies, so their difference twice as much.
    assert ((counts - of_one) ** 2 / (counts + of_one)).sum() < CHI_SQUARE_39_DEGREES


@pytest.mark.parametrize("exponent", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sampler", ["uniform", "prioritized"])
def test_importance_weights_are_those_of_one_replay_with_all_items(sampler, exponent):
    batches, _ = draw(make_shards(sampler), 5, 16, exponent, np.random.default_rng(3))

    weight = (40 * probabilities(sampler)[batches.transitions.action]) ** -exponent  # (N * P)^-beta
    expected = weight / weight.max(axis=1, keepdims=True)
    assert batches.importance_weight.dtype == np.float32
    np.testing.assert_allclose(batches.importance_weight, expected, rtol=0, atol=1e-6)


def test_weights_correct_what_was_drawn_when_total_priorities_are_old():
    shards, generator = make_shards(), np.random.default_rng(0)
    old = [shard.info for shard in shards]
    ids = np.arange(22)[None]
    shards[1].update_priorities(PriorityUpdate(ids, np.full((1, 22), 9.0, np.float32)))

    assignment = assign_shards(old, 1, 64, 1.0, generator)
    batches = merge(assignment, [shards[index].draw(count) for index, count in assignment.counts.items()])

    of_second = batches.transitions.action[OWNERS[batches.transitions.action] == 1]
    assert len(of_second)
    probability_of_shard = old[1].total_priority / sum(info.total_priority for info in old)
    power = (PRIORITY.astype(np.float32) + 1e-6) ** 0.6
    probability = power / sum(info.total_priority for info in old)
    probability[OWNERS == 1] = probability_of_shard / 22  # alike within the shard by now
    weight = 1.0 / (40 * probability[batches.transitions.action])
    np.testing.assert_allclose(batches.importance_weight, weight / weight.max(), rtol=0, atol=1e-6)


# The assignment of draws.


def test_every_shard_gets_its_fraction_of_the_draws_rounded_up_or_down():
    generator = np.random.default_rng(0)
    replay_infos = [ReplayInfo(9, 9, total_priority) for total_priority in (1.0, 0.0, 2.5, 0.25)]
    assignments = [assign_shards(replay_infos, 2, 5, 0.0, generator) for _ in range(4_000)]

    counts = np.array([[assignment.counts.get(shard, 0) for shard in range(4)] for assignment in assignments])
    fractions = np.array([1.0, 0.0, 2.5, 0.25]) / 3.75
    assert np.all(counts.sum(axis=1) == 10)
    assert np.all((counts >= np.floor(10 * fractions)) & (counts <= np.ceil(10 * fractions)))
    # A count is one of two numbers, so its mean is off by 0.5 / sqrt(4000) at most, usually.
    np.testing.assert_allclose(counts.mean(axis=0), 10 * fractions, atol=4 * 0.5 / np.sqrt(4_000))


@pytest.mark.parametrize(
    "total_priorities", [(0.0, 0.1, 0.0), (1e-300, 1e-290, 0.0), (1e12, 1e-12, 0.0, 3.0, 0.0)]
)
def test_shard_without_priority_is_never_drawn_from(total_priorities):
    generator = np.random.default_rng(1)
    replay_infos = [ReplayInfo(5, 5, total_priority) for total_priority in total_priorities]
    for _ in range(300):
        counts = assign_shards(replay_infos, 4, 16, 0.0, generator).counts
        assert sum(counts.values()) == 64
        assert all(total_priorities[shard] > 0.0 for shard in counts)


def test_shards_are_spread_over_all_batches_alike():
    replay_infos = [ReplayInfo(8, 8, 1.0), ReplayInfo(8, 8, 1.0)]
    assignment = assign_shards(replay_infos, 50, 40, 0.0, np.random.default_rng(2))
    of_second = assignment.shard.sum(axis=1)  # of 40 each
    assert of_second.sum() == 50 * 40 / 2
    assert 5 < of_second.min() < 20 < of_second.max() < 35


def test_same_generator_gives_the_same_assignment():
    replay_infos = [ReplayInfo(8, 8, 1.0), ReplayInfo(8, 8, 3.0)]
    assignments = [
        assign_shards(replay_infos, 3, 7, 0.0, np.random.default_rng(5)).shard.tolist() for _ in range(2)
    ]
    assert assignments[0] == assignments[1]


# Merging, and back.


def test_merged_rows_stay_whole_and_in_the_places_of_their_shard():
    shards = make_shards()
    batches, assignment = draw(shards, 3, 8, 0.5, np.random.default_rng(4))
    rows = batches.transitions
    assert rows.observation.shape == (3, 8, 1)
    assert np.array_equal(rows.observation[..., 0], rows.action)
    assert np.array_equal(rows.reward, rows.action)
    assert np.array_equal(assignment.shard, OWNERS[rows.action])
    first = np.array([np.flatnonzero(shard == OWNERS)[0] for shard in range(4)])
    assert np.array_equal(batches.item_id, rows.action - first[assignment.shard])


def test_new_priorities_reach_the_shard_and_item_they_are_of():
    shards = make_shards()
    batches, assignment = draw(shards, 2, 8, 0.5, np.random.default_rng(4))
    fresh = (100.0 + batches.transitions.action).astype(np.float32)

    updates = split_update(assignment, PriorityUpdate(batches.item_id, fresh))

    assert len(updates) == len(assignment.counts) > 1
    for index, update in zip(assignment.counts, updates, strict=True):
        shards[index].update_priorities(update)
        first = np.flatnonzero(index == OWNERS)[0]
        drawn = sorted({*(update.item_id + first).tolist()})
        assert drawn == sorted({*batches.transitions.action[assignment.shard == index].tolist()})
        value = shards[index]._sampler._tree.get(np.array(drawn) - first)
        np.testing.assert_allclose(value, (100.0 + np.array(drawn)) ** 0.6, rtol=1e-6)


def test_one_shard_that_is_drawn_from_as_a_part_gives_what_sample_gives():
    whole, part = make_replay(64, "prioritized"), make_replay(64, "prioritized")
    for replay in (whole, part):
        replay.insert(make_chunk(np.arange(40)))

    batches, _ = draw([part], 4, 8, 0.5, np.random.default_rng(0))

    expected = whole.sample(4, 8, 0.5)
    assert batches.item_id.tolist() == expected.item_id.tolist()
    assert batches.importance_weight.tolist() == expected.importance_weight.tolist()


def test_shards_of_one_seed_draw_different_numbers():
    drawn = [replay.draw(8).item_id.tolist() for replay in _alike(range(3))]
    assert drawn[0] != drawn[1] != drawn[2]
    assert drawn[0] == next(_alike([0])).sample(1, 8).item_id[0].tolist()


def _alike(shards):
    for shard in shards:
        replay = make_replay(64, shard=shard)
        replay.insert(make_chunk(np.arange(40)))
        yield replay
