"""The supervisor with a fake fleet: environments that hang, and runs in which nothing goes on."""

import pytest
from distributed.fakes import HANG, FakeBackend, fault, faults_of, make_run, starts

from distdqn.errors import ClusterError, EnvironmentFault, RoleFailure

_LOOK = 0.2  # the supervisor looks at signals and deadlines this often


# Environments that hang.


def test_environment_that_hangs_every_time_ends_the_run_under_its_own_name():
    backend = FakeBackend(faults=fault("actor", "rollout", words=HANG))
    run = make_run(backend, actors=2, max_failures=3, env_timeout_seconds=10.0)
    with pytest.raises(
        EnvironmentFault, match=r"`Toy-v0` did not respond within 10 s in actor-0.* 3 consecutive times"
    ):
        run.supervisor.run()
    # Up after 1 s, and 10 s for the first rollout; three times.
    assert 3 * 11.0 <= backend.now <= 3 * (11.0 + 2 * _LOOK)


def test_environment_that_hangs_in_every_evaluation_ends_the_run_under_its_own_name():
    backend = FakeBackend(faults=fault("evaluator", "evaluate", words=HANG))
    run = make_run(backend, eval_period=40, max_failures=3, env_timeout_seconds=10.0)
    with pytest.raises(EnvironmentFault, match="`Toy-v0` did not respond within 10 s in evaluator"):
        run.supervisor.run()


def test_actor_that_hangs_only_sometimes_fails_under_its_own_name():
    hangs = fault("actor", "rollout", 1, words=HANG, restarts=[0, 2])
    raises = fault("actor", "rollout", 1, words="MemoryError", restarts=[1])
    backend = FakeBackend(faults=faults_of(hangs, raises))
    with pytest.raises(RoleFailure, match=r"actor-0 .*failed 3 consecutive times"):
        make_run(backend, actors=1, max_failures=3).supervisor.run()


def test_actor_that_never_comes_up_is_no_environment_that_hangs():
    backend = FakeBackend(faults=fault("actor", "identify", words=HANG))
    with pytest.raises(RoleFailure, match="actor-0"):
        make_run(backend, actors=1, max_failures=3).supervisor.run()


def test_other_actors_go_on_while_one_hangs_again_and_again():
    def hangs(handle, method, _n):
        is_meant = (handle.index, method) == (1, "rollout") and handle.restarts < 2
        return HANG if is_meant else None

    run = make_run(FakeBackend(faults=hangs), actors=3, env_timeout_seconds=5.0, max_env_steps=20_000)
    assert run.supervisor.run() == "max_env_steps"
    assert run.counters.actor_restarts == 2
    assert all(line["actors_alive"] >= 2 for line in run.console.lines[2:])


# Nothing comes.


def _notes_of_nothing(run):
    return [
        note for note in run.console.notes if note.startswith(("No progress", "Learning has not started"))
    ]


def _assert_many_lines_at_first(notes):
    assert all(note.startswith("Learning has not started, ") for note in notes)
    *early, later = [int(note.split()[4]) for note in notes[:6]]
    assert early == pytest.approx([10, 20, 30, 40, 50], abs=5 * _LOOK + 1)
    assert later == pytest.approx(early[-1] + 30, abs=_LOOK + 1)


def test_fault_43_lines_at_the_start_say_which_role_has_no_place_and_who_holds_it():
    backend = FakeBackend()
    backend.placeless = {"actor"}
    run = make_run(backend, actors=2, stall_timeout_seconds=100.0)
    with pytest.raises(ClusterError) as raised:
        run.supervisor.run()
    notes = _notes_of_nothing(run)
    _assert_many_lines_at_first(notes)
    for text in (notes[0], str(raised.value)):
        assert "actor-0 waits for resources, it needs 1 CPU" in text
        assert "actor-1 waits for resources" in text
        assert "others have 3 CPU" in text
        assert "the learner waits for 100 transitions in replay, 0 are stored" in text
        assert "replay-0 waits for resources" not in text
    assert raised.value.exit_code == 3
    # The learner had compiled after 1.0 + 0.01 + 2.0 s; since then, nothing went on.
    assert 103.0 - _LOOK <= backend.now <= 103.0 + 2 * _LOOK
    assert starts(backend, "actor") == [0]  # another process would have no place either


