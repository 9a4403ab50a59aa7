"""The backend on a real Ray, with small roles in place of the real ones."""

import contextlib
import dataclasses
import os
import signal
import threading
import time

import psutil
import pytest
from ray._private.state import GlobalState

from distdqn.cluster.connection import connected
from distdqn.config.config import Config
from distdqn.errors import ClusterError
from distdqn.training.backend import CallFailed


def _make_role():
    """A class that travels by value: Ray's workers cannot import this file."""

    class Role:
        def __init__(self, index, restarts):
            if index == 13:
                raise ValueError("no thirteenth")
            self._name = (index, restarts)
            self._log = []

        def name(self):
            return self._name

        def add(self, value):
            self._log.append(value)
            return list(self._log)

        def both(self):
            return "first", "second"

        def sleep(self, seconds):
            import time

            time.sleep(seconds)

        def hold_the_interpreter(self, seconds):
            import ctypes

            ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # unlike CDLL, it keeps the lock

        def fail(self):
            raise KeyError("odd")

    return Role


@pytest.fixture(scope="module")
def make_backend(ray_session, tmp_path_factory):  # noqa: ARG001
    """Makes a backend whose roles ask for so many CPUs each; closes it at the end."""
    from distdqn.cluster.ray_backend import RayBackend

    role = _make_role()

    def blueprint(_name, index, restarts):
        return role, (index, restarts)

    with connected(None, roles=4) as cluster, contextlib.ExitStack() as stack:

        def make(cpus):
            there = dataclasses.replace(cluster, cpus_per_role=cpus)
            backend = RayBackend(there, tmp_path_factory.mktemp("backend") / "a-run", blueprint, Config())
            stack.callback(backend.close)
            return backend

        yield make


@pytest.fixture(scope="module")
def backend(make_backend):
    return make_backend(0.0)


@pytest.fixture
def start(backend):
    """Starts roles, keeps what tells of their processes in `abouts`, and ends them after the test."""

    def start_one(role, index=0, restarts=0):
        handle, start_one.abouts[handle] = backend.start(role, index, restarts)
        return handle

    start_one.abouts = {}
    yield start_one
    for handle in start_one.abouts:
        backend.end(handle)


def _answer(backend, handle, method, *arguments):
    return backend.get(*backend.call(handle, method, *arguments), timeout_seconds=30.0)


def test_role_is_known_to_ray_by_its_run_and_its_name(backend, start):
    from ray.util import list_named_actors

    start("actor", 12, 0), start("actor", 12, 1)
    named = {
        each["name"]
        for each in list_named_actors(True)
        if each["namespace"] == backend.describe()["namespace"]
    }
    assert named >= {"a-run/actor-12", "a-run/actor-12.1"}


def test_replacement_is_built_with_its_restarts_beside_the_one_before_it(backend, start):
    first, second = start("actor", 14, 0), start("actor", 14, 2)
    assert (_answer(backend, first, "name"), _answer(backend, second, "name")) == ((14, 0), (14, 2))


def test_identify_tells_a_process_that_really_runs(backend, start):
    about = backend.get(start.abouts[start("actor", 1)], timeout_seconds=30.0)
    assert about["pid"] != os.getpid()
    assert psutil.pid_exists(about["pid"])
    assert about["host"] == os.uname().nodename


def test_calls_of_a_role_are_made_in_their_order(backend, start):
    handle = start("replay", 1)
    refs = [backend.call(handle, "add", value)[0] for value in range(20)]
    assert backend.get(refs[-1], timeout_seconds=30.0) == list(range(20))


def test_call_with_two_returns_gives_a_reference_for_each(backend, start):
    refs = backend.call(start("actor", 2), "both", returns=2)
    assert [backend.get(ref, timeout_seconds=30.0) for ref in refs] == ["first", "second"]


def test_reference_is_passed_on_as_what_it_stands_for(backend, start):
    handle = start("actor", 3)
    (name,) = backend.call(handle, "name")
    assert _answer(backend, start("replay", 2), "add", name) == [(3, 0)]


def test_wait_returns_what_is_there_and_nothing_that_is_not(backend, start):
    slow, fast = start("actor", 4), start("actor", 5)
    _answer(backend, slow, "name"), _answer(backend, fast, "name")
    (late,), (soon,) = backend.call(slow, "sleep", 3.0), backend.call(fast, "name")
    assert backend.wait([late, soon], 2.0) == [soon]


def test_wait_ends_when_its_time_is_up(backend, start):
    handle = start("actor", 6)
    _answer(backend, handle, "name")
    (late,) = backend.call(handle, "sleep", 5.0)
    begin = time.monotonic()
    assert backend.wait([late], 0.3) == backend.wait([], 0.3) == []
    assert 0.6 <= time.monotonic() - begin < 3.0


def test_get_fails_when_the_time_is_up(backend, start):
    handle = start("actor", 7)
    (late,) = backend.call(handle, "sleep", 20.0)
    with pytest.raises(CallFailed):
        backend.get(late, timeout_seconds=0.2)


def test_get_fails_with_what_was_raised_and_where(backend, start):
    with pytest.raises(CallFailed, match=r"(?s)line \d+, in fail.*KeyError.*odd"):
        _answer(backend, start("actor", 8), "fail")


