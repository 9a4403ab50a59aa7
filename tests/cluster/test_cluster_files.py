"""The files that describe clusters, checked without one: by Ray's own validation and KubeRay's fields."""

import copy
import json
import os
import re
import subprocess
import sys
import tomllib

import jsonschema
import pytest
import yaml
from cluster.cluster_file import ROOT, load_cluster_file, on_premises

from distdqn.config.command_line import parse_run

# Of AWS's package, the one call that the head makes: images in no order, by owner.
_BOTO3 = """
class client:
    def __init__(self, service, region):
        assert (service, region) == ("ec2", "us-west-2")

    def describe_images(self, Owners, Filters):
        assert [key["Name"] for key in Filters] == ["name"]
        image = f"ami-{Owners[0]}-"
        dates = {"old": "2026-01-31", "new": "2026-02-01", "older": "2025-12-31"}
        return {"Images": [{"ImageId": image + age, "CreationDate": dates[age]} for age in dates]}
"""

SCHEMA = yaml.safe_load((ROOT / "tests/cluster/rayjob_schema.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def config():
    return load_cluster_file()


@pytest.fixture(scope="module")
def prepared(config):
    """As `ray up` reads it: with Ray's defaults, and validated."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    ready = prepare_config(copy.deepcopy(config))
    validate_config(ready)
    return ready


@pytest.fixture(scope="module")
def in_docs():
    """The file for own hosts that docs/cluster.md shows."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    (block,) = (text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "type: local" in text)
    return yaml.safe_load(block)


@pytest.fixture(scope="module")
def claim_and_job():
    """The two objects of docs/rayjob.yaml."""
    return list(yaml.safe_load_all((ROOT / "docs" / "rayjob.yaml").read_text(encoding="utf-8")))


def commands(config):
    """Every command of a cluster file."""
    lists = [value for name, value in config.items() if name.endswith("commands")]
    lists += [kind.get("worker_setup_commands", []) for kind in config["available_node_types"].values()]
    return [command for listed in lists for command in listed]


def pinned_rays(text):
    return set(re.findall(r"ray\[default\]==([0-9.]+)|rayproject/ray:([0-9.]+)|rayVersion: ([0-9.]+)", text))


# cluster.yaml


def test_cluster_file_passes_rays_own_validation_and_keeps_its_commands(config, prepared):
    assert prepared["head_setup_commands"] == config["setup_commands"] + config["head_setup_commands"]
    assert prepared["worker_setup_commands"] == config["setup_commands"]
    for name in ("head_start_ray_commands", "worker_start_ray_commands", "initialization_commands"):
        assert prepared[name] == config[name]


def test_cluster_file_with_a_mistake_does_not_pass_validation(config):
    from ray.autoscaler._private.util import prepare_config, validate_config

    wrong = {**copy.deepcopy(config), "file_mount": {}}
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(wrong))


def test_cluster_has_cpu_workers_on_spot_and_at_most_one_gpu(config):
    types = config["available_node_types"]
    spot = {"MarketType": "spot"}

    assert types["cpu_worker"]["node_config"]["InstanceMarketOptions"] == spot
    assert types["cpu_worker"]["min_workers"] < types["cpu_worker"]["max_workers"]
    assert (types["gpu_learner"]["min_workers"], types["gpu_learner"]["max_workers"]) == (0, 1)
    assert types["gpu_learner"]["resources"]["GPU"] == 1
    assert config["max_workers"] == sum(kind["max_workers"] for kind in types.values())


def test_gpu_node_is_set_up_as_the_others_but_for_its_extra(config):
    own = config["available_node_types"]["gpu_learner"]["worker_setup_commands"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    assert [text.replace('"$HOME/distdqn[cuda]"', "~/distdqn") for text in own] == config["setup_commands"]
    assert own != config["setup_commands"]
    assert "cuda" in extras


def test_dashboard_of_the_cluster_listens_on_loopback_only(config):
    start = config["head_start_ray_commands"][-1]

    assert re.findall(r"--dashboard-host=(\S+)", start) == ["127.0.0.1"]


def test_every_node_gets_the_token_and_asks_for_it(config):
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 700 ~/.ray" in config["initialization_commands"]
    assert any("export RAY_AUTH_MODE=token" in text for text in config["initialization_commands"])


def test_checkout_that_travels_is_all_that_pip_needs_to_install_it(config):
    travels = {remote: local for remote, local in config["file_mounts"].items() if "distdqn" in remote}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    needed = {"pyproject.toml", "distdqn", project["readme"], *project["license-files"]}

    assert travels == {f"~/distdqn/{local}": local for local in needed}
    assert all((ROOT / local).exists() for local in needed)


def test_every_command_of_the_cluster_is_one_that_bash_can_read(config):
    for command in commands(config):
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_head_puts_ids_in_place_of_the_names_of_images(config, prepared, tmp_path):
    (command,) = (text for text in config["head_start_ray_commands"] if "boto3" in text)
    (tmp_path / "boto3.py").write_text(_BOTO3)
    file = tmp_path / "ray_bootstrap_config.yaml"
    file.write_text(json.dumps(prepared))  # as Ray hands it to the head
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)

    for _ in range(2):  # also when Ray is restarted
        subprocess.run(["bash", "-c", f"true && ({command})"], env=environment, check=True)

    found = json.loads(file.read_text())
    images = {name: kind["node_config"]["ImageId"] for name, kind in found["available_node_types"].items()}
    assert images == {
        "head": "ami-099720109477-new",
        "cpu_worker": "ami-099720109477-new",
        "gpu_learner": "ami-amazon-new",
    }
    for kind in found["available_node_types"].values():
        kind["node_config"].pop("ImageId")
    expected = copy.deepcopy(prepared)
    for kind in expected["available_node_types"].values():
        kind["node_config"].pop("ImageId")
    assert found == expected


def test_ray_and_python_are_pinned_the_same_everywhere(config):
    texts = [(ROOT / name).read_text() for name in ("cluster.yaml", "docs/cluster.md", "docs/rayjob.yaml")]
    pins = [{pin for found in pinned_rays(text) for pin in found if pin} for text in texts]
    allowed = re.search(r'"ray\[default\]>=(\d+)\.(\d+),<(\d+)"', (ROOT / "pyproject.toml").read_text())
    least = tuple(map(int, allowed.groups()[:2]))

    (pin,) = pins[0]
    assert pins == [{pin}] * 3
    assert least <= tuple(map(int, pin.split(".")))[:2] < (int(allowed.group(3)),)
    assert set(re.findall(r"python(3\.\d+)", " ".join(commands(config)))) == {"3.12"}


# On premises


def test_docs_show_the_cluster_file_as_it_is_made_for_own_hosts(config, in_docs):
    provider = in_docs["provider"]

    made = on_premises(config, provider["head_ip"], provider["worker_ips"], in_docs["auth"])

    assert in_docs == made


def test_file_for_own_hosts_passes_rays_own_validation(in_docs):
    from ray.autoscaler._private.util import prepare_config, validate_config

    ready = prepare_config(copy.deepcopy(in_docs))

    validate_config(ready)
    assert ready["available_node_types"]["local.cluster.node"]["min_workers"] == 2


# Kubernetes


def test_job_for_kubernetes_holds_nothing_but_fields_that_kuberay_knows(claim_and_job):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)

    jsonschema.validate(claim_and_job[1], SCHEMA, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "backofLimit"], 3),
        (["spec", "backoffLimit"], "3"),
        (["spec", "rayClusterSpec", "authOptions", "mode"], "tokens"),
        (["spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"], {"num-cpus": 0}),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplica"], 4),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers"], []),
        (["spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "volumes", 0, "claim"], {}),
    ],
    ids=["misspelt", "text", "no-such-mode", "number", "misspelt-below", "no-container", "no-such-volume"],
)
def test_job_for_kubernetes_with_a_mistake_does_not_pass(claim_and_job, path, value):
    job = place = copy.deepcopy(claim_and_job[1])
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_job_for_kubernetes_resumes_on_storage_that_every_pod_shares(claim_and_job):
    claim, job = claim_and_job
    command = job["spec"]["entrypoint"].split()
    config = parse_run(command[3:])[0]
    cluster = job["spec"]["rayClusterSpec"]

    assert command[:3] == ["python", "-m", "distdqn.run"]
    assert config.resume == "auto"
    assert job["spec"]["backoffLimit"] > 0
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (volume,) = pod["volumes"]
        (mount,) = pod["containers"][0]["volumeMounts"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert mount["name"] == volume["name"]
        assert config.run_dir.startswith(f"{mount['mountPath']}/")


def test_job_for_kubernetes_uses_a_token_and_one_gpu_at_most(claim_and_job):
    cluster = claim_and_job[1]["spec"]["rayClusterSpec"]
    gpus = [
        (group["minReplicas"], group["maxReplicas"])
        for group in cluster["workerGroupSpecs"]
        if "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]
    ]

    assert cluster["authOptions"] == {"mode": "token"}
    assert gpus == [(0, 1)]
