import pytest

from distdqn.config.config import Config
from distdqn.errors import ConfigError
from distdqn.training import resolve as resolve_module
from distdqn.training.resolve import check_fit, describe_resolution, resolve
from distdqn.types import EnvironmentSpec, ObservationPart


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


def resolve_and_describe(config, spec):
    result = resolve(config, spec)
    check_fit(result, spec)
    return result, describe_resolution(config, result, spec)


def test_every_option_that_depends_on_the_environment_gets_its_value():
    result, lines = resolve_and_describe(Config(), make_spec(reward_threshold=475.0))

    assert lines == []
    assert (result.torso, result.atoms, result.batch_size, result.samples_per_insert) == (
        "dense",
        11,
        128,
        128.0,
    )
    assert (result.learning_rate_schedule, result.target_return) == ("linear", 475.0)


def test_images_have_smaller_batches_fewer_updates_and_a_constant_rate():
    result, _ = resolve_and_describe(Config(), make_spec((84, 84, 4), "uint8"))

    assert (result.torso, result.batch_size, result.samples_per_insert) == ("nature", 64, 8.0)
    assert result.learning_rate_schedule == "constant"


@pytest.mark.parametrize(
    ("options", "shape", "threads", "precision"),
    [
        ({}, (84, 84, 4), 6, "auto"),
        ({"address": "local"}, (84, 84, 4), 6, "auto"),
        ({"address": "head:6379"}, (84, 84, 4), 1, "auto"),  # CPUs of other roles, perhaps
        ({"learner_gpus": 1}, (84, 84, 4), 1, "float32"),
        ({"spectral_norm": True}, (84, 84, 4), 6, "float32"),
        ({"torso": "dense"}, (84, 84, 4), 1, "float32"),
        ({"mode": "serial"}, (84, 84, 4), 1, "float32"),  # the same result on every machine
        ({"mode": "serial", "precision": "bfloat16", "learner_threads": 2}, (84, 84, 4), 2, "bfloat16"),
    ],
)
def test_learner_chooses_precision_and_has_all_cpus_where_results_may_depend_on_the_machine(
    options, shape, threads, precision, monkeypatch
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(resolve_module, "available_cpus", lambda: 6)

    result, _ = resolve_and_describe(Config(**options), make_spec(shape, "uint8"))

    assert (result.learner_threads, result.precision) == (threads, precision)


def test_cluster_that_the_environment_names_is_one():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "auto")
        assert resolve(Config(), make_spec((84, 84, 4), "uint8")).learner_threads == 1


@pytest.mark.parametrize("options", [{"torso": "dense"}, {"spectral_norm": True}, {"network": "json:loads"}])
def test_bfloat16_without_plain_convolutions_is_refused(options):
    with pytest.raises(ConfigError, match="`precision bfloat16` is for the convolutions"):
        resolve_and_describe(Config(precision="bfloat16", **options), make_spec((84, 84, 4), "uint8"))


def test_images_among_other_parts_get_the_torso_that_the_largest_can_have():
    parts = tuple(
        ObservationPart(name, kind, shape, 0, 0)
        for name, kind, shape in (
            ("view", "image", (84, 84, 3)),
            ("map", "image", (7, 7)),
            ("at", "vector", (2,)),
        )
    )
    options = {"parts": parts}
    assert resolve_and_describe(Config(), make_spec((21_225,), "uint8", **options))[0].torso == "nature"
    options["parts"] = parts[1:]
    assert resolve_and_describe(Config(), make_spec((57,), "uint8", **options))[0].torso == "small"


def test_options_that_were_given_stay_as_they_are():
    given = {"torso": "dense", "atoms": 7, "batch_size": 32, "samples_per_insert": 3.0, "target_return": 1.0}
    result, _ = resolve_and_describe(Config(**given), make_spec((84, 84, 4), "uint8"))

    assert {name: getattr(result, name) for name in given} == given


def test_resolving_again_changes_nothing():
    result, _ = resolve_and_describe(Config(), make_spec(reward_threshold=475.0))

    assert resolve(result, make_spec(reward_threshold=475.0)) == result


def test_conversion_of_observations_is_told():
    _, notes = resolve_and_describe(Config(), make_spec(conversion="float64 becomes float32"))

    assert notes == ["float64 becomes float32"]


