"""The progress of a run in a notebook: one display with the panel and the curve of evaluations."""

import html
import io
from typing import Any

from rich.console import Console as RichConsole
from rich.console import RenderableType

from distdqn.reporting.console import Panel

_WIDTH = 100  # of the panel, in columns


class NotebookDisplay:
    """Shows a run's panel, and replaces what it showed before."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._handle: Any = None

    def update(self, renderable: RenderableType, refresh: bool = True) -> None:  # noqa: ARG002, as `Live.update`
        """Shows `renderable` and the evaluations so far."""
        from IPython.display import HTML, display

        memory = RichConsole(file=io.StringIO(), width=_WIDTH, force_jupyter=False, color_system=None)
        memory.print(renderable)
        text = html.escape(memory.file.getvalue())  # type: ignore[attr-defined]
        shown = HTML(f"<pre style='line-height:1.2'>{text}</pre>{self._curve()}")
        if self._handle is None:
            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)

    def stop(self) -> None:
        """Leaves the last display."""

    def _curve(self) -> str:
        """The evaluations as an SVG picture; nothing before the second one."""
        if len(self._panel.evaluations) < 2:
            return ""
        from matplotlib.figure import Figure

        axes = (figure := Figure(figsize=(6.0, 2.2), layout="constrained")).subplots()
        axes.plot(*zip(*self._panel.evaluations, strict=True), marker=".")
        if self._panel.target_return is not None:
            axes.axhline(self._panel.target_return, linestyle="--", color="0.5", label="goal")
            axes.legend()
        axes.set(xlabel="env steps", ylabel="mean return")
        figure.savefig(picture := io.StringIO(), format="svg")
        return picture.getvalue()
