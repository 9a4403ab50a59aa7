"""Runs on a real Ray in which nothing goes on."""

import pytest


@pytest.mark.slow
def test_fault_11_run_whose_actors_find_no_place_says_so_saves_and_gives_up(start_light_run, ray_session):
    # Of the 2 CPUs, learner and replay take 0.9 each.
    address = ray_session.get_runtime_context().gcs_address
    options = ("--address", address, "--actors", 2, "--stall-timeout-seconds", 5)

    run = start_light_run(*options, LIGHT_CPUS="0.9")

    assert run.wait(60) == 3, run.output()
    error = run.output().strip().splitlines()[-1]
    assert error.startswith("distdqn: error: Nothing has gone on for 5 s: ")
    assert "actor-0 has no place in the cluster" in error
    assert "it needs 0.9 CPU on one node; of 1 nodes, none has more than 0.2 CPU free" in error
    assert "the learner waits for 1,000 transitions in replay, 0 are in" in error
    assert list((run.run_dir / "checkpoints").glob("checkpoint-*.json"))
