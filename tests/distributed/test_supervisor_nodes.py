"""The supervisor with a fake fleet: nodes that die, and what dies with them."""

import pytest
from distributed.fakes import FakeBackend, fault, make_checkpoints, make_run, starts

from distdqn.errors import ClusterError, RoleFailure


def _on_nodes(backend, nodes):
    """Has each role started on its node, by name."""
    start = backend.start

    def start_there(role, index, restarts):
        backend.node = nodes.get(role, "head") if restarts == 0 else f"later-{restarts}"
        return start(role, index, restarts)

    backend.start = start_there
    return backend


def test_actors_of_a_dead_node_are_replaced_and_said_to_be_lost_with_it():
    backend = _on_nodes(FakeBackend(), {"actor": "far"})
    backend.at(10.0, lambda: backend.kill_node("far"))
    run = make_run(backend, actors=3)
    assert run.supervisor.run() == "max_env_steps"
    assert run.counters.actor_restarts == 3
    assert len(run.console.notes) == 3
    assert all("was lost with its node in `rollout` and is replaced" in note for note in run.console.notes)
    assert run.counters.env_steps == run.replay.inserted == 5_000


def test_lost_nodes_do_not_count_towards_max_failures():
    # Every life ends in its first rollout: three times with its node, and twice by itself.
    backend = _on_nodes(FakeBackend(faults=fault("actor", "rollout", 1, restarts=[3, 4])), {"actor": "first"})
    for at, node in [(1.05, "first"), (2.25, "later-1"), (3.45, "later-2")]:
        backend.at(at, lambda node=node: backend.kill_node(node))
    run = make_run(backend, actors=1, max_failures=3)
    assert run.supervisor.run() == "max_env_steps"
    assert starts(backend, "actor") == [0, 1, 2, 3, 4, 5]


def test_node_that_is_known_to_be_dead_only_later_does_not_count_either():
    backend = _on_nodes(FakeBackend(faults=fault("actor", "rollout", 1, restarts=[1, 2])), {"actor": "first"})
    backend.at(1.05, lambda: backend.kill_node("first", seconds_until_known=1.5))
    run = make_run(backend, actors=1, max_failures=3)
    assert run.supervisor.run() == "max_env_steps"
    assert "actor-0 failed in `rollout`" in run.console.notes[0]


def test_process_that_was_to_come_up_on_a_node_that_died_does_not_count_either():
    # Three lives are given a place on the node while nobody knows that it is dead.
    backend = FakeBackend(faults=fault("learner", "identify", 1, restarts=[1, 2, 3]))
    backend = _on_nodes(backend, {"learner": "first"})
    backend.kill_node("later-1"), backend.kill_node("later-2"), backend.kill_node("later-3")
    backend.at(5.0, lambda: backend.kill_node("first"))
    run = make_run(backend, max_failures=2)
    assert run.supervisor.run() == "max_env_steps"
    assert starts(backend, "learner") == [0, 1, 2, 3, 4]
    assert "learner (restart 1) was lost with its node in `identify`" in run.console.notes[1]


def test_failures_on_nodes_that_live_end_the_run_all_the_same():
    backend = _on_nodes(
        FakeBackend(faults=fault("actor", "rollout", 1, restarts=[1, 2, 3])), {"actor": "first"}
    )
    backend.at(1.05, lambda: backend.kill_node("first"))
    with pytest.raises(RoleFailure, match=r"actor-0 .*failed 3 consecutive times"):
        make_run(backend, actors=1, max_failures=3).supervisor.run()
    assert starts(backend, "actor") == [0, 1, 2, 3]


def test_chunk_that_is_lost_on_its_way_blames_nobody():
    # Replay never gets the chunk of the actor's fifth rollout.
    backend = FakeBackend(
        faults=fault("replay", "insert", 5, words="what it needs failed: the object is lost")
    )
    run = make_run(backend, actors=1)
    assert run.supervisor.run() == "max_env_steps"
    assert starts(backend, "replay") == starts(backend, "actor") == [0]
    assert run.counters.lost_rollouts == 1
    assert run.counters.env_steps == run.replay.inserted == 5_000
    assert run.console.notes == []


