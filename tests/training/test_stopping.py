"""Signals as a request to stop: the first one asks, a second Ctrl-C a second later interrupts."""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace

import pytest
from distributed.fakes import FakeBackend, make_checkpoints, make_run, newest_start

from distdqn.cluster import launch
from distdqn.config.config import Config, RunOptions
from distdqn.distributed.watchdog import Watchdog
from distdqn.errors import TERMINATED
from distdqn.runner import train
from distdqn.training.calls import Calls
from distdqn.training.checkpointing import RoundCheckpointer
from distdqn.training.stopping import StopRequest, StopRequested, ended_by_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
REASONS = {number: "interrupted" if number == signal.SIGINT else "terminated" for number in SIGNALS}


@pytest.fixture(autouse=True)
def handlers_before() -> Iterator[None]:
    """Keeps this process's own handlers, whatever a test does."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` ignores it
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ignore(_number: int, _frame: FrameType | None) -> None:
    """Stands for a handler that was there before."""


def send(number: signal.Signals) -> None:
    """Sends this process a signal; Python handles it before the next line."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "reason"), REASONS.items())
def test_first_signal_asks_for_the_end_and_interrupts_nothing(number: signal.Signals, reason: str) -> None:
    stop = StopRequest()
    with stop:
        assert stop.reason is None
        send(number)
        assert stop.reason == reason

    assert stop.reason == reason


@pytest.mark.parametrize("first", SIGNALS)
def test_fault_35_other_signals_are_one_request_however_often_they_come(first: signal.Signals) -> None:
    now = 0.0
    with StopRequest(clock=lambda: now) as stop:
        send(first)
        for now in (0.3, 5.0):  # noqa: B007 (the clock reads it)
            for number in SIGNALS[1:]:
                send(number)

    assert stop.reason == REASONS[first]


@pytest.mark.parametrize(("seconds", "interrupts"), [(0.9, False), (1.1, True)])
def test_fault_35_second_ctrl_c_interrupts_if_it_comes_more_than_a_second_later(
    seconds: float, interrupts: bool
) -> None:
    now = 0.0

    def work() -> None:
        nonlocal now
        with StopRequest(clock=lambda: now):
            send(signal.SIGINT)
            now = seconds
            send(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) if interrupts else contextlib.nullcontext():
        work()


def test_fault_35_hang_up_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ended_by_signals(), StopRequest() as stop:
        send(signal.SIGHUP)

    assert stop.reason is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("number", SIGNALS)
def test_fault_35_signal_ends_an_evaluation_at_once_and_no_later_one_begins(number: signal.Signals) -> None:
    reached = []
    with StopRequest() as stop:
        for _ in range(2):
            with contextlib.suppress(StopRequested), stop.ending_evaluations():
                reached.append("begins")
                try:
                    send(number)
                except Exception:
                    reached.append("caught")
                reached.append("went on")

    assert reached == ["begins"]
    assert stop.reason == REASONS[number]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_handlers_from_before_are_put_back_at_the_end(error: type[BaseException] | None) -> None:
    for number in SIGNALS:
        signal.signal(number, ignore)

    with contextlib.suppress(KeyboardInterrupt), StopRequest():
        assert all(signal.getsignal(number) is not ignore for number in SIGNALS)
        if error:
            raise error

    assert [signal.getsignal(number) for number in SIGNALS] == [ignore] * len(SIGNALS)


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

    assert inside == [*[ignore] * len(SIGNALS), None]
    assert [signal.getsignal(number) for number in SIGNALS] == [ignore] * len(SIGNALS)


# Before there is anything to stop in order.


def leave_as_ray_does(_number: int, _frame: FrameType | None) -> None:
    """What Ray has SIGTERM do in the process that connects to it."""
    sys.exit(signal.SIGTERM)


@pytest.mark.parametrize("handler", [None, leave_as_ray_does])
def test_sigterm_outside_of_training_ends_what_is_open_and_has_its_own_exit_code(
    handler: Callable[..., None] | None,
) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    closed: list[bool] = []

    def work() -> None:
        with ended_by_signals():
            if handler:
                signal.signal(signal.SIGTERM, handler)
            try:
                send(signal.SIGTERM)
            finally:
                closed.append(True)

    with pytest.raises(SystemExit) as ended:
        work()

    assert (ended.value.code, closed) == (TERMINATED, [True])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_other_exits_and_a_handler_of_the_caller_stay_as_they_are() -> None:
    signal.signal(signal.SIGTERM, ignore)
    inside: list[object] = []

    def work() -> None:
        with ended_by_signals():
            inside.append(signal.getsignal(signal.SIGTERM))
            sys.exit(3)

    with pytest.raises(SystemExit) as ended:
        work()

    assert (ended.value.code, inside) == (3, [ignore])
    assert signal.getsignal(signal.SIGTERM) is ignore


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_signal_that_came_to_nothing_in_a_callback_is_raised_again(
    number: signal.Signals, error: type[BaseException]
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with ended_by_signals() as raise_again:
        raise_again()
        with contextlib.suppress(BaseException):  # as Python does with what a callback raises
            send(number)
        with pytest.raises(error):
            raise_again()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("when", ["connecting", "startup_check"])
@pytest.mark.parametrize(
    ("number", "error", "state"),
    [(signal.SIGTERM, SystemExit, "terminated"), (signal.SIGINT, KeyboardInterrupt, "interrupted")],
)
def test_fault_10_run_that_is_stopped_before_it_trains_says_so(
    number: signal.Signals,
    error: type[BaseException],
    state: str,
    when: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The signal comes while Ray is connected to, or while a lockstep run waits for resources there."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextlib.contextmanager
    def launched(*_arguments: object) -> Iterator[tuple[Calls, int]]:
        if when == "connecting":
            send(number)
        backend = FakeBackend()
        backend.placeless = {"actor"}
        yield Calls(backend, RunOptions(), backend.clock), 4

    monkeypatch.setattr(launch, "launched", launched)
    monkeypatch.setattr(Watchdog, "check", lambda *_: send(number))
    with pytest.raises(error):
        train(Config(run_dir=str(tmp_path), mode="lockstep"))

    assert json.loads((tmp_path / "status.json").read_text())["state"] == state
    assert f"{state.title()} before training started: there is nothing to save." in capsys.readouterr().out


# A run in rounds that is put back.


@pytest.mark.parametrize(
    ("number", "error", "code"), [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)]
)
def test_fault_10_run_in_rounds_that_is_interrupted_as_replay_is_put_back_ends_before_the_next_part(
    tmp_path: Path, number: signal.Signals, error: type[BaseException], code: int | None
) -> None:
    before = make_run(max_env_steps=2_000, saving={"checkpoints": make_checkpoints(tmp_path)})
    before.supervisor.run()
    before.finish()
    asked: list[str] = []

    def ask(_role: object, method: str, _state: object) -> None:
        asked.append(method)
        if asked.count("set_rows") == 3:
            send(number)

    run = dataclasses.replace(make_run().run, resume_from=newest_start(tmp_path))
    team = SimpleNamespace(calls=SimpleNamespace(ask=ask), learner="learner", shards=["replay"])
    with run.request, pytest.raises(error) as raised:
        RoundCheckpointer(run).restore(team)
    assert asked == ["set_state", *["set_rows"] * 3]
    assert getattr(raised.value, "code", None) == code
