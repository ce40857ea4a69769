"""Studies that are marked running though nobody drives them."""

from collections.abc import Iterator
from functools import partial

from study.doctor import repair
from study.doctor.examination import Examination
from study.doctor.finding import Finding
from study.doctor.life import LONG_AGO_S, duration
from study.driver import Driver
from study.lease import DRIVER, FRESH_S
from trainables.record import names
from trainables.record.runs import StoredRun


def dead_studies(seen: Examination) -> Iterator[Finding]:
    """Find the runs of studies whose driver is gone."""
    for run in seen.studies:
        driver = Driver.read(run.tags.get(DRIVER, ""))
        if names.STATUS_WORDS[run.status] != "running":
            continue
        if (death := _death_of(driver, run, now_s=seen.now_s)) is not None:
            name = run.tags.get(names.STUDY, "?")
            end_s = driver.alive if driver else None
            yield Finding(
                "studies",
                f"study {name} (run {run.run_id})",
                f"marked running, but {death}",
                f"mark it killed; go on with: transfusion resume {name}",
                partial(repair.mark_killed, seen.store, run, end_s=end_s),
            )


def _death_of(driver: Driver | None, run: StoredRun, *, now_s: float) -> str | None:
    if driver is None:
        # Between the start of a driver and its lease, or left by another version of this program.
        begun_s = now_s - run.start_time / 1000
        return f"nobody drives it, and it was begun {duration(begun_s)} ago" if begun_s > LONG_AGO_S else None
    if driver.is_on_this_machine:
        return None if driver.is_running_here else f"its driver is gone: {driver}"
    silent_s = now_s - driver.alive
    return f"its driver has been silent for {duration(silent_s)}: {driver}" if silent_s > FRESH_S else None
