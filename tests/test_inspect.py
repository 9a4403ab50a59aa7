"""The command that shows what is in checkpoints, also in damaged and hostile ones."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_replay_state import make_replay, make_vectors

import distdqn
from distdqn.checkpoints.checkpointer import Checkpointer
from distdqn.checkpoints.format import manifest_bytes, manifest_name
from distdqn.checkpoints.resume import describe_run
from distdqn.checkpoints.store import Store
from distdqn.config.config import Config
from distdqn.inspect import inspect, main
from distdqn.reporting.metrics import Counters
from distdqn.reporting.run_directory import RunDirectory
from distdqn.training.resolve import resolve
from distdqn.types import EnvironmentSpec, Evaluation

SPEC = EnvironmentSpec("CartPole-v1", (4,), 2, 475.0, "float32", -np.inf, np.inf, None)
BEST = Evaluation([490.0, 500.0, 480.0], (0, 7), 150, 1.0)


def tree_of(learner_steps, **options):
    """All of a checkpoint but replay, as a run has it."""
    shapes = [(4, 8), (8,), (8, 2), (2,)]
    networks = {
        name: [np.full(s, learner_steps, np.float32) for s in shapes] for name in ("online", "target")
    }
    counters = Counters(env_steps=4 * learner_steps, learner_steps=learner_steps, episodes=12)
    return {
        "about": describe_run(Config(**options), resolve(Config(**options), SPEC), SPEC),
        "learner": {"learner_steps": learner_steps, "weights_version": [1, 5], "networks": networks},
        "metrics": {"counters": vars(counters), "epsilon": 0.25, "seconds": 61.0},
        "goal": {"best": dataclasses.asdict(BEST)},
    }


def write(folder, *numbers, replay=None, **options):
    """A run's checkpoints, with `replay` in each."""
    store = Store(str(folder / "checkpoints"))
    store.check_writable()
    checkpoints = Checkpointer(store, 100, print)
    for number in numbers:
        indexes = [replay.get_index()] if replay else []
        for segment in checkpoints.missing(indexes):
            checkpoints.add_segment(segment, replay.get_rows(segment.begin, segment.end))
        checkpoints.write(number, tree_of(number, **options), indexes)
    return store


@pytest.fixture
def run_dir(tmp_path):
    """The folder of a run with the checkpoints 100, 200 and 300."""
    replay = make_replay(500)
    replay.insert(make_vectors(0, 700))
    write(tmp_path / "run", 100, 200, 300, replay=replay, seed=7, hidden_sizes=(8,), learning_rate=0.01)
    return tmp_path / "run"


def flip(store, number):
    """Flips a bit in an array that no other checkpoint has; returns its file's name."""
    name = f"{store.read_manifest(number)['learner']['networks']['online'][0]['blob']}.safetensors"
    path = Path(store._root) / "blobs" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 4
    path.write_bytes(content)
    return name


def test_inspect_tells_what_the_newest_checkpoint_holds_and_of_which_run(run_dir, capsys):
    assert main([str(run_dir)]) == 0
    out = capsys.readouterr().out
    assert f"{run_dir}: checkpoint 300, written 20" in out
    for words in (
        "CartPole-v1, async, 4 actors of 16 environments, seed 7",
        "hidden_sizes [8], learning_rate 0.01",
        "300 learner steps, weights version 1.5",
        "1,200 env steps, 12 episodes, epsilon 0.25, 61 s",
        "500 of 700 transitions, room for 500 (",
        "58 numbers: 4x8 8 8x2 2",  # 4 * 8 + 8 + 8 * 2 + 2
        "mean return 490.0 over 3 greedy episodes, after 150 learner steps",
        "yes, every file's SHA-256 is right",
    ):
        assert words in out


def test_inspect_lists_every_checkpoint_of_a_run_in_a_table(run_dir, capsys):
    assert main([str(run_dir)]) == 0
    head, *rows = [line.split() for line in capsys.readouterr().out.split("\n\n")[0].splitlines()]
    assert " ".join(head) == "number written learner steps env steps episodes best return size whole"
    assert [row[0] for row in rows] == ["100", "200", "300"]
    assert [row[3:7] for row in rows] == [[f"{n}", f"{4 * n:,}", "12", "490.0"] for n in (100, 200, 300)]
    assert [row[-1] for row in rows] == ["yes"] * 3