@pytest.mark.parametrize("giver_dies", [False, True])
def test_call_whose_argument_failed_is_told_from_one_that_failed_itself(backend, start, giver_dies):
    giver, taker = start("actor", 20), start("actor", 21)
    about = backend.get(start.abouts[giver], timeout_seconds=30.0)
    (given,) = backend.call(giver, *(("sleep", 60.0) if giver_dies else ("fail",)))
    (taken,) = backend.call(taker, "add", given)
    if giver_dies:
        os.kill(about["pid"], signal.SIGKILL)
    with pytest.raises(CallFailed) as of_taker:
        backend.get(taken, timeout_seconds=30.0)
    with pytest.raises(CallFailed) as of_giver:
        backend.get(given, timeout_seconds=30.0)
    assert (of_taker.value.lacks_input, of_giver.value.lacks_input) == (True, False)


def test_state_of_a_call_tells_how_it_stands(backend, start):
    handle = start("actor", 22)
    refs = [backend.call(handle, *call)[0] for call in (("name",), ("fail",), ("sleep", 20.0))]
    with pytest.raises(CallFailed):
        backend.get(refs[1], timeout_seconds=30.0)
    assert [backend.state(ref) for ref in refs] == ["done", "failed", "running"]


def test_role_that_waits_for_resources_is_told_from_one_that_is_up(make_backend, ray_session):
    backend = make_backend(0.5)
    up, about = backend.start("actor", 23, 0)
    node = backend.get(about, timeout_seconds=30.0)["node"]
    assert node == ray_session.get_runtime_context().get_node_id()
    assert node not in backend.lost_nodes()
    waiting = [backend.start("actor", index, 0)[0] for index in range(24, 28)]  # half a CPU each, of two
    lacks = []
    deadline = time.monotonic() + 30.0
    while lacks != ["needs 0.5 CPU on one node; of 1 nodes, none has more than 0 CPU free"]:
        assert time.monotonic() < deadline, lacks
        time.sleep(0.1)
        lacks = [words for handle in waiting if (words := backend.missing(handle)) is not None]
    assert backend.missing(up) is None
    for handle in (up, *waiting):
        backend.end(handle)


def test_constructor_that_raises_fails_every_call(backend, start):
    handle = start("actor", 13)
    with pytest.raises(CallFailed, match="no thirteenth"):
        backend.get(start.abouts[handle], timeout_seconds=30.0)
    with pytest.raises(CallFailed):
        _answer(backend, handle, "name")


def test_killed_process_fails_running_and_queued_calls_and_stays_dead(backend, start):
    handle = start("actor", 9)
    pid = backend.get(start.abouts[handle], timeout_seconds=30.0)["pid"]
    refs = [*backend.call(handle, "sleep", 60.0), *backend.call(handle, "name")]
    os.kill(pid, signal.SIGKILL)
    for ref in refs:
        with pytest.raises(CallFailed, match="its worker process has died") as caught:
            backend.get(ref, timeout_seconds=30.0)
        assert "Some common causes" not in str(caught.value)
    with pytest.raises(CallFailed):  # Ray does not restart it: the supervisor replaces it
        _answer(backend, handle, "name")


def test_role_that_holds_the_interpreter_is_ended_all_the_same(backend, start):
    handle = start("actor", 28)
    process = psutil.Process(backend.get(start.abouts[handle], timeout_seconds=30.0)["pid"])
    (ref,) = backend.call(handle, "hold_the_interpreter", 60.0)
    time.sleep(0.5)
    backend.end(handle)
    process.wait(10)
    with pytest.raises(CallFailed):
        backend.get(ref)


def test_closed_backend_has_ended_every_process(make_backend):
    backend = make_backend(0.0)
    abouts = [backend.start("actor", index, 0)[1] for index in range(2)]
    processes = [psutil.Process(backend.get(about, timeout_seconds=30.0)["pid"]) for about in abouts]
    backend.close()
    for process in processes:
        process.wait(10)


def test_backend_tells_address_and_namespace_of_its_cluster(backend, ray_session):
    about = backend.describe()
    assert about["address"] == ray_session.get_runtime_context().gcs_address
    assert about["namespace"].startswith("a-run-")
    assert about["control"] is None


def test_ray_that_runs_already_is_used_and_left_running(ray_session):
    with connected(None, roles=3) as cluster:
        assert not cluster.is_private
        assert cluster.cpus_per_role == 0.0  # it is on one machine
    assert ray_session.is_initialized()


def test_fault_7_cluster_that_does_not_answer_is_told_with_how_to_go_on(backend, start, monkeypatch):
    actor = start("actor")
    monkeypatch.setattr("ray._private.state.state", GlobalState())  # which knows of no head
    for ask in (backend.capacity, backend.lost_nodes, lambda: backend.missing(actor)):
        with pytest.raises(ClusterError, match=r"The Ray at .* is gone: .*`--resume auto` resumes"):
            ask()


def test_what_a_signal_handler_raises_ends_a_wait_for_a_call(backend, start):
    class Stop(BaseException):
        pass

    def stop(*_):
        raise Stop

    handle = start("actor")
    backend.get(backend.call(handle, "name")[0])
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        for seconds in (0.05, 0.3, 0.45):
            (ref,) = backend.call(handle, "sleep", 2.0)
            threading.Timer(seconds, signal.raise_signal, (signal.SIGUSR1,)).start()
            begin = time.monotonic()
            with pytest.raises(Stop):
                backend.get(ref)
            assert time.monotonic() - begin < 1.5
            backend.get(ref)
    finally:
        signal.signal(signal.SIGUSR1, before)
