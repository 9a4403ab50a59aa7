"""`python -m distdqn.play`: watch a run's network play, in a window or as a file."""

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from distdqn.acting.player import play_episode
from distdqn.config.command_line import Command, print_mistakes
from distdqn.config.config import Count, EnvironmentOptions, Positive, Seed
from distdqn.config.model import Text
from distdqn.config.validation import check_file
from distdqn.environments.registry import EnvironmentMaker, inspect_environment, make_vector_environment
from distdqn.environments.sources import environment_name
from distdqn.environments.vector import FaultLog, VectorEnvironment
from distdqn.errors import INTERRUPTED, ConfigError, DistdqnError
from distdqn.loading import PolicyOptions, find_environment, find_policy
from distdqn.networks.numpy_policy import Policy, make_policy
from distdqn.reporting.run_directory import read_options
from distdqn.reporting.video import FramePainter, GifFile, Mp4File, VideoOutput, Window
from distdqn.seeding import make_generator, make_integer_seed

_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
_QUIET = {"SDL_AUDIODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}


class PlayOptions(PolicyOptions):
    """What to play, and where to show it."""

    gif: Annotated[Text, AfterValidator(check_file(".gif"))] | None = None
    """Write an animated GIF instead of opening a window."""
    mp4: Annotated[Text, AfterValidator(check_file(".mp4"))] | None = None
    """Write a video instead, with the extra `distdqn[mp4]`."""
    random: bool = False
    """Take random actions; the run needs no network."""
    episodes: Count | None = None
    """Episodes to play; none means 3 in a window and 1 in a file."""
    seed: Seed = 0
    """Fixes the episodes; training saw none of them."""
    slow: Positive = 1.0
    """Show it so many times slower; below 1, faster."""


_COMMAND = Command(
    "distdqn play RUN [OPTION VALUE ...]",
    "Watch a run's best network play, with its Q-values beside the picture.",
    PlayOptions,
    positional="run_dir",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the return and length of each episode; returns the exit code."""
    try:
        for line in play(_COMMAND.read(arguments)):
            print(line, flush=True)
    except DistdqnError as error:
        return print_mistakes(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def play(options: PlayOptions) -> Iterator[str]:
    """Plays and shows episodes; yields a line for each, and one for the file.

    Raises:
        DistdqnError: there is no such policy, display or package, or the environment cannot be drawn.
    """
    is_file = bool(options.gif or options.mp4)
    if not is_file and sys.platform != "darwin" and not any(map(os.environ.get, _DISPLAYS)):
        raise ConfigError("There is no display for a window (write a file: `--gif play.gif`).")
    for name, value in (_QUIET | ({"SDL_VIDEODRIVER": "dummy"} if is_file else {})).items():
        os.environ.setdefault(name, value)
    folder, chosen = Path(options.run_dir), options.chosen_environment()
    policy: Policy | None = None
    if options.random:
        source = find_environment(folder, read_options(folder).model_dump(), chosen)
        spec = inspect_environment(source)
    else:
        weights, source, spec = find_policy(str(folder), chosen, options.final, options.checkpoint)
        policy = make_policy(weights)
    source = _with_frames(source)
    seeds = (make_integer_seed(options.seed, "evaluation", episode) for episode in itertools.count())
    environments = VectorEnvironment(source, 1, seeds, FaultLog(source, 1), has_mask=spec.mask is not None)
    generator, painter = make_generator(options.seed, "evaluation", 0), FramePainter()
    with contextlib.closing(environments):
        outputs = _open_outputs(options, spec.name, options.slow / environments.render_fps)
        try:
            for episode in range(1, (options.episodes or (1 if is_file else 3)) + 1):
                if episode > 1:
                    environments.restart(seeds)
                for step in play_episode(environments, spec, policy, generator):
                    lines = f"episode {episode}\nstep {step.length}\nreturn {step.episode_return:g}"
                    picture = painter.draw(environments.render(), lines, step.q_values, step.action)
                    if not all(output.add(picture) for output in outputs):
                        return
                yield f"Episode {episode}: return {step.episode_return:g}, length {step.length}"
        finally:
            written = [output.close() for output in outputs]
    yield from filter(None, written)


def _with_frames(source: EnvironmentOptions) -> EnvironmentOptions:
    """The environment with frames as arrays; `ConfigError` if it has none."""
    with contextlib.closing(make_vector_environment(source, 1)) as vector:
        modes = vector.metadata.get("render_modes") or []
    drawn = source.model_copy(update={"env_kwargs": {**source.env_kwargs, "render_mode": "rgb_array"}})
    why = f"its `render_modes` are {modes}" if modes else "it has no `render_modes`"
    if "rgb_array" in modes:
        if not (mistakes := EnvironmentMaker(drawn).mistakes()):
            return drawn
        why = mistakes[0].rstrip(".")
    name = environment_name(source)
    raise ConfigError(f"`env`: `{name}` cannot be drawn: {why} (let it take the `render_mode` `rgb_array`).")


def _open_outputs(options: PlayOptions, name: str, seconds: float) -> list[VideoOutput]:
    outputs: list[VideoOutput] = []
    if options.mp4:
        outputs.append(Mp4File(Path(options.mp4), seconds))
    if options.gif:
        outputs.append(GifFile(Path(options.gif), seconds))
    return outputs or [Window(f"distdqn {name}", seconds)]


if __name__ == "__main__":
    sys.exit(main())
