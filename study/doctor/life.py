"""Whether the process that writes a run is still there."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from study.processes import exists, stat_of
from trainables.record import names

# Of a run without a sign of life, which only other versions of this program leave behind.
LONG_AGO_S = 86_400.0
# How exactly the start of a process is known.
START_MARGIN_S = 5.0


def death_of(tags: Mapping[str, str], *, start_s: float, now_s: float) -> str | None:
    """Say how one knows that the process of a run that is marked running is gone; None while it may live.

    Args:
        start_s: when the run was first begun; times are in seconds since 1970.
    """
    alive_s = seconds(tags.get(names.ALIVE))
    host, _, pid = tags.get(names.PROCESS, "").rpartition(":")
    if host == socket.gethostname() and pid.isdigit():
        return of_process(int(pid), seen_s=start_s if alive_s is None else alive_s)
    if alive_s is not None:
        silent_s = now_s - alive_s
        at = f" (process {pid} on {host})" if host else ""
        return f"no sign of life for {duration(silent_s)}{at}" if silent_s > names.DEAD_AFTER_S else None
    begun_s = now_s - start_s
    return f"begun {duration(begun_s)} ago, never a sign of life" if begun_s > LONG_AGO_S else None


def of_process(pid: int, *, seen_s: float) -> str | None:
    """Say that a process of this machine is gone, or that another now has its number; None if it lives.

    Args:
        seen_s: when it was last seen, in seconds since 1970.
    """
    stat = stat_of(pid)
    if not exists(pid) or (stat is not None and stat.is_gone):
        return f"process {pid} on this machine is gone"
    started_s = _seconds_since_1970(stat.started_ticks) if stat is not None else None
    if started_s is not None and started_s > seen_s + START_MARGIN_S:
        return f"process {pid} on this machine is gone, another has its number"
    return None


def _seconds_since_1970(ticks: int) -> float | None:
    """Turn ticks since boot into a time, as far as /proc tells when that was."""
    try:
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    except (OSError, StopIteration):
        return None
    return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")


def seconds(text: object) -> float | None:
    """Read a time in seconds; None if it is absent or somebody has edited it into something else."""
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def duration(seconds: float) -> str:
    """Word a duration for people, in its largest unit."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
