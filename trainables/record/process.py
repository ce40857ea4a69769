"""A process, as records name it so that no other is taken for it, and whether it is still there.

Neither a host's name nor a number is enough: containers of one image may share the name, each counts its
processes for itself, and numbers are given out again.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self


@dataclass(frozen=True)
class Process:
    """A process on a machine.

    Attributes:
        machine: where `pid` means something: one boot of one kernel, and one namespace of process ids;
            empty if that is not known.
        started: when it started, in ticks of that kernel.
    """

    host: str
    machine: str
    pid: int
    started: int

    @classmethod
    def here(cls) -> Self:
        """Describe this process."""
        pid = os.getpid()
        stat = _stat_of(pid)
        return cls(socket.gethostname(), _machine(), pid, stat.started_ticks if stat else 0)

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Return the process that a text names, also as older versions wrote it; None if it names none."""
        name, _, rest = text.partition(" ")
        host, _, pid = name.rpartition(":")
        started, _, machine = rest.partition(" ")
        try:
            return cls(host, machine, int(pid), int(started or 0))
        except ValueError:
            return None  # empty, or written by a hand

    def text(self) -> str:
        """Return what `read` reads: `host:pid`, which is for people, and what makes it unmistakable."""
        return f"{self.host}:{self.pid} {self.started} {self.machine}"

    @property
    def is_alive_here(self) -> bool | None:
        """Whether it is there; None if it is not of this machine, or it is not known of which."""
        if not self.machine or self.machine != _machine():
            return None
        if (stat := _stat_of(self.pid)) is None:
            return _exists(self.pid)  # of somebody else, and /proc is mounted with hidepid
        return stat.state not in "ZX" and stat.started_ticks == self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class _Stat(NamedTuple):
    """What /proc tells of a process: the letter of its state, and its start in ticks since boot."""

    state: str
    started_ticks: int


def _stat_of(pid: int) -> _Stat | None:
    try:
        # The name, in parentheses, may hold anything, blanks and parentheses included.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return _Stat(fields[0], int(fields[19]))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""  # no Linux: nobody is looked for, and the dead are known by their silence