def test_weights_that_are_lost_with_the_learners_node_blame_no_actor():
    lost = "what it needs failed: the object is lost"

    def faults(handle, method, _n):
        gives_weights = backend.learner_is_lost and method == "rollout" and handle.gets_weights
        return lost if gives_weights else None

    backend = _on_nodes(FakeBackend(faults=faults), {"learner": "far"})
    backend.learner_is_lost = False
    call = backend.call

    def watched(handle, method, *arguments, returns=1):
        old = [a for a in arguments if hasattr(a, "task") and a.task.handle.node == "far"]
        handle.gets_weights = bool(old)
        return call(handle, method, *arguments, returns=returns)

    def kill():
        backend.kill_node("far")
        backend.kill("actor", 1)  # so that its successor is to be given weights
        backend.learner_is_lost = True

    backend.call = watched
    backend.at(10.0, kill)
    run = make_run(backend, actors=2)
    assert run.supervisor.run() == "max_env_steps"
    assert [starts(backend, "actor", index) for index in range(2)] == [[0], [0, 1]]
    assert run.counters.lost_rollouts >= 1
    assert run.counters.env_steps == 5_000
    versions = [
        r.arguments[1].weights_version for r in backend.calls_of("actor", "rollout") if r.arguments[1:]
    ]
    assert max(versions)[0] == 1  # those of the new learner came


def test_evaluation_whose_weights_are_lost_is_left_out_with_a_line():
    backend = FakeBackend(faults=fault("evaluator", "evaluate", 2, words="what it needs failed: gone"))
    run = make_run(backend, eval_period=40, max_failures=2)
    assert run.supervisor.run() == "max_env_steps"
    (note,) = run.console.notes
    assert note.startswith("An evaluation is skipped because its weights are lost: ")
    assert starts(backend, "evaluator") == [0]
    numbers = [record.arguments[2] for record in backend.calls_of("evaluator", "evaluate")]
    assert numbers == sorted(set(numbers))
    assert run.counters.evaluations == len(numbers) - 1


def test_best_weights_outlive_the_node_of_the_learner_that_made_them(tmp_path):
    backend = _on_nodes(FakeBackend(), {"learner": "far"})
    backend.at(15.0, lambda: backend.kill_node("far"))
    saving = {"checkpoints": make_checkpoints(tmp_path), "seconds": 5.0}
    run = make_run(backend, eval_period=40, saving=saving)
    run.supervisor.run()
    assert run.goal.best_weights.weights_version == run.goal.best.weights_version  # no reference to them
    run.finish()


def test_learner_whose_node_died_is_put_back_elsewhere_once_there_is_a_place(tmp_path):
    backend = _on_nodes(FakeBackend(), {"learner": "far"})

    def kill():
        backend.placeless = {"learner"}
        backend.kill_node("far")

    backend.at(12.0, kill)
    backend.at(300.0, lambda: backend.give_place("learner"))
    saving = {"checkpoints": make_checkpoints(tmp_path), "seconds": 5.0}
    run = make_run(backend, saving=saving, start_timeout_seconds=20.0, stall_timeout_seconds=600.0)
    assert run.supervisor.run() == "max_env_steps"
    assert starts(backend, "learner") == [0, 1]
    assert len(run.learner.restored) == 1


def test_run_whose_learner_finds_no_other_place_ends_naming_what_it_needs():
    backend = _on_nodes(FakeBackend(), {"learner": "far"})

    def kill():
        backend.placeless = {"learner"}
        backend.kill_node("far")

    backend.at(12.0, kill)
    run = make_run(backend, stall_timeout_seconds=200.0)
    with pytest.raises(ClusterError, match="learner waits for resources, it needs 1 CPU"):
        run.supervisor.run()
    assert not run.supervisor.team.learner.is_ready
