"""Who can reach a private Ray, who can read its token, and where the token never goes.

These tests start Rays in processes of their own, with authentication as users have it; the
other tests run without.
"""

import contextlib
import http.client
import ipaddress
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import psutil
import pytest

from distdqn.cluster.connection import guard_token, loopback_only

# What listens in a private Ray, besides the process that started it.
_LISTENING = {"gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE"}

# What starts code, or hands out data, in each of Ray's gRPC servers.
_METHODS = [
    "InternalKVGcsService/InternalKVGet",
    "NodeManagerService/RequestWorkerLease",
    "ObjectManagerService/Pull",
    "CoreWorkerService/PushTask",
    "ReporterService/GetTraceback",
]

_OWNER = """
import json, sys
from distdqn.cluster.connection import connected

with connected("local", roles=2) as cluster:
    from ray._common.usage.usage_lib import usage_stats_enabled
    told = {"address": cluster.address, "reports_usage": usage_stats_enabled()}
    print(json.dumps(told), flush=True)
    sys.stdin.readline()
"""

_CLIENT = """
import os, sys
from distdqn.cluster.connection import connected
from distdqn.errors import ClusterError

try:
    with connected(sys.argv[1], roles=1) as cluster:
        print("let in, usage statistics", os.environ["RAY_USAGE_STATS_ENABLED"])
except ClusterError as error:
    print("refused with", error.exit_code, error)
"""


def _environment(home, ray_folder, **settings):
    """Variables of a user who has set nothing that concerns security, and `settings`."""
    unset = {
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
        "RAY_USAGE_STATS_ENABLED",
    }
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    return environment | {"HOME": str(home), "RAY_TMPDIR": str(ray_folder)} | settings


class _PrivateRay:
    """A process that holds a private Ray, and what it tells of it."""

    def __init__(self, folder):
        self.home, self.ray_folder = folder / "home", folder / "ray"
        self.home.mkdir()
        self.ray_folder.mkdir()
        self.token_path = self.home / ".ray" / "auth_token"
        self._output = folder / "output"
        with self._output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _OWNER],
                env=_environment(self.home, self.ray_folder),
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o022,  # with which new files are everybody's to read
            )

    def wait(self):
        """Waits until it is up, with all that ever listens."""
        deadline = time.monotonic() + 60.0
        while not (self.output().startswith("{") and self.names() >= _LISTENING):
            assert self.process.poll() is None, f"It ended:\n{self.output()}"
            assert time.monotonic() < deadline, f"Too late:\n{self.output()}\n{self.names()}"
            time.sleep(0.5)
        self.told = json.loads(self.output().splitlines()[0])
        self.token = self.token_path.read_text()

    def output(self):
        return self._output.read_text()

    def processes(self):
        owner = psutil.Process(self.process.pid)
        return [owner, *owner.children(recursive=True)]

    def listeners(self):
        """`(program, IP address, port)` for every port that accepts connections."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline()) or "?"
                name = Path(command.split()[0]).name
                ports = process.net_connections("inet")
                found += [(name, *port.laddr) for port in ports if port.status == psutil.CONN_LISTEN]
        return found

    def names(self):
        return {name for name, _, _ in self.listeners()}

    def close(self):
        """Ends it and whatever it has started."""
        left = self.processes() if self.process.poll() is None else []
        self.process.stdin.close()
        _, left = psutil.wait_procs(left, timeout=20)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def folder():
    """A short path, for Ray's sockets; see `conftest.py`."""
    path = Path(tempfile.mkdtemp(prefix="dq-", dir=os.environ.get("CI_FOLDER", "/tmp")))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def private_ray(folder):
    private = _PrivateRay(folder)
    try:
        private.wait()
        yield private
    finally:
        private.close()


def _mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def _files_with(secret, folder):
    """The files below a folder that hold a secret, and how many files there are."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if secret.encode() in path.read_bytes()], len(files)


# A private Ray.


def test_token_of_a_private_ray_is_its_owners_alone_to_read(private_ray):
    assert (_mode(private_ray.token_path), _mode(private_ray.token_path.parent)) == (0o600, 0o700)
    assert len(bytes.fromhex(private_ray.token)) == 32
    assert list(private_ray.token_path.parent.iterdir()) == [private_ray.token_path]


def test_private_ray_listens_on_loopback_only(private_ray):
    reachable = [
        (name, ip)
        for name, ip, _ in private_ray.listeners()
        if not ipaddress.ip_address(ip.removeprefix("::ffff:")).is_loopback
    ]
    assert reachable == []


def _answers(port):
    """What a port says to somebody without a token, over HTTP or else gRPC."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/job_agent/jobs/", timeout=10) as page:
            return {"metrics" if page.read(6) == b"# HELP" else "a page"}
    except urllib.error.HTTPError as error:
        return {str(error.code)}
    except (OSError, http.client.HTTPException):
        pass
    answers = set()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in _METHODS:
            try:
                channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=10)
                answers.add(method)
            except grpc.RpcError as error:
                answers.add(error.code().name)
    return answers - {"UNIMPLEMENTED"}


def test_every_port_of_a_private_ray_wants_the_token_or_serves_metrics(private_ray):
    found = [(name, _answers(port)) for name, _, port in private_ray.listeners()]

    fine = [{"401"}, {"UNAUTHENTICATED"}, {"metrics"}]
    assert [answer for answer in found if answer[1] not in fine] == []
    assert [answer for _, answer in found].count({"metrics"}) <= 3


