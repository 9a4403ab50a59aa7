import numpy as np
import pytest

from distdqn.replay.frames import make_frame_layout, pack_frames
from distdqn.types import FrameLayout

STACKED_FIRST = FrameLayout((3, 4, 5), 0)
STACKED_LAST = FrameLayout((4, 5, 3), 2)
SINGLE = FrameLayout((4, 5, 3), None)
COLOURS_FIRST, COLOURS_LAST = FrameLayout((6, 4, 5), 0, 3), FrameLayout((4, 5, 6), 2, 3)
LAYOUTS = pytest.mark.parametrize(
    "layout",
    [STACKED_FIRST, STACKED_LAST, SINGLE, FrameLayout((4, 5), None), COLOURS_FIRST, COLOURS_LAST],
)


def random_observations(layout, count, colours=256, seed=0):
    return np.random.default_rng(seed).integers(
        colours, size=(count, *layout.observation_shape), dtype=np.uint8
    )


def unpacked(frames, positions):
    return frames.layout.join(frames.image[positions])


@pytest.mark.parametrize(
    ("shape", "high", "stack_axis"),
    [
        ((4, 84, 84), 255, 0),
        ((84, 84, 4), 255, 2),
        ((210, 160, 3), 255, None),
        ((3, 210, 160), 255, None),
        ((84, 84, 3), 1, None),
        ((84, 84, 1), 255, 2),
        ((84, 84), 255, None),
        ((10, 10, 4), 1, None),
    ],
)
def test_frames_are_stacked_along_the_smaller_outer_axis(shape, high, stack_axis):
    assert make_frame_layout(shape, high) == FrameLayout(shape, stack_axis)


@pytest.mark.parametrize("shape", [(84, 84, 6), (12, 84, 84)])
def test_colours_that_are_stacked_are_frames_of_three_channels(shape):
    layout = make_frame_layout(shape, 255)

    assert (layout.frames, layout.frame_shape) == (min(shape) // 3, (3, 84, 84))


@pytest.mark.parametrize(
    ("layout", "frames", "frame_shape"),
    [(STACKED_FIRST, 3, (4, 5)), (STACKED_LAST, 3, (4, 5)), (SINGLE, 1, (4, 5, 3))],
)
def test_layout_tells_the_number_and_shape_of_frames(layout, frames, frame_shape):
    assert (layout.frames, layout.frame_shape) == (frames, frame_shape)
    assert layout.split(random_observations(layout, 7)).shape == (7, frames, *frame_shape)


def test_split_takes_the_frames_in_their_order():
    observation = random_observations(STACKED_LAST, 2)

    np.testing.assert_array_equal(STACKED_LAST.split(observation)[1, 2], observation[1, :, :, 2])


@LAYOUTS
def test_join_undoes_what_split_does(layout):
    observation = random_observations(layout, 6)

    joined = layout.join(np.ascontiguousarray(layout.split(observation)))

    assert joined.flags.c_contiguous
    np.testing.assert_array_equal(joined, observation)


@pytest.mark.parametrize("seed", range(3))
@LAYOUTS
def test_packed_observations_come_back_bit_for_bit(layout, seed):
    before, after = random_observations(layout, 9, seed=seed), random_observations(layout, 9, seed=seed + 1)
    after[:5] = before[4:]

    frames, before_at, after_at = pack_frames(layout, before, after)

    assert before_at.dtype == after_at.dtype == np.int32
    assert frames.image.dtype == np.uint8
    np.testing.assert_array_equal(unpacked(frames, before_at), before)
    np.testing.assert_array_equal(unpacked(frames, after_at), after)


def test_equal_frames_of_a_chunk_are_held_once():
    one, two, three = (np.full((2, 2), value, np.uint8) for value in (1, 2, 3))
    layout = FrameLayout((2, 2, 2), 0)

    frames, before_at, after_at = pack_frames(
        layout, np.stack([[one, one], [one, two]]), np.stack([[one, two], [two, three]])
    )

    assert frames.image.tolist() == [one.tolist(), two.tolist(), three.tolist()]
    assert before_at.tolist() == [[0, 0], [0, 1]]
    assert after_at.tolist() == [[0, 1], [1, 2]]


def test_frames_have_equal_keys_exactly_if_their_content_is_equal():
    first, _, _ = pack_frames(STACKED_FIRST, *random_observations(STACKED_FIRST, 2)[:, None])
    again, _, _ = pack_frames(STACKED_FIRST, *random_observations(STACKED_FIRST, 2)[::-1, None])
    other = first.image.copy()
    other[:, 3, 4] += 1
    changed, _, _ = pack_frames(STACKED_FIRST, other[None, :3], other[None, 3:])

    assert len(set(first.key.tolist())) == 6
    assert first.key.dtype == np.int64
    assert again.key.tolist() == first.key[[3, 4, 5, 0, 1, 2]].tolist()
    assert not set(changed.key.tolist()) & set(first.key.tolist())


@LAYOUTS
def test_chunk_without_transitions_has_no_frames(layout):
    nothing = random_observations(layout, 0)

    frames, before_at, after_at = pack_frames(layout, nothing, nothing)

    assert frames.image.shape == (0, *layout.frame_shape)
    assert before_at.shape == after_at.shape == (0, layout.frames)
    assert frames.key.shape == (0,)
