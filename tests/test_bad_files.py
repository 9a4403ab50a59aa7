"""Files that are cut, changed or of another release, given to every command: one line, never a traceback.

The files of a real run are altered one at a time, in ways that a seed draws.
"""

import contextlib
import copy
import json
import random
import shutil

import numpy as np
import pytest
from light_run import light_parts

from distdqn import evaluate, inspect, run, scale
from distdqn.checkpoints.format import manifest_bytes, manifest_name
from distdqn.checkpoints.store import Store

_OPTIONS = (
    "--mode serial --actors 1 --envs-per-actor 4 --rollout-length 8 --min-replay-size 100 --batch-size 32"
)
_OPTIONS += " --replay-capacity 300 --updates-per-call 16 --samples-per-insert 16 --target-return none"
_OPTIONS += " --eval-period 64 --eval-episodes 2 --checkpoint-period 64"
_JUNK = [None, -1, 10**30, 1.5, "x", "", [], {}, [1], {"a": 1}, True, {"blob": 3}]
_COMMANDS = {
    "inspect": (inspect.main, [], (0, 4)),
    "scale": (scale.main, ["--actors", "2"], (2, 3)),
    "evaluate": (evaluate.main, ["--episodes", "1"], (0, 2, 4)),
    "evaluate-final": (evaluate.main, ["--episodes", "1", "--final"], (0, 2, 4)),
    "evaluate-newest": (evaluate.main, ["--episodes", "1", "--checkpoint", "newest"], (0, 2, 4)),
    "evaluate-best": (evaluate.main, ["--episodes", "1", "--checkpoint", "best"], (0, 2, 4)),
}


@pytest.fixture(autouse=True)
def _light(monkeypatch):
    """A learner that only counts."""
    monkeypatch.setattr("distdqn.runner.role_parts", light_parts)
    monkeypatch.setattr("light_run._SECONDS_PER_UPDATE", 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that was killed in mode `async`, as far as its files say."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distdqn.runner.role_parts", light_parts)
        assert run.main([*_OPTIONS.split(), "--run-dir", str(folder), "--max-env-steps", "300"]) == 0
    for name, values in (("config", {"mode": "async"}), ("status", {"state": "running"})):
        path = folder / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def cut_or_change(chance, content):
    """Some bytes missing, others, or changed."""
    changed = bytearray(content or b"x")
    for _ in range(4):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return chance.choice([content[: len(content) // 2], b"", chance.randbytes(99), bytes(changed)])


def places_in(tree, place=()):
    """Where values are in nested dictionaries and lists."""
    yield from [place] if place else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:3]) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places_in(value, (*place, key))


def change_a_field(chance, tree):
    """One field less, one more, or one with something else in it."""
    tree = node = copy.deepcopy(tree)
    *above, key = chance.choice(list(places_in(tree)))
    for each in above:
        node = node[each]
    match chance.choice(["less", "more", "other", "other"]):
        case "less":
            del node[key]
        case "more" if isinstance(node, dict):
            node["unheard_of"] = 1
        case _:
            node[key] = chance.choice(_JUNK)
    return tree


def check_all(folder, capsys):
    """Every command ends with a code that means bad files, or 0, and with lines that are errors."""
    resume = [*_OPTIONS.split(), "--run-dir", str(folder), "--resume", "auto", "--max-env-steps", "310"]
    calls = [(main, [str(folder), *options], codes) for main, options, codes in _COMMANDS.values()]
    for main, arguments, codes in [*calls, (run.main, resume, (0, 2, 4))]:
        capsys.readouterr()
        code = main(arguments)
        lines = capsys.readouterr().err.splitlines()
        assert code in codes, (arguments, lines)
        assert bool(lines) == bool(code)
        assert all(line.startswith("distdqn: error: ") for line in lines)


@pytest.mark.parametrize("seed", range(6))
def test_fault_46_files_with_other_bytes_end_every_command_in_one_line(whole, tmp_path, capsys, seed):
    chance = random.Random(seed)
    files = [path for path in sorted(whole.rglob("*")) if path.is_file()]
    path = shutil.copytree(whole, tmp_path / "run") / chance.choice(files).relative_to(whole)
    path.write_bytes(cut_or_change(chance, path.read_bytes()))
    check_all(tmp_path / "run", capsys)


@pytest.mark.parametrize("name", ["config", "status", "run", "summary"])
def test_fault_46_files_with_other_fields_end_every_command_in_one_line(whole, tmp_path, capsys, name):
    path = shutil.copytree(whole, tmp_path / "run") / f"{name}.json"
    path.write_text(json.dumps(change_a_field(random.Random(0), json.loads(path.read_text()))))
    check_all(tmp_path / "run", capsys)
    options = [
        "--config",
        str(path),
        "--mode",
        "serial",
        "--checkpoint-period",
        "none",
        "--max-env-steps",
        "8",
    ]
    with contextlib.chdir(tmp_path):
        code = run.main([*options, "--actors", "1"])
    assert code in (0, 2)


@pytest.mark.parametrize("seed", range(16))
def test_fault_46_checkpoint_with_other_fields_ends_every_command_in_one_line(whole, tmp_path, capsys, seed):
    root = shutil.copytree(whole, tmp_path / "run") / "checkpoints"
    *older, newest = Store(str(root)).numbers()
    document = Store(str(root)).read_manifest(newest)
    for number in older:
        (root / manifest_name(number)).unlink()
    content = manifest_bytes(newest, change_a_field(random.Random(seed), document))  # signed as it should be
    (root / manifest_name(newest)).write_bytes(content)
    check_all(tmp_path / "run", capsys)


@pytest.mark.parametrize("seed", range(12))
def test_fault_46_policy_with_other_fields_ends_evaluate_in_one_line(whole, tmp_path, capsys, seed):
    with np.load(whole / "policy.npz") as file:
        members = dict(file)
    about = change_a_field(random.Random(seed), json.loads(str(members["about"])))
    shutil.copy(whole / "config.json", tmp_path)
    np.savez(tmp_path / "policy.npz", **members | {"about": np.array(json.dumps(about))})
    code = evaluate.main([str(tmp_path), "--episodes", "1"])
    assert code in (0, 2, 4)
    assert len(capsys.readouterr().err.splitlines()) == bool(code)
