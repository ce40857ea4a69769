"""The only writes of `doctor`. Each looks first whether somebody has begun to write the run meanwhile."""

import re
from collections.abc import Callable, Collection
from functools import partial

from study.lease import DRIVER
from trainables.record import Store, names, persistently
from trainables.record.runs import StoredRun

# What a process changes when it takes a run over, or while it lives.
SIGNS_OF_LIFE = (names.ATTEMPT, names.ALIVE, DRIVER)
FENCE = "doctor"


def mark_killed(store: Store, run: StoredRun, *, end_s: float | None) -> str | None:
    """Mark the run of a trial or a study killed whose process is gone.

    Args:
        end_s: when it was last seen, in seconds since 1970; None takes the present.
    """
    end_ms = None if end_s is None else max(run.start_time, int(end_s * 1000))

    def kill() -> None:
        if names.ATTEMPT in run.tags:
            # Should its process come back after all, from behind a cut network: it may write no more.
            store.client.set_tag(run.run_id, names.ATTEMPT, _fenced(run.tags[names.ATTEMPT]))
        _end(store, run, "KILLED", end_ms)
        if run.tags.get(DRIVER):
            store.client.set_tag(run.run_id, DRIVER, "")  # else the next driver waits for a sign of life

    return _if_nobody_writes(store, run, kill)


def delete_run(store: Store, run: StoredRun) -> str | None:
    """Move a run to MLflow's deleted runs, from which it can be restored."""
    return _if_nobody_writes(store, run, partial(store.client.delete_run, run.run_id))


def drop_pointers(
    store: Store, run: StoredRun, *, tags: Collection[str], files: Collection[str]
) -> str | None:
    """Take pointers off a run, then delete the files they pointed to."""

    def drop() -> None:
        _drop(store, run, tags)
        _delete(store, run, files)

    return _if_nobody_writes(store, run, drop)


def mark_to_redo(
    store: Store, run: StoredRun, *, cause: str, tags: Collection[str], files: Collection[str]
) -> str | None:
    """Mark a finished run failed, so that its study trains it again, without pointers and their files."""

    def redo() -> None:
        store.client.set_tag(run.run_id, names.CAUSE, cause[: names.MAX_TAG_CHARACTERS])
        _end(store, run, "FAILED", run.end_time)
        # Last: until here the next doctor finds the damage again.
        _drop(store, run, tags)
        _delete(store, run, files)

    return _if_nobody_writes(store, run, redo)


def delete_files(store: Store, run: StoredRun, files: Collection[str]) -> str | None:
    """Delete artifacts of a run."""
    return _if_nobody_writes(store, run, partial(_delete, store, run, files))


def _if_nobody_writes(store: Store, run: StoredRun, mend: Callable[[], object]) -> str | None:
    present = StoredRun.of(
        persistently(f"reading run {run.run_id}", partial(store.client.get_run, run.run_id))
    )
    changed = {sign for sign in SIGNS_OF_LIFE if present.tags.get(sign) != run.tags.get(sign)}
    if present.tags.get(names.ATTEMPT) == _fenced(run.tags.get(names.ATTEMPT, "")):
        changed.discard(names.ATTEMPT)  # by an earlier repair
    has_ended = present.status == "FINISHED" and run.status != "FINISHED"
    if changed or has_ended:
        return "a process has written to it meanwhile"
    persistently(f"mending run {run.run_id}", mend)
    return None


def _fenced(attempt: str) -> str:
    """Return the attempt after one; its writer would stop at its next write."""
    if attempt.endswith(FENCE):
        return attempt
    number = re.match(r"[0-9]{1,9}(?=-)", attempt)
    return f"{int(number[0]) + 1 if number else 1}-{FENCE}"


def _end(store: Store, run: StoredRun, status: str, end_ms: int | None) -> None:
    store.client.set_terminated(run.run_id, status, end_ms)


def _drop(store: Store, run: StoredRun, tags: Collection[str]) -> None:
    present = store.client.get_run(run.run_id).data.tags
    for tag in tags:
        if tag in present:
            store.client.delete_tag(run.run_id, tag)


def _delete(store: Store, run: StoredRun, files: Collection[str]) -> None:
    artifacts = store.artifacts(store.client.get_run(run.run_id))
    present = {path for folder in (names.CHECKPOINTS, names.STATES) for path in artifacts.paths(folder)}
    for path in sorted(present.intersection(files)):
        artifacts.delete(path)
