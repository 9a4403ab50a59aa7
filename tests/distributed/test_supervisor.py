"""The supervisor with a fake fleet: who may go on, and which weights go out."""

from collections import Counter

import pytest
from distributed.fakes import HANG, FakeActor, FakeBackend, FakeLearner, make_run

_LOOK = 0.2  # the supervisor looks at signals and deadlines this often


# The beginning.


def test_learner_is_started_before_all_others():
    run = make_run(actors=3)
    roles = [handle.role for handle in run.backend.started]
    assert roles[0] == "learner"
    assert Counter(roles) == {"learner": 1, "replay": 1, "actor": 3, "evaluator": 1}


def test_actors_act_while_the_learner_stillstarts():
    run = make_run(FakeBackend(seconds={"compile": 20.0}))
    run.supervisor.run()
    assert 1.0 <= run.backend.calls_of("actor", "rollout")[0].at <= 1.0 + _LOOK  # once they are up
    assert sum(r.at < 20.0 for r in run.backend.calls_of("replay", "insert")) > 2


def test_actor_that_is_never_up_holds_back_nothing_of_the_budget():
    backend = FakeBackend(
        faults=lambda handle, method, _n: HANG if method == "identify" and handle.index == 1 else None
    )
    run = make_run(backend, actors=3, start_timeout_seconds=10_000.0)
    run.supervisor.run()
    assert run.counters.env_steps == 5_000
    assert {record.handle.index for record in backend.calls_of("actor", "rollout")} == {0, 2}


def test_notice_of_the_compiler_is_passed_on_to_the_user():
    run = make_run(FakeBackend(make_role={"learner": lambda: FakeLearner(notice="no XLA here")}))
    run.supervisor.run()
    assert run.console.notes == ["no XLA here"]


# Who may go on.


@pytest.mark.parametrize(("rollout", "learn"), [(0.01, 1.0), (1.0, 0.01), (0.1, 0.1)])
def test_never_more_than_two_calls_count_to_a_role(rollout, learn):
    run = make_run(FakeBackend(seconds={"rollout": rollout, "learn": learn}), actors=3)
    run.supervisor.run()
    for role, method in (("actor", "rollout"), ("learner", "learn")):
        assert max(record.in_flight for record in run.backend.calls_of(role, method)) == 2
    assert all(record.in_flight == 1 for record in run.backend.calls_of("evaluator", "evaluate"))


def test_every_actor_gets_a_rollout_before_any_gets_a_second():
    run = make_run(FakeBackend(), actors=4)
    run.supervisor.run()
    first = [record.handle.index for record in run.backend.calls_of("actor", "rollout")[:4]]
    assert first == [0, 1, 2, 3]


@pytest.mark.parametrize("learn", [0.02, 0.1, 0.5])
def test_rollouts_are_shared_out_evenly_whichever_side_waits(learn):
    run = make_run(FakeBackend(seconds={"learn": learn}), actors=4, max_env_steps=20_000)
    run.supervisor.run()
    shares = Counter(record.handle.index for record in run.backend.calls_of("actor", "rollout"))
    assert all(shares[index] >= 0.15 * sum(shares.values()) for index in range(4))  # 0.25 if quite even


def test_death_of_an_actor_is_noticed_while_the_learner_is_the_slower_side():
    backend = FakeBackend(seconds={"learn": 0.5})
    backend.at(50.0, lambda: backend.kill("actor", 1))
    run = make_run(backend, actors=4, max_env_steps=20_000)
    run.supervisor.run()
    assert run.counters.actor_restarts == 1


@pytest.mark.parametrize("shortfall", [0, 7])
@pytest.mark.parametrize("max_env_steps", [5_000, 5_001, 5_049, 30])
@pytest.mark.parametrize("actors", [1, 3])
def test_env_step_budget_is_met_exactly(actors, max_env_steps, shortfall):
    backend = FakeBackend(make_role={"actor": lambda: FakeActor(shortfall)})
    run = make_run(backend, actors=actors, max_env_steps=max_env_steps)
    assert run.supervisor.run() == "max_env_steps"
    assert run.counters.env_steps == max_env_steps
    assert run.replay.inserted == max_env_steps
    assert all(1 <= record.arguments[0].limit <= 50 for record in backend.calls_of("actor", "rollout"))


