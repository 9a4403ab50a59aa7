import math

import pytest

from distdqn.config.config import Config
from distdqn.config.model import PRESETS, read_preset
from distdqn.schedules import Schedule
from distdqn.training.builders import learn_request
from distdqn.training.resolve import resolve
from distdqn.types import EnvironmentSpec, LearnRequest


@pytest.mark.parametrize(
    ("env_steps", "expected"),
    [
        (0, 1.0),
        (50, 1.0 + (0.2 - 1.0) * 50 / 200),
        (100, 0.6),
        (150, 0.4),
        (199, 1.0 - 0.8 * 199 / 200),
        (200, 0.2),
        (10_000, 0.2),
    ],
)
def test_linear_schedule_falls_evenly_and_then_stays_at_its_end(env_steps, expected):
    assert Schedule("linear", 1.0, 0.2, 200).at(env_steps) == pytest.approx(expected, abs=1e-12)


def test_linear_schedule_is_at_its_end_at_once_when_it_has_no_steps():
    assert Schedule("linear", 1.0, 0.2, 0).at(0) == 0.2


def test_linear_schedule_may_rise_when_its_end_is_above_its_start():
    assert Schedule("linear", 0.0, 1.0, 10).at(5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("env_steps", "expected"),
    [
        (0, 1.0),
        (50, 0.2 + 0.8 * (1.0 + math.cos(math.pi / 4)) / 2.0),
        (100, 0.2 + 0.8 * (1.0 + 0.0) / 2.0),
        (200, 0.2),
        (10_000, 0.2),
    ],
)
def test_cosine_schedule_falls_along_half_a_wave_and_then_stays(env_steps, expected):
    assert Schedule("cosine", 1.0, 0.2, 200).at(env_steps) == pytest.approx(expected, abs=1e-12)


def test_cosine_schedule_is_at_its_end_at_once_when_it_has_no_steps():
    assert Schedule("cosine", 1.0, 0.2, 0).at(0) == 0.2


@pytest.mark.parametrize(
    ("env_steps", "expected"),
    [(0, 0.9), (10, 0.9), (15, 0.9 + (0.1 - 0.9) * 5 / 10), (20, 0.1), (25, 0.3), (30, 0.5), (999, 0.5)],
)
def test_piecewise_schedule_goes_straight_from_point_to_point(env_steps, expected):
    schedule = Schedule("piecewise", 0.0, 0.0, 0, ((10, 0.9), (20, 0.1), (30, 0.5)))

    assert schedule.at(env_steps) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("constant", (1.0, 1.0, 1.0)),
        ("linear", (1.0, 0.75, 0.0)),
        ("cosine", (1.0, (1.0 + math.cos(math.pi / 4)) / 2.0, 0.0)),
        ("piecewise", (0.5, 0.25, 0.0)),
    ],
)
def test_schedule_is_of_the_shape_asked_for(shape, expected):
    schedule = Schedule(shape, 1.0, 0.0, 100, ((0, 0.5), (50, 0.0)))

    assert [schedule.at(n) for n in (0, 25, 1000)] == pytest.approx(expected)


def test_learner_is_ordered_with_the_values_of_the_env_step():
    config = Config(
        sampler="prioritized",
        learning_rate_schedule="linear",
        learning_rate=0.5,
        learning_rate_end=0.1,
        learning_rate_decay_steps=100,
        importance_anneal_steps=200,
    )

    assert learn_request(config, 100) == LearnRequest(
        learning_rate=0.1, importance_sampling_exponent=0.4 + 0.6 * 100 / 200
    )


@pytest.mark.parametrize(
    ("config", "is_image", "late"),
    [
        (Config(), False, 2e-5),
        (Config(), True, 1e-3),
        (Config(learning_rate_schedule="linear"), True, 2e-5),
        *(
            (Config.from_preset(preset), False, read_preset(preset).get("learning_rate", 1e-3))
            for preset in PRESETS
        ),
    ],
)
def test_learning_rate_falls_by_default_but_neither_with_images_nor_in_a_preset(config, is_image, late):
    shape, dtype = ((10, 10, 4), "uint8") if is_image else ((4,), "float32")
    spec = EnvironmentSpec("Toy", shape, 2, None, dtype, 0.0, 1.0, None)
    resolved = resolve(config, spec)

    rates = [learn_request(resolved, env_steps).learning_rate for env_steps in (0, 100_000)]
    assert rates == pytest.approx([config.learning_rate, late])