@pytest.mark.parametrize("role", ["learner", "replay"])
def test_run_whose_learner_or_replay_has_no_place_gives_up_in_time(role):
    backend = FakeBackend()
    backend.placeless = {role}
    run = make_run(backend, stall_timeout_seconds=400.0, start_timeout_seconds=60.0)
    with pytest.raises(ClusterError, match=f"{role}.* waits for resources, it needs 1 CPU"):
        run.supervisor.run()
    assert 400.0 <= backend.now <= 410.0
    assert starts(backend, role) == [0]


def test_role_that_gets_a_place_late_has_its_whole_time_to_start():
    backend = FakeBackend(seconds={"start": 50.0})
    backend.placeless = {"learner", "actor"}
    backend.at(200.0, lambda: [backend.give_place("actor", 0), backend.give_place("actor", 1)])
    backend.at(300.0, lambda: backend.give_place("learner"))
    run = make_run(backend, start_timeout_seconds=60.0)
    assert run.supervisor.run() == "max_env_steps"
    assert [starts(backend, role) for role in ("learner", "actor")] == [[0], [0]]


def test_long_compile_is_told_but_is_no_stall():
    backend = FakeBackend(seconds={"compile": 500.0})
    run = make_run(backend, stall_timeout_seconds=50.0, start_timeout_seconds=1_000.0)
    assert run.supervisor.run() == "max_env_steps"
    _assert_many_lines_at_first(_notes_of_nothing(run))
    assert "learner has been running `compile` for" in _notes_of_nothing(run)[-1]


def test_long_evaluation_at_the_end_is_told_but_is_no_stall():
    backend = FakeBackend(seconds={"evaluate": 500.0})
    run = make_run(backend, eval_period=700, stall_timeout_seconds=50.0, env_timeout_seconds=1_000.0)
    assert run.supervisor.run() == "max_env_steps"
    notes = _notes_of_nothing(run)
    assert len(notes) >= 500 // 30 - 1
    assert "evaluator has been running `evaluate` for" in notes[-1]
    assert "all env steps are taken or requested" in notes[-1]


def test_role_that_is_replaced_again_and_again_is_no_stall():
    # Up after 1 s, compiling until it raises after 30 s: each time something goes on for 30 s.
    backend = FakeBackend(seconds={"compile": 30.0}, faults=fault("learner", "compile", 1, restarts=range(5)))
    run = make_run(backend, stall_timeout_seconds=20.0, max_failures=10)
    assert run.supervisor.run() == "max_env_steps"
    assert run.counters.learner_restarts == 5


def test_busy_run_says_nothing_of_waiting():
    run = make_run(FakeBackend(seconds={"rollout": 2.0}), stall_timeout_seconds=5.0)
    run.supervisor.run()
    assert run.backend.now > 50.0
    assert _notes_of_nothing(run) == []


def test_line_names_calls_that_take_long_and_since_when():
    backend = FakeBackend(faults=fault("actor", "rollout", 3, words=HANG, restarts=[0]))
    run = make_run(backend, actors=1, env_timeout_seconds=45.0)
    run.supervisor.run()
    assert "actor-0 has been running `rollout` for 29 s" in _notes_of_nothing(run)[2]  # it began after one


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("learner", "learner is importing TensorFlow and building its networks"),
        ("actor", "actor-0 is building its environments"),
        ("replay", "replay-0 is starting"),
    ],
)
def test_fault_43_lines_at_the_start_say_what_each_role_that_is_not_up_does(role, words):
    backend = FakeBackend(faults=fault(role, "identify", words=HANG, restarts=[0]))
    run = make_run(backend, actors=1, start_timeout_seconds=15.0)
    assert run.supervisor.run() == "max_env_steps"
    (note,) = _notes_of_nothing(run)
    assert note.startswith("Learning has not started, 10 s after Ray: ")
    assert words in note
