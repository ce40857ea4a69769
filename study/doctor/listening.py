"""Listening to the silent before they are taken for dead: it may be MLflow that was away, not they.

After an outage nobody's last sign of life is fresh, and that of one process says nothing about another,
which may still wait out a pause. Only a change tells, whatever the clocks of the hosts say.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from study.doctor.examination import Examination
from study.doctor.repair import SIGNS_OF_LIFE
from trainables.errors import TrackingError
from trainables.record.runs import StoredRun

# A heartbeat is due every 30 s; the first after an outage comes after a pause of up to 15 s, or after a call
# that hangs for 2 × 30 s.
LISTEN_S = 90.0
LOOK_EVERY_S = 5.0
# A look that takes longer met an MLflow that is away again; then the listening begins anew …
SLOW_LOOK_S = 5.0
# … but not for ever.
GIVE_UP_AFTER_S = 600.0

# Called with what is done, how much of it, and of how much.
Progress = Callable[[str, int, int], None]


def silent_runs(seen: Examination) -> list[StoredRun]:
    """Return the runs that are taken for dead because of their silence alone."""
    everything = [*(run for trial in seen.trials for run in (trial.counting, *trial.others)), *seen.studies]
    deaths = {run.run_id: seen.death_of(run) for run in everything if seen.is_marked_running(run)}
    return [run for run in everything if (death := deaths.get(run.run_id)) and not death.is_certain]


def after_listening(seen: Examination, *, progress: Progress) -> Examination:
    """Wait for signs of life of the silent, and return the examination with those who gave one.

    Raises:
        TrackingError: MLflow is away, or cannot be listened to for long enough in one piece.
    """
    silent = silent_runs(seen)
    heard: set[str] = set()
    began = undisturbed_since = time.monotonic()
    while len(heard) < len(silent) and (listened_s := time.monotonic() - undisturbed_since) < LISTEN_S:
        progress(f"listening to {len(silent) - len(heard)} silent runs, s", int(listened_s), int(LISTEN_S))
        time.sleep(LOOK_EVERY_S)
        looked_at = time.monotonic()
        heard |= _heard(seen, silent)
        if time.monotonic() - looked_at > SLOW_LOOK_S:
            undisturbed_since = time.monotonic()
        if undisturbed_since - began > GIVE_UP_AFTER_S:
            raise TrackingError(
                f"{seen.store.display_uri} answers too slowly to tell who lives; nothing was repaired: "
                "run doctor again when it answers within seconds"
            )
    return replace(seen, heard=frozenset(heard))


def _heard(seen: Examination, silent: list[StoredRun]) -> set[str]:
    """Return the runs that somebody has written to, ended or deleted since they were examined."""
    found = map(StoredRun.of, seen.store.runs("attributes.status != 'FINISHED'"))
    present = {run.run_id: run for run in found}

    def has_changed(run: StoredRun) -> bool:
        now = present.get(run.run_id)
        if now is None or now.status != run.status:
            return True
        return any(now.tags.get(sign) != run.tags.get(sign) for sign in SIGNS_OF_LIFE)

    return {run.run_id for run in silent if has_changed(run)}
