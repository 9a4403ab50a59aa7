import pytest
from distributed.fake_backend import LOST
from distributed.fakes import HANG, FakeBackend, fault

from distdqn.config.config import RunOptions
from distdqn.errors import RoleFailure
from distdqn.training.calls import Calls, Failure
from distdqn.types import RolloutRequest

_ORDER = RolloutRequest(0, 10)
_FAILURES = (Failure("node-0", is_hang=False), Failure("node-1", is_hang=True))


def _calls(backend, env_timeout_seconds=10.0, start_timeout_seconds=100.0):
    options = RunOptions(env_timeout_seconds=env_timeout_seconds, start_timeout_seconds=start_timeout_seconds)
    return Calls(backend, options, backend.clock)


def _started(backend, role="actor", **options):
    """Calls with one worker that is up."""
    calls = _calls(backend, **options)
    worker = calls.start(role)
    (identified,) = calls.collect(10.0)
    assert identified.call.method == "identify"
    return calls, worker


def test_started_worker_is_known_by_pid_and_host_when_it_is_up():
    backend = FakeBackend(seconds={"start": 3.0})
    calls = _calls(backend)
    worker = calls.start("actor", index=2, restarts=1)
    assert worker.to_json() == {
        "role": "actor-2",
        "pid": None,
        "host": None,
        "restarts": 1,
        "last_sign_of_life": None,
    }
    assert calls.collect(2.0) == []
    assert not worker.is_ready
    calls.collect(2.0)
    assert (worker.to_json()["pid"], worker.to_json()["host"]) == (1000, "here")
    assert worker.last_sign_of_life is not None


def test_worker_name_carries_an_index_where_there_may_be_several():
    calls = _calls(FakeBackend())
    assert [calls.start(role, 0).name for role in ("actor", "replay", "learner", "evaluator")] == [
        "actor-0",
        "replay-0",
        "learner",
        "evaluator",
    ]


def test_collect_returns_results_in_the_order_of_their_ends():
    backend = FakeBackend(seconds={"rollout": lambda handle: 3.0 - handle.index})
    calls = _calls(backend)
    workers = [calls.start("actor", index) for index in range(2)]
    calls.collect(10.0)
    for worker in workers:
        calls.send(worker, "rollout", _ORDER, returns=2, plays=True)
    ends = [(backend.now, ended.call.worker.index) for _ in range(2) for ended in calls.collect(10.0)]
    assert ends == [(1.0 + 2.0, 1), (1.0 + 3.0, 0)]


def test_collect_waits_no_longer_than_it_is_told():
    backend = FakeBackend(seconds={"rollout": 5.0})
    calls, worker = _started(backend)
    calls.send(worker, "rollout", _ORDER, returns=2, plays=True)
    assert calls.collect(0.25) == []
    assert backend.now == 1.0 + 0.25


def test_collect_returns_method_and_words_of_a_failure():
    backend = FakeBackend(
        faults=lambda _handle, method, _n: "ValueError: no" if method == "rollout" else None
    )
    calls, worker = _started(backend)
    calls.send(worker, "rollout", _ORDER, returns=2, plays=True)
    (ended,) = calls.collect(10.0)
    assert (ended.call.method, ended.failure) == ("rollout", "ValueError: no")


def test_call_over_its_deadline_ends_once_as_a_failure():
    backend = FakeBackend(faults=lambda _handle, method, _n: HANG if method == "rollout" else None)
    calls, worker = _started(backend, env_timeout_seconds=10.0)
    calls.send(worker, "rollout", _ORDER, returns=2, plays=True)
    assert calls.collect(9.9) == []
    (ended,) = calls.collect(0.2)
    assert "deadline" in ended.failure
    assert worker.in_flight == 0
    assert calls.collect(1000.0) == []


def test_queued_call_has_the_time_of_those_before_it_too():
    backend = FakeBackend(seconds={"rollout": 9.0})
    calls, worker = _started(backend, env_timeout_seconds=10.0)
    for _ in range(2):  # the second ends after 18 s, within 2 * 10 s
        calls.send(worker, "rollout", _ORDER, returns=2, plays=True)
    ended = [end for _ in range(100) for end in calls.collect(0.2)]
    assert [end.failure for end in ended] == [None, None]


def test_worker_that_does_not_start_is_given_the_start_timeout():
    backend = FakeBackend(faults=lambda _handle, method, _n: HANG if method == "identify" else None)
    calls = _calls(backend, env_timeout_seconds=10.0, start_timeout_seconds=100.0)
    calls.start("actor")
    assert calls.collect(99.0) == []
    (ended,) = calls.collect(2.0)
    assert ended.call.method == "identify"
    assert ended.failure is not None


