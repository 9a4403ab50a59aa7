import numpy as np
import pytest
from toy_environments import global_random_state
from toy_replay import make_every_item_replay
from toy_replay_state import make_replay

from distdqn.types import Transitions


def make_chunk(first, count):
    """Transitions numbered from `first`; every column says the number in its own way."""
    number = np.arange(first, first + count)
    return Transitions(
        observation=np.stack([number, -number], axis=1).astype(np.float32),
        action=(number % 5).astype(np.int32),
        reward=(number * 2).astype(np.float32),
        discount=(1 / (number + 1)).astype(np.float32),
        next_observation=np.stack([number + 1, -number - 1], axis=1).astype(np.float32),
    )


def stored(replay):
    """Rows of everything stored, by item id; needs the sampler `EveryItem`."""
    sampled = replay.sample(1, replay.size)
    columns = sampled.transitions.columns()
    return {
        int(item_id): {name: column[0, i].tolist() for name, column in columns.items()}
        for i, item_id in enumerate(sampled.item_id[0])
    }


@pytest.mark.parametrize("seed", range(10))
def test_replay_agrees_with_naive_list_under_random_operations(seed):
    generator = np.random.default_rng(seed)
    capacity = int(generator.integers(1, 30))
    replay, naive = make_every_item_replay(capacity), []
    for _ in range(60):
        # One more than the number makes an item's content differ from its id.
        chunk = make_chunk(len(naive) + 1, int(generator.integers(0, 2 * capacity + 2)))
        columns = chunk.columns().items()
        naive += [{name: column[i].tolist() for name, column in columns} for i in range(len(chunk))]

        assert replay.insert(chunk).inserted == replay.inserted == len(naive)
        assert replay.size == min(len(naive), capacity)
        if naive:
            newest = range(max(0, len(naive) - capacity), len(naive))
            assert stored(replay) == {item_id: naive[item_id] for item_id in newest}


def test_replay_keeps_the_newest_of_a_chunk_larger_than_itself():
    replay = make_every_item_replay(3)
    replay.insert(make_chunk(0, 2))

    assert replay.insert(make_chunk(2, 8)).inserted == 10
    assert replay.size == 3
    assert {item_id: row["reward"] for item_id, row in stored(replay).items()} == {7: 14, 8: 16, 9: 18}


def test_replay_overwrites_the_oldest_first_when_it_wraps_around():
    replay = make_every_item_replay(4)
    for first in (0, 3):
        replay.insert(make_chunk(first, 3))

    assert {item_id: row["reward"] for item_id, row in stored(replay).items()} == {2: 4, 3: 6, 4: 8, 5: 10}


def test_replay_never_uses_an_item_id_twice():
    replay, seen = make_replay(5), {}
    for first in range(0, 200, 4):
        replay.insert(make_chunk(first, 4))
        sampled = replay.sample(2, 8)
        rewards = sampled.transitions.reward
        for item_id, reward in zip(sampled.item_id.ravel().tolist(), rewards.ravel().tolist(), strict=True):
            assert seen.setdefault(item_id, reward) == reward == item_id * 2

    assert max(seen) > 190


def test_replay_tells_the_sampler_which_ids_are_stored():
    replay = make_every_item_replay(4)
    for first, count in ((0, 3), (3, 1), (4, 1), (5, 9)):
        replay.insert(make_chunk(first, count))
        replay.sample(1, 1)

    assert replay._sampler.ranges == [(0, 3), (0, 4), (1, 5), (10, 14)]


def test_replay_samples_only_what_is_stored():
    replay = make_replay(10)
    replay.insert(make_chunk(0, 3))
    assert set(replay.sample(4, 25).item_id.ravel().tolist()) == {0, 1, 2}

    replay.insert(make_chunk(3, 22))
    assert set(replay.sample(40, 25).item_id.ravel().tolist()) == set(range(15, 25))


def test_batches_are_filled_in_the_order_of_the_draws():
    replay = make_every_item_replay(6)
    replay.insert(make_chunk(0, 6))

    sampled = replay.sample(2, 3)

    assert sampled.item_id.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert sampled.item_id.dtype == np.int64
    assert sampled.transitions.reward.tolist() == [[0, 2, 4], [6, 8, 10]]
    assert sampled.transitions.observation.shape == (2, 3, 2)