def test_call_of_the_learner_is_kept_below_64_megabytes_of_images():
    config, notes = resolve_and_describe(Config(batch_size=64), make_spec((4, 84, 84), "uint8"))

    assert config.updates_per_call == (64 * 2**20) // (2 * 64 * 4 * 84 * 84)  # 18
    assert "`updates_per_call` is 18 instead of 64" in notes[0]


@pytest.mark.parametrize(
    ("shape", "dtype", "length"),
    [
        ((4,), "float32", 16),
        ((84, 84, 4), "uint8", 16),
        ((300, 300, 3), "uint8", 7),
        ((2000,) * 2, "uint8", 1),
    ],
)
def test_rollout_of_large_observations_is_shorter_and_a_line_says_so(shape, dtype, length):
    options = {"replay_capacity": 1000}
    config, notes = resolve_and_describe(Config(**options), make_spec(shape, dtype))

    assert config.rollout_length == length
    assert any(f"`rollout_length` is {length} instead of 16" in note for note in notes) == (length < 16)


def test_fault_27_rollouts_of_all_actors_count_where_memory_is_checked(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(resolve_module, "available_bytes", lambda: 2**30)
    spec = make_spec((300, 300, 3), "uint8")

    resolve_and_describe(Config(replay_capacity=1000, actors=2), spec)
    with pytest.raises(ConfigError, match=r"rollouts need 4\.\d GB, and this machine has 1\.0 GB"):
        resolve_and_describe(Config(replay_capacity=1000, actors=16), spec)


def test_replay_larger_than_the_machine_is_refused_with_needed_and_available(monkeypatch):
    monkeypatch.setattr(resolve_module, "available_bytes", lambda: 2**30)

    with pytest.raises(ConfigError) as caught:
        resolve_and_describe(Config(replay_capacity=10**6), make_spec((84, 84, 4), "uint8"))

    assert "`replay_capacity` (1000000) needs 7." in caught.value.mistakes[0]
    assert "this machine has 1.0 GB" in caught.value.mistakes[0]


def test_shards_may_have_more_memory_than_this_machine_on_a_cluster_alone(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(resolve_module, "available_bytes", lambda: 4 * 2**30)
    options = {"replay_capacity": 10**6, "replay_shards": 4}  # about 7.7 GB, 1.9 GB each
    spec = make_spec((84, 84, 4), "uint8")

    resolve_and_describe(Config(**options, address="10.0.0.3:6379"), spec)
    with pytest.raises(ConfigError, match=r"needs 7\.\d GB"):
        resolve_and_describe(Config(**options, address="local"), spec)
    with pytest.raises(ConfigError, match=r"needs 7\.\d GB"):
        resolve_and_describe(Config(**options), spec)
    with pytest.raises(ConfigError, match=r"needs 7\.\d GB"):
        resolve_and_describe(Config(replay_capacity=10**6, address="10.0.0.3:6379"), spec)


def test_torso_that_cannot_look_at_the_observations_is_refused():
    with pytest.raises(ConfigError, match="at least 36 pixels"):
        resolve_and_describe(Config(torso="nature"), make_spec((10, 10, 4), "uint8"))
    with pytest.raises(ConfigError, match="`torso`"):
        resolve_and_describe(Config(torso="small"), make_spec((4,)))


def test_spectral_norm_without_convolutions_is_refused():
    with pytest.raises(ConfigError, match="`spectral_norm` is for convolutions"):
        resolve_and_describe(Config(spectral_norm=True), make_spec())


def test_all_mistakes_are_listed_together(monkeypatch):
    monkeypatch.setattr(resolve_module, "available_bytes", lambda: 1)

    with pytest.raises(ConfigError) as caught:
        resolve_and_describe(Config(torso="small", spectral_norm=True), make_spec())

    assert len(caught.value.mistakes) == 2


@pytest.mark.parametrize(
    ("is_discrete", "given", "expected"),
    [(True, None, True), (False, None, False), (True, False, False), (False, True, True)],
)
def test_windows_end_before_exploratory_actions_where_observations_are_discrete(is_discrete, given, expected):
    assert resolve(Config(watkins=given), make_spec(is_discrete=is_discrete)).watkins is expected
