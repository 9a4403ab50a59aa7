"""Learner and replay put back as a checkpoint holds them, in a run and at its beginning."""

import random
import shutil

import pytest
from distributed.fakes import (
    FakeBackend,
    FakeExecutor,
    fault,
    make_checkpoints,
    make_run,
    newest_start,
    starts,
)

from distdqn.checkpoints.store import CheckpointRef, Store
from distdqn.distributed.faults import count_lost_learner, count_lost_replay
from distdqn.errors import RoleFailure
from distdqn.reporting.metrics import Counters
from distdqn.types import ReplayInfo


def _saving(folder, seconds=5.0, keep=3, **options):
    return {"checkpoints": make_checkpoints(folder, keep), "seconds": seconds, **options}


def _newest(folder):
    return Store(str(folder)).newest_whole()[0].document


def _found(learner_steps, inserted):
    replay = [] if inserted is None else [{"index": {"inserted": inserted}}]
    return CheckpointRef(None, 1, {"learner": {"learner_steps": learner_steps}, "replay": replay})


# What is lost.


@pytest.mark.parametrize(
    ("found", "left", "lost"),
    [(None, 0, 500), (_found(320, 900), 320, 500 - 320), (_found(500, None), 500, 0)],
)
def test_lost_learner_steps_are_those_since_the_checkpoint(found, left, lost):
    counters = Counters(learner_steps=500, lost_learner_steps=7, inserted=1_000)
    assert count_lost_learner(counters, found) == lost
    assert counters == Counters(
        learner_steps=left, lost_learner_steps=7 + lost, learner_restarts=1, inserted=1_000
    )


@pytest.mark.parametrize(
    ("after", "left", "lost"),
    [(0, 400, 600), (500, 900, 100), (600, 1_000, 0), (650, 1_050, 0)],
)
def test_lost_transitions_are_those_that_a_shard_has_not_got_back(after, left, lost):
    counters = Counters(inserted=1_000, lost_transitions=7, learner_steps=500)
    before = ReplayInfo(inserted=600, size=600)
    assert count_lost_replay(counters, before, after) == lost
    assert counters == Counters(
        inserted=left, lost_transitions=7 + lost, replay_restarts=1, learner_steps=500
    )


def test_transitions_that_were_overwritten_before_were_not_there_to_be_lost():
    counters = Counters(inserted=1_000)
    assert count_lost_replay(counters, ReplayInfo(inserted=1_000, size=300), after=0) == 300
    assert (counters.inserted, counters.lost_transitions) == (0, 300)


# In a run.


def test_dead_learner_goes_on_from_the_newest_checkpoint_in_a_new_epoch(tmp_path):
    backend = FakeBackend(seconds={"learn": 1.0})
    backend.at(10.5, lambda: backend.kill("learner"))
    run = make_run(backend, saving=_saving(tmp_path, seconds=4.6))
    assert run.supervisor.run() == "max_env_steps"
    # Calls end at 4.011, 5.011 ..: at 4.6 one has, and two are under way, which the learner's state
    # comes after, at 6.016; the next would have begun 4.6 s later. Seven had ended at 10.5.
    assert run.learner.restored == [(1 + 2) * 4]
    assert run.counters.lost_learner_steps == 7 * 4 - 12
    assert run.counters.learner_steps == run.learner.steps == 784 - (28 - 12)
    assert run.learner.generation == 1
    (note,) = run.console.notes
    assert note.startswith("learner failed in `learn` and is replaced, 16 learner steps lost")


def test_dead_replay_goes_on_from_the_newest_checkpoint(tmp_path):
    backend = FakeBackend(seconds={"rollout": 1.0, "insert": 0.5, "learn": 0.01})
    backend.at(10.25, lambda: backend.kill("replay"))
    run = make_run(backend, actors=1, saving=_saving(tmp_path, seconds=5.2))
    assert run.supervisor.run() == "max_env_steps"
    # Rollouts end at 2.0, 3.0 ..: those of 2.0 to 5.0 were in, or before it in replay's queue, when
    # the checkpoint began at 5.2; those of 6.0 to 9.0 came after it, and that of 10.0 was on its way.
    first, second = (handle.object for handle in backend.started if handle.role == "replay")
    assert second.rows[:200] == first.rows[:200]
    assert second.restored == ["set_rows", "set_rows", "set_index"]
    assert run.counters.lost_transitions == 4 * 50
    assert run.counters.lost_rollouts == 1
    assert run.counters.env_steps == 5_000
    assert run.counters.inserted == second.inserted == 5_000 - 200
    (note,) = run.console.notes
    assert note.startswith("replay-0 failed in `insert` and is replaced, 200 transitions lost")


