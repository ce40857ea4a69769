"""Where archives lie: a file on this machine for all of a store, and one with the run of each study."""

import hashlib
import io
import tempfile
from contextlib import suppress
from pathlib import Path

from mlflow.exceptions import MlflowException

from trainables.datasets.cache import cache_folder, new_cache_file
from trainables.errors import CheckpointError, TrackingError
from trainables.record import names
from trainables.record.archive import Archive, read_archive, write_archive
from trainables.record.store import Store


def local_file(store: Store) -> Path:
    """Return where this machine keeps the archive of a store; its name tells no password."""
    place = hashlib.sha256(f"{store.uri} {store.experiment_id}".encode()).hexdigest()[:16]
    return cache_folder() / "records" / f"{place}.zip"


def save_locally(archive: Archive, store: Store) -> None:
    """Replace the archive on this machine.

    Raises:
        DataError: its folder cannot be written.
    """
    with new_cache_file(local_file(store)) as stream:
        write_archive(archive, stream)


def shared_archive(store: Store, study: str) -> Archive:
    """Return what the run of a study holds of its finished trials; empty if nothing can be used.

    Raises:
        TrackingError: the tracking store cannot be used.
    """
    shared = Archive()
    for run in store.search(names.STUDY, study):
        # Without its artifacts all of a study can still be read from the store.
        with suppress(TrackingError, MlflowException):
            artifacts = store.artifacts(run)
            for path in artifacts.paths(names.RECORDS):
                # A file that has just gone was replaced by a newer one.
                with suppress(CheckpointError), tempfile.TemporaryDirectory() as folder:
                    shared.update(read_archive(artifacts.download(path, folder)) or Archive())
    return shared


def share(archive: Archive, store: Store, study: str) -> None:
    """Store an archive with the run of a study in place of those that lie there.

    The old ones go when the new one is whole, so that a reader always finds one.

    Raises:
        TrackingError: the store cannot be used.
    """
    content = io.BytesIO()
    write_archive(archive, content)
    name = f"{hashlib.sha256(content.getvalue()).hexdigest()[:16]}.zip"
    for run in store.search(names.STUDY, study)[:1]:
        artifacts = store.artifacts(run)
        before = artifacts.paths(names.RECORDS)
        path = f"{names.RECORDS}/{name}"
        if path not in before:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / name
                file.write_bytes(content.getvalue())
                artifacts.upload(file, folder=names.RECORDS)
        for old in before:
            if old != path:
                artifacts.delete(old)
