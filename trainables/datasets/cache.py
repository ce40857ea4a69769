"""Files that can be made again, below `TRANSFUSION_CACHE` (`~/.cache/transfusion` when unset).

A file is written under a temporary name and moved into place, so that a reader never sees half of one and
two processes writing the same are harmless. What takes long is made by one of them (`only_one`), the others
wait. Deleting the folder is always safe.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from trainables.errors import DataError


def cache_folder() -> Path:
    """Return the folder of the cache; it need not exist."""
    return Path(os.environ.get("TRANSFUSION_CACHE") or Path.home() / ".cache" / "transfusion")


@contextmanager
def naming_cache_errors(path: Path) -> Iterator[None]:
    """Say which cache file cannot be written, and what to do.

    Raises:
        DataError: the folder cannot be written, or the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the cache file {path}: {error.strerror or error}; "
            "set TRANSFUSION_CACHE to a folder with enough room that can be written"
        ) from error


@contextmanager
def new_cache_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading and writing that appears as `path` when the block ends without an error.

    Raises:
        DataError: the folder cannot be written, or the disk is full.
    """
    # Not of tempfile, whose files only their owner can read: a cache can be shared.
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        with naming_cache_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("x+b") as stream:
                yield stream
                stream.flush()
                # A machine that loses power must not leave a file of the right name without its content.
                os.fsync(stream.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Let one process or thread at a time make `path`; the others wait here until it is done or dead.

    Raises:
        DataError: the folder cannot be written, or its file system has no locks.
    """
    lock = path.with_name(f".{path.name}.lock")
    with naming_cache_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _acquire(lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def _acquire(lock: Path) -> int:
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(lock, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the one before us removed it: whoever comes now locks another file


def _is_at(lock: Path, handle: int) -> bool:
    try:
        return os.path.samestat(lock.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