@pytest.mark.parametrize(
    ("rollout", "learn", "env_steps"), [(0.05, 0.02, 10_000), (0.05, 1.0, 3_500), (1.0, 0.02, 3_500)]
)
def test_learning_neither_bursts_nor_stops_after_replay_was_put_back(tmp_path, rollout, learn, env_steps):
    backend = FakeBackend(seconds={"rollout": rollout, "learn": learn})
    backend.at(6.0, lambda: backend.kill("replay"))
    run = make_run(backend, max_env_steps=env_steps, saving=_saving(tmp_path, seconds=4.0, keep=100))
    assert run.supervisor.run() == "max_env_steps"
    begin = next(record for record in backend.calls_of("replay", "set_index")).arguments[0]["inserted"]
    assert begin >= 100
    drawn = [record for record in backend.calls_of("replay", "sample") if record.handle.restarts == 1]
    assert len(drawn) > 50
    # Each call of 100 samples waits for 25 more transitions.
    assert all(record.inserted >= begin + 25 * n for n, record in enumerate(drawn, 1))
    assert all((line["samples_per_insert"] or 0.0) <= 4.0 for line in run.console.lines)
    assert run.counters.sampled >= 4 * (run.counters.inserted - 100) - 4 * 25 > 10_000


def test_replay_that_is_not_in_the_checkpoint_begins_empty_with_min_size_armed(tmp_path):
    backend = FakeBackend()
    backend.at(12.0, lambda: backend.kill("replay"))
    run = make_run(backend, saving=_saving(tmp_path, with_replay=False))
    assert run.supervisor.run() == "max_env_steps"
    assert run.replay.restored == []
    assert run.replay.inserted_when_first_sampled >= 100 + 25
    assert run.counters.inserted + run.counters.lost_transitions == 5_000


def test_checkpoint_being_written_is_waited_for_when_a_role_is_put_back(tmp_path):
    # Else its writer could take away, with `keep` 1, what is just being read.
    backend = FakeBackend()
    saving = _saving(tmp_path, seconds=5.0, keep=1, with_replay=False)
    run = make_run(backend, saving={**saving, "executor": FakeExecutor(backend, 4.0)})
    backend.at(17.0, lambda: backend.kill("learner"))  # the second is being written, from 15 to 19
    run.supervisor.run()
    asked = [record.at for record in backend.calls_of("learner", "get_state") if record.at < 17.0]
    assert [round(at) for at in asked] == [5, 10, 15]
    assert run.learner.restored[0] > 4 * (asked[-1] - 3.1) / 0.1 * 0.9


def test_one_before_is_taken_when_the_newest_checkpoint_is_damaged(tmp_path):
    backend = FakeBackend()
    run = make_run(backend, saving=_saving(tmp_path))
    numbers = []

    def damage_and_kill():
        numbers[:] = Store(str(tmp_path)).numbers()
        path = tmp_path / f"checkpoint-{numbers[-1]:012d}.json"
        path.write_bytes(path.read_bytes()[:-5])
        backend.kill("learner")
        backend.kill("replay")

    backend.at(12.0, damage_and_kill)
    assert run.supervisor.run() == "max_env_steps"
    assert len(numbers) == 2
    assert run.learner.restored == [numbers[0]]
    assert run.replay.restored[-1] == "set_index"
    run.finish()  # nothing in it is of the dead replay's rows from after the first checkpoint
    again = make_run(max_env_steps=1, start=newest_start(tmp_path))
    again.supervisor.run()
    assert again.replay.rows == run.replay.rows


def test_learner_begins_again_when_the_folder_of_checkpoints_is_gone(tmp_path):
    backend = FakeBackend()
    run = make_run(backend, saving=_saving(tmp_path / "checkpoints"))
    backend.at(11.9, lambda: shutil.rmtree(tmp_path / "checkpoints"))
    backend.at(12.0, lambda: backend.kill("learner"))
    assert run.supervisor.run() == "max_env_steps"
    assert run.learner.restored == []
    assert run.counters.learner_steps == run.learner.steps == 784 - run.counters.lost_learner_steps


@pytest.mark.parametrize(("role", "method"), [("learner", "set_state"), ("replay", "set_index")])
def test_role_that_cannot_take_the_checkpoint_ends_the_run(tmp_path, role, method):
    backend = FakeBackend(faults=fault(role, method, words="ValueError: does not fit"))
    backend.at(12.0, lambda: backend.kill(role))
    run = make_run(backend, max_failures=3, max_seconds=1_000.0, saving=_saving(tmp_path))
    with pytest.raises(RoleFailure, match=rf"{role}.* failed 3 consecutive times, last in `{method}`"):
        run.supervisor.run()
    assert starts(backend, role) == [0, 1, 2]


