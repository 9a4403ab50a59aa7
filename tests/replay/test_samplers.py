import numpy as np
import pytest
from toy_environments import global_random_state

from distdqn.replay.samplers import UniformSampler


def sample(first, end, count, seed=0):
    return UniformSampler().sample(first, end, count, np.random.default_rng(seed))


@pytest.mark.parametrize("first", [0, 3, 2**40])
def test_uniform_sampler_draws_every_stored_id_and_no_other(first):
    drawn = sample(first, first + 4, 200)

    assert drawn.shape == (200,)
    assert drawn.dtype == np.int64
    assert set(drawn.tolist()) == {first, first + 1, first + 2, first + 3}


def test_uniform_sampler_draws_the_only_item_again_and_again():
    assert sample(9, 10, 5).tolist() == [9, 9, 9, 9, 9]


def test_uniform_sampler_keeps_its_axis_when_it_draws_one():
    assert sample(0, 5, 1).shape == (1,)


def test_uniform_sampler_draws_from_the_generator_alone():
    before = global_random_state()
    first, again, other = (sample(0, 10**6, 10, seed).tolist() for seed in (1, 1, 2))

    assert first == again
    assert first != other
    assert global_random_state() == before


@pytest.mark.parametrize("seed", range(3))
def test_uniform_sampler_gives_every_item_the_same_probability(seed):
    counts = np.bincount(sample(7, 57, 50_000, seed) - 7, minlength=50)

    # 49 degrees of freedom: chi-square has mean 49 and deviation sqrt(2 * 49) = 9.9.
    assert np.sum((counts - 1_000) ** 2 / 1_000) < 49 + 4 * 9.9
