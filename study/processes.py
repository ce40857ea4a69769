"""Processes of this machine, as the kernel tells of them."""

import os
from pathlib import Path
from typing import NamedTuple


class ProcessStat(NamedTuple):
    """What /proc tells of a process: its state letter, and its start in ticks since boot."""

    state: str
    started_ticks: int

    @property
    def is_gone(self) -> bool:
        """Whether only its remains are there."""
        return self.state in "ZX"


def stat_of(pid: int) -> ProcessStat | None:
    """Return what /proc tells of a process; None if it tells nothing."""
    try:
        # The name, in parentheses, may hold anything, blanks and parentheses included.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return ProcessStat(fields[0], int(fields[19]))


def exists(pid: int) -> bool:
    """Whether there is such a process, or its remains; /proc may hide those of others."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
