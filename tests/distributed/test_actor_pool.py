"""How many actors a run has: commands, drains, and following a cluster, on a fake fleet."""

import itertools
import math

import pytest
from distributed.fakes import (
    HANG,
    FakeActor,
    FakeBackend,
    make_checkpoints,
    make_config,
    make_run,
    newest_start,
)

from distdqn.distributed.watchdog import Watchdog
from distdqn.errors import ClusterError
from distdqn.training.calls import Calls
from distdqn.training.team import Team

_LOOK = 0.2
_LEAVE = 10.0


def make_scaled(*commands, backend=None, actors=1, max_seconds=60.0, **options):
    """A run of a minute in which each `(seconds, actors)` is commanded, over."""
    backend = backend or FakeBackend(seconds={"rollout": 0.3, "learn": 0.05})
    for at, wanted in commands:
        backend.at(at, lambda wanted=wanted: backend.command(wanted))
    run = make_run(backend, actors=actors, max_seconds=max_seconds, max_env_steps=10**9, **options)
    assert run.supervisor.run() == "max_seconds"
    return run


def indices(run):
    return [actor.index for actor in run.supervisor.team.actors]


def rollouts_between(run, begin, end):
    return [r for r in run.backend.calls_of("actor", "rollout") if begin <= r.at < end]


def who_acts(run, begin, end):
    """Indices of the actors that are asked for rollouts in these seconds."""
    return {record.handle.index for record in rollouts_between(run, begin, end)}


def hang_late(handle, method, n):
    """Actor 1 hangs in its 21st rollout."""
    return HANG if (handle.index, method) == (1, "rollout") and n > 20 else None


def changes(run):
    """What the process that takes commands was told, where it was something else than before."""
    return [staff for staff, _ in itertools.groupby(staff for _, staff in run.backend.told)]


# Commands.


def test_run_grows_and_shrinks_to_what_commands_ask_for():
    run = make_scaled((20.0, 8), (40.0, 2))

    told = [(staff.wanted, staff.acting) for staff in changes(run) if staff.is_complete]
    assert told == [(1, 1), (8, 8), (2, 2)]
    assert [who_acts(run, *times) for times in ((5, 20), (25, 40), (50, 60))] == [
        {0},
        set(range(8)),
        {0, 1},
    ]
    assert run.directory.files["status.json"]["actors"] == {"wanted": 2, "acting": 2}


def test_every_accepted_rollout_is_counted_while_actors_come_and_leave():
    run = make_scaled((15.0, 8), (25.0, 2), (35.0, 5), (45.0, 1))

    assert run.counters.lost_rollouts == 0
    assert run.counters.inserted == run.replay.inserted == len(run.replay.rows)
    # All that was ordered and is not under way at the end has been accepted.
    ordered = sum(r.arguments[0].limit for r in run.backend.calls_of("actor", "rollout"))
    assert run.counters.env_steps == ordered - run.supervisor._scheduler.env_steps_in_flight


def test_actor_that_leaves_ends_its_rollouts_hands_over_what_is_open_and_ends():
    class Actor(FakeActor):
        def flush(self, number):
            report, _ = super().flush(number)
            return report.__class__(episodes_lost=3, transitions=7), "chunk of 7"

    backend = FakeBackend(make_role={"actor": Actor}, seconds={"rollout": 2.0, "learn": 0.01})
    run = make_scaled((30.5, 1), backend=backend, actors=2)

    (gone,) = [handle for handle in backend.ended if handle.role == "actor"]
    assert gone.index == 1
    calls = [r for r in backend.calls_of("actor") if r.handle is gone]
    assert [r.method for r in calls[-2:]] == ["rollout", "flush"]
    assert gone.queue == []
    assert run.counters.episodes_lost == 3
    assert run.counters.inserted == run.counters.env_steps + 7 == run.replay.inserted


