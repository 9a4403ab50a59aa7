"""Messages between processes that get lost or are late, by Ray's own means of doing that to them."""

import json

import numpy as np
import pytest
from faults.clusters import Nodes

from distdqn.checkpoints.reshard import RestorePlan
from distdqn.checkpoints.store import Store

pytestmark = pytest.mark.slow

# Of a hundred messages, on the way there and on the way back.
_LOST = {
    "CoreWorkerService.grpc_client.PushTask": {
        "num_failures": -1,
        "req_failure_prob": 1,
        "resp_failure_prob": 1,
    }
}
_LATE = "CoreWorkerService.grpc_server.PushTask=0:20000"  # each, by so many microseconds


@pytest.fixture
def nodes():
    nodes = Nodes(cpus=4, testing_rpc_failure=json.dumps(_LOST), testing_asio_delay_us=_LATE)
    yield nodes
    nodes.close()


def _rows(run):
    """All rows of replay in the newest checkpoint, as bytes."""
    store = Store(str(run.run_dir / "checkpoints"))
    ref, _ = store.newest_whole()
    names = ("observation", "action", "reward", "next_observation")
    rows = []
    for method, state in RestorePlan(ref, shards=1).calls(0):
        if method == "set_rows":
            columns = [np.asarray(state["columns"][name]) for name in names]
            rows += [b"".join(column[i].tobytes() for column in columns) for i in range(len(columns[0]))]
    return rows


def test_fault_8_lost_and_late_messages_are_made_up_for_and_nothing_is_stored_twice(
    start_light_run, nodes, record_property
):
    options = (
        "--address",
        nodes.address,
        "--actors",
        2,
        "--max-env-steps",
        12_000,
        "--target-return",
        "none",
    )
    run = start_light_run(*options, "--checkpoint-seconds", 2, "--max-failures", 20, LIGHT_CPUS="0.5")

    assert run.wait(120) == 0, run.output()
    summary, rows = run.read("summary.json"), _rows(run)
    restarts = [summary[f"{role}_restarts"] for role in ("actor", "learner", "replay")]
    for name in ("lost_rollouts", "lost_transitions", "lost_learner_steps"):
        record_property(name, summary[name])
    assert sum(restarts) > 0  # messages did get lost
    assert summary["env_steps"] == 12_000
    assert len(rows) > 1000
    assert len(set(rows)) == len(rows)
