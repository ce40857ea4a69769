"""Weights that trials start from, fetched once by each machine: files of the cache, named by their digest."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainables.checkpoints import digest
from trainables.datasets.cache import cache_folder, new_cache_file, only_one
from trainables.errors import DataError
from trainables.record.pointers import CheckpointRef
from trainables.record.store import Artifacts, Store

# Beyond that, those that were not used for longest are deleted.
MOST_BYTES = 10**10


@contextmanager
def kept_artifact(store: Store, run_id: str, ref: CheckpointRef) -> Iterator[Path]:
    """Give a local copy of a checkpoint that the next process of this machine finds, too.

    One that lies on this machine anyway is not kept twice; if nothing can be kept, it is fetched each time.

    Raises:
        CheckpointError: the artifact is not there.
        TrackingError: the store cannot be used now.
    """
    artifacts = store.artifacts_of(run_id)
    kept = None if artifacts.are_local else _kept(artifacts, ref)
    if kept is not None:
        yield kept
        return
    with artifacts.downloaded(ref.path) as file:
        yield file


def _kept(artifacts: Artifacts, ref: CheckpointRef) -> Path | None:
    """Return the file, fetched unless it is there whole; None if it cannot be kept."""
    path = cache_folder() / "weights" / f"{ref.sha256}.safetensors"
    try:
        with only_one(path):
            if _is_whole(path, ref.sha256):
                with suppress(OSError):  # of another user, or just deleted: then it is fetched again
                    os.utime(path)
                return path
            with (
                artifacts.downloaded(ref.path) as file,
                file.open("rb") as fetched,
                new_cache_file(path) as stream,
            ):
                shutil.copyfileobj(fetched, stream)
            _make_room(path)
    except DataError:  # it only saves time
        return None
    return path


def _is_whole(path: Path, sha256: str) -> bool:
    try:
        return digest(path) == sha256
    except OSError:
        return False


def _make_room(newest: Path) -> None:
    """Delete what was not used for longest; who reads it has it open, or fetches it again."""
    found = []
    for path in newest.parent.glob("*.safetensors"):
        with suppress(OSError):
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    n_bytes = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if n_bytes <= MOST_BYTES or path == newest:
            return
        with suppress(OSError):  # of another user
            path.unlink(missing_ok=True)
            n_bytes -= size