def test_private_ray_reports_no_usage(private_ray):
    assert private_ray.told["reports_usage"] is False


def test_token_is_in_no_log_and_no_command_line_of_a_private_ray(private_ray):
    holding, files = _files_with(private_ray.token, private_ray.ray_folder)
    commands = [" ".join(process.cmdline()) for process in private_ray.processes()]

    assert (holding, files > 10) == ([], True)
    assert [command for command in commands if private_ray.token in command] == []
    assert private_ray.token not in private_ray.output()


# Clients of it.


def _join(private_ray, home, **settings):
    """What a client prints that joins with the token in `home` or in its settings."""
    on_loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # else Ray tries another address
    client = subprocess.run(
        [sys.executable, "-c", _CLIENT, private_ray.told["address"]],
        env=_environment(home, private_ray.ray_folder, **on_loopback, **settings),
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return client.stdout + client.stderr


def test_client_with_the_token_is_let_in(private_ray):
    printed = _join(private_ray, private_ray.home, RAY_AUTH_MODE="token")
    assert "let in, usage statistics 0" in printed


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "refuses this process: no token is present here"),
        (
            {"RAY_AUTH_TOKEN": "ab" * 32},
            "refuses this process: a token is present here, in RAY_AUTH_TOKEN, but not shown",
        ),
        (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32},
            "refuses this process: a token is present here, in RAY_AUTH_TOKEN, but it is not the cluster's",
        ),
        ({"RAY_AUTH_MODE": "token"}, "RAY_AUTH_MODE is `token`, but no token is present here"),
    ],
    ids=["without-authentication", "with-a-token-not-shown", "with-a-wrong-token", "without-a-token"],
)
def test_fault_31_client_without_the_token_is_refused_and_shown_no_token(
    private_ray, tmp_path, settings, reason
):
    begin = time.monotonic()
    printed = _join(private_ray, tmp_path, **settings)

    assert time.monotonic() - begin < 3 * 30.0
    (line,) = printed.splitlines()
    assert line.startswith("refused with 3 ")
    assert private_ray.told["address"] in line
    assert reason in line
    assert private_ray.token not in printed
    assert "ab" * 32 not in printed


def test_usage_statistics_stay_on_where_the_user_has_turned_them_on(private_ray):
    settings = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "1"}
    assert "usage statistics 1" in _join(private_ray, private_ray.home, **settings)


# A whole run.


@pytest.mark.slow
def test_run_writes_its_token_nowhere_and_prints_it_nowhere(start_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    run = start_run("--actors", 1, "--target-return", "none", "--max-env-steps", 1500)

    assert run.wait() in (0, 8), run.output()
    token = (tmp_path / ".ray" / "auth_token").read_text()
    holding, files = _files_with(token, run.run_dir)
    assert (holding, files > 3) == ([], True)
    assert token not in run.output()


def test_private_ray_is_refused_with_a_reason_when_its_token_cannot_be_written(folder, tmp_path):
    (home := tmp_path / "home").write_text("not a folder")
    client = subprocess.run(
        [sys.executable, "-c", _CLIENT, "local"],
        env=_environment(home, folder),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert client.stdout.startswith("refused with 3 A private Ray needs its token in ~/.ray/auth_token: ")


# The token's file.


@pytest.fixture
def token_path(tmp_path, monkeypatch):
    """Where the token of a user goes who has none and has set nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".ray" / "auth_token"


@pytest.fixture
def users_token(token_path):
    """A token that everybody may read."""
    token_path.parent.mkdir()
    token_path.write_text("theirs")
    token_path.chmod(0o644)
    return token_path


def test_token_that_is_there_keeps_its_content_and_loses_its_readers(users_token):
    guard_token()
    assert (users_token.read_text(), _mode(users_token)) == ("theirs", 0o600)


def test_token_is_never_made_more_accessible(users_token):
    users_token.chmod(0o440)
    guard_token()
    assert _mode(users_token) == 0o400


def test_token_of_somebody_else_is_left_alone(users_token, monkeypatch):
    owner = users_token.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    guard_token()
    assert _mode(users_token) == 0o644


def test_token_behind_a_link_is_left_alone(users_token):
    elsewhere = users_token.rename(users_token.with_name("elsewhere"))
    users_token.symlink_to(elsewhere)
    guard_token()
    assert (users_token.read_text(), _mode(elsewhere)) == ("theirs", 0o644)


def test_token_that_another_run_writes_at_the_same_time_is_kept(token_path, monkeypatch):
    def other_run_is_faster(_):
        token_path.write_text("theirs")
        return "ours"

    monkeypatch.setattr("secrets.token_hex", other_run_is_faster)
    guard_token()
    assert token_path.read_text() == "theirs"
    assert list(token_path.parent.iterdir()) == [token_path]


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "abc"), ("RAY_AUTH_TOKEN_PATH", "/somewhere")],
)
def test_no_token_is_written_when_the_user_has_set_another_way(token_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    guard_token()
    assert not token_path.parent.exists()


# The address.


@pytest.mark.parametrize("users", [None, "0", "1"])
def test_ray_is_limited_to_loopback_during_the_start_and_only_by_default(monkeypatch, users):
    from ray._private import ray_constants

    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    monkeypatch.delenv(name, raising=False)
    if users is not None:
        monkeypatch.setenv(name, users)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)  # as it was read long ago

    with loopback_only():
        assert ray_constants.ENABLE_RAY_CLUSTER is (users is not None)
    assert ray_constants.ENABLE_RAY_CLUSTER is True
