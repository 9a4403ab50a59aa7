"""Ctrl-C and SIGTERM as a request to stop, looked at between two steps of the work."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
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

    def leave_if_asked(self) -> None:
        """Ends a run that was asked to stop at once, where it has done nothing yet that could be saved.

        Raises:
            KeyboardInterrupt: by Ctrl-C.
            SystemExit: by SIGTERM.
        """
        if self.reason is not None:
            raise SystemExit(TERMINATED) if self.reason == "terminated" else KeyboardInterrupt

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.reason is not None:
            raise KeyboardInterrupt
        self.reason = "terminated" if number == signal.SIGTERM else "interrupted"


@contextlib.contextmanager
def ended_by_signals() -> Iterator[Callable[[], None]]:
    """While entered, Ctrl-C and SIGTERM raise `KeyboardInterrupt` and `SystemExit`, which end all there is.

    Without it, the system ends the process on the spot at SIGTERM. Ray's handler, where that has
    taken the place of this one, does the same with another code, which is replaced. What was
    installed before stays, or is put back at the end.

    Yields:
        A function that raises again what was raised and came to nothing: an exception in the
        middle of a callback ends that callback alone.
    """
    raised: list[BaseException] = []

    def leave(number: int, _frame: FrameType | None) -> None:
        raised.append(SystemExit(TERMINATED) if number == signal.SIGTERM else KeyboardInterrupt())
        raise raised[-1]

    def raise_again() -> None:
        if raised:
            raise raised[-1]

    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    is_main = threading.current_thread() is threading.main_thread()
    ours = {number: old for number, old in defaults.items() if is_main and signal.getsignal(number) is old}
    for number in ours:
        signal.signal(number, leave)
    try:
        yield raise_again
    except SystemExit as error:
        if error.code == signal.SIGTERM:
            raise SystemExit(TERMINATED) from None
        raise
    finally:
        for number, old in ours.items():
            signal.signal(number, old)
