"""`python -m distdqn.play`: watch a run's network play, in a window or as a file."""

import contextlib
import itertools
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distdqn.acting.exploration import greedy_actions, random_actions
from distdqn.config.command_line import command
from distdqn.config.config import Count, EnvironmentOptions, Positive, Seed
from distdqn.config.model import Text
from distdqn.environments.registry import EnvironmentMaker, make_vector_environment
from distdqn.environments.vector import FaultLog, VectorEnvironment
from distdqn.errors import ConfigError
from distdqn.loading import PolicyOptions, find_player
from distdqn.networks.numpy_policy import Policy
from distdqn.reporting.video import draw_picture, show, write_gif, write_mp4
from distdqn.seeding import make_generator, make_integer_seed
from distdqn.types import EnvironmentSpec

if TYPE_CHECKING:
    from PIL.Image import Image

_MAX_STEPS = 27_000  # of an episode, as in an evaluation
_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")


class PlayOptions(PolicyOptions):
    """What to play, and where to show it."""

    gif: Text | None = None
    """Write an animated GIF, of at most 600 frames, instead of opening a window."""
    mp4: Text | None = None
    """Write a video instead, with the extra `distdqn[mp4]`."""
    random: bool = False
    """Take random actions; the run needs no network."""
    episodes: Count | None = None
    """Episodes to play; none means 3 in a window and 1 in a file."""
    seed: Seed = 0
    """Fixes the episodes; training saw none of them."""
    slow: Positive = 1.0
    """Show it so many times slower; below 1, faster."""


@command("distdqn play RUN_DIR [OPTION VALUE ...]", PlayOptions, positional="run_dir")
def main(options: PlayOptions) -> None:
    """Watch a run's best network play, with its Q-values beside the picture."""
    file = options.gif or options.mp4
    has_display = sys.platform == "darwin" or any(map(os.environ.get, _DISPLAYS))
    if file is None and not has_display:
        raise ConfigError("There is no display for a window (write a file: `--gif play.gif`).")
    if not has_display:
        os.environ["SDL_VIDEODRIVER"] = "dummy"  # many environments draw with SDL, which looks for a display
    if file is not None and not Path(file).absolute().parent.is_dir():
        raise ConfigError(f"`{'gif' if options.gif else 'mp4'}`: the folder of {file} does not exist.")
    policy, source, spec = find_player(options, options.random)
    source = _drawn(source, spec.name)
    seeds = (make_integer_seed(options.seed, "evaluation", episode) for episode in itertools.count())
    environments = VectorEnvironment(source, 1, seeds, FaultLog(source, 1), has_mask=spec.mask is not None)
    with contextlib.closing(environments):
        seconds = options.slow / environments.render_fps
        episodes = options.episodes or (3 if file is None else 1)
        pictures = _play(environments, spec, policy, options.seed, episodes)
        if file is None:
            show(pictures, f"distdqn {spec.name}", seconds)
        else:
            (write_gif if options.gif else write_mp4)(pictures, Path(file), seconds)
            print(f"{file}: {Path(file).stat().st_size / 1e6:.1f} MB")


def _drawn(source: EnvironmentOptions, name: str) -> EnvironmentOptions:
    """The environment with frames as arrays; `ConfigError` if it has none."""
    with contextlib.closing(make_vector_environment(source, 1)) as vector:
        modes = vector.metadata.get("render_modes") or []
    drawn = source.model_copy(update={"env_kwargs": {**source.env_kwargs, "render_mode": "rgb_array"}})
    if "rgb_array" not in modes:
        why = f"its `render_modes` are {modes}"
    elif EnvironmentMaker(drawn).mistakes():
        why = "it takes no argument `render_mode`"
    else:
        return drawn
    raise ConfigError(f'`env`: `{name}` cannot be drawn: {why} (let it take `render_mode="rgb_array"`).')


def _play(
    environments: VectorEnvironment, spec: EnvironmentSpec, policy: Policy | None, seed: int, episodes: int
) -> "Iterator[Image]":
    """Pictures of each step and of the end of each episode."""
    generator, steps = make_generator(seed, "evaluation", 0), environments.empty_steps(1)
    limits, values = [math.inf, -math.inf], np.zeros(0, np.float32)
    seeds = (make_integer_seed(seed, "evaluation", episode) for episode in itertools.count(1))
    for episode in range(1, episodes + 1):
        total, length, ended = 0.0, 0, False
        while not ended and length < _MAX_STEPS:
            observation = environments.observation  # [1, *observation_shape]
            if policy is None:
                allowed = None if spec.mask is None else spec.mask.read(observation)
                action = random_actions(1, spec.actions, generator, allowed)
            else:
                q_values = policy.q_values(observation)  # [1, A]
                action, values = greedy_actions(q_values, generator), q_values[0]
            text = f"episode {episode}, step {length}\nreturn {total:g}\naction {action[0]}"
            yield draw_picture(environments.render(), text, values, int(action[0]), limits)
            ended = bool(environments.step(action, steps, 0))
            total, length = total + float(steps.reward[0, 0]), length + 1
        text = f"episode {episode}, step {length}\nreturn {total:g}\nend"
        yield draw_picture(environments.render(), text, values, None, limits)
        print(f"Episode {episode}: return {total:g}, length {length}", flush=True)
        if episode < episodes:
            environments.restart(seeds)


if __name__ == "__main__":
    sys.exit(main())
