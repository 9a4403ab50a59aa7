"""The folder of a run: created, refused, and written atomically."""

import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from distdqn.errors import ConfigError
from distdqn.reporting.run_directory import (
    RecordedOptions,
    RunDirectory,
    describe_process,
    is_owned,
    read_options,
    read_status,
)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """An empty run's folder."""
    made = RunDirectory(str(tmp_path / "run"), "CartPole-v1")
    yield made
    made.close()


def test_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path / "a" / "b"), "CartPole-v1")
    directory.close()

    assert directory.path == tmp_path / "a" / "b"
    assert directory.path.is_dir()


def test_folder_that_exists_and_holds_no_run_is_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    RunDirectory(str(tmp_path), "CartPole-v1").close()

    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_default_folder_is_named_after_environment_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    directory = RunDirectory(None, "my module:Name/v1")
    directory.close()

    assert directory.path.parent == Path("runs")
    assert re.fullmatch(r"my-module-Name-v1-\d{8}-\d{6}", directory.path.name)


def test_default_folders_are_numbered_when_made_in_the_same_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "20260102-030405")

    names = []
    for _ in range(3):
        directory = RunDirectory(None, "CartPole-v1")
        directory.close()
        names.append(directory.path.name)

    assert names == [f"CartPole-v1-20260102-030405{suffix}" for suffix in ("", "-2", "-3")]


def test_fault_42_folders_made_at_once_by_several_processes_are_different(tmp_path: Path) -> None:
    code = (
        "import sys, time; from distdqn.reporting.run_directory import RunDirectory; "
        "print('ready', flush=True); input(); time.strftime = lambda _: 'now'; "
        "print(RunDirectory(None, 'CartPole-v1').path.name)"
    )
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    runs = [subprocess.Popen(command, cwd=tmp_path, stdin=pipe, stdout=pipe, text=True) for _ in range(8)]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    names = [run.communicate()[0].strip() for run in runs]

    assert sorted(names) == ["CartPole-v1-now", *(f"CartPole-v1-now-{number}" for number in range(2, 9))]


def fail(*_: object) -> None:
    """Writes to a full disk."""
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("kind", ["deleted", "full"])
def test_fault_39_run_goes_on_in_a_folder_that_is_deleted_or_full(
    directory: RunDirectory, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    directory.note = notes.append
    directory.on_report({"env_steps": 1})
    if kind == "deleted":
        shutil.rmtree(directory.path)
    else:  # every write to it fails from now on
        os.dup2(os.open("/dev/full", os.O_WRONLY), directory._metrics.fileno())
        monkeypatch.setattr(Path, "write_bytes", fail)
    for step in (2, 3):
        directory.on_report({"env_steps": step})
        directory.write_json("status.json", {"env_steps": step})
    directory.write_bytes("policy.npz", b"weights")
    monkeypatch.undo()
    directory.write_bytes("final.npz", b"weights")

    assert (directory.path / "final.npz").read_bytes() == b"weights"
    assert is_owned(directory.path)
    if kind == "deleted":
        assert notes == []
        assert (directory.path / "metrics.jsonl").read_text().splitlines() == [
            '{"env_steps": 2}',
            '{"env_steps": 3}',
        ]
    else:
        (note,) = notes
        assert re.match(rf"metrics.jsonl cannot be written into {directory.path}: No space left", note)


def test_fault_40_metrics_of_an_earlier_run_are_set_aside(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        directory = RunDirectory(str(tmp_path), "CartPole-v1", is_resuming=True)
        directory.begin_metrics(0)
        directory.on_report({"env_steps": step})
        directory.close()

    texts = [(tmp_path / f"metrics{number}.jsonl").read_text() for number in (".1", ".2", "")]
    assert texts == [f'{{"env_steps": {step}}}\n' for step in (1, 2, 3)]


def test_folder_is_owned_until_its_run_ends(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path / "run"), "CartPole-v1")
    assert is_owned(directory.path)
    directory.close()
    assert not is_owned(directory.path)
    assert not is_owned(tmp_path)


def test_folder_of_another_run_is_refused_and_left_alone(directory: RunDirectory) -> None:
    directory.on_report({"env_steps": 1})

    with pytest.raises(ConfigError, match="holds another run"):
        RunDirectory(str(directory.path), "CartPole-v1")

    assert (directory.path / "metrics.jsonl").read_text() == '{"env_steps": 1}\n'


def test_folder_of_a_run_that_failed_at_its_start_is_free(tmp_path: Path) -> None:
    for _ in range(2):
        directory = RunDirectory(str(tmp_path), "CartPole-v1")
        directory.write_json("run.json", {})
        directory.close()


def test_url_is_refused_and_no_folder_of_its_name_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"s3://bucket/run is a URL.*`checkpoint_dir` may be a URL"):
        RunDirectory("s3://bucket/run", "CartPole-v1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/below", "long" * 100])
def test_folder_that_cannot_be_made_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError) as caught:
        RunDirectory(str(tmp_path / name), "CartPole-v1")

    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"`run_dir`: cannot write to {tmp_path / name}: ")


def test_metrics_are_readable_line_by_line_before_the_run_ends(directory: RunDirectory) -> None:
    directory.on_report({"env_steps": 1, "loss": None})
    directory.on_report({"env_steps": 2, "loss": 0.5})

    lines = (directory.path / "metrics.jsonl").read_text().splitlines()

    assert [json.loads(line) for line in lines] == [
        {"env_steps": 1, "loss": None},
        {"env_steps": 2, "loss": 0.5},
    ]