@pytest.mark.parametrize("named", ["", "/checkpoints", "/checkpoints/checkpoint-000000000200.json"])
def test_inspect_takes_a_run_its_checkpoints_or_one_of_them(run_dir, capsys, named):
    assert main([f"{run_dir}{named}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [each["number"] for each in found] == ([200] if named.endswith(".json") else [100, 200, 300])
    inside = found[0]["contents"]
    assert inside["replay"] == {
        "transitions": 500,
        "inserted": 700,
        "capacity": 500,
        "frames": None,
        "shards": 1,
        "bytes": inside["replay"]["bytes"],
    }
    assert (inside["best"]["mean"], inside["options"]["hidden_sizes"]) == (490.0, [8])


def test_inspect_finds_the_checkpoints_of_a_run_that_keeps_them_elsewhere(run_dir, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"checkpoint_dir": f"{run_dir}/checkpoints"}))
    assert main([str(other), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["checkpoints"]) == 3


def test_inspect_reads_checkpoints_by_their_url(capsys):
    store = Store("memory://inspected/run")
    store.check_writable()
    Checkpointer(store, 3, print).write(5, tree_of(5), [])
    assert main(["memory://inspected/run"]) == 0
    out = capsys.readouterr().out
    assert "5 learner steps" in out
    assert "not saved" in out


def test_inspect_names_every_damaged_file_with_its_reason_and_ends_with_four(run_dir, capsys):
    store = Store(str(run_dir / "checkpoints"))
    names = [flip(store, 100), flip(store, 300)]
    manifest = run_dir / "checkpoints" / manifest_name(200)
    manifest.write_bytes(manifest.read_bytes()[:-9])
    assert main([str(run_dir)]) == 4
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    reasons = [
        f"{names[0]}: its content is not",
        f"{manifest}: is not a manifest",
        f"{names[1]}: its content",
    ]
    assert len(lines) == 3
    for line, number, reason in zip(lines, (100, 200, 300), reasons, strict=True):
        assert line.startswith(f"distdqn: error: Checkpoint {number}: ")
        assert reason in line
    rows = captured.out.split("\n\n")[0].splitlines()[1:]
    assert [row.split()[-1] for row in rows] == ["no"] * 3


def test_inspect_tells_of_a_newer_format_with_both_numbers(run_dir, capsys):
    (run_dir / "checkpoints" / manifest_name(400)).write_bytes(manifest_bytes(400, {}, version=99))
    assert main([str(run_dir)]) == 4
    assert "has format 99, this release reads" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["nowhere", "empty", "file", "x" * 300])
