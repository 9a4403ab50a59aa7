"""A run whose replay is spread over several shards, on a fleet without processes."""

import itertools

import numpy as np
import pytest
from distributed.fake_backend import FakeBackend
from distributed.fake_roles import FakeReplay
from distributed.fakes import make_checkpoints, make_run, newest_start, starts
from toy_replay_state import make_replay, make_vectors

from distdqn.checkpoints.store import Store


def _shards(backend, count=2):
    return [backend.newest("replay", index).object for index in range(count)]


def _saving(folder, seconds=4.6):
    return {"checkpoints": make_checkpoints(folder), "seconds": seconds}


def _saved(folder):
    """Transitions in each shard of the newest checkpoint."""
    document = Store(str(folder)).newest_whole()[0].document
    return [shard["index"]["inserted"] for shard in document["replay"]]


def test_actors_take_shards_in_turns():
    run = make_run(actors=5, replay_shards=2, max_env_steps=3_000)
    assert run.supervisor.run() == "max_env_steps"
    first, second = _shards(run.backend)
    assert first.inserted + second.inserted == run.counters.inserted == 3_000
    assert first.inserted == pytest.approx(3 / 2 * second.inserted, rel=0.1)  # actors 0, 2, 4 and 1, 3
    assert run.metrics.replay_size == 3_000


def test_no_shard_goes_without_when_a_lost_node_takes_all_actors_of_one():
    backend = FakeBackend()
    backend.slots = 4 + 4  # learner, two shards and evaluator, and the actors
    held = []

    def lose_a_node():
        backend.slots -= 2
        backend.kill("actor", 1)
        backend.kill("actor", 3)

    backend.at(20.0, lose_a_node)
    backend.at(60.0, lambda: held.extend(shard.inserted for shard in _shards(backend)))
    options = {"min_actors": 2, "max_env_steps": 10**6, "max_seconds": 90.0}
    run = make_run(backend, actors="auto", initial_actors=4, replay_shards=2, **options)
    run.supervisor.run()
    assert [actor.index for actor in run.supervisor.team.actors] == [0, 2]
    first, second = (shard.inserted - before for shard, before in zip(_shards(backend), held, strict=True))
    assert first == pytest.approx(second, rel=0.1)
    assert first > 1_000


def test_learner_draws_from_shards_in_proportion_to_their_size():
    run = make_run(actors=3, replay_shards=2, max_env_steps=20_000, batch_size=100)
    run.supervisor.run()
    first, second = _shards(run.backend)
    assert first.sampled + second.sampled == run.counters.sampled == 4 * (20_000 - 100)
    assert first.sampled == pytest.approx(2 * second.sampled, rel=0.03)


def test_every_shard_gets_the_priorities_of_its_own_draws():
    run = make_run(replay_shards=2, sampler="prioritized")
    run.supervisor.run()
    for shard in _shards(run.backend):
        assert {text.split(" for ")[1] for text in shard.updates} == {f"row of {shard.life}"}
        assert len(run.learner.learning_rates) - 1 <= len(shard.updates)  # the run ends before the last


def test_shard_that_is_empty_yet_is_not_asked_to_draw():
    backend = FakeBackend(seconds={"insert": lambda handle: 8.0 * handle.index})
    run = make_run(backend, replay_shards=2, max_seconds=20.0, max_env_steps=10**6)
    run.supervisor.run()
    draws = backend.calls_of("replay", "draw")
    assert min(record.at for record in draws if record.handle.index == 0) < 5.0
    assert min(record.at for record in draws if record.handle.index == 1) > 8.0
    assert run.counters.replay_restarts == 0


# One shard dies.


def test_dead_shard_without_a_checkpoint_loses_its_part_and_the_others_go_on():
    backend, at_death = FakeBackend(), []

    def kill():
        at_death.extend(shard.inserted for shard in _shards(backend))
        backend.kill("replay", 1)

    backend.at(10.25, kill)
    run = make_run(backend, replay_shards=2, max_env_steps=10_000)
    assert run.supervisor.run() == "max_env_steps"
    assert [starts(backend, "replay", index) for index in range(2)] == [[0], [0, 1]]
    assert starts(backend, "learner") == [0]
    (note,) = [text for text in run.console.notes if "is replaced" in text]
    assert note.startswith("replay-1 failed in `")
    assert abs(run.counters.lost_transitions - at_death[1]) <= 100  # what was inserted and not told
    assert run.counters.env_steps == 10_000
    first, second = _shards(backend)
    assert run.counters.inserted == first.inserted + second.inserted
    assert first.inserted > 4_000
    # The learner went on: the first shard was drawn from in every second meanwhile.
    draws = [r.at for r in backend.calls_of("replay", "draw") if r.handle.index == 0 and 9.0 < r.at < 14.0]
    assert max(later - earlier for earlier, later in itertools.pairwise(draws)) < 1.0