def test_rollout_orders_tell_the_env_steps_accepted_so_far():
    run = make_run(actors=3)
    accepted = [(0.0, 0)]
    take = run.metrics.add_rollout

    def note(report, inserted):
        take(report, inserted)
        accepted.append((run.backend.now, accepted[-1][1] + report.env_steps))

    run.metrics.add_rollout = note
    run.supervisor.run()
    for record in run.backend.calls_of("actor", "rollout"):
        assert record.arguments[0].env_steps == max(steps for at, steps in accepted if at <= record.at)
    assert accepted[-1][1] == 5_000


@pytest.mark.parametrize("actors", [1, 8])
@pytest.mark.parametrize(("rollout", "learn"), [(0.001, 1.0), (10.0, 0.001), (0.1, 0.05)])
def test_samples_per_insert_holds_within_its_tolerance_throughout(actors, rollout, learn):
    backend = FakeBackend(seconds={"rollout": rollout, "learn": learn})
    run = make_run(backend, actors=actors, max_env_steps=40_000)
    run.supervisor.run()
    # From where a tenth of the goal exceeds the slack of 4 * actors * 50 + 2 * 100 samples.
    begin = 100 + (actors * 4 * 50 + 2 * 100) / (0.1 * 4)
    ratios = [
        (line["samples_per_insert"], line["replay_size"] - 100)
        for line in run.console.lines
        if line["replay_size"] > begin
    ]
    assert len(ratios) > 20
    # RateLimiter looks before a rollout of 50 starts, so the backlog may be that much larger.
    assert all(4.0 * (1 - 0.1) * (1 - 50 / paced) <= ratio <= 4.0 for ratio, paced in ratios)


def test_all_samples_that_inserts_pay_for_are_drawn_in_the_end():
    run = make_run(max_env_steps=5_000)
    run.supervisor.run()
    # 4 * (5000 - 100) samples are due, 4 * 25 in each call: all 196 calls.
    assert run.counters.sampled == 4 * 4900
    assert run.counters.learner_steps == 4 * 196


def test_no_actor_is_called_while_the_actors_wait():
    backend = FakeBackend(seconds={"learn": 1000.0, "rollout": 0.01})
    run = make_run(backend, max_seconds=500.0, start_timeout_seconds=10_000.0)
    assert run.supervisor.run() == "max_seconds"
    times = [record.at for record in backend.calls_of("actor")]
    # Slack 4 * 2 * 50 + 2 * 100 = 600 samples: 150 transitions above the 100 of `min_replay_size`.
    assert 100 + 150 <= run.replay.inserted <= 100 + 150 + 2 * 50
    assert max(times) < 10.0
    assert backend.waits <= 500 / _LOOK + 100  # it does not spin either
    waits = [(line["actors_wait_fraction"], line["learner_wait_fraction"]) for line in run.console.lines]
    assert all(actors > 0.99 and learner == 0.0 for actors, learner in waits[10:])


def test_no_call_is_made_to_learner_or_replay_while_the_learner_waits():
    backend = FakeBackend(
        seconds={"rollout": lambda handle: 0.01 if handle.calls_of["rollout"] < 9 else 1000.0}
    )
    run = make_run(backend, actors=1, max_seconds=500.0, env_timeout_seconds=10_000.0)
    run.supervisor.run()
    # 8 rollouts of 50 are in, which pay for 4 * (400 - 100) / 100 = 12 calls.
    assert len(backend.calls_of("learner", "learn")) == len(backend.calls_of("replay", "sample")) == 12
    assert max(record.at for record in backend.calls_of("learner") + backend.calls_of("replay")) < 10.0
    assert backend.waits <= 500 / _LOOK + 100
    assert all(line["learner_wait_fraction"] > 0.99 for line in run.console.lines[10:])


@pytest.mark.parametrize("min_replay_size", [1, 100, 1234])
def test_nothing_is_sampled_before_min_size_is_in(min_replay_size):
    run = make_run(
        FakeBackend(seconds={"compile": 0.0, "rollout": 1.0}), min_replay_size=min_replay_size, actors=1
    )
    run.supervisor.run()
    first = run.backend.calls_of("replay", "sample")[0]
    # 25 more transitions pay for the first 100 samples; rollouts bring 50 at a time.
    assert min_replay_size + 25 <= first.inserted < min_replay_size + 25 + 50


