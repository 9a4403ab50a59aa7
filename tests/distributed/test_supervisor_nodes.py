"""The supervisor with a fake fleet: nodes that die, and what dies with them."""

import pytest
from distributed.fakes import FakeFleet, fault, make_checkpoints, make_run, starts

from distdqn.errors import ClusterError, RoleFailure


def _on_nodes(fleet, nodes):
    """Has each role started on its node, by name."""
    start = fleet.start

    def start_there(role, index, incarnation):
        fleet.node = nodes.get(role, "head") if incarnation == 0 else f"later-{incarnation}"
        return start(role, index, incarnation)

    fleet.start = start_there
    return fleet


def test_actors_of_a_dead_node_are_replaced_and_said_to_be_lost_with_it():
    fleet = _on_nodes(FakeFleet(), {"actor": "far"})
    fleet.at(10.0, lambda: fleet.kill_node("far"))
    run = make_run(fleet, actors=3)
    assert run.supervisor.run() == "max_env_steps"
    assert run.counters.actor_restarts == 3
    assert len(run.console.notes) == 3
    assert all("was lost with its node in `rollout` and is replaced" in note for note in run.console.notes)
    assert run.counters.env_steps == run.replay.inserted == 5_000


def test_lost_nodes_do_not_count_towards_max_failures():
    # Every life ends in its first rollout: three times with its node, and twice by itself.
    fleet = _on_nodes(FakeFleet(faults=fault("actor", "rollout", 1, incarnations=[3, 4])), {"actor": "first"})
    for at, node in [(1.05, "first"), (2.25, "later-1"), (3.45, "later-2")]:
        fleet.at(at, lambda node=node: fleet.kill_node(node))
    run = make_run(fleet, actors=1, max_failures=3)
    assert run.supervisor.run() == "max_env_steps"
    assert starts(fleet, "actor") == [0, 1, 2, 3, 4, 5]


def test_node_that_is_known_to_be_dead_only_later_does_not_count_either():
    fleet = _on_nodes(FakeFleet(faults=fault("actor", "rollout", 1, incarnations=[1, 2])), {"actor": "first"})
    fleet.at(1.05, lambda: fleet.kill_node("first", seconds_until_known=1.5))
    run = make_run(fleet, actors=1, max_failures=3)
    assert run.supervisor.run() == "max_env_steps"
    assert "actor-0 (incarnation 0) failed in `rollout`" in run.console.notes[0]


def test_process_that_was_to_come_up_on_a_node_that_died_does_not_count_either():
    # Three lives are given a place on the node while nobody knows that it is dead.
    fleet = FakeFleet(faults=fault("learner", "identify", 1, incarnations=[1, 2, 3]))
    fleet = _on_nodes(fleet, {"learner": "first"})
    fleet.kill_node("later-1"), fleet.kill_node("later-2"), fleet.kill_node("later-3")
    fleet.at(5.0, lambda: fleet.kill_node("first"))
    run = make_run(fleet, max_failures=2)
    assert run.supervisor.run() == "max_env_steps"
    assert starts(fleet, "learner") == [0, 1, 2, 3, 4]
    assert "learner (incarnation 1) was lost with its node in `identify`" in run.console.notes[1]


def test_failures_on_nodes_that_live_end_the_run_all_the_same():
    fleet = _on_nodes(
        FakeFleet(faults=fault("actor", "rollout", 1, incarnations=[1, 2, 3])), {"actor": "first"}
    )
    fleet.at(1.05, lambda: fleet.kill_node("first"))
    with pytest.raises(RoleFailure, match=r"actor-0 .*failed 3 times running"):
        make_run(fleet, actors=1, max_failures=3).supervisor.run()
    assert starts(fleet, "actor") == [0, 1, 2, 3]


def test_chunk_that_is_lost_on_its_way_blames_nobody():
    # Replay never gets the chunk of the actor's fifth rollout.
    fleet = FakeFleet(faults=fault("replay", "insert", 5, words="what it needs failed: the object is lost"))
    run = make_run(fleet, actors=1)
    assert run.supervisor.run() == "max_env_steps"
    assert starts(fleet, "replay") == starts(fleet, "actor") == [0]
    assert run.counters.lost_rollouts == 1
    assert run.counters.env_steps == run.replay.inserted == 5_000
    assert run.console.notes == []


