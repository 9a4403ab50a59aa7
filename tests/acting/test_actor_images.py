import pickle
from functools import partial

import numpy as np
import pytest
import toy_actors
from toy_actors import make_random_weights
from toy_environments import CountingEnvironment, PicturesEnvironment

from distdqn.environments.registry import inspect_environment
from distdqn.types import RolloutRequest

PICTURES = partial(PicturesEnvironment, stack=3, size=4, axis=0)
WHOLE = RolloutRequest(env_steps=0, limit=10**9)


make_actor = partial(
    toy_actors.make_actor, n_step=3, epsilon_start=0.5, epsilon_end=0.5, sampler="prioritized"
)


def unpacked(chunk):
    """Its columns with whole observations."""
    columns = chunk.columns()
    for name in ("observation", "next_observation"):
        columns[name] = chunk.frames.layout.join(chunk.frames.image[columns[name]])
    return columns


def test_chunk_of_pictures_holds_every_frame_once_and_whole_observations_in_full():
    packing, plain = make_actor(PICTURES), make_actor(PICTURES)
    plain._maker._frame_layout = None
    weights = make_random_weights(inspect_environment(PICTURES))

    for _ in range(3):
        (report, chunk), (_, expected) = packing.rollout(WHOLE, weights), plain.rollout(WHOLE, weights)

        assert expected.frames is None
        columns = expected.columns()
        assert report.transitions == len(chunk) == len(expected) > 20
        for name, column in unpacked(chunk).items():
            np.testing.assert_array_equal(column, columns[name])
        np.testing.assert_array_equal(chunk.priority, expected.priority)  # of the whole observations
        frames = {frame.tobytes() for frame in chunk.frames.image}
        assert len(frames) == len(chunk.frames.image) == len(set(chunk.frames.key.tolist()))
        assert chunk.observation.shape == chunk.next_observation.shape == (len(chunk), 1)


def test_chunk_of_pictures_takes_a_fraction_of_the_bytes_to_send():
    actor = make_actor(partial(PicturesEnvironment, lengths=(100,)), rollout_length=16, n_step=5)

    _, chunk = actor.rollout(WHOLE)

    # 4 environments: 16 frames each, the first one, and a black one; 12 transitions of 2 * 4 whole frames.
    assert len(chunk.frames.image) == 4 * (16 + 1) + 1
    assert len(pickle.dumps(chunk)) < 4 * 12 * 2 * 4 * 84 * 84 / 5


def test_rollout_of_pictures_without_any_steps_returns_no_frames():
    _, chunk = make_actor(PICTURES).rollout(RolloutRequest(0, 0))

    assert (len(chunk), len(chunk.frames.image)) == (0, 0)


def test_chunk_of_vectors_has_no_frames():
    _, chunk = make_actor(CountingEnvironment).rollout(WHOLE)

    assert chunk.frames is None
    assert chunk.observation.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "shape"), [("MinAtar/Breakout-v1", (10, 10, 4)), ("ALE/Pong-v5", (4, 84, 84))]
)
def test_actor_packs_the_pictures_of_real_games(name, shape):
    pytest.importorskip("minatar" if name.startswith("MinAtar") else "ale_py")

    _, chunk = make_actor(name).rollout(WHOLE, make_random_weights(inspect_environment(name)))

    columns = unpacked(chunk)
    assert columns["observation"].shape == (len(chunk), *shape)
    assert len(chunk.frames.image) <= 4 * (10 + 4)
    assert columns["observation"].dtype == np.uint8
    assert chunk.priority.shape == (len(chunk),)