def test_fault_33_actor_whose_rollout_does_not_end_is_drained_within_ten_seconds():
    backend = FakeBackend(seconds={"rollout": 0.3, "learn": 0.05}, faults=hang_late)
    run = make_scaled((30.0, 1), backend=backend, actors=2, env_timeout_seconds=1000.0)

    (gone,) = [handle for handle in backend.ended if handle.role == "actor"]
    assert 30.0 + _LEAVE <= gone.dies_at <= 30.0 + _LEAVE + 2 * _LOOK
    assert run.counters.lost_rollouts == 2  # one that hung, and one queued behind it
    assert run.supervisor._scheduler.env_steps_in_flight <= 2 * 50  # those of the actor that is left
    assert indices(run) == [0]


def test_actor_that_dies_while_it_leaves_is_not_replaced():
    backend = FakeBackend(seconds={"rollout": 4.0, "learn": 0.05})
    backend.at(31.0, lambda: backend.kill("actor", 1))
    run = make_scaled((30.0, 1), backend=backend, actors=2)

    assert len([handle for handle in backend.started if handle.role == "actor"]) == 2
    assert run.counters.actor_restarts == 0
    assert 1 <= run.counters.lost_rollouts <= 2
    assert indices(run) == [0]


def test_replay_that_dies_during_a_drain_does_not_keep_the_actor():
    backend = FakeBackend(seconds={"rollout": 0.3, "learn": 0.05, "insert": 0.5})
    backend.at(31.3, lambda: backend.kill("replay"))
    run = make_scaled((30.0, 1), backend=backend, actors=3, samples_per_insert=0.1)

    assert indices(run) == [0]
    assert run.counters.inserted == run.replay.inserted


def test_later_command_takes_the_place_of_the_one_before_it():
    run = make_scaled((20.0, 6), (20.1, 3))

    assert indices(run) == [0, 1, 2]
    assert run.backend.told[-1][1].command == 2


def test_command_for_as_many_actors_as_there_are_is_answered():
    run = make_scaled((20.0, 2), actors=2)

    assert [(staff.command, staff.is_complete) for staff in changes(run)] == [(0, True), (1, True)]


def test_how_many_actors_there_are_is_told_again_in_case_a_message_was_lost():
    run = make_scaled((20.0, 2))

    times = [at for at, _ in run.backend.told]
    assert len(times) > len(changes(run)) == len(set(changes(run)))
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) <= 5.0 + 0.2


def test_command_reaches_the_run_though_the_process_that_took_them_was_killed():
    backend = FakeBackend(seconds={"rollout": 0.3, "learn": 0.05})
    backend.at(20.0, lambda: backend.kill("control"))
    run = make_scaled((30.0, 3), backend=backend)

    assert indices(run) == [0, 1, 2]
    assert run.backend.told[-1][1].is_complete


def test_command_to_a_new_process_that_takes_them_is_not_taken_for_one_that_was_obeyed():
    backend = FakeBackend(seconds={"rollout": 0.3, "learn": 0.05})
    backend.at(25.0, lambda: backend.kill("control"))
    run = make_scaled((20.0, 2), (30.0, 3), backend=backend)

    # Each process numbers the commands given to it from 1 on.
    told = [(when > 25.0, staff.wanted, staff.command) for when, staff in run.backend.told]
    assert sorted(set(told)) == [(False, 1, 0), (False, 2, 1), (True, 2, 0), (True, 3, 1)]


def test_run_gets_on_though_the_process_that_takes_commands_keeps_dying():
    backend = FakeBackend(seconds={"rollout": 0.3, "learn": 0.05})
    for seconds in range(15, 55, 5):
        backend.at(float(seconds), lambda: backend.kill("control"))
    run = make_scaled(backend=backend, max_failures=3)

    assert len([handle for handle in backend.started if handle.role == "control"]) == 9
    assert run.counters.actor_restarts == 0


# What follows the number.


def test_places_on_the_ladder_are_shared_among_the_actors_there_are():
    run = make_scaled((20.0, 4), (40.0, 2))

    def places(begin, end):
        orders = [(r.handle.index, r.arguments[0]) for r in rollouts_between(run, begin, end)]
        return {(index, order.position, order.actors) for index, order in orders}

    assert places(10, 20) == {(0, 0, 1)}
    assert places(25, 40) == {(index, index, 4) for index in range(4)}
    assert places(45, 60) == {(0, 0, 2), (1, 1, 2)}


