"""Who drives a study: a process on a host, and whether it is still there."""

import getpass
import json
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path


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
            started=_started(pid) or 0,
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
        started = _started(self.pid)
        return _is_hidden(self.pid) if started is None else started == self.started

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


def _started(pid: int) -> int | None:
    """Return when a process started, in ticks since boot; None if there is none, or only its remains."""
    try:
        # The name in parentheses may hold anything, blanks and parentheses included.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _is_hidden(pid: int) -> bool:
    """Whether there is a process of somebody else that /proc does not show (mounted with hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return False


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # a container may run under an id that has no name
