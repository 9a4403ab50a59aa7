"""`play`: episodes in a window or a file, without a network, too."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pygame
import pytest
from PIL import Image, ImageSequence

from distdqn.loading import find_environment
from distdqn.networks.numpy_policy import policy_bytes
from distdqn.play import main
from distdqn.reporting.video import draw_picture, write_gif
from distdqn.types import PolicyWeights


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder made by hand whose network prefers action 2 of 3; observations end with the mask."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    folder = tmp_path / "run"
    folder.mkdir()
    layers = [
        {"name": "x", "kind": "input", "inputs": [], "arrays": []},
        {"name": "q", "kind": "dense", "inputs": ["x"], "arrays": [0, 1], "activation": "linear"},
    ]
    bias = np.array([1.0, -1e9, 3.0], np.float32)
    weights = PolicyWeights(layers, [np.zeros((5, 3), np.float32), bias], (0, 1), 1)
    (folder / "policy.npz").write_bytes(policy_bytes(weights))
    importlib.import_module("toy_drawn")
    set_environment(folder, env="toy_drawn:DrawnEnvironment")
    return folder


def set_environment(folder: Path, **options: object) -> None:
    (folder / "config.json").write_text(json.dumps(options))


def test_gif_shows_every_step_at_the_speed_of_the_environment(run_dir, tmp_path, capsys) -> None:
    file = tmp_path / "play.gif"

    assert main([str(run_dir), "--gif", str(file), "--episodes", "2"]) == 0

    first, second, written = capsys.readouterr().out.splitlines()
    assert first == "Episode 1: return 5, length 5"
    assert second == "Episode 2: return 5, length 5"
    assert written.startswith(f"{file}: ")
    with Image.open(file) as gif:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]
    assert durations == [100] * 12  # five steps and the end, twice, at ten frames per second


def test_gif_is_slower_when_asked_for(run_dir, tmp_path) -> None:
    file = tmp_path / "play.gif"
    main([str(run_dir), "--gif", str(file), "--slow", "2.5"])

    with Image.open(file) as gif:
        assert gif.info["duration"] == 250


@pytest.mark.parametrize("name", ["DrawnEnvironment", "FloatEnvironment"])
def test_frame_stands_beside_bars_of_the_chosen_action(run_dir, tmp_path, name) -> None:
    file = tmp_path / "play.gif"
    set_environment(run_dir, env=f"toy_drawn:{name}")
    main([str(run_dir), "--gif", str(file)])

    with Image.open(file) as gif:
        gif.seek(3)
        picture = np.asarray(gif.convert("RGB")).astype(int)
    assert picture.shape[0] == 320
    row = picture[3 * 40 + 20, :320]  # row 3 of 8 rows of 40 pixels
    assert (row > 240).all()
    assert (picture[2 * 40 + 20, :320] < 15).all()
    is_blue = (picture[:, 320:, 2] > 150) & (picture[:, 320:, 0] < 40)  # the bar of action 2, none above it
    assert is_blue.sum() > 500
    assert np.flatnonzero(is_blue.any(axis=1)).min() > 62 + 2 * 20


def test_long_gif_leaves_pictures_out_and_keeps_its_speed(tmp_path) -> None:
    pictures = (Image.new("RGB", (4, 4), (number % 256, number // 256, 0)) for number in range(1500))
    write_gif(pictures, tmp_path / "long.gif", 0.03)

    with Image.open(tmp_path / "long.gif") as gif:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]
    assert len(durations) <= 601
    assert sum(durations) == pytest.approx(1500 * 30, rel=0.01)


def test_environment_given_as_a_function_is_made_again() -> None:
    source = find_environment(Path(), {}, {"env": lambda: None})

    assert callable(source.env)


def test_picture_shows_the_largest_of_many_values_alone() -> None:
    limits = [np.inf, -np.inf]
    frame = np.zeros((1000, 10, 3), np.uint8)

    picture = draw_picture(frame, "", np.arange(100, dtype=np.float32), 99, limits)

    assert picture.height == 320
    assert limits == [0.0, 99.0]


def test_window_shows_as_many_episodes_as_asked_for(run_dir, capsys) -> None:
    assert main([str(run_dir), "--episodes", "2", "--slow", "0.01"]) == 0
    assert capsys.readouterr().out.count("return 5, length 5") == 2


def test_window_that_the_user_closes_ends_the_command(run_dir, capsys, monkeypatch) -> None:
    events = iter([[], [], [pygame.event.Event(pygame.QUIT)]])
    monkeypatch.setattr(pygame.event, "get", lambda: next(events))

    assert main([str(run_dir), "--slow", "0.01"]) == 0
    assert capsys.readouterr().out == ""


def test_window_is_refused_in_one_line_without_a_display(run_dir, capsys, monkeypatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")

    assert main([str(run_dir)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "`--gif play.gif`" in line


def test_random_actions_need_no_network_and_follow_the_mask(run_dir, tmp_path, capsys) -> None:
    (run_dir / "policy.npz").unlink()

    assert main([str(run_dir), "--random", "--episodes", "4", "--gif", str(tmp_path / "r.gif")]) == 0
    assert capsys.readouterr().out.count("return 5, length 5") == 4


def test_episodes_have_the_arguments_and_wrappers_and_limit_of_the_run(run_dir, tmp_path, capsys) -> None:
    recorded = {"env_kwargs": {"length": 9}, "wrapper": ["toy_drawn:HalfEnvironment"], "max_episode_steps": 4}
    set_environment(run_dir, env="toy_drawn:DrawnEnvironment", **recorded)
    command = [str(run_dir), "--gif", str(tmp_path / "a.gif")]

    assert main(command) == 0
    assert "return 2, length 4" in capsys.readouterr().out
    assert main([*command, "--wrapper", "none", "--max-episode-steps", "6"]) == 0
    assert "return 6, length 6" in capsys.readouterr().out


REFUSED = {
    "no mode": ("toy_drawn:UndrawnEnvironment", 2, "its `render_modes` are []"),
    "no argument": ("toy_drawn:make_without_mode", 2, "it takes no argument `render_mode`"),
    "fails": ("toy_drawn:FailingEnvironment", 5, "cannot be drawn: RuntimeError: no screen"),
    "no colours": ("toy_drawn:GreyEnvironment", 5, "its frames have the shape (1, 8, 8)"),
    "lambda": ("toy_drawn:<lambda>", 2, "which no module names (give `--env module:Name`)"),
}


@pytest.mark.parametrize(("env", "code", "words"), REFUSED.values(), ids=REFUSED)
def test_environment_that_draws_nothing_is_refused_in_one_line(
    run_dir, tmp_path, capsys, env, code, words
) -> None:
    set_environment(run_dir, env=env)

    assert main([str(run_dir), "--gif", str(tmp_path / "play.gif")]) == code
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("distdqn: error: ")
    assert words in line
    assert not (tmp_path / "play.gif").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gif", "no/such/folder/a.gif"], "`gif`: the folder"),
        (["--gif", "a.gif", "--mp4", "a.mp4"], "`gif` and `mp4` exclude each other"),
        (["--slow", "0"], "`slow` must be above 0"),
    ],
)
def test_options_that_cannot_be_followed_are_refused_in_one_line(run_dir, capsys, options, words) -> None:
    assert main([str(run_dir), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_mp4_names_its_extra_when_the_package_is_missing(run_dir, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)

    assert main([str(run_dir), "--mp4", str(tmp_path / "a.mp4")]) == 2
    assert "pip install 'distdqn[mp4]'" in capsys.readouterr().err


def test_mp4_is_written_with_every_step(run_dir, tmp_path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    file = tmp_path / "a.mp4"

    assert main([str(run_dir), "--mp4", str(file)]) == 0
    frames, seconds = ffmpeg.count_frames_and_secs(str(file))
    assert (frames, seconds) == (6, pytest.approx(0.6, abs=0.1))


def test_playing_process_loads_neither_tensorflow_nor_ray(run_dir, tmp_path) -> None:
    code = (
        "import sys; from distdqn.play import main; assert main(sys.argv[1:]) == 0; "
        "print([m for m in ('tensorflow', 'ray', 'matplotlib') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(run_dir), "--gif", str(tmp_path / "a.gif")]
    result = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=60
    )

    assert result.stdout.splitlines()[-1] == "[]"
