"""A network of hosts on this machine, made of namespaces: each has its own root, processes and sshd."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

BOOT = Path(__file__).with_name("boot.sh")
VENV = Path(sys.prefix)
COMMANDS = ("ip", "unshare", "nsenter", "rsync", "ssh", "ssh-keygen", "/usr/sbin/sshd")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROBE = (
    "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt && mkdir /mnt/a /mnt/b && "
    "mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/a,workdir=/mnt/b /media"
)


def why_not() -> str | None:
    """Return why no hosts can be made here, None if they can."""
    if missing := [command for command in COMMANDS if shutil.which(command) is None]:
        return f"not installed: {', '.join(missing)} (apt install openssh-server rsync iproute2)"
    probe = subprocess.run(
        ["unshare", "-m", "-p", "-n", "-u", "-i", "--fork", "sh", "-c", PROBE], capture_output=True, text=True
    )
    return f"namespaces are not allowed: {probe.stderr.strip()}" if probe.returncode else None


@dataclass
class Host:
    """A running host. Made by `Network.add`.

    Attributes:
        folder: `home` and `tmp` in it are the host's /root and /tmp.
    """

    name: str
    address: str
    folder: Path
    namespace: str
    switch: str
    hidden: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def log(self) -> Path:
        return self.folder / "sshd.log"

    def power_on(self) -> None:
        """Boot, and wait for the sshd."""
        namespaces = ("unshare", "-m", "-p", "-u", "-i", "--fork", "--kill-child")
        places = (self.folder, VENV, sys.base_prefix, self.hidden)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *namespaces,
                 str(BOOT), self.name, self.address, *map(str, places)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        for _ in range(100):
            if "Server listening" in self.log.read_text():
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"host {self.name} did not boot: {self.log.read_text()}")

    def power_off(self) -> None:
        """Take the power away: every process of the host ends at once."""
        if self._process is not None:
            # `unshare` waits with SIGTERM blocked; with it goes the host's first process, so all of them.
            self._process.kill()
            self._process.wait()
            self._process = None

    def cut_off(self) -> None:
        """Pull the network cable: connections stay open, and silent."""
        run("ip", "netns", "exec", self.switch, "ip", "link", "set", self.name, "down")

    def reconnect(self) -> None:
        """Put the network cable back."""
        run("ip", "netns", "exec", self.switch, "ip", "link", "set", self.name, "up")

    def start(self, command: str, output: IO[str] | int) -> subprocess.Popen[str]:
        """Start a shell command at the host's keyboard, in its home."""
        return subprocess.Popen(
            [*self._inside(), "bash", "-c", f"cd; {command}"],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, command: str, *, timeout_s: float = 120) -> str:
        """Run a shell command to its end and return what it printed.

        Raises:
            RuntimeError: it failed.
        """
        process = self.start(command, subprocess.PIPE)
        try:
            printed, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
            raise RuntimeError(f"{self.name}: {command}: not done in {timeout_s} s:\n{printed}") from None
        if process.returncode:
            raise RuntimeError(f"{self.name}: {command}: exit code {process.returncode}:\n{printed}")
        return printed

    def _inside(self) -> list[str]:
        if self._process is None:
            raise RuntimeError(f"host {self.name} is off")
        pid = self._process.pid
        first = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
        environment = {
            "HOME": "/root",
            "USER": "root",
            "PATH": f"{VENV}/bin:{SYSTEM_PATH}",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        pairs = [f"{name}={value}" for name, value in environment.items()]
        return ["nsenter", "-t", first, "-m", "-p", "-u", "-i", "-n", "-r", "-w", "env", "-i", *pairs]


@dataclass
class Network:
    """Hosts that reach each other and, as their switch has a namespace of its own, nothing else.

    Made by `network`.
    """

    folder: Path
    hidden: Path
    hosts: list[Host] = field(default_factory=list)

    @property
    def switch(self) -> str:
        return f"hosts-{os.getpid()}"

    def add(self, name: str, address: str) -> Host:
        """Add a host and boot it. Every host accepts the key of the network from every other."""
        folder = self.folder / name
        for part in ("root", "disk", "tmp", "home/.ssh"):
            (folder / part).mkdir(parents=True)
        (folder / "tmp").chmod(0o1777)
        for key in ("id", "host_key"):
            shutil.copy(self.folder / key, folder / "home" / ".ssh" / key)
        shutil.copy(self.folder / "id.pub", folder / "home" / ".ssh" / "authorized_keys")
        host = Host(name, address, folder, f"{self.switch}-{name}", self.switch, self.hidden)
        inside = ("ip", "netns", "exec", host.namespace, "ip")
        run("ip", "netns", "add", host.namespace)
        self.hosts.append(host)
        run("ip", "link", "add", "eth0", "netns", host.namespace, "type", "veth", "peer", name,
            "netns", self.switch)  # fmt: skip
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "addr", "add", f"{address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run("ip", "netns", "exec", self.switch, "ip", "link", "set", name, "master", "bridge", "up")
        host.power_on()
        return host


@contextmanager
def network(folder: Path, *, hidden: Path) -> Iterator[Network]:
    """Make an empty network, and take it and its hosts away afterwards.

    Args:
        folder: where the hosts' disks are.
        hidden: a folder that the hosts do not see, but for the Python environment in it.
    """
    made = Network(folder, hidden)
    for key in ("id", "host_key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
    run("ip", "netns", "add", made.switch)
    try:
        switch = ("ip", "netns", "exec", made.switch, "ip", "link")
        run(*switch, "add", "bridge", "type", "bridge")
        run(*switch, "set", "bridge", "up")
        yield made
    finally:
        for host in made.hosts:
            host.power_off()
            run("ip", "netns", "del", host.namespace)
        run("ip", "netns", "del", made.switch)


def run(*command: str) -> None:
    """Run a command of this machine, and say what it printed if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
