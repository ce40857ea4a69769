"""Image files in a folder, or in an archive of one, seen alike.

Hidden files and what macOS adds are not seen.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trainables.datasets.archive import ARCHIVE_SUFFIXES, archive_contents, index_archive
from trainables.datasets.cache import cache_folder
from trainables.datasets.image_names import is_image, is_seen
from trainables.errors import DataError

Contents = Iterator[tuple[str, Callable[[], bytes]]]


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
    files: dict[str, os.stat_result] = {}
    folders: set[str] = set()
    # Links are followed: people link class folders together from several disks.
    for here, inner, names in os.walk(root, followlinks=True):
        inner[:] = [name for name in inner if is_seen(name)]
        below = PurePosixPath(Path(here).relative_to(root).as_posix())
        if len(below.parts) > 8:
            raise DataError(
                f"{root.name}: {below} is nested too deeply; does a link lead back to its folder?"
            )
        folders.update(str(below / name) for name in inner)
        for name in names:
            if is_seen(name) and is_image(name):
                path = Path(here, name)
                if not path.exists():
                    raise DataError(f"{root.name}: {below / name} is a link to nothing; mend or remove it")
                files[str(below / name)] = path.stat()
    names = sorted(files)
    return FileTree(
        name=root.name,
        files=tuple(names),
        folders=tuple(sorted(folders)),
        fingerprint=_digest([(name, *_version(files[name])) for name in names]),
        contents=lambda: ((name, (root / name).read_bytes) for name in names),
    )


def _open_archive(archive: Path) -> FileTree:
    fingerprint = _digest([archive.name, *_version(archive.stat())])
    index = index_archive(archive, cache_folder() / "archives" / f"{fingerprint}.json")
    return FileTree(
        name=archive.name,
        files=tuple(sorted(index.files)),
        folders=tuple(sorted(index.folders)),
        fingerprint=fingerprint,
        contents=lambda: archive_contents(archive, index),
    )


def _version(stat: os.stat_result) -> tuple[int, int, int]:
    # The change time too: unpacking sets the modification time to what the archive says.
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
