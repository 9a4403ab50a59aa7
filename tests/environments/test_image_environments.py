"""Observations as they are kept, and real Atari and MinAtar games where they are installed."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from toy_actors import make_actor, make_vector, step_once
from toy_environments import PicturesEnvironment, SpacesEnvironment

from distdqn.environments.registry import inspect_environment
from distdqn.errors import ConfigError
from distdqn.types import FrameLayout

DISCRETE = gymnasium.spaces.Discrete(2)


def with_box(low, high, shape, dtype):
    return lambda: SpacesEnvironment(gymnasium.spaces.Box(low, high, shape, dtype), DISCRETE)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)], ids=str)
@pytest.mark.parametrize(("dtype", "high"), [(np.uint8, 255), (np.uint8, 1), (np.bool_, 1)])
def test_fault_27_pixels_and_maps_of_bits_are_kept_as_uint8(shape, dtype, high):
    spec = inspect_environment(with_box(0, high, shape, dtype))

    assert spec.is_image
    assert (spec.observation_dtype, spec.observation_shape) == ("uint8", shape)
    assert (spec.observation_low, spec.observation_high) == (0.0, float(high))
    assert spec.conversion is None


@pytest.mark.parametrize(
    ("dtype", "shape", "conversion"),
    [
        (np.float32, (3,), None),
        (np.float32, (6, 5, 3), None),
        (np.float64, (3,), "Observations are float64: converted to float32."),
        (np.int64, (6, 5), "Observations are int64: converted to float32."),
        (np.uint8, (3,), "Observations are uint8 with 1 axis (images have 2 or 3): converted to float32."),
        (
            np.uint8,
            (2, 3, 4, 3),
            "Observations are uint8 with 4 axes (images have 2 or 3): converted to float32.",
        ),
        (np.bool_, (3,), "Observations are bool with 1 axis (images have 2 or 3): converted to float32."),
    ],
    ids=str,
)
def test_all_other_observations_become_float32_and_the_user_is_told(dtype, shape, conversion):
    source = with_box(0, 1, shape, dtype)
    spec, vector = inspect_environment(source), make_vector(source, 2, 0)

    assert (spec.is_image, spec.observation_dtype, spec.conversion) == (False, "float32", conversion)
    assert (vector.observation.shape, vector.observation.dtype) == ((2, *shape), np.float32)
    assert make_actor(source)._maker._frame_layout is None


def test_spec_gives_the_widest_bounds_of_the_space():
    space = gymnasium.spaces.Box(np.array([-3.0, -np.inf]), np.array([2.0, 7.0]), dtype=np.float64)
    spec = inspect_environment(lambda: SpacesEnvironment(space, DISCRETE))

    assert (spec.observation_low, spec.observation_high) == (-np.inf, 7.0)


@pytest.mark.parametrize(("axis", "shape"), [(0, (4, 8, 8)), (-1, (8, 8, 4))])
def test_fault_27_batch_keeps_stacked_pictures_as_they_are(axis, shape):
    def source():
        return PicturesEnvironment(stack=4, size=8, axis=axis)

    vector, alone = make_vector(source, 2, 7), source()
    expected, _ = alone.reset(seed=8)
    steps, _ = step_once(vector, [0, 1])
    following, *_ = alone.step(1)

    assert vector.observation.dtype == steps.next_observation.dtype == np.uint8
    assert make_actor(source)._maker._frame_layout == FrameLayout(shape, axis % 3)
    np.testing.assert_array_equal(steps.observation[0, 1], expected)
    np.testing.assert_array_equal(steps.next_observation[0, 1], following)


def test_bits_become_zeros_and_ones_of_one_frame():
    source = with_box(0, 1, (5, 5, 3), np.bool_)
    vector = make_vector(source, 4, 0)

    assert vector.observation.dtype == np.uint8
    assert set(vector.observation.ravel().tolist()) == {0, 1}
    assert make_actor(source)._maker._frame_layout == FrameLayout((5, 5, 3), None)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("ALE/Pong-v5", "ale_py", "atari"), ("MinAtar/Breakout-v1", "minatar", "minatar")],
)
def test_fault_34_missing_package_is_refused_with_the_command_that_installs_it(name, module, extra):
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from distdqn.environments.registry import inspect_environment\n"
        f"inspect_environment({name!r})\n"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert outcome.returncode == 1
    last = outcome.stderr.splitlines()[-1]
    assert last.startswith(f"distdqn.errors.ConfigError: `env`: `{name}` is not installed")
    assert f"`pip install 'distdqn[{extra}]'`" in last


@pytest.mark.parametrize("name", ["ALE/Pang-v5", "MinAtar/Brekout-v1"])
def test_misspelt_game_of_an_installed_family_is_refused_without_warnings(name):
    pytest.importorskip("ale_py")
    pytest.importorskip("minatar")

    for _ in range(2):
        with pytest.raises(ConfigError, match=r"(Pang|Brekout)"):
            inspect_environment(name)


def test_min_atar_is_imported_quickly_and_without_chatter(tmp_path):
    pytest.importorskip("minatar")
    (tmp_path / "seaborn.py").write_text("print('imported')\ndef color_palette(name): return name\n")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from distdqn.environments.registry import inspect_environment\n"
        "inspect_environment('MinAtar/Breakout-v1')\n"
        "print('inspected', 'seaborn' in sys.modules)\n"
        "import minatar.gym\n"
        "print(minatar.gym.sns.color_palette('cubehelix'))\n"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert outcome.stdout.splitlines() == ["inspected False", "imported", "cubehelix"]
    assert outcome.stderr == ""


def play(vector, steps, seed=0):
    """The steps `[T, E]` of random actions, and the episodes that ended."""
    actions = np.random.default_rng(seed).integers(3, size=(steps, len(vector.observation)))
    played = vector.empty_steps(steps)
    ends = [end for t, row in enumerate(actions) for end in vector.step(row, played, t)]
    return played, ends


def assert_stacks_move_on(steps):
    """What follows an observation shares its newest three frames; an episode starts in black."""
    starts = np.ones(steps.action.shape[1], np.bool_)
    for t in range(len(steps)):
        before, real = steps.observation[t], steps.is_transition[t]
        np.testing.assert_array_equal(steps.next_observation[t, real, :3], before[real, 1:])
        assert not before[starts & real, :3].any()
        assert before[starts & real, 3].reshape(-1, 84 * 84).any(axis=1).all()
        starts = (steps.terminated[t] | steps.truncated[t] | starts) & ~(starts & real)


@pytest.fixture
def short_pong():
    """Pong whose episodes are truncated after 80 of its frames, 20 steps."""
    pytest.importorskip("ale_py")
    gymnasium.register(
        "ToyShortPong-v0",
        vector_entry_point="ale_py.vector_env:AtariVectorEnv",
        kwargs={"game": "pong", "max_num_frames_per_episode": 80},
    )
    yield "ToyShortPong-v0"
    gymnasium.registry.pop("ToyShortPong-v0")


def test_pong_is_inspected_as_stacked_pixels():
    pytest.importorskip("ale_py")

    spec, actor = inspect_environment("ALE/Pong-v5"), make_actor("ALE/Pong-v5")

    assert (spec.observation_shape, spec.observation_dtype, spec.actions) == ((4, 84, 84), "uint8", 6)
    assert (spec.observation_low, spec.observation_high) == (0.0, 255.0)
    assert actor._maker._frame_layout == FrameLayout((4, 84, 84), 0)
    assert actor._environments._vector.unwrapped.spec.kwargs["num_threads"] == 1


def test_truncated_pong_ends_with_its_last_picture_and_starts_in_black(short_pong):
    steps, ends = play(make_vector(short_pong, 2, 0), 70)

    assert_stacks_move_on(steps)
    assert all(steps.truncated[end.row, end.environment] for end in ends)
    assert not steps.terminated.any()
    assert len(ends) >= 6
    assert all(15 <= end.length <= 20 for end in ends)


def test_breakout_terminates_with_its_last_picture_and_starts_in_black():
    pytest.importorskip("ale_py")

    steps, _ = play(make_vector("ALE/Breakout-v5", 3, 0), 350)

    assert_stacks_move_on(steps)
    assert steps.terminated.sum() >= 2
    assert (~steps.is_transition).sum() >= 2


def test_returns_of_atari_games_are_not_clipped():
    pytest.importorskip("ale_py")

    steps, ends = play(make_vector("ALE/SpaceInvaders-v5", 4, 0), 300)

    assert steps.reward.max() >= 5.0
    assert len(ends) >= 1
    assert max(end.episode_return for end in ends) >= 30.0


@pytest.mark.parametrize("game", ["Breakout", "SpaceInvaders"])
def test_min_atar_agrees_with_a_single_game_stepped_by_hand(game):
    pytest.importorskip("minatar")
    vector, alone = make_vector(f"MinAtar/{game}-v1", 2, 5), gymnasium.make(f"MinAtar/{game}-v1")
    expected, _ = alone.reset(seed=6)
    episodes = 0

    steps, _ = play(vector, 300)

    assert steps.observation.dtype == steps.next_observation.dtype == np.uint8
    for t in range(len(steps)):
        np.testing.assert_array_equal(steps.observation[t, 1], expected)
        if steps.is_transition[t, 1]:
            expected, reward, terminated, _, _ = alone.step(steps.action[t, 1])
            assert (steps.reward[t, 1], steps.terminated[t, 1]) == (reward, terminated)
            episodes += terminated
        else:
            expected, _ = alone.reset()
        np.testing.assert_array_equal(steps.next_observation[t, 1], expected)
    assert episodes >= 2
