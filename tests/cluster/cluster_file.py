"""`cluster.yaml`, and its variant for own hosts."""

import copy
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def load_cluster_file():
    """`cluster.yaml` as Ray would read it."""
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def on_premises(config, head_ip, worker_ips, auth, head_cpus=None, worker_cpus=None):
    """The same cluster on existing hosts.

    Everything stays except what belongs to AWS: the provider, its package, images, user and types of nodes.
    The start commands tell Ray the number of CPUs instead.
    """
    types = config["available_node_types"]
    of_aws = {"available_node_types", "head_node_type", "head_setup_commands", "idle_timeout_minutes"}
    local = copy.deepcopy({name: value for name, value in config.items() if name not in of_aws})
    local["max_workers"] = len(worker_ips)
    local["provider"] = {"type": "local", "head_ip": head_ip, "worker_ips": worker_ips}
    local["auth"] = auth
    for role, of_type, cpus, before in (
        ("head", config["head_node_type"], head_cpus, "RAY_enable_autoscaler_v2=0 "),
        ("worker", "cpu_worker", worker_cpus, ""),
    ):
        commands = [text for text in local[f"{role}_start_ray_commands"] if "boto3" not in text]
        local[f"{role}_start_ray_commands"] = commands
        cpus = cpus or types[of_type]["resources"]["CPU"]
        commands[-1] = f"{commands[-1].replace('ray start', f'{before}ray start')} --num-cpus={cpus}"
    return local


def with_versions(config, python, ray):
    """The same with other versions of Python (as `3.12`) and Ray."""
    text = yaml.safe_dump(config, sort_keys=False, width=1000)
    return yaml.safe_load(text.replace("python3.12", f"python{python}").replace("==2.60.0", f"=={ray}"))