def test_nothing_is_sampled_before_the_learner_has_compiled():
    run = make_run(FakeBackend(seconds={"start": 1.0, "publish": 0.5, "compile": 30.0}))
    run.supervisor.run()
    first = run.backend.calls_of("replay", "sample")[0]
    assert 1.0 + 0.5 + 30.0 <= first.at <= 1.0 + 0.5 + 30.0 + _LOOK
    assert min(record.at for record in run.backend.calls_of("learner", "learn")) == first.at


# Priorities.


def test_priorities_of_every_learner_call_go_back_to_replay_in_order():
    run = make_run(sampler="prioritized")
    run.supervisor.run()

    steps = [int(update.removeprefix("priorities ")) for update in run.replay.updates]
    assert steps == list(range(4, 4 * len(steps) + 1, 4))  # 4 updates a call
    assert 0 <= run.counters.learner_steps - steps[-1] <= 8  # those under way at the end


def test_uniform_replay_is_sent_no_priorities():
    run = make_run()
    run.supervisor.run()

    assert run.replay.updates == []


def test_run_ends_with_its_budget_of_episodes():
    run = make_run(max_episodes=30)

    assert run.supervisor.run() == "max_episodes"
    assert 30 <= run.counters.episodes < 40  # rollouts under way may bring some more


def test_learning_rate_follows_its_schedule_in_env_steps():
    run = make_run(
        learning_rate_schedule="linear",
        learning_rate=0.5,
        learning_rate_end=0.1,
        learning_rate_decay_steps=2_000,
    )
    run.supervisor.run()

    rates = run.learner.learning_rates
    assert 0.4 < rates[0] < 0.5  # `min_replay_size` steps were in
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0.1
    assert run.console.lines[-1]["learning_rate"] == 0.1


def test_importance_sampling_exponent_follows_its_schedule_in_env_steps():
    run = make_run(
        sampler="prioritized",
        importance_sampling_exponent_start=0.4,
        importance_sampling_exponent_end=1.0,
        importance_anneal_steps=2_000,
    )
    run.supervisor.run()

    exponents = run.replay.exponents
    assert 0.4 < exponents[0] < 0.5  # `min_replay_size` steps were in
    assert exponents == sorted(exponents)
    assert exponents[-1] == 1.0


# Weights.


@pytest.mark.parametrize(("rollout", "learn"), [(0.05, 0.2), (0.3, 0.02)])
def test_actor_is_sent_the_newest_weights_and_each_version_once(rollout, learn):
    backend = FakeBackend(seconds={"rollout": rollout, "learn": learn, "publish": 0.5})
    run = make_run(backend, actors=3)
    published = []  # (when its call is over, version)
    take = run.metrics.add_published
    run.metrics.add_published = lambda version: (published.append((backend.now, version)), take(version))
    run.supervisor.run()
    last = {}
    for record in backend.calls_of("actor", "rollout"):
        newest = max((version for at, version in published if at <= record.at), default=None)
        sent = record.arguments[1].weights_version if len(record.arguments) > 1 else None
        assert sent == (newest if newest != last.get(record.handle) else None)
        last[record.handle] = newest
    # 784 learner steps, a version every 8 of them and one before them all.
    assert [version for _, version in published] == [(0, n) for n in range(1, 784 // 8 + 2)]


def test_weights_are_published_every_period_of_learner_steps():
    run = make_run(weights_update_period=12)
    run.supervisor.run()
    publishes = [record.arguments[1] for record in run.backend.calls_of("learner", "learn")]
    assert publishes == [n % 3 == 0 for n in range(1, 197)]  # 4 updates a call


def test_replaced_actor_is_sent_weights_though_no_newer_ones_came():
    backend = FakeBackend(seconds={"learn": 0.5})
    backend.at(20.0, lambda: backend.kill("actor", 0))
    run = make_run(backend, weights_update_period=10**6)
    run.supervisor.run()
    first = next(r for r in backend.calls_of("actor", "rollout") if r.handle.restarts == 1)
    assert first.arguments[1].weights_version == (0, 1)
