"""A short chaos run: roles killed one after another, by benchmarks/chaos.py."""

import json
import time

import pytest
from chaos import Chaos, Kill, Run, kill_roles, mistakes_of, report_of

SECONDS, EVERY, SEED = 25.0, 1.5, 3


def test_kill_looks_for_another_process_in_the_place_of_the_dead_one():
    kill = Kill(seconds=3.0, role="learner", pid=7, restarts=1, kept=640)
    status = {
        "counters": {"learner_restarts": 1, "learner_steps": 700},
        "roles": [{"role": "learner", "pid": 7}],
    }

    kill.update(status, 3.5)
    assert (kill.restored, kill.back_seconds) == (None, None)
    status["counters"] = {"learner_restarts": 2, "learner_steps": 600}
    status["roles"][0]["pid"] = None
    kill.update(status, 4.0)
    assert (kill.restored, kill.lost_beyond) == (600, 40)
    status["roles"][0]["pid"] = 8
    kill.update(status, 4.5)
    assert kill.back_seconds is None  # it learns nothing yet
    status["counters"]["learner_steps"] = 664
    kill.update(status, 5.0)
    assert kill.back_seconds == 2.0


def test_victims_of_a_seed_are_drawn_from_a_deck_of_roles():
    roles = ["learner", "replay", "evaluator", "actor-0", "actor-1"]
    status = {"roles": [{"role": role, "pid": pid} for pid, role in enumerate(roles, 1)]}
    drawn = []
    for chaos in (Chaos(1.0, 5), Chaos(1.0, 5)):
        victims = [chaos.victim(10.0 * turn, status)[0].partition("-")[0] for turn in range(20)]
        drawn.append(victims)

    assert drawn[0] == drawn[1]
    assert [drawn[0].count(kind) for kind in ("actor", "replay", "evaluator", "learner")] == [10, 4, 4, 2]


def test_role_that_is_not_back_is_not_killed_again_before_it_is():
    chaos = Chaos(1.0, 5)
    chaos.kills = [Kill(0.0, "learner", 1, 0)]
    status = {"roles": [{"role": "learner", "pid": 1}]}

    assert chaos.victim(10.0, status) is None
    chaos.kills[0].back_seconds = 2.0
    while chaos.victim(10.0, status) is None:
        chaos._deck.clear()


@pytest.fixture(scope="module")
def chaos_run(tmp_path_factory):
    """The report of a short chaos run, and its lines of metrics."""
    run, chaos = Run(tmp_path_factory.mktemp("chaos") / "run", actors=2, seed=SEED), Chaos(EVERY, SEED)
    try:
        while not run.status()["counters"]["learner_steps"]:
            time.sleep(0.2)
        kill_roles(run, chaos, SECONDS)
    finally:
        exit_code, left = run.end()
    lines = (run.run_dir / "metrics.jsonl").read_text().splitlines()
    return report_of(run, chaos, exit_code, left), [json.loads(line) for line in lines]


@pytest.fixture
def check_role(chaos_run, record_property):
    """Checks that a role came back from each death, and notes what was lost."""

    def check(kind, lost):
        role = chaos_run[0]["roles"][kind]
        record_property("injected", role["injected"])
        record_property(lost, chaos_run[0]["lost"][lost])
        assert role["injected"] > 0
        assert role["recovered"] == role["injected"]
        assert mistakes_of(chaos_run[0]) == []

    return check


@pytest.mark.slow
def test_fault_1_actors_come_back_from_every_death_of_a_chaos_run(check_role):
    check_role("actor", "lost_rollouts")


@pytest.mark.slow
def test_fault_3_replay_comes_back_from_every_death_of_a_chaos_run(check_role, chaos_run):
    check_role("replay", "lost_transitions")
    ratios = [line["samples_per_insert"] for line in chaos_run[1]]
    assert max(ratio for ratio in ratios if ratio is not None) <= 128.0  # no burst


@pytest.mark.slow
def test_fault_4_learner_comes_back_from_every_death_of_a_chaos_run(check_role, chaos_run):
    check_role("learner", "lost_learner_steps")
    assert chaos_run[1][-1]["learner_steps"] > 0
