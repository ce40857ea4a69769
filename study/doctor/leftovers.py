"""What dead processes left on the disk of this machine."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from study.doctor.finding import Finding
from trainables.record.spool import abandoned


def check_leftovers() -> Iterator[Finding]:
    """Find the folders in which files waited for MLflow when their process died.

    What was in them was not committed, so the trial does it again when it goes on.
    """
    for folder in abandoned():
        sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
        what = f"{sum(sizes):,} bytes that a dead process had not sent to MLflow yet"
        todo = "delete it; the trial does that work again when it goes on"
        yield Finding("leftovers", str(folder), what, todo, partial(_delete, folder))


def _delete(folder: Path) -> str | None:
    with suppress(FileNotFoundError):  # a trial that began meanwhile has cleared it
        shutil.rmtree(folder)
    return None
