"""Files that wait on this machine's disk until they are uploaded.

Each writer has a private folder below TMPDIR, locked for as long as its process lives, whatever ends it.
A lock is seen across containers that share the folder, where the number of a process means nothing.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from trainables.errors import DiskFullError
from trainables.record.trouble import is_disk_full

PREFIX = "transfusion-spool-"
LOCK = "lock"
CHECK_DISK_EVERY_S = 5.0
MIB = 2**20

T = TypeVar("T")


class Spool:
    """The folder of one writer, made when the first file is written.

    Attributes:
        notices: told when a disk is full, while it is waited for.
        wait_s: seconds to wait for a full disk.
    """

    def __init__(self, notices: list[str], *, wait_s: float) -> None:
        self.notices, self.wait_s = notices, wait_s
        self.folder: Path | None = None
        self._lock: int | None = None
        self._n_files = 0
        self._full_since: float | None = None
        self._owner = os.getpid()

    def write(self, name: str, write: Callable[[Path], T], *, n_bytes: int) -> tuple[Path, T]:
        """Have a file written under a name, in a folder of its own; wait while the disk is full.

        Args:
            write: is called with the path of the file.
            n_bytes: about how large it becomes, for the notice.

        Raises:
            DiskFullError: the disk stayed full.
        """
        while True:
            try:
                file = self._place(name)
                written = write(file)
            except Exception as error:
                if not is_disk_full(error):
                    raise
            else:
                self._full_since = None
                return file, written
            self._clear_torn()
            self._note_full(name, n_bytes)
            time.sleep(min(CHECK_DISK_EVERY_S, self.wait_s))

    def has_room(self, name: str, *, n_bytes: int) -> bool:
        """Say whether a file of that size can be written; for those who would rather not wait in `write`.

        Raises:
            DiskFullError: there has been no room for as long as one waits.
        """
        if shutil.disk_usage(self._where).free >= n_bytes:
            self._full_since = None
            return True
        self._note_full(name, n_bytes)
        return False

    def _note_full(self, name: str, n_bytes: int) -> None:
        if self._full_since is None:
            self._full_since = time.monotonic()
            self.notices.append(f"the disk of {self._where} is full: {name} needs {_mib(n_bytes)}; waiting")
        if time.monotonic() - self._full_since >= self.wait_s:
            raise DiskFullError(
                f"{self._where}: the disk is full, {name} needs {_mib(n_bytes)}, and nothing became free "
                f"in {self.wait_s / 60:.0f} min; free some, or set TMPDIR to a folder on another disk"
            )

    def remove(self, file: Path) -> None:
        """Delete a file that has been uploaded or is no longer wanted."""
        shutil.rmtree(file.parent, ignore_errors=True)

    def close(self) -> None:
        """Delete the folder, and those of processes that died meanwhile: perhaps nobody comes after this one.

        A forked process leaves all to the one that made it.
        """
        if self.folder is None or self._lock is None or os.getpid() != self._owner:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)
        self.folder = self._lock = None
        remove_abandoned()

    @property
    def _where(self) -> Path:
        return self.folder or Path(tempfile.gettempdir())

    def _place(self, name: str) -> Path:
        if self.folder is None:
            remove_abandoned()
            self.folder, self._lock = _locked_folder()
        self._n_files += 1
        file = self.folder / str(self._n_files) / name
        file.parent.mkdir()
        return file

    def _clear_torn(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder / str(self._n_files), ignore_errors=True)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a folder that is deleted after the block, or, if the process is killed in it, by the next one."""
    remove_abandoned()
    folder, lock = _locked_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_abandoned() -> None:
    """Delete the folders of processes that are gone."""
    for folder in abandoned():
        shutil.rmtree(folder, ignore_errors=True)


def abandoned() -> Iterator[Path]:
    """Yield the folders of processes that are gone, each locked until the next is asked for."""
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        try:
            lock = os.open(folder / LOCK, os.O_RDWR)
        except OSError:
            continue  # somebody else's, or deleted by another at this moment
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass  # its process lives
        else:
            yield folder
        finally:
            os.close(lock)


def _locked_folder() -> tuple[Path, int]:
    made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))
    try:
        lock = os.open(made / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        made.rmdir()
        raise
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Only now it is seen by `remove_abandoned`.
    unique = made.name.removeprefix(f".{PREFIX}")
    return made.rename(made.with_name(f"{PREFIX}{os.getpid()}-{unique}")), lock


def _mib(n_bytes: int) -> str:
    return f"{max(n_bytes / MIB, 0.1):.1f} MiB"
