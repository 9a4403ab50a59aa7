"""Signals as a request to stop: the first one asks, the second one interrupts."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from distdqn.stopping import StopRequest

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def handlers_before() -> Iterator[None]:
    """Keeps this process's own handlers, whatever a test does."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ignore(_number: int, _frame: FrameType | None) -> None:
    """Stands for a handler that was there before."""


def send(number: signal.Signals) -> None:
    """Sends this process a signal; Python handles it before the next line."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_first_signal_asks_for_the_end_and_interrupts_nothing(number: signal.Signals, reason: str) -> None:
    stop = StopRequest()
    with stop:
        assert stop.reason is None
        send(number)
        assert stop.reason == reason

    assert stop.reason == reason


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_second_signal_interrupts_at_once(first: signal.Signals, second: signal.Signals) -> None:
    reached: list[str | None] = []

    def work(stop: StopRequest) -> None:
        with stop:
            send(first)
            reached.append(stop.reason)
            send(second)
            reached.append("went on")

    stop = StopRequest()
    with pytest.raises(KeyboardInterrupt):
        work(stop)

    assert reached == [stop.reason]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_handlers_from_before_are_put_back_at_the_end(error: type[BaseException] | None) -> None:
    for number in SIGNALS:
        signal.signal(number, ignore)

    with contextlib.suppress(KeyboardInterrupt), StopRequest():
        assert all(signal.getsignal(number) is not ignore for number in SIGNALS)
        if error:
            raise error

    assert [signal.getsignal(number) for number in SIGNALS] == [ignore, ignore]


def test_handlers_from_before_are_put_back_when_they_were_set_to_ignore() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopRequest():
        pass

    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_nothing_is_installed_off_the_main_thread() -> None:
    for number in SIGNALS:
        signal.signal(number, ignore)
    inside: list[object] = []

    def work() -> None:
        with StopRequest() as stop:
            inside.extend(signal.getsignal(number) for number in SIGNALS)
            inside.append(stop.reason)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert inside == [ignore, ignore, None]
    assert [signal.getsignal(number) for number in SIGNALS] == [ignore, ignore]
