"""Replay of images: each frame is stored once, and batches equal what was inserted, bit for bit."""

from collections import deque
from functools import partial

import numpy as np
import pytest
from toy_actors import make_actor
from toy_environments import PicturesEnvironment
from toy_images import LAYOUTS, Walk, assert_batches_are, packed, rows_of
from toy_replay import make_every_item_replay
from toy_replay_state import SAMPLERS, make_replay

from distdqn.replay.frames import make_frame_layout
from distdqn.types import FrameLayout, PriorityUpdate, RolloutRequest, Transitions


@pytest.mark.parametrize("sampler", ["every", *SAMPLERS])
@pytest.mark.parametrize("seed", range(10))
def test_image_replay_agrees_with_naive_replay_under_random_operations(seed, sampler):
    generator = np.random.default_rng(seed)
    layout = LAYOUTS[seed % len(LAYOUTS)]
    capacity = int(generator.integers(1, 80))
    walks = [
        Walk(layout, colours, n_step, mean_length, [seed, k])
        for k, (colours, n_step, mean_length) in enumerate([(256, 1, 30), (256, 5, 4), (2, 3, 2)])
    ]
    every = sampler == "every"
    replay = make_every_item_replay(capacity) if every else make_replay(capacity, sampler, seed)
    naive, sizes = [], []
    for _ in range(80):
        chunk = walks[generator.integers(3)].chunk(int(generator.integers(0, 24)))
        if generator.random() < 0.2:
            continue  # the chunk never arrives
        naive += rows_of(chunk)
        assert replay.insert(packed(layout, chunk)).inserted == replay.inserted == len(naive)
        assert replay.check_valid() == (True, "")
        if not naive:
            continue
        sizes.append(replay.size)
        batches = replay.sample(1, replay.size) if every else replay.sample(3, 5, 0.5)
        assert batches.item_id.min() >= len(naive) - replay.size
        assert_batches_are(naive, batches)
        assert batches.transitions.observation.shape[2:] == layout.observation_shape
        shape = (2, 10)
        guesses = generator.integers(max(0, len(naive) - 2 * capacity), len(naive), size=shape)
        update = PriorityUpdate(guesses, generator.random(shape, np.float32))
        replay.update_priorities(update)
    assert min(sizes) > 0
    assert max(sizes) <= capacity


def test_replay_keeps_its_capacity_of_images_when_each_transition_brings_one_frame():
    layout = make_frame_layout((2, 2, 3), 255)
    walk, replay = Walk(layout, 256, 5, 1_000, 0), make_replay(200)
    for _ in range(80):
        replay.insert(packed(layout, walk.chunk(16)))
        assert replay.size == min(replay.inserted, 200)


@pytest.mark.parametrize("shape", [(20, 20, 3), (3, 20, 20), (20, 20, 6), (12, 20, 20)])
def test_replay_keeps_its_capacity_of_colours_which_all_change_with_each_step(shape):
    layout = make_frame_layout(shape, 255)
    # Each observation is one new picture and, in a stack, those before it.
    pictures = np.random.default_rng(0).integers(256, size=(1000, 3, 20, 20), dtype=np.uint8)
    replay, numbers = make_replay(200), np.zeros(16, np.float32)
    for first in range(0, 900, 16):
        stacks = [pictures[i : i + layout.frames].reshape(-1, 20, 20) for i in range(first, first + 17)]
        images = np.stack(stacks) if shape[0] < shape[2] else np.moveaxis(np.stack(stacks), 1, 3)
        chunk = Transitions(images[:16], numbers.astype(np.int32), numbers, numbers, images[1:])
        replay.insert(packed(layout, chunk))
        assert replay.size == min(replay.inserted, 200)

    assert replay.sample(1, 4).transitions.observation.shape == (1, 4, *shape)


