"""Replay that is put back part by part, while everything else goes on."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from distributed.fakes import FakeExecutor, FakeFleet, make_checkpoints, make_run, newest_start, starts


def _saving(folder, **options):
    return {"checkpoints": make_checkpoints(folder, options.pop("keep", 3)), "seconds": 5.0, **options}


def test_replay_is_put_back_a_few_parts_at_a_time_and_before_all_else(tmp_path):
    fleet = FakeFleet(seconds={"set_rows": 0.5})
    fleet.at(14.0, lambda: fleet.kill("replay"))
    run = make_run(fleet, saving=_saving(tmp_path, keep=1), max_env_steps=10_000)
    assert run.supervisor.run() == "max_env_steps"
    calls = [record for record in fleet.calls_of("replay") if record.handle.incarnation == 1]
    kinds = [record.method for record in calls]
    last = kinds.index("set_index")
    assert set(kinds[:last]) == {"set_rows"}
    assert last > 5
    assert max(record.under_way for record in calls[:last]) == 2
    assert "insert" in kinds[last:]
    assert run.counters.inserted == run.replay.inserted == 10_000 - run.counters.lost_transitions


def test_run_goes_on_while_a_slow_disk_is_read(tmp_path):
    fleet = FakeFleet(seconds={"rollout": 0.4})
    fleet.at(14.0, lambda: fleet.kill("replay"))
    saving = _saving(tmp_path, executor=FakeExecutor(fleet, 1.0))
    run = make_run(fleet, actors=4, saving=saving, max_env_steps=20_000)
    assert run.supervisor.run() == "max_env_steps"
    index = next(r for r in fleet.calls_of("replay", "set_index") if r.handle.incarnation == 1)
    assert index.at > 14.0 + 5 * 1.0
    rollouts = [r for r in fleet.calls_of("actor", "rollout") if 14.0 < r.at < index.at]
    assert len(rollouts) >= 4  # until they are as far ahead as pacing lets them be
    times = [line["wall_seconds"] for line in run.console.lines]
    assert max(after - before for before, after in itertools.pairwise(times)) < 1.5  # nobody waits
    assert run.replay.inserted == 20_000 - run.counters.lost_transitions


@pytest.mark.parametrize("end", [14.5, 17.0])
def test_last_checkpoint_of_a_run_that_ends_meanwhile_holds_all_of_replay(tmp_path, end):
    fleet = FakeFleet()
    fleet.at(14.0, lambda: fleet.kill("replay"))
    saving = _saving(tmp_path, executor=FakeExecutor(fleet, 1.0), keep=1)
    run = make_run(fleet, saving=saving, max_seconds=end)
    assert run.supervisor.run() == "max_seconds"
    assert run.saver.refill.is_running
    run.finish()
    assert not run.saver.refill.is_running
    again = make_run(max_env_steps=1, start=newest_start(tmp_path))
    again.supervisor.run()
    assert again.replay.rows == run.replay.rows
    assert len(again.replay.rows) == run.counters.inserted > 300


def test_replay_that_dies_while_it_is_put_back_is_put_back_again(tmp_path):
    fleet = FakeFleet(seconds={"set_rows": 0.5})
    for at in (14.0, 17.0):
        fleet.at(at, lambda: fleet.kill("replay"))
    run = make_run(fleet, saving=_saving(tmp_path), max_env_steps=10_000)
    assert run.supervisor.run() == "max_env_steps"
    assert starts(fleet, "replay") == [0, 1, 2]
    first, second = ([h.object for h in fleet.started if h.role == "replay"])[1:]
    assert "set_index" not in first.restored
    assert second.restored[-1] == "set_index"
    assert run.counters.inserted == run.replay.inserted == 10_000 - run.counters.lost_transitions


def test_actor_that_leaves_meanwhile_hands_over_what_is_open_afterwards(tmp_path):
    fleet = FakeFleet(seconds={"set_rows": 0.5})
    fleet.at(24.0, lambda: fleet.kill("replay"))
    fleet.at(24.5, lambda: fleet.command(1))
    run = make_run(fleet, actors=3, saving=_saving(tmp_path), max_env_steps=20_000)
    assert run.supervisor.run() == "max_env_steps"
    (cut, _) = fleet.calls_of("actor", "cut")
    calls = [record for record in fleet.calls_of("replay") if record.handle.incarnation == 1]
    kinds = [record.method for record in calls]
    last = kinds.index("set_index")
    assert 24.0 < cut.at < calls[last].at
    assert set(kinds[:last]) == {"set_rows"}


def test_replay_is_put_back_by_a_real_thread(tmp_path):
    before = make_run(max_env_steps=2_000, saving=_saving(tmp_path))
    before.supervisor.run()
    before.finish()
    with ThreadPoolExecutor(1) as executor:
        run = make_run(start=newest_start(tmp_path), saving={"executor": executor})
        assert run.supervisor.run() == "max_env_steps"
    assert run.replay.restored[-1] == "set_index"
    assert run.replay.rows[:2_000] == before.replay.rows
    assert run.replay.inserted == run.counters.inserted == 5_000
