"""Whether the process that writes a run is still there."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from study.driver import Driver
from study.lease import DRIVER, FRESH_S
from trainables.record import names
from trainables.record.process import Process
from trainables.record.runs import StoredRun

# Of a run without a sign of life, which only other versions of this program leave behind.
LONG_AGO_S = 86_400.0


@dataclass(frozen=True)
class Death:
    """Why the process of a run is taken for gone.

    Attributes:
        how: in words.
        is_certain: it was looked for; else it was only silent, for which MLflow may be to blame.
    """

    how: str
    is_certain: bool


@dataclass(frozen=True)
class _Signs:
    """What the tags of a run tell of its process.

    Attributes:
        last_s: its last sign of life, in seconds since 1970.
        silent_after_s: how old that may be.
    """

    process: Process | None
    last_s: float | None
    silent_after_s: float


def death_of(run: StoredRun, *, now_s: float) -> Death | None:
    """Say how one knows that the process of a run that is marked running is gone; None while it may live.

    Args:
        now_s: in seconds since 1970.
    """
    signs = _signs(run.tags)
    if signs.process is not None and (is_alive := signs.process.is_alive_here) is not None:
        return None if is_alive else Death(f"{signs.process} is gone", is_certain=True)
    if signs.last_s is not None:
        silent_s = now_s - signs.last_s
        of = f" from {signs.process}" if signs.process else ""
        how = f"no sign of life for {duration(silent_s)}{of}"
        return Death(how, is_certain=False) if silent_s > signs.silent_after_s else None
    begun_s = now_s - run.start_time / 1000
    how = f"begun {duration(begun_s)} ago, never a sign of life"
    return Death(how, is_certain=False) if begun_s > LONG_AGO_S else None


def last_sign_s(run: StoredRun) -> float | None:
    """Return when the process of a run was last seen, in seconds since 1970."""
    return _signs(run.tags).last_s


def _signs(tags: Mapping[str, str]) -> _Signs:
    if tags.get(names.KIND) == names.STUDY_KIND:
        driver = Driver.read(tags.get(DRIVER, ""))
        return _Signs(driver, driver.alive if driver else None, FRESH_S)
    alive_s = _seconds(tags.get(names.ALIVE, ""))
    return _Signs(Process.read(tags.get(names.PROCESS, "")), alive_s, names.DEAD_AFTER_S)


def _seconds(text: str) -> float | None:
    """Read a time; None if it is absent or somebody has edited it into something else."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


def duration(seconds: float) -> str:
    """Word a duration for people, in its largest unit."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
