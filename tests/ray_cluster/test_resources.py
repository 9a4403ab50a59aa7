"""On which node each role runs: the options that Ray gets, and their effect on a cluster of four nodes."""

import pytest
from ray_cluster.clusters import HeldCluster

from distdqn.cluster.connection import Cluster
from distdqn.config.config import Config
from distdqn.errors import ClusterError

_ACTORS = 4

# Starts every role of a run, with a class that tells where it is, on the cluster that is joined.
_ROLES = """
import os, sys
from pathlib import Path
from distdqn.config.config import Config
from distdqn.cluster.resources import Placement
from distdqn.cluster.ray_backend import RayBackend

def make():
    class Role:
        def where(self):
            import os, ray
            about = ray.get_runtime_context()
            names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
            return {
                "node": about.get_node_id(),
                "gpus": about.get_accelerator_ids()["GPU"],
                "environment": {name: os.environ.get(name) for name in names},
            }
    return Role

role = make()
options = Config(learner_gpus=0.5, learner_resources="fast=1", actor_resources="simulator=1")
folder = Path(os.environ["RAY_TMPDIR"]) / "a-run"
backend = RayBackend(cluster, folder, lambda *_: (role, ()), options)
roles = [("learner", 0), ("replay", 0), ("evaluator", 0), *(("actor", index) for index in range(ACTORS))]
handles = {f"{name}-{index}": backend.start(name, index, 0)[0] for name, index in roles}
refs = {name: backend.call(handle, "where")[0] for name, handle in handles.items()}
told["roles"] = {name: backend.get(ref, 60.0) for name, ref in refs.items()}
import ray
told["missing"] = {name: backend._placement.missing(name, 0) for name in ("learner", "replay", "actor")}
told["too much"] = Placement(cluster, Config(learner_gpus=1.0)).missing("learner", 0)
told["nodes"] = {node["NodeID"]: node["Resources"] for node in ray.nodes()}
backend.close()
"""


@pytest.fixture
def place():
    """Makes the placement of a private Ray."""
    from distdqn.cluster.resources import Placement

    cluster = Cluster("here", is_private=True, cpus_per_role=0.0)
    return lambda **options: Placement(cluster, Config(**options))


def test_roles_of_a_private_ray_request_no_resources(place):
    placement, nothing = place(), {"num_cpus": 0.0, "num_gpus": 0.0, "resources": {}}
    assert [placement.ray_options(role, 0) for role in ("learner", "replay", "actor")] == 3 * [nothing]


def test_custom_resources_are_requested_for_the_learner_or_for_actors_and_the_evaluator(place):
    placement = place(learner_resources="fast=1", actor_resources="simulator=0.5")
    asked = {role: placement.ray_options(role, 0)["resources"] for role in ("learner", "replay", "actor")}
    assert asked == {"learner": {"fast": 1.0}, "replay": {}, "actor": {"simulator": 0.5}}
    assert placement.ray_options("evaluator", 0)["resources"] == {"simulator": 0.5}


def test_actors_see_no_gpu_beside_a_learner_that_has_one_also_in_a_private_ray(place):
    options = place(learner_gpus=1.0).ray_options("actor", 0)
    assert options["num_gpus"] == 0.0
    assert options["runtime_env"]["env_vars"]["CUDA_VISIBLE_DEVICES"] == ""


def test_request_for_nodes_raises_a_cluster_error_when_the_head_does_not_answer(place, monkeypatch):
    from ray.exceptions import RpcError

    from distdqn.cluster import resources

    def fail(**_named):
        raise RpcError("no head")

    monkeypatch.setattr(resources, "is_autoscaler_v2", fail)
    with pytest.raises(ClusterError, match="cannot be asked for nodes: no head"):
        place().request_nodes(["actor"])


# On a real cluster: slow.


