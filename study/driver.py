"""Who drives a study: a process on a host, and whether it is still there."""

import getpass
import json
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from study.processes import exists, stat_of


@dataclass(frozen=True)
class Driver:
    """A process that runs a study, as it signs in MLflow. Times are seconds since 1970, on its own clock.

    Attributes:
        token: tells it from every other.
        machine: where `pid` means something: one boot of one kernel, and one namespace of process ids.
        started: when the process started, in ticks of that kernel: a pid is given out again.
        since: when it began to drive.
        alive: its last sign of life.
    """

    token: str
    host: str
    machine: str
    pid: int
    started: int
    user: str
    since: float
    alive: float

    @classmethod
    def here(cls) -> "Driver":
        """Describe this process."""
        now = time.time()
        pid = os.getpid()
        return cls(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            machine=_machine(),
            pid=pid,
            started=stat.started_ticks if (stat := stat_of(pid)) else 0,
            user=_user(),
            since=now,
            alive=now,
        )

    @classmethod
    def read(cls, text: str) -> "Driver | None":
        """Return the driver that a text describes; None if it describes none."""
        try:
            content = json.loads(text)
            return cls(**{name: kind(content[name]) for name, kind in cls.__annotations__.items()})
        except (ValueError, TypeError, KeyError, OverflowError):
            return None  # empty, or written by a hand

    def text(self) -> str:
        """Return what `read` reads."""
        return json.dumps(asdict(self))

    @property
    def is_on_this_machine(self) -> bool:
        """Whether this process can look for it."""
        return bool(self.machine) and self.machine == _machine()

    @property
    def is_running_here(self) -> bool:
        """Whether its process is there, on this machine."""
        if (stat := stat_of(self.pid)) is None:
            return exists(self.pid)  # of somebody else, and /proc is mounted with hidepid
        return not stat.is_gone and stat.started_ticks == self.started

    def __str__(self) -> str:
        began, seen = (
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) for at in (self.since, self.alive)
        )
        return f"{self.user}@{self.host}, process {self.pid}, since {began}, last sign of life {seen}"


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""  # no Linux: nobody is looked for, and a dead driver's lease has to lapse


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # a container may run under an id that has no name