def test_dead_shard_comes_back_with_its_part_of_the_newest_checkpoint(tmp_path):
    backend, saved = FakeBackend(), []

    def kill():
        saved.extend(_saved(tmp_path))
        backend.kill("replay", 1)

    backend.at(12.0, kill)
    run = make_run(backend, replay_shards=2, saving=_saving(tmp_path), max_env_steps=10_000)
    rows = []
    backend.at(11.99, lambda: rows.extend(_shards(backend)[1].rows))
    assert run.supervisor.run() == "max_env_steps"
    first, second = _shards(backend)
    assert first.restored == []
    assert second.restored[-1] == "set_index"
    assert second.rows[: saved[1]] == rows[: saved[1]]
    assert 0 < run.counters.lost_transitions <= len(rows) - saved[1]
    assert run.counters.inserted == first.inserted + second.inserted


def test_no_burst_and_no_wait_follow_the_death_of_a_shard():
    backend = FakeBackend()
    backend.at(20.0, lambda: backend.kill("replay", 0))
    run = make_run(backend, replay_shards=2, max_seconds=60.0, max_env_steps=10**6)
    run.supervisor.run()
    calls = [record.at for record in backend.calls_of("learner", "learn_from_shards")]
    per_second = [sum(second <= at < second + 5 for at in calls) / 5 for second in range(5, 55, 5)]
    assert max(per_second) < 1.5 * per_second[0]
    assert min(per_second) > 0.5 * per_second[0]


def test_both_shards_may_die_one_after_the_other_and_at_once():
    backend = FakeBackend()
    backend.at(8.0, lambda: backend.kill("replay", 0))
    backend.at(14.0, lambda: backend.kill("replay", 1))
    for index in range(2):
        backend.at(20.0, lambda index=index: backend.kill("replay", index))
    run = make_run(backend, replay_shards=2, max_env_steps=10_000)
    assert run.supervisor.run() == "max_env_steps"
    assert [starts(backend, "replay", index) for index in range(2)] == [[0, 1, 2]] * 2
    assert starts(backend, "learner") == [0]
    assert run.counters.replay_restarts == 4
    assert run.counters.inserted == sum(shard.inserted for shard in _shards(backend))


def test_shard_that_fails_to_draw_is_blamed_and_not_the_learner():
    def faults(handle, method, n):
        return "Boom" if (handle.role, handle.index, method, n) == ("replay", 1, "draw", 4) else None

    run = make_run(FakeBackend(faults=faults), replay_shards=2)
    run.supervisor.run()
    assert starts(run.backend, "learner") == [0]
    assert starts(run.backend, "replay", 1)[:2] == [0, 1]
    assert starts(run.backend, "replay", 0) == [0]


def test_late_priorities_of_a_dead_shard_are_dropped():
    backend = FakeBackend(seconds={"learn_from_shards": 2.0})
    backend.at(12.0, lambda: backend.kill("replay", 1))
    run = make_run(backend, replay_shards=2, sampler="prioritized", max_env_steps=2_000)
    run.supervisor.run()
    dead, fresh = (h.object for h in backend.started if (h.role, h.index) == ("replay", 1))
    assert dead.life != fresh.life
    assert {text.split(" for ")[1] for text in fresh.updates} == {f"row of {fresh.life}"}


def test_run_ends_with_the_role_when_a_shard_keeps_failing():
    with pytest.raises(Exception, match=r"replay-1 \(restart 2\) failed 3 consecutive times"):
        make_run(
            FakeBackend(
                faults=lambda handle, method, _n: "Boom" if (handle.index, method) == (1, "insert") else None
            ),
            replay_shards=2,
        ).supervisor.run()


# Checkpointer.


def test_checkpoint_holds_every_shard_and_a_run_goes_on_from_it(tmp_path):
    run = make_run(replay_shards=2, saving=_saving(tmp_path), max_env_steps=3_000)
    run.supervisor.run()
    run.finish()
    assert _saved(tmp_path) == [shard.inserted for shard in _shards(run.backend)]
    again = make_run(start=newest_start(tmp_path), replay_shards=2, max_env_steps=5_000)
    assert again.supervisor.run() == "max_env_steps"
    for before, after in zip(_shards(run.backend), _shards(again.backend), strict=True):
        assert after.rows[: before.inserted] == before.rows
    assert again.counters.inserted == 5_000 == sum(shard.inserted for shard in _shards(again.backend))