@pytest.fixture(scope="module")
def placed():
    """Where each role of a run was placed, and what the nodes have."""
    nodes = [
        {"num_cpus": 2},
        {"num_cpus": 4, "num_gpus": 1, "resources": {"fast": 1}},
        {"num_cpus": 4, "resources": {"simulator": 3}},
        {"num_cpus": 4, "resources": {"simulator": 3}},
    ]
    cluster = HeldCluster(*nodes, OMP_NUM_THREADS="3", MKL_NUM_THREADS="3")
    try:
        told = cluster.join(cluster.address, _ACTORS + 3, _ROLES.replace("ACTORS", str(_ACTORS)))
    finally:
        cluster.close()
    assert "roles" in told, told
    return told


def _resources(placed, role):
    return placed["nodes"][placed["roles"][role]["node"]]


@pytest.mark.slow
def test_learner_runs_where_the_gpu_and_its_resources_are_and_sees_that_gpu(placed):
    assert (_resources(placed, "learner-0")["GPU"], _resources(placed, "learner-0")["fast"]) == (1.0, 1.0)
    assert placed["roles"]["learner-0"]["gpus"] == ["0"]
    assert placed["roles"]["learner-0"]["environment"]["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.slow
def test_replay_runs_beside_the_learner(placed):
    assert placed["roles"]["replay-0"]["node"] == placed["roles"]["learner-0"]["node"]


@pytest.mark.slow
def test_actors_run_where_their_resources_are_and_on_every_such_node(placed):
    actors = [name for name in placed["roles"] if name.startswith("actor")]
    assert len(actors) == _ACTORS
    assert all("simulator" in _resources(placed, name) for name in [*actors, "evaluator-0"])
    assert len({placed["roles"][name]["node"] for name in actors}) == 2


@pytest.mark.slow
def test_only_the_learner_sees_a_gpu_and_every_role_has_one_thread(placed):
    for name, role in placed["roles"].items():
        if name != "learner-0":
            assert role["environment"]["CUDA_VISIBLE_DEVICES"] == "", name
        assert role["environment"]["OMP_NUM_THREADS"] == role["environment"]["MKL_NUM_THREADS"] == "1"


@pytest.mark.slow
def test_missing_resources_of_a_role_are_named_and_none_for_a_role_that_is_up(placed):
    assert placed["missing"] == {"learner": None, "replay": None, "actor": None}
    assert placed["too much"].startswith("needs 1 CPU, 1 GPU on one node; of 4 nodes, none has more than ")
    assert placed["too much"].endswith(" CPU, 0.5 GPU free")


def test_two_requests_fit_on_one_node_or_on_two_but_not_twice_into_the_same_resources():
    from distdqn.cluster.resources import _fit

    learner, replay = {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}
    assert _fit([{"CPU": 2.0, "GPU": 1.0}], [learner, replay])
    assert _fit([{"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}], [learner, replay])
    assert _fit([{"CPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}], [learner, replay])
    assert not _fit([{"CPU": 1.0, "GPU": 1.0}, {"CPU": 0.5}], [learner, replay])


@pytest.mark.slow
def test_run_learns_beside_a_gpu_and_ends_with_exit_3_where_it_asks_for_more_than_there_are(start_run):
    cluster = HeldCluster({"num_cpus": 4}, {"num_cpus": 2, "num_gpus": 1})
    options = ("--address", cluster.address, "--actors", 1, "--envs-per-actor", 4)
    paths = {"PYTHONPATH": cluster.environment["PYTHONPATH"]}
    missing = ("--learner-gpus", 1, "--learner-resources", "fast=1")
    try:
        run = start_run(*options, "--learner-gpus", 1, "--max-env-steps", 3000, **paths)
        more = start_run(*options, *missing, "--start-timeout-seconds", 5, **paths)
        assert more.wait() == 3, more.output()
        assert run.wait() in (0, 8), run.output()
    finally:
        cluster.close()
    assert "1 GPU, 1 fast on one node" in more.output().splitlines()[-1]
    assert "TensorFlow finds no GPU for the learner" in run.output()
    assert run.read("summary.json")["learner_steps"] > 0
