"""Image files in a folder, or in an archive of one, seen alike.

Hidden files and what macOS adds are not seen.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainables.datasets.archive import ARCHIVE_SUFFIXES, archive_contents, index_archive
from trainables.datasets.cache import cache_folder
from trainables.datasets.image_names import is_image, is_seen
from trainables.datasets.paths import is_text
from trainables.errors import DataError

Contents = Iterator[tuple[str, Callable[[], bytes]]]
DEEPEST = 8


@dataclass(frozen=True)
class FileTree:
    """Image files below one folder.

    Attributes:
        name: of the folder or archive, for messages.
        files: relative paths of the images, sorted.
        folders: relative paths of all folders, sorted; an empty one is among them.
        fingerprint: changes whenever a file does (names, sizes, times).
        contents: yields every file once, in any order, with what reads its bytes.
    """

    name: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    fingerprint: str
    contents: Callable[[], Contents]


def open_file_tree(location: Path) -> FileTree:
    """Open the folder at `location`, or else the archive beside it (`<location>.tar.xz`, …).

    Raises:
        DataError: there is neither, or the archive is damaged or unsafe.
    """
    if location.is_dir():
        return _open_folder(location)
    if location.is_file() and not location.name.endswith(ARCHIVE_SUFFIXES):
        raise DataError(
            f"{location.name}: expected a folder or an archive ({', '.join(ARCHIVE_SUFFIXES)}), "
            "found a file of another kind; mend dataset.path"
        )
    archives = [location] if location.is_file() else archives_beside(location)
    if not archives:
        raise DataError(
            f"{location.name}: expected a folder {location}, or an archive of it "
            f"({', '.join(ARCHIVE_SUFFIXES)}), found neither; "
            "set TRANSFUSION_DATA to the folder that holds it, or mend dataset.path"
        )
    return _open_archive(archives[0])


def archives_beside(location: Path) -> list[Path]:
    """Return the archives that can stand for a folder: `<location>.tar.xz`, …"""
    candidates = (location.with_name(location.name + suffix) for suffix in ARCHIVE_SUFFIXES)
    return [path for path in candidates if path.is_file()]


def _open_folder(root: Path) -> FileTree:
    versions: dict[str, tuple[int, int, int]] = {}
    folders: list[str] = []
    waiting = [""]
    while waiting:
        below = waiting.pop()
        if below.count("/") > DEEPEST:
            raise DataError(
                f"{root.name}: {below} is nested too deeply; does a link lead back to its folder?"
            )
        for entry in _entries(root, below):
            path = f"{below}/{entry.name}" if below else entry.name
            if not is_text(entry.name):
                raise DataError(f"{root.name}: {path!r} is no name in UTF-8; rename it")
            # Links are followed: people link class folders together from several disks.
            if _is_folder(entry, f"{root.name}: {path}"):
                folders.append(path)
                waiting.append(path)
            elif is_image(entry.name):
                versions[path] = _version(_stat(entry, f"{root.name}: {path}"))
    names = tuple(sorted(versions))
    return FileTree(
        name=root.name,
        files=names,
        folders=tuple(sorted(folders)),
        fingerprint=_digest((name, *versions[name]) for name in names),
        contents=lambda: ((name, (root / name).read_bytes) for name in names),
    )


def _entries(root: Path, below: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(root / below) as entries:
            return [entry for entry in entries if is_seen(entry.name)]
    except PermissionError as error:
        raise DataError(
            f"{root.name}: the folder {root / below} cannot be listed ({error.strerror}); "
            "give yourself the right to read it"
        ) from error


def _is_folder(entry: os.DirEntry[str], where: str) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # links in a circle
        raise DataError(f"{where} cannot be followed ({error.strerror}); mend or remove it") from None


def _stat(entry: os.DirEntry[str], where: str) -> os.stat_result:
    try:
        found = entry.stat()
    except FileNotFoundError:
        raise DataError(f"{where} is a link to nothing; mend or remove it") from None
    if not stat.S_ISREG(found.st_mode):  # who reads a pipe or a device may wait forever
        raise DataError(f"{where} is no file; remove it")
    return found


def _open_archive(archive: Path) -> FileTree:
    fingerprint = fingerprint_of(archive)
    index = index_archive(archive, cache_folder() / "archives" / f"{fingerprint}.json")
    return FileTree(
        name=archive.name,
        files=tuple(sorted(index.files)),
        folders=tuple(sorted(index.folders)),
        fingerprint=fingerprint,
        contents=lambda: archive_contents(archive, index),
    )


def fingerprint_of(*files: Path) -> str:
    """Return what changes whenever one of the files does: a digest of names, sizes and times."""
    return _digest((file.name, *_version(file.stat())) for file in files)


def _version(found: os.stat_result) -> tuple[int, int, int]:
    # The change time too: unpacking sets the modification time to what the archive says.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(rows: Iterable[tuple[str, int, int, int]]) -> str:
    digest = hashlib.sha256()
    for row in rows:  # one by one: there are collections of a million files
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()
