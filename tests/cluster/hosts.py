"""Several hosts on this machine, made of namespaces: each has its own network, sshd, home and /tmp.

They share the machine's programs. Nothing is added to the machine's own network, and nothing is
left behind when this process ends, however it ends: the kernel removes a namespace with its last
process, and each host's first process dies with this one.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

HOME = "/tmp/home"  # on every host
_NETWORK = "10.77.0"
_PROGRAMS = ("ip", "nsenter", "rsync", "setpriv", "ssh", "ssh-keygen", "sshd", "unshare")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HOSTS = 10  # that /etc/hosts knows

_END_WITH_THIS_PROCESS = ("setpriv", "--pdeathsig", "KILL")
_SWITCH = f"""
set -e
ip link add switch type bridge
ip link set switch up
ip addr add {_NETWORK}.1/24 dev switch
echo up
exec sleep infinity
"""

_SSHD_CONFIG = """
HostKey /run/sshd/host_key
AuthorizedKeysFile {home}/.ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
UseDNS no
PidFile none
MaxStartups 100
MaxSessions 100
"""


def why_not():
    """Why there can be no such hosts on this machine, or None."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "it takes Linux and root to make hosts of namespaces"
    if missing := [name for name in _PROGRAMS if not shutil.which(name, path=_PATH)]:
        return f"not installed: {', '.join(missing)} (Debian: openssh-server, rsync, iproute2, util-linux)"
    command = ["unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork"]
    trial = "mount -t tmpfs none /mnt && mount -t proc proc /proc && ip link add name a type veth peer name b"
    result = subprocess.run([*command, "sh", "-c", trial], capture_output=True, text=True, check=False)
    return f"this machine allows no namespaces: {result.stderr.strip()}" if result.returncode else None


def address(number):
    """IP address of a host."""
    return f"{_NETWORK}.{10 + number}"


class Host:
    """One host, on or off.

    Attributes:
        number: which one.
        home: its home folder, as this process sees it.
    """

    def __init__(self, number, folder, switch, visible):
        self.number = number
        self.home = folder / "home"
        self._folder = folder
        self._environment = {
            "PATH": _PATH,
            "NAME": f"h{number}",
            "ADDRESS": f"{address(number)}/24",
            "GATEWAY": f"{_NETWORK}.1",
            "SWITCH": str(switch),
            "FOLDER": str(folder),
            "VISIBLE": "\n".join(map(str, visible)),
        }
        self._process = None
        self._ending = []
        (self.home / ".ssh").mkdir(parents=True)
        (folder / "sshd_config").write_text(_SSHD_CONFIG.format(home=HOME))
        names = "".join(f"{address(other)} h{other}\n" for other in range(_HOSTS))
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        users = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
        root = ["root", "*", "0", "0", "root", HOME, "/bin/bash"]
        rest = [user for user in users if user[0] != "root"]
        (folder / "passwd").write_text("".join(":".join(user) + "\n" for user in [root, *rest]))

    def start(self):
        """Boots it and waits until it can be logged in to."""
        script = str(Path(__file__).with_name("host.sh"))
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [*_END_WITH_THIS_PROCESS, "unshare", "--net", "bash", script, "network"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_for(lambda: "Server listening" in (self._folder / "log").read_text())

    def kill(self):
        """Cuts its power: every process of it ends at once. Waits until they have."""
        self.cut_power()
        psutil.wait_procs(self._ending, timeout=10)
        (self._folder / "log").unlink(missing_ok=True)

    def cut_power(self):
        """The same without waiting."""
        if self.is_on():
            self._ending = psutil.Process(self._process.pid).children(recursive=True)
            self._process.kill()
            self._process.wait()

    def is_on(self):
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def popen(self, command, **options):
        """Starts a shell command in it, in a login shell at home."""
        (first,) = psutil.Process(self._process.pid).children()
        inside = ["nsenter", "--target", str(first.pid), "--mount", "--net", "--uts", "--ipc", "--pid"]
        environment = ["env", "-i", f"HOME={HOME}", f"PATH={_PATH}", "LANG=C.UTF-8", "TERM=dumb"]
        shell = ["bash", "-c", f"cd; . ~/.bashrc; {command}"]
        return subprocess.Popen(
            [*_END_WITH_THIS_PROCESS, *inside, *environment, *shell],
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            **options,
        )

    def run(self, command, timeout_seconds=120.0):
        """Runs a shell command in it and returns what it printed; an exit code but 0 is an error."""
        with self.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                output, _ = process.communicate(timeout=timeout_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                output = f"{process.communicate()[0]}\nToo late: {timeout_seconds} s."
        assert process.returncode == 0, f"h{self.number}$ {command}\n{output}\nexit {process.returncode}"
        return output

    def programs(self):
        """Names of the programs that run in it."""
        names = set()
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                names.add(process.name())
        return names

    def _wait_for(self, condition, timeout_seconds=15.0):
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            log = (self._folder / "log").read_text()
            assert self._process.poll() is None, f"h{self.number} did not start:\n{log}"
            assert time.monotonic() < deadline, f"h{self.number} takes too long to start:\n{log}"
            time.sleep(0.02)


@contextlib.contextmanager
def running_hosts(folder, count, visible):
    """Hosts 0 to `count` - 1, all of them off at first; 0 holds the key that opens the others.

    Args:
        folder: for their files.
        count: how many.
        visible: folders below /tmp that they can read, too.
    """
    switch = subprocess.Popen(
        [*_END_WITH_THIS_PROCESS, "unshare", "--net", "sh", "-c", _SWITCH],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    hosts = []
    try:
        assert switch.stdout.readline() == "up\n"
        for name in ("key", "host_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(folder / name)],
                check=True,
            )
        for number in range(count):
            (place := folder / f"h{number}").mkdir()
            hosts.append(Host(number, place, switch.pid, visible))
            shutil.copy(folder / "host_key", place)
            shutil.copy(folder / "key.pub", hosts[-1].home / ".ssh" / "authorized_keys")
        shutil.copy(folder / "key", hosts[0].home / ".ssh" / "cluster_key")
        yield hosts
    finally:
        for host in hosts:
            host.cut_power()
        for host in hosts:
            host.kill()
        switch.kill()
        switch.wait()
        switch.stdout.close()
