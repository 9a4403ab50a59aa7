"""Ctrl-C and SIGTERM as a request to stop, looked at between two steps of the work."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

from distdqn.errors import TERMINATED


class StopRequest:
    """While entered, the first signal asks for an orderly end; a second one interrupts at once.

    Off the main thread nothing is installed, since Python allows it there only. What was
    installed before is put back at the end.

    Attributes:
        reason: None, `interrupted` or `terminated`.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.reason is not None:
            raise KeyboardInterrupt
        self.reason = "terminated" if number == signal.SIGTERM else "interrupted"


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """While entered, SIGTERM raises `SystemExit`, so that all there is to end is ended.

    Without it, the system ends the process on the spot. Ray's handler, where that has taken the
    place of this one, does the same with another code, which is replaced. What was installed
    before stays, or is put back at the end.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        sys.exit(TERMINATED)

    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit as error:
        if error.code == signal.SIGTERM:
            raise SystemExit(TERMINATED) from None
        raise
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
