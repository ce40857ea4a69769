"""Brings weights and states here from the artifact store."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from trainables.checkpoints import Contents, read_checkpoint
from trainables.errors import CheckpointError
from trainables.record.pointers import CheckpointRef


def fetch_checkpoint(ref: CheckpointRef, download: Callable[[], AbstractContextManager[Path]]) -> Contents:
    """Return what a pointer points to, its digest checked.

    A file that arrives otherwise than it was written is fetched once more: the connection may have been cut,
    and what is called damaged is given up.

    Args:
        download: gives a local copy.

    Raises:
        CheckpointError: it is missing, truncated or altered.
        TrackingError: the store cannot be used now; nothing is known about the file.
    """
    try:
        return _fetch_once(ref, download)
    except CheckpointError:
        return _fetch_once(ref, download)


def _fetch_once(ref: CheckpointRef, download: Callable[[], AbstractContextManager[Path]]) -> Contents:
    with download() as file:
        return read_checkpoint(file, sha256=ref.sha256)
