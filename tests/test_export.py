"""`export`: a run's network in the formats of other runtimes, each compared with the policy."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_environments import PicturesEnvironment
from toy_runs import write_run

import distdqn
from distdqn import export as export_module
from distdqn.export import ExportOptions, export, main
from distdqn.networks import numpy_policy
from distdqn.networks.export import export_policy

needs_onnx = pytest.mark.skipif(
    not importlib.util.find_spec("tf2onnx"), reason="needs the packages of the extra `onnx`"
)
TO = ("saved-model", "litert", pytest.param("onnx", marks=needs_onnx))
NETWORKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "noisy": ("CartPole-v1", {"noisy": True, "dueling": True, "head": "quantile", "hidden_sizes": (16,)}),
    "implicit": ("CartPole-v1", {"head": "implicit", "dueling": True, "noisy": True, "hidden_sizes": (16,)}),
    "own layers": ("CartPole-v1", {"network": "toy_user_networks:subclassed", "head": "value"}),
    "masks and bytes": ("toy_spaces:BothTogether", {"head": "categorical", "hidden_sizes": (8, 8)}),
    "pixels": ("test_export:pictures", {"spectral_norm": True, "torso": "impala", "hidden_sizes": (8,)}),
    "own standard layers": ("test_export:pictures", {"network": "toy_user_networks:image", "head": "value"}),
}


def pictures() -> PicturesEnvironment:
    """Two frames of 8 by 8 pixels."""
    return PicturesEnvironment(stack=2, size=8)


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run, beside the one that exports are written to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    return write_run(tmp_path / "run", "CartPole-v1", hidden_sizes=(8,))


# The others of each network and format are slow only because there are many.
QUICK = {
    ("noisy", "saved-model"),
    ("implicit", "saved-model"),
    ("implicit", "litert"),
    ("own layers", "litert"),
    ("masks and bytes", "onnx"),
    ("own standard layers", "litert"),
}
CASES = [
    pytest.param(
        network, to, marks=[needs_onnx] * (to == "onnx") + [pytest.mark.slow] * ((network, to) not in QUICK)
    )
    for network in NETWORKS
    for to in ("saved-model", "litert", "onnx")
]


@pytest.mark.parametrize(("network", "to"), CASES)
def test_export_computes_what_the_policy_does(tmp_path: Path, network: str, to: str) -> None:
    env, options = NETWORKS[network]
    write_run(tmp_path, env, **options)
    path = tmp_path / f"exported{'.tflite' if to == 'litert' else ''}"

    line = export(ExportOptions(run_dir=str(tmp_path), to=to, output=str(path)))

    assert line.startswith(f"{path}: on 1,000 observations of random steps")
    assert line.endswith("100.0% of the actions are equal.")
    assert path.exists()


@pytest.mark.parametrize("to", TO)
def test_exported_function_takes_batches_of_any_size(run_dir: Path, to: str) -> None:
    policy = distdqn.load(run_dir)
    suffixes = {"saved-model": "", "litert": ".tflite", "onnx": ".onnx"}
    function = export_policy(policy.weights, policy.spec, to, run_dir / f"exported{suffixes[to]}")

    for batch in (1, 5):
        observation = np.random.default_rng(batch).normal(size=(batch, 4)).astype(np.float32)
        found = function(observation)
        assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
            "action": ((batch,), np.int32),
            "q_values": ((batch, 2), np.float32),
        }
        assert found["action"].tolist() == policy.act(observation).tolist()


def test_command_writes_the_policy_of_a_run_as_it_is(run_dir: Path, capsys) -> None:
    assert main(["run", "--to", "policy"]) == 0

    assert capsys.readouterr().out.startswith("policy.npz: on 1,000 observations")
    assert Path("policy.npz").read_bytes() == (run_dir / "policy.npz").read_bytes()
    assert sorted(path.name for path in Path().iterdir()) == ["policy.npz", "run"]


@pytest.mark.usefixtures("run_dir")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "`to` is missing"),
        (["run", "--to", "pickle"], "`to` must be `policy`, `saved-model`, `litert` or `onnx`, not `pickle`"),
        (["run", "--to", "policy", "--output", "run"], "`output`: run exists already (name another)"),
        (
            ["run", "--to", "policy", "--output", "run/config.json/x"],
            "`output`: cannot write run/config.json/x",
        ),
        (["nowhere", "--to", "policy"], "nowhere holds no `policy.npz`"),
    ],
)
def test_export_that_cannot_be_made_is_refused_in_one_line(arguments, words, capsys) -> None:
    assert main(arguments) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert [path.name for path in Path().iterdir()] == ["run"]


@pytest.mark.usefixtures("run_dir")
def test_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, capsys) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    assert main(["run", "--to", "onnx"]) == 2
    assert "pip install 'distdqn[onnx]'" in capsys.readouterr().err


def test_export_that_differs_from_the_policy_is_not_kept(run_dir: Path, monkeypatch, capsys) -> None:
    def load_other(path: Path) -> Any:
        weights = numpy_policy.load_policy(path)
        weights.arrays[-1][0] += 0.01
        return weights

    monkeypatch.setattr(export_module, "load_policy", load_other)

    assert main(["run", "--to", "policy"]) == 1
    assert "differs from the policy" in capsys.readouterr().err
    assert list(Path().iterdir()) == [Path(run_dir.name)]


def test_network_that_a_format_cannot_hold_is_refused_in_one_line(run_dir: Path, monkeypatch, capsys) -> None:
    def fail(*_: Any) -> None:
        raise NotImplementedError("no such\noperation")

    monkeypatch.setattr("distdqn.networks.export.make_serving_model", fail)

    assert main(["run", "--to", "litert"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "`litert` cannot hold this network" in line
    assert json.loads((run_dir / "config.json").read_text())