def test_call_queued_before_its_role_is_up_is_given_the_start_timeout():
    backend = FakeBackend(seconds={"start": 50.0, "rollout": 1.0})
    calls = _calls(backend, env_timeout_seconds=10.0, start_timeout_seconds=100.0)
    worker = calls.start("actor")
    calls.send(worker, "rollout", _ORDER, returns=2, plays=True)
    ended = [end for _ in range(100) for end in calls.collect(1.0)]
    assert [(end.call.method, end.failure) for end in ended] == [("identify", None), ("rollout", None)]


def test_completed_call_sets_failures_back_but_starting_does_not():
    backend = FakeBackend()
    calls = _calls(backend)
    worker = calls.start("actor")
    worker.failures = _FAILURES
    calls.collect(10.0)
    assert worker.failures == _FAILURES
    calls.send(worker, "rollout", _ORDER, returns=2, plays=True)
    calls.collect(10.0)
    assert worker.failures == ()


def test_failed_call_is_no_sign_of_life():
    backend = FakeBackend(faults=lambda _handle, method, _n: "no" if method == "rollout" else None)
    calls, worker = _started(backend)
    worker.failures, worker.last_sign_of_life = _FAILURES, None
    calls.send(worker, "rollout", _ORDER, returns=2, plays=True)
    calls.collect(10.0)
    assert (worker.failures, worker.last_sign_of_life) == (_FAILURES, None)


def test_calls_in_flight_are_those_sent_that_have_not_ended():
    backend = FakeBackend()
    calls, worker = _started(backend)
    counts = [worker.in_flight]
    for _ in range(2):
        calls.send(worker, "rollout", _ORDER, returns=2, plays=True)
        counts.append(worker.in_flight)
    calls.collect(10.0)
    assert [*counts, worker.in_flight] == [0, 1, 2, 1]


def test_calls_are_counted_by_their_methods():
    calls, worker = _started(FakeBackend())
    calls.send(worker, "rollout", _ORDER, returns=2, plays=True)
    assert calls.count("learn", "rollout") == 1
    assert not calls.count("learn", "evaluate")
    calls.collect(10.0)
    assert not calls.count("rollout")


def test_abandoned_worker_is_ended_and_its_calls_never_end():
    backend = FakeBackend()
    calls = _calls(backend)
    gone, other = calls.start("actor", 0), calls.start("actor", 1)
    calls.collect(10.0)
    for worker in (gone, other):
        calls.send(worker, "rollout", _ORDER, returns=2, plays=True)
    assert [ended.call.worker for ended in calls.abandon(gone)] == [gone]
    assert backend.ended == [gone.handle]
    assert [ended.call.worker for ended in calls.collect(10.0) + calls.collect(10.0)] == [other]


def test_ask_waits_for_the_answer_of_a_role():
    backend = FakeBackend(seconds={"publish": 30.0})
    calls, learner = _started(backend, role="learner")
    assert calls.ask(learner, "publish").weights_version == (0, 1)
    assert backend.now == 1.0 + 30.0


@pytest.mark.parametrize("fault", [HANG, "MemoryError"])
def test_ask_says_who_failed_in_what_when_no_answer_comes(fault):
    backend = FakeBackend(faults=lambda _handle, method, _n: fault if method == "publish" else None)
    calls, learner = _started(backend, role="learner", start_timeout_seconds=100.0)
    with pytest.raises(RoleFailure, match="learner failed in `publish`"):
        calls.ask(learner, "publish")
    assert backend.now <= 1.0 + 100.0


# Calls that are waited for.


def test_question_whose_answer_is_lost_is_asked_again():
    backend = FakeBackend(faults=lambda _handle, method, n: LOST if method == "publish" and n < 4 else None)
    calls, learner = _started(backend, "learner")
    assert calls.ask(learner, "publish").weights_version == (0, 1)
    assert len(backend.calls_of("learner", "publish")) == 4


def test_question_whose_answer_is_always_lost_is_given_up_in_time():
    backend = FakeBackend(faults=lambda _handle, method, _n: LOST if method == "publish" else None)
    calls, learner = _started(backend, "learner", start_timeout_seconds=30.0)
    begin = backend.now
    with pytest.raises(RoleFailure, match="learner failed in `publish`: the message was lost"):
        calls.ask(learner, "publish")
    assert 30.0 <= backend.now - begin <= 31.0


def test_order_that_may_have_been_carried_out_is_not_given_again():
    backend = FakeBackend(faults=fault("learner", "set_state", 1, words=LOST))
    calls, learner = _started(backend, "learner")
    with pytest.raises(RoleFailure, match="learner failed in `set_state`"):
        calls.ask(learner, "set_state", {"learner_steps": 3, "weights_version": [0, 1]})
    assert len(backend.calls_of("learner", "set_state")) == 1