# At the beginning of a run.


def _interrupted(folder, max_env_steps=2_000, **options):
    """A run that ended with a checkpoint in `folder`."""
    run = make_run(max_env_steps=max_env_steps, saving=_saving(folder, keep=100), **options)
    run.supervisor.run()
    run.finish()
    return run


def test_learner_that_dies_in_a_run_that_went_on_gives_no_version_twice(tmp_path):
    backend = FakeBackend()
    for at in (6.0, 12.0):  # so that the checkpoint's learner is in its third epoch
        backend.at(at, lambda: backend.kill("learner"))
    _interrupted(tmp_path, 3_000, backend=backend)
    again = FakeBackend()
    again.at(8.0, lambda: again.kill("learner"))
    run = make_run(again, start=newest_start(tmp_path), saving=_saving(tmp_path))
    published = []
    run.metrics.add_published = published.append
    assert run.supervisor.run() == "max_env_steps"
    first, second = (handle.object for handle in again.started if handle.role == "learner")
    assert second.generation > first.generation >= 2
    assert published == sorted(set(published))
    sent = [r.arguments[1].weights_version for r in again.calls_of("actor", "rollout") if r.arguments[1:]]
    assert {generation for generation, _ in sent} == {first.generation, second.generation}


@pytest.mark.parametrize("role", ["learner", "replay"])
@pytest.mark.parametrize("at", [0.5, 8.0])
def test_role_that_dies_before_a_run_has_saved_anything_goes_on_from_where_that_began(tmp_path, role, at):
    before = _interrupted(tmp_path / "old")
    backend = FakeBackend()
    backend.at(at, lambda: backend.kill(role))
    start = newest_start(tmp_path / "old")
    run = make_run(backend, start=start, saving=_saving(tmp_path / "new", seconds=1_000.0))
    assert run.supervisor.run() == "max_env_steps"
    restored = [handle.object.restored for handle in backend.started if handle.role == role]
    assert restored[1] == restored[0] or at < 1.0  # the first was never up
    assert run.replay.rows[:2_000] == before.replay.rows
    assert run.counters.learner_steps > before.counters.learner_steps == run.learner.restored[0]
    assert run.counters.inserted + run.counters.lost_transitions == run.counters.env_steps == 5_000


@pytest.mark.parametrize("damaged", [False, True])
def test_run_that_goes_on_from_an_older_checkpoint_keeps_those_it_makes(tmp_path, damaged):
    _interrupted(tmp_path, 4_000)
    store = Store(str(tmp_path))
    *_, older, newest = store.numbers()
    if damaged:  # else the older one was asked for by name
        ref = store.read_manifest(newest)["learner"]["networks"]["online"]
        path = tmp_path / "blobs" / f"{ref['blob']}.safetensors"
        path.write_bytes(bytes(path.stat().st_size))
    start = store.verify(older)
    env_steps = start.document["metrics"]["counters"]["env_steps"]
    run = make_run(start=start, max_env_steps=env_steps + 100, saving=_saving(tmp_path, keep=1))
    run.supervisor.run()
    run.finish()
    assert older < run.counters.learner_steps < newest
    assert _newest(tmp_path)["metrics"]["counters"] == vars(run.counters)


@pytest.mark.parametrize("role", ["learner", "replay"])
@pytest.mark.parametrize("goes_back", [True, False])
def test_role_that_dies_takes_no_checkpoint_of_another_run(tmp_path, role, goes_back):
    _interrupted(tmp_path, 4_000)
    store = Store(str(tmp_path))
    *_, older, _ = store.numbers()
    start = store.verify(older) if goes_back else None  # else it has nothing to resume from
    backend = FakeBackend()
    backend.at(5.0, lambda: backend.kill(role))
    run = make_run(backend, start=start, saving=_saving(tmp_path, seconds=1_000.0))
    run.supervisor.run()
    first, second = (handle.object.restored for handle in backend.started if handle.role == role)
    assert first == second
    assert run.learner.restored == ([older] if goes_back else [])
    indexes = [record.arguments[0]["inserted"] for record in backend.calls_of("replay", "set_index")]
    assert set(indexes) == ({start.document["replay"][0]["index"]["inserted"]} if goes_back else set())


def test_actors_of_a_run_that_goes_on_play_other_episodes_than_before(tmp_path):
    before = _interrupted(tmp_path)
    run = make_run(actors=3, start=newest_start(tmp_path))
    run.supervisor.run()
    cuts = run.backend.calls_of("actor", "flush")
    assert [record.handle.index for record in cuts] == [0, 1, 2]
    assert {record.arguments for record in cuts} == {(before.counters.learner_steps,)}
    assert all(record.at == 0.0 for record in cuts)