def test_checkpoints_of_several_shards_are_made_while_the_run_goes_on(tmp_path):
    run = make_run(replay_shards=3, actors=3, saving=_saving(tmp_path), max_env_steps=10**6, max_seconds=60.0)
    run.supervisor.run()
    assert len(Store(str(tmp_path)).numbers()) == 3  # those that are kept
    gets = run.backend.calls_of("replay", "get_rows")
    assert {record.handle.index for record in gets} == {0, 1, 2}
    # A full segment is asked for once.
    full = [(r.handle.index, r.arguments) for r in gets if r.arguments[1] - r.arguments[0] == 100]
    assert len(full) == len(set(full))


def test_checkpoint_goes_on_after_a_shard_has_died_meanwhile(tmp_path):
    backend = FakeBackend(seconds={"get_rows": 0.5})
    backend.at(7.0, lambda: backend.kill("replay", 0))
    run = make_run(backend, replay_shards=2, saving=_saving(tmp_path), max_env_steps=10**6, max_seconds=60.0)
    run.supervisor.run()
    run.finish()
    assert _saved(tmp_path) == [shard.inserted for shard in _shards(backend)]
    again = make_run(start=newest_start(tmp_path), replay_shards=2, max_env_steps=10)
    again.supervisor.run()
    assert [shard.rows for shard in _shards(again.backend)] == [shard.rows for shard in _shards(backend)]


class _RealReplay(FakeReplay):
    """A real replay of 9,000 vectors, which gives the numbers of its chunks' rows away as chunks."""

    def __init__(self):
        super().__init__()
        self.real = make_replay(9_000)
        self.get_index, self.get_rows = self.real.get_index, self.real.get_rows
        self.set_rows, self.set_index = self.real.set_rows, self.real.set_index
        self.set_chunk = self.real.set_chunk

    def insert(self, chunk):
        count = int(chunk.removeprefix("chunk of "))
        numbers = list(itertools.islice(_numbers, count))
        return self.real.insert(make_vectors(numbers[0] if count else 0, count))

    def draw(self, count):
        self.inserted = self.real.inserted
        return super().draw(count)

    @property
    def numbers(self):
        size = self.real.size
        return self.real._rows(np.arange(self.real.inserted - size, self.real.inserted)).reward.tolist()


_numbers = itertools.count()


@pytest.mark.parametrize("after", [1, 3])
def test_run_goes_on_with_another_number_of_shards(tmp_path, after):
    run = make_run(FakeBackend(make_role={"replay": _RealReplay}), replay_shards=2, saving=_saving(tmp_path))
    run.supervisor.run()
    run.finish()
    held = sorted(itertools.chain(*(shard.numbers for shard in _shards(run.backend))))
    backend = FakeBackend(make_role={"replay": _RealReplay})
    start = newest_start(tmp_path)
    again = make_run(backend, actors=3, start=start, replay_shards=after, max_env_steps=5_300)
    assert again.supervisor.run() == "max_env_steps"
    shards = _shards(backend, after)
    assert again.counters.inserted == sum(shard.real.inserted for shard in shards) == len(held) + 300
    numbers = sorted(itertools.chain(*(shard.numbers for shard in shards)))
    assert numbers[: len(held)] == held


def test_shard_that_dies_after_that_gets_its_part_of_the_same_checkpoint(tmp_path):
    run = make_run(FakeBackend(make_role={"replay": _RealReplay}), saving=_saving(tmp_path))
    run.supervisor.run()
    run.finish()
    backend = FakeBackend(make_role={"replay": _RealReplay})
    backend.at(6.0, lambda: backend.kill("replay", 1))
    again = make_run(backend, start=newest_start(tmp_path), replay_shards=2, max_env_steps=7_000)
    again.supervisor.run()
    dead, fresh = (h.object for h in backend.started if (h.role, h.index) == ("replay", 1))
    assert starts(backend, "replay", 0) == [0]
    assert fresh.numbers[:100] == dead.numbers[:100]
    assert again.counters.inserted == sum(shard.real.inserted for shard in _shards(backend))


def test_shard_that_dies_while_its_part_is_dealt_out_is_counted_once(tmp_path):
    run = make_run(FakeBackend(make_role={"replay": _RealReplay}), saving=_saving(tmp_path))
    run.supervisor.run()
    run.finish()
    backend = FakeBackend(make_role={"replay": _RealReplay}, seconds={"set_chunk": 1.0})
    backend.at(5.0, lambda: backend.kill("replay", 1))
    again = make_run(backend, start=newest_start(tmp_path), replay_shards=2, max_env_steps=7_000)
    again.supervisor.run()
    dead = next(h.object for h in backend.started if (h.role, h.index) == ("replay", 1))
    assert 0 < dead.real.inserted < run.counters.inserted / 2
    assert starts(backend, "replay", 1) == [0, 1]
    assert again.counters.inserted == sum(shard.real.inserted for shard in _shards(backend))
    assert again.counters.lost_transitions == 0