def test_no_two_actors_of_a_run_have_the_same_index_and_generation():
    backend = FakeBackend(seconds={"rollout": 0.3, "learn": 0.05})
    backend.at(25.0, lambda: backend.kill("actor", 2))
    run = make_scaled((15.0, 4), (30.0, 1), (40.0, 4), backend=backend)

    lives = [(handle.index, handle.restarts) for handle in backend.started if handle.role == "actor"]
    assert len(lives) == len(set(lives)) == 1 + 3 + 1 + 3
    assert indices(run) == [0, 1, 2, 3]


def test_actors_of_a_run_that_goes_on_never_repeat_the_episodes_from_before(tmp_path):
    first = make_run(saving={"checkpoints": make_checkpoints(tmp_path)}, max_env_steps=2_000)
    first.supervisor.run()
    first.finish()
    start = newest_start(tmp_path)
    backend = FakeBackend(seconds={"rollout": 0.3, "learn": 0.05})
    backend.at(30.0, lambda: backend.kill("actor", 0))
    make_scaled((20.0, 3), backend=backend, start=start)

    numbers = {}
    for record in backend.calls_of("actor", "flush"):
        numbers.setdefault(record.handle, record.arguments[0])
    assert list(numbers.values()) == [first.counters.learner_steps] * 4
    assert len(numbers) == len([handle for handle in backend.started if handle.role == "actor"])


def test_backlog_that_is_allowed_follows_the_number_of_actors():
    """The learner takes nothing, so what gets in before all stop is what the slack allows."""

    def inserted(*commands):
        backend = FakeBackend(seconds={"rollout": 0.3, "learn": lambda _handle: 1e6})
        return make_scaled(*commands, backend=backend, start_timeout_seconds=1e9).counters.inserted

    # (2 * 100 + actors * 4 * 50) / 4 transitions above the 100 of `min_replay_size`, in whole rollouts.
    assert inserted() == 100 + (2 * 100 + 200) / 4 + 50
    assert inserted((20.0, 4)) == 100 + (2 * 100 + 800) / 4 + 50


# A cluster that is too small.


def make_small(slots, actors=4, **options):
    backend = FakeBackend(seconds={"rollout": 3.0, "learn": 1.0})
    backend.slots = slots
    run = make_run(
        backend,
        actors=actors,
        max_seconds=options.pop("max_seconds", 300.0),
        max_env_steps=10**9,
        startup_seconds=60.0,
        **options,
    )
    return backend, run


@pytest.mark.parametrize("slots", [0, 2, 5])
def test_fault_30_cluster_that_is_too_small_is_named_with_what_it_has(slots):
    backend, run = make_small(slots)
    with pytest.raises(ClusterError) as caught:
        run.supervisor.run()

    assert 60.0 <= backend.now <= 60.0 + _LOOK
    assert f"{slots} of 7 processes have found resources" in str(caught.value)
    assert f"{slots} CPUs" in str(caught.value)
    assert "7 are needed" in str(caught.value)
    assert caught.value.exit_code == 3


def test_fault_30_run_starts_with_fewer_actors_and_adds_the_rest_when_nodes_come():
    backend, run = make_small(5, min_actors=2)
    backend.at(150.0, lambda: backend.grow(7))
    run.supervisor.run()

    assert (who_acts(run, 0, 150), who_acts(run, 155, 300)) == ({0, 1}, {0, 1, 2, 3})
    assert run.counters.actor_restarts == 0
    assert any("the rest is added when nodes join" in text for text in run.console.notes)


def test_fault_30_fewer_actors_than_min_actors_are_too_few():
    backend, run = make_small(5, min_actors=3)
    with pytest.raises(ClusterError, match="5 of 7 processes"):
        run.supervisor.run()
    assert backend.now >= 60.0