# Several at once.


def _kill_all(backend):
    for role, index in [("learner", 0), ("replay", 0), ("evaluator", 0), ("actor", 0), ("actor", 1)]:
        backend.kill(role, index)


def _watch(run):
    """Counts what the journal takes in: rollouts, and updates of the learner."""
    counts = {"rollouts": 0, "updates": 0}
    add_rollout, add_learn = run.metrics.add_rollout, run.metrics.add_learn

    def rollout(report, inserted):
        counts["rollouts"] += 1
        add_rollout(report, inserted)

    def learn(report, *rest):
        counts["updates"] += report.updates
        add_learn(report, *rest)

    run.metrics.add_rollout, run.metrics.add_learn = rollout, learn
    return counts


def _assert_everything_is_accounted_for(run, counts):
    counters = run.counters
    assert counters.env_steps == 5_000 == counters.inserted + counters.lost_transitions
    assert counters.inserted == run.replay.inserted
    assert counters.learner_steps == run.learner.steps == counts["updates"] - counters.lost_learner_steps
    assert len(run.backend.calls_of("actor", "rollout")) == counts["rollouts"] + counters.lost_rollouts


@pytest.mark.parametrize("seconds", [None, 2.0])
@pytest.mark.parametrize("at", [0.5, 2.0, 3.05, 10.0])
def test_everything_may_die_at_once_at_any_time(tmp_path, at, seconds):
    backend = FakeBackend(seconds={"get_rows": 0.05})
    backend.at(at, lambda: _kill_all(backend))
    run = make_run(backend, eval_period=40, saving=_saving(tmp_path, seconds) if seconds else None)
    counts = _watch(run)
    assert run.supervisor.run() == "max_env_steps"
    assert [starts(backend, role) for role in ("learner", "replay")] == [[0, 1]] * 2
    _assert_everything_is_accounted_for(run, counts)


@pytest.mark.parametrize("seconds", [None, 2.0])
@pytest.mark.parametrize("seed", range(6))
def test_everything_is_accounted_for_under_a_storm_of_deaths(tmp_path, seed, seconds):
    generator = random.Random(seed)
    backend = FakeBackend(seconds={"insert": 0.05, "sample": 0.05, "get_rows": 0.1})
    saving = _saving(tmp_path, seconds) if seconds else None
    run = make_run(backend, sampler="prioritized", eval_period=40, max_failures=30, saving=saving)
    counts = _watch(run)
    for _ in range(8):
        role = generator.choice([("learner", 0), ("replay", 0), ("evaluator", 0), ("actor", 1)])
        backend.at(generator.uniform(0.0, 20.0), lambda role=role: backend.kill(*role))
    assert run.supervisor.run() == "max_env_steps"
    assert len(backend.ended) >= 3
    _assert_everything_is_accounted_for(run, counts)
    if seconds:
        run.finish()
        again = make_run(max_env_steps=1, start=newest_start(tmp_path))
        again.supervisor.run()
        assert again.replay.rows == run.replay.rows
        assert again.learner.steps == run.learner.steps


@pytest.mark.parametrize("seconds", [None, 8.0])
def test_metrics_stay_sane_when_learner_and_replay_die(tmp_path, seconds):
    backend = FakeBackend(seconds={"rollout": 0.7})  # the actors never wait
    backend.at(12.1, lambda: backend.kill("replay"))
    backend.at(20.1, lambda: backend.kill("learner"))
    run = make_run(backend, saving=_saving(tmp_path, seconds) if seconds else None)
    run.supervisor.run()
    for line in run.console.lines:
        assert line["learner_steps_per_second"] >= 0.0
        assert (line["weights_age_steps"] or 0.0) >= 0.0
        assert (line["samples_per_insert"] or 0.0) <= 4.0


@pytest.mark.parametrize("is_last", [True, False])
def test_run_that_goes_on_has_lost_an_episode_in_each_environment_that_was_acted_in(tmp_path, is_last):
    backend = FakeBackend()
    backend.slots = 5  # learner, replay, evaluator and two actors; a third one finds no room
    options = {"actors": 3, "min_actors": 1, "max_seconds": 30.0, "max_env_steps": 10**6}
    run = make_run(backend, **options, saving=_saving(tmp_path, seconds=1_000.0 if is_last else 5.0))
    run.supervisor.run()
    if is_last:
        run.finish()
    again = make_run(start=newest_start(tmp_path))
    assert again.counters.episodes_lost == 2 * 16