@pytest.mark.parametrize("batches", [1, 3])
def test_batch_of_one_keeps_its_axes(batches):
    replay = make_replay(4)
    replay.insert(make_chunk(0, 1))

    sampled = replay.sample(batches, 1)

    assert sampled.item_id.shape == sampled.transitions.action.shape == (batches, 1)
    assert sampled.transitions.observation.shape == (batches, 1, 2)


def test_replay_copies_what_is_inserted():
    replay, chunk = make_every_item_replay(4), make_chunk(1, 3)
    replay.insert(chunk)
    before = stored(replay)

    for column in chunk.columns().values():
        column[:] = 99

    assert stored(replay) == before


def test_replay_takes_columns_that_are_read_only():
    chunk = make_chunk(1, 3)
    for column in chunk.columns().values():
        column.setflags(write=False)
    replay = make_every_item_replay(2)

    replay.insert(chunk)
    replay.insert(chunk)

    assert [row["reward"] for row in stored(replay).values()] == [4, 6]


def test_replay_hands_out_copies_that_the_caller_may_change():
    replay = make_every_item_replay(4)
    replay.insert(make_chunk(1, 3))
    before = stored(replay)

    for column in replay.sample(1, 3).transitions.columns().values():
        column[:] = 99

    assert stored(replay) == before


@pytest.mark.parametrize("shape", [(), (3,), (4, 4, 2)], ids=str)
def test_replay_keeps_shape_and_dtype_of_every_column(shape):
    number = np.arange(5)
    pixels = np.zeros((5, *shape), np.uint8)
    replay = make_replay(3)
    replay.insert(Transitions(pixels, number.astype(np.int32), *np.ones((2, 5), np.float32), pixels))

    transitions = replay.sample(2, 7).transitions

    assert transitions.observation.shape == transitions.next_observation.shape == (2, 7, *shape)
    assert transitions.observation.dtype == transitions.next_observation.dtype == np.uint8
    assert transitions.action.dtype == np.int32
    assert transitions.reward.dtype == transitions.discount.dtype == np.float32


def item_ids(seed, disturb=False):
    replay = make_replay(1_000, seed=seed)
    replay.insert(make_chunk(0, 1_000))
    drawn = []
    for _ in range(3):
        drawn += replay.sample(2, 10).item_id.ravel().tolist()
        if disturb:
            make_replay(5, seed=seed).insert(make_chunk(0, 2))
            np.random.default_rng(0).random()
    return drawn


def test_same_seed_draws_the_same_items():
    assert item_ids(1) == item_ids(1) == item_ids(1, disturb=True)


def test_another_seed_draws_other_items():
    assert item_ids(1) != item_ids(2)


def test_later_samples_differ_from_the_first_one():
    drawn = item_ids(1)

    assert drawn[:20] != drawn[20:40] != drawn[40:]


def test_sampling_leaves_the_global_numpy_state_alone():
    before = global_random_state()

    item_ids(1)

    assert global_random_state() == before


@pytest.mark.parametrize("seed", range(3))
def test_replay_draws_every_stored_item_equally_often(seed):
    replay = make_replay(50, seed=seed)
    for first in (0, 40, 80):  # 120 items: the memory has wrapped around
        replay.insert(make_chunk(first, 40))

    sampled = replay.sample(1_000, 50).item_id

    for ids, expected in ((sampled, 1_000), (sampled[:, 0], 20), (sampled[:, -1], 20)):
        counts = np.bincount(ids.ravel() - 70, minlength=50)
        assert len(counts) == 50
        # 49 degrees of freedom: chi-square has mean 49 and deviation sqrt(2 * 49) = 9.9.
        assert np.sum((counts - expected) ** 2 / expected) < 49 + 4 * 9.9


@pytest.mark.parametrize("first", ["nothing", "an empty chunk"])
def test_sampling_from_an_empty_replay_raises(first):
    replay = make_replay(4)
    if first == "an empty chunk":
        assert replay.insert(make_chunk(0, 0)).inserted == 0

    with pytest.raises(ValueError, match="empty replay"):
        replay.sample(1, 1)
