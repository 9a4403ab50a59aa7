"""Frames of an environment with Q-values beside them, for a GIF, an MP4 file or a window."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from distdqn.errors import ConfigError, one_line
from distdqn.types import AnyArray, FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image

_MAX_FRAMES = 600  # of a GIF, which holds fewer frames per second if it is longer
_MIN_SECONDS = 0.02  # that a GIF shows a frame; viewers slow shorter ones down
_COLOURS = 64  # of a frame of a GIF
_HEIGHT = 320  # of a picture, in pixels
_MAX_ROWS = 16  # of Q-values, the largest ones if there are more
_MASKED = -1e8  # Q-values of actions that are not allowed are smaller


class FramePainter:
    """Draws frames with Q-values as bars, which range from the smallest value so far to the largest."""

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf

    def draw(self, frame: AnyArray, lines: str, q_values: FloatArray | None, action: int | None) -> Image:
        """A picture of `frame` `[H, W, 3]`, `lines` of text and Q-values `[A]`, with `action` marked."""
        from PIL import Image, ImageDraw, ImageFont

        shown = Image.fromarray(frame)
        scale = min(_HEIGHT / shown.height, 1.5 * _HEIGHT / shown.width)
        method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
        shown = shown.resize((round(shown.width * scale), round(shown.height * scale)), method)
        picture = Image.new("RGB", (shown.width // 2 * 2 + 176, _HEIGHT), "#F2F2F2")
        picture.paste(shown, (0, (_HEIGHT - shown.height) // 2))
        pen, font, left = ImageDraw.Draw(picture), ImageFont.load_default(13), picture.width - 166
        pen.multiline_text((left, 6), lines, "black", font)
        if q_values is None:
            return picture
        allowed = q_values[q_values > _MASKED]
        self._low, self._high = min(self._low, *allowed, 1e9), max(self._high, *allowed, -1e9)
        rows = sorted(np.argsort(-q_values, kind="stable")[:_MAX_ROWS].tolist())
        top, step = 62, min(26.0, (_HEIGHT - 66) / len(rows))
        for row, each in enumerate(rows):
            y, value = top + row * step, float(q_values[each])
            length = 80 * (value - self._low) / max(self._high - self._low, 1e-9) if value > _MASKED else 0
            colour = "#0072B2" if each == action else "#B0B0B0"
            pen.text((left, y), f"{each:>2}", "black", font)
            pen.rectangle((left + 22, y + 2, left + 22 + length, y + step - 5), colour)
            pen.text((left + 108, y), f"{value:.4g}" if value > _MASKED else "-", "black", font)
            if each == action:
                pen.polygon([(left - 8, y + 3), (left - 2, y + 8), (left - 8, y + 13)], "#0072B2")
        return picture


class VideoOutput(Protocol):
    """Where pictures go, each shown for `seconds`."""

    def add(self, picture: Image) -> bool:
        """Takes the next picture; returns whether more are wanted."""

    def close(self) -> str:
        """Writes what is left; returns a line about it."""


class GifFile(VideoOutput):
    """An animated GIF of at most 600 pictures; a longer one leaves out every second picture, or more."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._seconds = path, seconds
        self._frames: list[Image] = []
        self._count, self._stride = 0, math.ceil(_MIN_SECONDS / seconds - 1e-6)

    def add(self, picture: Image) -> bool:
        """See `VideoOutput`."""
        if self._count % self._stride == 0:
            self._frames.append(picture.quantize(_COLOURS))
        self._count += 1
        if len(self._frames) > _MAX_FRAMES:
            self._frames, self._stride = self._frames[::2], self._stride * 2
        return True

    def close(self) -> str:
        """See `VideoOutput`."""
        ends = np.round(np.arange(1, len(self._frames) + 1) * self._seconds * self._stride * 100)
        seconds = (np.diff(ends, prepend=0) * 10).astype(int).tolist()  # a GIF counts hundredths
        self._frames[0].save(
            self._path, "GIF", save_all=True, append_images=self._frames[1:], duration=seconds, loop=0
        )
        which = "every step" if self._stride == 1 else f"one of {self._stride} steps"
        return f"{self._path}: {len(self._frames)} frames ({which}), {self._path.stat().st_size / 1e6:.1f} MB"


class Mp4File(VideoOutput):
    """A video for which `imageio-ffmpeg` is needed."""

    def __init__(self, path: Path, seconds: float) -> None:
        try:
            import imageio_ffmpeg
        except ImportError as error:
            raise ConfigError("`mp4` needs another package: `pip install 'distdqn[mp4]'`.") from error
        self._path, self._writer, self._open = path, None, imageio_ffmpeg.write_frames
        self._settings = {"fps": 1 / seconds, "macro_block_size": 2}

    _writer: Any

    def add(self, picture: Image) -> bool:
        """See `VideoOutput`."""
        if self._writer is None:
            self._writer = self._open(str(self._path), picture.size, **self._settings)
            self._writer.send(None)
        self._writer.send(picture.tobytes())
        return True

    def close(self) -> str:
        """See `VideoOutput`."""
        if self._writer is not None:
            self._writer.close()
        return f"{self._path}: {self._path.stat().st_size / 1e6:.1f} MB"


class Window(VideoOutput):
    """A window, which the user may close."""

    def __init__(self, title: str, seconds: float) -> None:
        import pygame

        self._pygame, self._seconds, self._clock = pygame, seconds, pygame.time.Clock()
        try:
            pygame.display.init()
        except pygame.error as error:
            raise ConfigError(f"No window can be opened: {one_line(error)} (give `--gif FILE`).") from error
        pygame.display.set_caption(title)

    def add(self, picture: Image) -> bool:
        """See `VideoOutput`."""
        pygame = self._pygame
        screen = pygame.display.get_surface()
        if screen is None or screen.get_size() != picture.size:
            screen = pygame.display.set_mode(picture.size)
        screen.blit(pygame.image.frombytes(picture.tobytes(), picture.size, "RGB"), (0, 0))
        pygame.display.flip()
        self._clock.tick(1 / self._seconds)
        events = pygame.event.get()
        return not any(e.type == pygame.QUIT or getattr(e, "key", None) == pygame.K_ESCAPE for e in events)

    def close(self) -> str:
        """See `VideoOutput`."""
        self._pygame.display.quit()
        return ""