def test_reader_of_the_old_file_still_reads_all_of_it(directory: RunDirectory) -> None:
    directory.write_json("status.json", {"state": "running"})
    old = (directory.path / "status.json").read_text()

    with (directory.path / "status.json").open() as reader:
        directory.write_json("status.json", {"state": "a much longer state than before"})
        assert reader.read() == old

    assert json.loads((directory.path / "status.json").read_text())["state"].startswith("a much longer")


def test_old_file_stands_when_writing_the_new_one_fails(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.write_bytes("policy.keras", b"old")
    write = Path.write_bytes

    def write_half(path: Path, content: bytes) -> None:
        write(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(ConfigError, match="No space left"):
        directory.write_bytes("policy.keras", b"new content")

    assert (directory.path / "policy.keras").read_bytes() == b"old"


def test_nothing_is_left_beside_the_files_that_were_written(directory: RunDirectory) -> None:
    directory.write_json("status.json", {"state": "running"})
    directory.write_bytes("policy.keras", b"weights")

    assert sorted(path.name for path in directory.path.iterdir()) == [
        "metrics.jsonl",
        "policy.keras",
        "run.lock",
        "status.json",
    ]


def test_process_is_described_by_its_command_line_host_and_versions() -> None:
    found = describe_process()

    assert found["command_line"] == sys.orig_argv
    assert found["host"] == socket.gethostname()
    assert set(found["versions"]) == {"python", "distdqn", "tensorflow", "keras", "gymnasium", "numpy", "ray"}
    assert all(re.match(r"\d+\.\d+", version) for version in found["versions"].values())
    json.dumps(found)


def test_git_revision_is_that_of_the_current_folder_if_it_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert describe_process()["git_revision"] is None

    commit = "commit -q --allow-empty -m first --author=a<a@b>"
    for command in ("init -q", f"-c user.name=a -c user.email=a@b {commit}"):
        subprocess.run(["git", *command.split()], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert describe_process()["git_revision"] == head.strip() != ""

    monkeypatch.setenv("PATH", "")
    assert describe_process()["git_revision"] is None


def test_fault_19_second_run_in_a_folder_is_refused_with_the_first_ones_process(tmp_path):
    first = RunDirectory(str(tmp_path / "run"), "Toy-v0")

    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} on "):
        RunDirectory(str(tmp_path / "run"), "Toy-v0", is_resuming=True)

    first.close()


def test_fault_19_deleted_folder_that_another_run_has_taken_is_left_to_it(tmp_path):
    notes: list[str] = []
    first = RunDirectory(str(tmp_path / "run"), "Toy-v0")
    first.note = notes.append
    shutil.rmtree(tmp_path / "run")
    second = RunDirectory(str(tmp_path / "run"), "Toy-v0")

    first.write_json("status.json", {})
    first.on_report({})

    (note,) = notes
    assert f"status.json cannot be written into {tmp_path}/run: it is in use by process {os.getpid()}" in note
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.lock", "metrics.jsonl"}
    first.close()
    second.close()


def test_fault_19_lock_that_is_looked_at_for_a_moment_refuses_no_run(tmp_path):
    (tmp_path / "run.lock").touch()
    with (tmp_path / "run.lock").open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.05, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        RunDirectory(str(tmp_path), "Toy-v0").close()


@pytest.mark.parametrize("there", ["nothing", "folder", "run"])
def test_start_that_is_refused_leaves_nothing_behind(tmp_path, there):
    run = tmp_path / "new" / "run"
    if there != "nothing":
        run.mkdir(parents=True)
    if there == "run":
        RunDirectory(str(run), "Toy-v0").close()
    before = sorted(tmp_path.rglob("*"))

    directory = RunDirectory(str(run), "Toy-v0", is_resuming=True)
    with pytest.raises(ConfigError), directory.removed_if_refused():
        raise ConfigError("It is refused.")
    directory.close()

    assert sorted(tmp_path.rglob("*")) == before


def test_fault_19_lock_of_a_dead_process_is_replaced(tmp_path):
    program = f"""
import os
from distdqn.reporting.run_directory import RunDirectory
RunDirectory({str(tmp_path / "run")!r}, "Toy-v0")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    assert (tmp_path / "run" / "run.lock").read_text().startswith("process ")

    RunDirectory(str(tmp_path / "run"), "Toy-v0", is_resuming=True).close()


def test_resumed_run_keeps_only_the_metrics_from_before_its_checkpoint(tmp_path):
    first = RunDirectory(str(tmp_path / "run"), "Toy-v0")
    first.on_report({"learner_steps": 1})
    kept = first.metrics_bytes
    first.on_report({"learner_steps": 2})
    first.close()

    again = RunDirectory(str(tmp_path / "run"), "Toy-v0", is_resuming=True)
    again.begin_metrics(kept)
    again.on_report({"learner_steps": 3})
    again.close()

    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["learner_steps"] for line in lines] == [1, 3]


@pytest.mark.parametrize("state", ["starting", "running", "saving", "max_env_steps"])
def test_status_of_a_run_whose_process_is_gone_says_that_it_was_killed(tmp_path, state):
    directory = RunDirectory(str(tmp_path), "Toy-v0")
    directory.write_json("status.json", {"state": state, "ray": None})
    assert read_status(tmp_path).state == state
    directory.close()
    assert read_status(tmp_path).state == (state if state == "max_env_steps" else "killed")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"state": 3}', b"[" * 10**5, b"\xff\xfe"])
def test_fault_46_damaged_status_and_options_are_read_as_none(tmp_path, content):
    assert read_status(tmp_path) is None
    for name in ("status.json", "config.json"):
        (tmp_path / name).write_bytes(content)
    assert read_status(tmp_path) is None
    assert read_options(tmp_path) == RecordedOptions()