def test_weights_that_are_lost_with_the_learners_node_blame_no_actor():
    lost = "what it needs failed: the object is lost"

    def faults(handle, method, _n):
        gives_weights = fleet.learner_is_lost and method == "rollout" and handle.gets_weights
        return lost if gives_weights else None

    fleet = _on_nodes(FakeFleet(faults=faults), {"learner": "far"})
    fleet.learner_is_lost = False
    call = fleet.call

    def watched(handle, method, *arguments, returns=1):
        old = [a for a in arguments if hasattr(a, "task") and a.task.handle.node == "far"]
        handle.gets_weights = bool(old)
        return call(handle, method, *arguments, returns=returns)

    def kill():
        fleet.kill_node("far")
        fleet.kill("actor", 1)  # so that its successor is to be given weights
        fleet.learner_is_lost = True

    fleet.call = watched
    fleet.at(10.0, kill)
    run = make_run(fleet, actors=2)
    assert run.supervisor.run() == "max_env_steps"
    assert [starts(fleet, "actor", index) for index in range(2)] == [[0], [0, 1]]
    assert run.counters.lost_rollouts >= 1
    assert run.counters.env_steps == 5_000
    versions = [r.arguments[1].weights_version for r in fleet.calls_of("actor", "rollout") if r.arguments[1:]]
    assert max(versions)[0] == 1  # those of the new learner came


def test_evaluation_whose_weights_are_lost_is_left_out_with_a_line():
    fleet = FakeFleet(faults=fault("evaluator", "evaluate", 2, words="what it needs failed: gone"))
    run = make_run(fleet, eval_period=40, max_failures=2)
    assert run.supervisor.run() == "max_env_steps"
    (note,) = run.console.notes
    assert note.startswith("An evaluation is left out, as its weights are lost: ")
    assert starts(fleet, "evaluator") == [0]
    numbers = [record.arguments[2] for record in fleet.calls_of("evaluator", "evaluate")]
    assert numbers == sorted(set(numbers))
    assert run.counters.evaluations == len(numbers) - 1


def test_best_weights_outlive_the_node_of_the_learner_that_made_them(tmp_path):
    fleet = _on_nodes(FakeFleet(), {"learner": "far"})
    fleet.at(15.0, lambda: fleet.kill_node("far"))
    saving = {"checkpoints": make_checkpoints(tmp_path), "seconds": 5.0}
    run = make_run(fleet, eval_period=40, saving=saving)
    run.supervisor.run()
    assert run.goal.best_weights.weights_version == run.goal.best.weights_version  # no reference to them
    run.finish()


def test_learner_whose_node_died_is_put_back_elsewhere_once_there_is_a_place(tmp_path):
    fleet = _on_nodes(FakeFleet(), {"learner": "far"})

    def kill():
        fleet.placeless = {"learner"}
        fleet.kill_node("far")

    fleet.at(12.0, kill)
    fleet.at(300.0, lambda: fleet.give_place("learner"))
    saving = {"checkpoints": make_checkpoints(tmp_path), "seconds": 5.0}
    run = make_run(fleet, saving=saving, start_timeout_seconds=20.0, stall_timeout_seconds=600.0)
    assert run.supervisor.run() == "max_env_steps"
    assert starts(fleet, "learner") == [0, 1]
    assert len(run.learner.restored) == 1


def test_run_whose_learner_finds_no_other_place_ends_naming_what_it_needs():
    fleet = _on_nodes(FakeFleet(), {"learner": "far"})

    def kill():
        fleet.placeless = {"learner"}
        fleet.kill_node("far")

    fleet.at(12.0, kill)
    run = make_run(fleet, stall_timeout_seconds=200.0)
    with pytest.raises(ClusterError, match="learner has no place in the cluster, it needs 1 CPU"):
        run.supervisor.run()
    assert not run.supervisor.roster.can_answer
