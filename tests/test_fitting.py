import pytest

from distdqn import fitting
from distdqn.acting.environments import EnvironmentSpec
from distdqn.config import Config
from distdqn.errors import ConfigError
from distdqn.fitting import fit_to_observations


def make_spec(shape=(4,), dtype="float32", **changes):
    """What an environment with such observations says of itself."""
    about = {
        "name": "Toy",
        "observation_shape": shape,
        "actions": 2,
        "reward_threshold": None,
        "observation_dtype": dtype,
        "observation_low": 0.0,
        "observation_high": 255.0,
        "conversion": None,
    }
    return EnvironmentSpec(**(about | changes))


def test_vectors_leave_the_options_as_they_are():
    assert fit_to_observations(Config(), make_spec()) == (Config(), [])


def test_conversion_of_observations_is_told():
    _, notes = fit_to_observations(Config(), make_spec(conversion="float64 becomes float32"))

    assert notes == ["float64 becomes float32"]


def test_call_of_the_learner_is_kept_below_64_megabytes_of_images():
    config, notes = fit_to_observations(Config(batch_size=64), make_spec((4, 84, 84), "uint8"))

    assert config.updates_per_call == (64 * 2**20) // (2 * 64 * 4 * 84 * 84)  # 18
    assert "`updates_per_call` is 18 instead of 64" in notes[0]


def test_replay_larger_than_the_machine_is_refused_with_needed_and_available(monkeypatch):
    monkeypatch.setattr(fitting, "_machine_bytes", lambda: 2**30)

    with pytest.raises(ConfigError) as caught:
        fit_to_observations(Config(capacity=10**6), make_spec((84, 84, 4), "uint8"))

    assert "`capacity` (1000000) needs 7." in caught.value.mistakes[0]
    assert "this machine has 1.0 GB" in caught.value.mistakes[0]


def test_shards_may_have_more_memory_than_this_machine_on_a_cluster_alone(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(fitting, "_machine_bytes", lambda: 4 * 2**30)
    options = {"capacity": 10**6, "replay_shards": 4}  # about 7.7 GB, 1.9 GB each
    spec = make_spec((84, 84, 4), "uint8")

    fit_to_observations(Config(**options, address="10.0.0.3:6379"), spec)
    with pytest.raises(ConfigError, match=r"needs 7\.\d GB"):
        fit_to_observations(Config(**options, address="local"), spec)
    with pytest.raises(ConfigError, match=r"needs 7\.\d GB"):
        fit_to_observations(Config(**options), spec)
    with pytest.raises(ConfigError, match=r"needs 7\.\d GB"):
        fit_to_observations(Config(capacity=10**6, address="10.0.0.3:6379"), spec)


def test_torso_that_cannot_look_at_the_observations_is_refused():
    with pytest.raises(ConfigError, match="at least 36 pixels"):
        fit_to_observations(Config(torso="nature"), make_spec((10, 10, 4), "uint8"))
    with pytest.raises(ConfigError, match="`torso`"):
        fit_to_observations(Config(torso="small"), make_spec((4,)))


def test_spectral_norm_without_convolutions_is_refused():
    with pytest.raises(ConfigError, match="`spectral_norm` is for convolutions"):
        fit_to_observations(Config(spectral_norm=True), make_spec())


def test_all_mistakes_are_listed_together(monkeypatch):
    monkeypatch.setattr(fitting, "_machine_bytes", lambda: 1)

    with pytest.raises(ConfigError) as caught:
        fit_to_observations(Config(torso="small", spectral_norm=True), make_spec())

    assert len(caught.value.mistakes) == 2
