import pytest

from distdqn.config.config import Config
from distdqn.config.presets import PRESETS, SOURCES
from distdqn.errors import ConfigError


@pytest.mark.parametrize("name", PRESETS)
def test_preset_makes_a_config_that_has_its_options(name):
    config = Config.from_text({"preset": name})

    for option, value in PRESETS[name].items():
        assert getattr(config, option) == value
    assert config == Config.from_preset(name)


def test_single_options_replace_those_of_a_preset():
    config = Config.from_text({"preset": "apex", "n_step": "7", "dueling": "False"})

    assert (config.n_step, config.dueling, config.sampler) == (7, False, "prioritized")
    assert Config.from_preset("apex", n_step=7, dueling=False) == config


def test_unknown_preset_is_listed_with_the_other_mistakes():
    with pytest.raises(ConfigError) as caught:
        Config.from_text({"preset": "rainbows", "actors": "0"})

    assert len(caught.value.mistakes) == 2
    assert "`dqn`" in caught.value.mistakes[0]
    assert "`rainbows`" in caught.value.mistakes[0]


def test_munchausen_with_double_is_refused_with_the_fix():
    with pytest.raises(ConfigError, match="--no-double"):
        Config(munchausen=True)
    assert Config(munchausen=True, double=False).munchausen


def test_presets_differ_from_each_other_and_from_the_default():
    configs = [Config(), *(Config.from_preset(name) for name in PRESETS)]

    assert len(set(configs)) == len(configs)


def test_every_preset_says_where_it_comes_from():
    assert SOURCES.keys() == PRESETS.keys()
