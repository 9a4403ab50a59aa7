import itertools

import numpy as np
import pytest
from toy_environments import global_random_state

from distdqn import seeding
from distdqn.config.config import Config
from distdqn.seeding import make_generator, make_integer_seed

STREAMS = ("exploration", "environment", "replay", "network", "evaluation", "shards")


def draws(*key):
    return make_generator(*key).integers(2**62, size=4).tolist()


@pytest.mark.parametrize("stream", STREAMS)
def test_generator_draws_the_same_numbers_for_the_same_key(stream):
    assert draws(7, stream, 1, 2) == draws(7, stream, 1, 2)


def test_generators_of_different_keys_draw_different_numbers():
    keys = [
        (seed, stream, *indices)
        for seed, stream in itertools.product((0, 1, 2**40), STREAMS)
        for indices in ((), (0,), (1,), (0, 0), (0, 1), (1, 0))
    ]

    drawn = {tuple(draws(*key)) for key in keys}

    assert len(drawn) == len(keys) == 3 * len(STREAMS) * 6


def test_integer_seeds_of_different_keys_are_different_numbers():
    keys = [
        (seed, stream, index, restarts)
        for seed, stream in itertools.product((0, 1), STREAMS)
        for index, restarts in itertools.product(range(8), range(2))
    ]

    assert len({make_integer_seed(*key) for key in keys}) == len(keys) == 2 * len(STREAMS) * 16


def test_integer_seed_is_the_same_for_the_same_key():
    assert make_integer_seed(3, "environment", 4, 5) == make_integer_seed(3, "environment", 4, 5)


@pytest.mark.parametrize("stream", STREAMS)
def test_integer_seeds_leave_evaluation_the_upper_half_of_31_bits(stream):
    seeds = np.array([make_integer_seed(seed, stream, index) for seed in range(20) for index in range(20)])
    highest = seeds + 2**16 - 1  # what a vector environment may count up to

    if stream == "evaluation":
        assert seeds.min() >= 2**30
        assert highest.max() < 2**31
    else:
        assert seeds.min() >= 0
        assert highest.max() < 2**30


@pytest.mark.parametrize("stream", ["environment", "evaluation"])
def test_counting_upwards_from_an_integer_seed_never_leaves_its_half(stream, monkeypatch):
    monkeypatch.setattr(seeding, "_HALF", 2**17)  # so small that every second seed would come too close

    seeds = [make_integer_seed(seed, stream) for seed in range(50)]

    assert max(seeds) % 2**17 + 2**16 - 1 < 2**17
    assert len(set(seeds)) > 40


def test_unknown_stream_of_random_numbers_raises():
    with pytest.raises(ValueError, match="not in"):
        make_generator(0, "explorations")


def test_making_seeds_leaves_the_global_numpy_state_alone():
    before = global_random_state()

    make_generator(0, "replay").random(3)
    make_integer_seed(0, "network")

    assert global_random_state() == before


def test_option_allows_as_many_environments_as_streams_have_seeds_for():
    bound = next(each.le for each in Config.model_fields["envs_per_actor"].metadata if hasattr(each, "le"))
    assert bound == seeding.MAX_ENVIRONMENTS