def test_inspect_says_one_line_where_there_is_no_checkpoint(tmp_path, capsys, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert main([str(tmp_path / place)]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert place in line


HOSTILE = [
    {"about": {"config": []}},
    {"about": None, "learner": None, "metrics": None, "goal": None, "replay": None},
    {
        **tree_of(1),
        "learner": {"learner_steps": "many", "weights_version": [1, 2], "networks": {"online": []}},
    },
    {**tree_of(1), "replay": {"index": {"inserted": 3}}},
    {**tree_of(1), "replay": [5]},
    {**tree_of(1), "goal": {"best": {"returns": [], "learner_steps": 0}}},
    {**tree_of(1), "goal": {"best": {}}},
    {**tree_of(1), "metrics": {"counters": [1], "epsilon": 0.0, "seconds": 0.0}},
    {
        **tree_of(1),
        "metrics": {"counters": {"env_steps": 1e999, "episodes": 0}, "epsilon": 0.0, "seconds": 0.0},
    },
]


@pytest.mark.parametrize("tree", HOSTILE)
def test_inspect_refuses_what_is_whole_and_no_checkpoint_of_a_run(tmp_path, capsys, tree):
    store = Store(str(tmp_path))
    store.check_writable()
    store.write_manifest(3, {"replay": None, **store.write_tree(tree)})
    assert main([str(tmp_path)]) == 4
    assert capsys.readouterr().err.splitlines() == [
        "distdqn: error: Checkpoint 3: does not say what run it is of."
    ]


def test_inspect_prints_nothing_from_a_file_that_a_terminal_obeys(tmp_path, capsys):
    write(tmp_path, 3, env="\x1b]0;owned\x07CartPole\x9b2J-v1\n")
    assert main([str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "owned" in captured.out
    assert all(letter.isprintable() or letter == "\n" for letter in captured.out + captured.err)
    assert "CartPole-v1" not in captured.out


def test_inspect_says_how_far_it_is_while_it_looks_at_much(run_dir):
    store, told = Store(str(run_dir / "checkpoints")), []
    list(inspect(store, store.numbers(), lambda *counts: told.append(counts)))
    # Each file once, however many checkpoints share it.
    size = sum(path.stat().st_size for path in (run_dir / "checkpoints" / "blobs").iterdir())
    assert told == sorted(told)
    assert told[-1] == (size, size)
    assert len(told) == len(list((run_dir / "checkpoints" / "blobs").iterdir()))


class Terminal(io.StringIO):
    """Keeps what is printed on it."""

    def isatty(self):
        return True


def test_progress_is_shown_on_a_terminal_alone_and_is_gone_in_the_end(monkeypatch, run_dir, capsys):
    monkeypatch.setenv("TERM", "xterm")
    assert main([str(run_dir)]) == 0
    plain = capsys.readouterr()
    assert plain.err == ""
    monkeypatch.setattr("sys.stderr", Terminal())
    assert main([str(run_dir)]) == 0
    size = sum(path.stat().st_size for path in (run_dir / "checkpoints" / "blobs").iterdir())
    shown = sys.stderr.getvalue()
    assert f"{size / 1000:.1f}/{size / 1000:.1f} kB" in shown
    assert shown.endswith("\x1b[2K")  # the line is erased
    assert capsys.readouterr().out == plain.out


def test_table_is_not_wrapped_where_there_is_no_terminal(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    write(tmp_path, 10**12, 10**12 + 1)
    assert main([str(tmp_path)]) == 0
    table = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert len(table) == 3
    assert [line.split()[0] for line in table[1:]] == [f"{10**12}", f"{10**12 + 1}"]
    assert all(line == line.rstrip() for line in table)


def test_inspect_leaves_out_what_a_run_deletes_meanwhile(run_dir):
    store = Store(str(run_dir / "checkpoints"), grace_seconds=0.0)
    found = list(inspect(store, store.numbers(), lambda *_: store.prune(keep=2)))
    assert [(each.number, each.faults) for each in found] == [(200, []), (300, [])]


@pytest.mark.parametrize("command", [("-m", "distdqn.inspect"), ("-m", "distdqn", "inspect")], ids=" ".join)
def test_inspect_loads_neither_tensorflow_nor_ray(run_dir, tmp_path, command):
    hooks, record = tmp_path / "hooks", tmp_path / "loaded"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        f"atexit.register(lambda: open({str(record)!r}, 'w').write(' '.join(sys.modules)))\n"
    )
    root = Path(distdqn.__file__).resolve().parents[1]
    path = os.pathsep.join([str(hooks), str(root)])
    ended = subprocess.run(
        [sys.executable, *command, str(run_dir)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    loaded = {name.split(".")[0] for name in record.read_text().split()}
    assert "numpy" in loaded
    assert not loaded & {"tensorflow", "keras", "ray", "gymnasium"}


@pytest.mark.parametrize("is_alive", [True, False])
def test_inspect_says_of_a_killed_run_that_its_process_is_gone(run_dir, capsys, is_alive):
    directory = RunDirectory(str(run_dir), "CartPole-v1", is_resuming=True)
    directory.write_json("status.json", {"state": "running", "ray": None})
    if not is_alive:
        directory.close()
    assert main([str(run_dir)]) == 0
    (line,) = (line.split() for line in capsys.readouterr().out.splitlines() if line[2:].startswith("state"))
    assert line[1] == ("running" if is_alive else "killed")
    assert main([str(run_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == line[1]
    if is_alive:
        directory.close()


def test_inspect_says_of_a_run_without_checkpoints_in_what_state_it_is(tmp_path, capsys):
    (tmp_path / "status.json").write_text('{"state": "saving"}')
    assert main([str(tmp_path)]) == 4
    assert "holds no checkpoint; its run is `killed`" in capsys.readouterr().err