def test_fault_30_cluster_that_grows_is_waited_for_and_the_line_says_so():
    backend, run = make_small(2, max_seconds=400.0)
    backend.is_growing = True
    backend.at(200.0, lambda: backend.grow(7))
    run.supervisor.run()

    assert run.counters.env_steps > 0
    lines = [text for text in run.console.notes if "new nodes are starting" in text]
    assert 5 <= len(lines) <= 7  # one each half minute
    assert "2 of 7 processes have found resources" in lines[0]


def test_fault_30_cluster_that_no_longer_grows_is_not_waited_for():
    backend, run = make_small(2)
    backend.is_growing = True

    def give_up():
        backend.is_growing = False

    backend.at(100.0, give_up)
    with pytest.raises(ClusterError):
        run.supervisor.run()
    assert 100.0 <= backend.now <= 130.0 + _LOOK


def test_fault_30_lockstep_run_says_too_that_a_cluster_is_too_small():
    backend = FakeBackend()
    backend.slots = 4
    calls = Calls(backend, make_config(), backend.clock)
    run = make_run(startup_seconds=60.0).run
    team = Team(calls, run.config, actors=2)
    with pytest.raises(ClusterError, match="4 of 5 processes"):
        team.wait_until_ready(Watchdog(run, team).check)
    assert 60.0 <= backend.now <= 60.0 + 1.0


def test_actors_that_a_command_asks_for_wait_for_room_without_harm():
    backend, run = make_small(6, actors=1, max_seconds=500.0)
    backend.at(50.0, lambda: backend.command(5))
    backend.at(400.0, lambda: backend.grow(8))
    run.supervisor.run()

    assert run.counters.actor_restarts == 0
    waits = [(staff.acting, staff.waiting) for at, staff in backend.told if 50.0 < at < 400.0]
    assert waits[-1] == (3, 2)
    assert backend.told[-1][1].is_complete


# Following a cluster.


def make_following(slots, actors, **options):
    return make_small(slots, "auto", initial_actors=actors, **{"min_actors": 1, **options})


def test_auto_takes_the_room_that_new_nodes_bring():
    backend, run = make_following(5, 2)
    backend.at(100.0, lambda: backend.grow(9))
    run.supervisor.run()

    assert (who_acts(run, 0, 100), who_acts(run, 110, 300)) == ({0, 1}, set(range(6)))


def test_auto_stays_within_min_actors_and_max_actors():
    _, run = make_following(50, 2, max_actors=4)
    run.supervisor.run()

    assert len(run.supervisor.team.actors) == 4


def test_auto_gives_up_actors_that_a_lost_node_leaves_without_room():
    backend, run = make_following(7, 4)

    def lose_a_node():
        backend.slots = 5
        backend.kill("actor", 0)
        backend.kill("actor", 3)

    backend.at(100.0, lose_a_node)
    run.supervisor.run()

    assert len(run.supervisor.team.actors) == len(backend.living("actor")) == 2
    assert all(actor.is_ready for actor in run.supervisor.team.actors)


def test_auto_makes_room_for_a_learner_whose_node_was_lost():
    backend, run = make_following(7, 4)

    def lose_a_node():
        backend.slots = 6
        backend.kill("learner")

    backend.at(100.0, lose_a_node)
    run.supervisor.run()

    assert run.supervisor.team.learner.is_ready
    assert len(run.supervisor.team.actors) == 3


def test_auto_asks_the_autoscaler_for_its_most_and_a_command_takes_that_back():
    backend, run = make_following(5, 2, max_actors=12)
    backend.at(100.0, lambda: backend.command(2))
    backend.at(200.0, lambda: backend.grow(9))
    run.supervisor.run()

    assert backend.asked_for == [["learner", "replay", "evaluator", *["actor"] * 12], []]
    assert indices(run) == [0, 1]  # it follows no more


def test_number_given_asks_the_autoscaler_for_nothing():
    backend, run = make_small(math.inf)
    run.supervisor.run()

    assert backend.asked_for == []
