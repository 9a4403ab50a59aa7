"""Pictures of an environment with Q-values beside them, for a GIF, an MP4 file or a window."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distdqn.errors import ConfigError, one_line
from distdqn.types import AnyArray, FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image

_MAX_FRAMES, _COLOURS = 600, 64  # of a GIF
_MIN_SECONDS = 0.02  # viewers slow GIFs down whose frames are shorter
_HEIGHT, _BAR = 320, 80  # pixels: of a picture, and of the longest bar
_MAX_ROWS = 16  # of Q-values: the largest ones
_MASKED = -1e8  # Q-values of actions that are not allowed are smaller


def draw_picture(
    frame: AnyArray, text: str, q_values: FloatArray, action: int | None, limits: list[float]
) -> Image:
    """A picture of `frame` `[H, W, 3]`, `text` and bars of the Q-values `[A]`, with `action` marked.

    `limits` are the smallest and largest Q-value drawn so far, between which bars range; it updates them.
    """
    from PIL import Image, ImageDraw, ImageFont

    shown = Image.fromarray(frame)
    scale = min(_HEIGHT / shown.height, 1.5 * _HEIGHT / shown.width)
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    shown = shown.resize((round(shown.width * scale), round(shown.height * scale)), method)
    picture = Image.new("RGB", (shown.width // 2 * 2 + 176, _HEIGHT), "#F2F2F2")
    picture.paste(shown, (0, (_HEIGHT - shown.height) // 2))
    pen, font, left = ImageDraw.Draw(picture), ImageFont.load_default(13), picture.width - 166
    pen.multiline_text((left, 6), text, "black", font)
    allowed = q_values[q_values > _MASKED].tolist()
    limits[:] = min([limits[0], *allowed]), max([limits[1], *allowed])
    rows = sorted(np.argsort(-q_values, kind="stable")[:_MAX_ROWS].tolist())
    step = min(26.0, (_HEIGHT - 66) / max(1, len(rows)))
    for row, each in enumerate(rows):
        y, value = 62 + row * step, float(q_values[each])
        length = _BAR * max(0.0, value - limits[0]) / max(limits[1] - limits[0], 1e-9)
        colour = "#0072B2" if each == action else "#B0B0B0"
        pen.text((left - 10, y), f"{'>' if each == action else '  '}  {each}", "black", font)
        pen.rectangle((left + 22, y + 2, left + 22 + length, y + step - 5), colour)
        pen.text((left + 108, y), f"{value:.4g}" if value > _MASKED else "-", "black", font)
    return picture


def write_gif(pictures: Iterable[Image], path: Path, seconds: float) -> None:
    """Writes an animated GIF with `seconds` a picture; of many it leaves out every second one, or more."""
    frames: list[Image] = []
    stride = math.ceil(_MIN_SECONDS / seconds - 1e-6)
    for number, picture in enumerate(pictures):
        if number % stride == 0:
            frames.append(picture.quantize(_COLOURS))
        if len(frames) > _MAX_FRAMES:
            frames, stride = frames[::2], stride * 2
    ends = np.round(np.arange(len(frames) + 1) * seconds * stride * 100)  # a GIF counts hundredths
    durations = (np.diff(ends) * 10).astype(int).tolist()
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def write_mp4(pictures: Iterable[Image], path: Path, seconds: float) -> None:
    """Writes a video with `seconds` a picture; `ConfigError` without `imageio-ffmpeg`."""
    try:
        from imageio_ffmpeg import write_frames
    except ImportError as error:
        raise ConfigError("`mp4` needs another package: `pip install 'distdqn[mp4]'`.") from error
    writer = None
    for picture in pictures:
        if writer is None:
            writer = write_frames(str(path), picture.size, fps=1 / seconds, macro_block_size=2)
            writer.send(None)
        writer.send(picture.tobytes())
    if writer is not None:
        writer.close()


def show(pictures: Iterable[Image], title: str, seconds: float) -> None:
    """Shows pictures in a window until they or the user end it; `ConfigError` if none can be opened."""
    import pygame

    try:
        pygame.display.init()
    except pygame.error as error:
        raise ConfigError(f"No window can be opened: {one_line(error)} (give `--gif FILE`).") from error
    pygame.display.set_caption(title)
    clock = pygame.time.Clock()
    for picture in pictures:
        screen = pygame.display.get_surface() or pygame.display.set_mode(picture.size)
        screen.blit(pygame.image.frombytes(picture.tobytes(), picture.size, "RGB"), (0, 0))
        pygame.display.flip()
        clock.tick(1 / seconds)
        events = pygame.event.get()
        if any(each.type == pygame.QUIT or getattr(each, "key", None) == pygame.K_ESCAPE for each in events):
            break