def test_replay_keeps_fewer_images_when_episodes_are_very_short():
    layout = make_frame_layout((3, 2, 2), 255)
    walk, replay = Walk(layout, 256, 1, 1.0001, 0), make_replay(200)  # two frames for one transition
    for _ in range(40):
        replay.insert(packed(layout, walk.chunk(16)))

    # Room for 200 + 25 + 2 * 16 frames and one black one: at most 128 transitions, by whole chunks.
    assert 200 * 9 / 16 - 16 <= replay.size <= 128


def test_slow_actor_does_not_take_younger_transitions_along():
    layout = make_frame_layout((3, 4, 4), 255)
    quick, slow = Walk(layout, 256, 5, 1_000, 0), Walk(layout, 256, 5, 1_000, 1)
    replay = make_replay(160)
    replay.insert(packed(layout, slow.chunk(16)))
    for _ in range(10):
        replay.insert(packed(layout, quick.chunk(16)))
    replay.insert(packed(layout, slow.chunk(16)))  # its frames of before are about to be overwritten
    for _ in range(3):
        replay.insert(packed(layout, quick.chunk(16)))
        assert replay.size == 160


def test_evicted_images_cannot_be_drawn_by_priority():
    layout = make_frame_layout((3, 2, 2), 255)
    walk = Walk(layout, 256, 1, 1.0001, 0)
    replay = make_replay(200, "prioritized", exponent=1.0)
    for _ in range(40):
        replay.insert(packed(layout, walk.chunk(16)))
    assert replay.size < 200

    tree = replay._sampler._tree

    assert np.count_nonzero(tree.get(np.arange(200))) == replay.size
    assert set(replay.sample(1, 2_000).item_id[0].tolist()) <= set(range(640 - replay.size, 640))


def test_chunk_of_images_larger_than_replay_leaves_its_newest():
    layout = make_frame_layout((3, 2, 2), 255)
    chunk = Walk(layout, 256, 5, 20, 0).chunk(50)
    replay = make_every_item_replay(4)
    replay.insert(packed(layout, chunk))

    assert replay.size == 4
    assert_batches_are(rows_of(chunk), replay.sample(1, 4))


def test_check_tells_when_a_frame_is_gone():
    layout = make_frame_layout((3, 2, 2), 255)
    replay = make_replay(4)
    replay.insert(packed(layout, Walk(layout, 256, 1, 20, 0).chunk(4)))
    replay._frames.end += 100

    is_valid, reason = replay.check_valid()

    assert not is_valid
    assert "overwritten" in reason


def test_stacked_images_take_little_more_than_their_distinct_frames():
    source = partial(PicturesEnvironment, lengths=(200, 90, 150))  # 84 x 84 x 4
    actors = [make_actor(source, index=i, envs_per_actor=2, rollout_length=16, n_step=5) for i in range(3)]
    layout = actors[0]._maker._frame_layout
    for actor in actors:
        actor._maker._frame_layout = None  # whole observations, for the naive replay
    capacity = 800
    replay, naive = make_replay(capacity), deque(maxlen=capacity)
    while replay.inserted < 1.4 * capacity:
        for actor in actors:
            _, chunk = actor.rollout(RolloutRequest(0, 10**9))
            naive += zip(chunk.observation, chunk.next_observation, strict=True)
            replay.insert(packed(layout, chunk))

    frames = {frame.tobytes() for pair in naive for image in pair for frame in layout.split(image[None])[0]}
    rings = (replay._ring, replay._frames.ring)
    held = sum(column.nbytes for ring in rings for column in ring.columns.values())
    assert layout == FrameLayout((84, 84, 4), 2)
    assert replay.size == capacity
    assert held <= 1.3 * len(frames) * 84 * 84
    batches = replay.sample(4, 100)
    first = replay.inserted - capacity
    for item_id, before, after in zip(
        batches.item_id.ravel(),
        batches.transitions.observation.reshape(-1, 84, 84, 4),
        batches.transitions.next_observation.reshape(-1, 84, 84, 4),
        strict=True,
    ):
        np.testing.assert_array_equal(before, naive[item_id - first][0])
        np.testing.assert_array_equal(after, naive[item_id - first][1])
