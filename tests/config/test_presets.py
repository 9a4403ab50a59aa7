import json

import pytest
from options_page import options_page

from distdqn.config.command_line import parse_run
from distdqn.config.config import Config
from distdqn.config.model import PRESETS, read_preset
from distdqn.errors import ConfigError


@pytest.mark.parametrize("name", PRESETS)
def test_preset_makes_a_config_that_has_its_options(name):
    config = Config.from_preset(name)

    for option, value in read_preset(name).items():
        assert getattr(config, option) == (tuple(value) if isinstance(value, list) else value)
    assert config == parse_run(["--preset", name])[0]


def test_presets_are_those_that_were_promised():
    assert list(PRESETS) == [
        *("apex", "btr", "double", "dqn", "iqn", "lecture", "munchausen", "qr", "rainbow")
    ]


def test_rainbow_and_lecture_hold_the_settings_of_their_sources():
    rainbow, lecture = Config.from_preset("rainbow"), Config.from_preset("lecture")

    assert (rainbow.head, rainbow.atoms, rainbow.v_min, rainbow.v_max) == ("categorical", 51, -100.0, 100.0)
    assert (rainbow.noisy, rainbow.epsilon_start, rainbow.priority_exponent) == (True, 0.0, 0.5)
    assert (lecture.hidden_sizes, lecture.discount, lecture.max_gradient_norm) == ((24, 24), 0.8, None)
    assert (lecture.failure_reward, lecture.bootstrap_on_termination) == (-1.0, True)


def test_iqn_and_btr_hold_the_settings_of_their_sources():
    iqn, btr = Config.from_preset("iqn"), Config.from_preset("btr")

    assert (iqn.head, iqn.tau_samples, iqn.target_tau_samples, iqn.atoms) == ("implicit", 64, 64, 32)
    assert (btr.head, btr.tau_samples, btr.target_tau_samples, btr.atoms) == ("implicit", 8, 8, 8)
    assert (btr.torso, btr.spectral_norm, btr.noisy, btr.dueling) == ("impala-wide", True, True, True)
    assert (btr.munchausen, btr.n_step, btr.priority_exponent, btr.discount) == (True, 3, 0.2, 0.997)
    assert btr.adam_epsilon == 0.005 / btr.batch_size


def test_single_options_replace_those_of_a_preset():
    config = parse_run(["--preset", "apex", "--n-step", "7", "--no-dueling"])[0]

    assert (config.n_step, config.dueling, config.sampler) == (7, False, "prioritized")
    assert Config.from_preset("apex", n_step=7, dueling=False) == config


def test_unknown_preset_is_listed_with_the_other_mistakes():
    with pytest.raises(ConfigError) as caught:
        parse_run(["--preset", "rainbows", "--actors", "0"])

    assert len(caught.value.mistakes) == 2
    assert "`dqn`" in caught.value.mistakes[0]
    assert "`rainbows`" in caught.value.mistakes[0]


def test_munchausen_with_double_is_refused_with_the_fix():
    with pytest.raises(ConfigError, match="--no-double"):
        Config(munchausen=True)
    assert Config(munchausen=True, double=False).munchausen


def test_presets_differ_from_each_other_and_from_the_default():
    configs = [Config(), *(Config.from_preset(name) for name in PRESETS)]

    assert len({json.dumps(config.to_json()) for config in configs}) == len(configs)


def test_every_preset_says_where_it_comes_from():
    rows = options_page().partition("## Presets")[2].splitlines()[4:]
    assert [row.split("`")[1] for row in rows] == list(PRESETS)
    assert all(len(row.split(" | ")[-1]) > 20 for row in rows)
