"""Images in a .tar (compressed or not) or .zip, read in one pass and never unpacked to disk.

A folder around everything is left out of the paths.
"""

import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from trainables.datasets.cache import new_cache_file
from trainables.datasets.image_names import is_image, is_seen
from trainables.datasets.paths import is_text
from trainables.errors import DataError

ARCHIVE_SUFFIXES = (".tar.xz", ".tar.gz", ".tgz", ".tar", ".zip")
# A few kilobytes of an archive can stand for terabytes.
LARGEST_IMAGE_BYTES = 1 << 30
# RuntimeError: an encrypted zip, or one of an unknown method.
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,  # numbers in headers that are none, and names that are no text
    OverflowError,
    IndexError,
    KeyError,
    struct.error,
)


@dataclass(frozen=True)
class ArchiveIndex:
    """What an archive holds.

    Attributes:
        files: of every image, by its path below the top folder, the name of the member.
        folders: paths below the top folder.
    """

    files: dict[str, str]
    folders: list[str]


def index_archive(archive: Path, cached: Path) -> ArchiveIndex:
    """List an archive, or read the list from the cache.

    Raises:
        DataError: the archive is damaged, has links, or members that point out of it.
    """
    # Listing a compressed tar means decompressing it, so the list is kept.
    kept = _read_index(cached)
    if kept is not None:
        return kept
    index = _build_index(archive)
    with new_cache_file(cached) as stream:
        stream.write(json.dumps(asdict(index)).encode())
    return index


def _read_index(cached: Path) -> ArchiveIndex | None:
    """Return the list that was kept; None if there is none, or if it is damaged: it is made again."""
    try:
        content = json.loads(cached.read_text())
        files, folders = content["files"], content["folders"]
        is_whole = all(isinstance(text, str) for pair in files.items() for text in pair)
        is_whole &= isinstance(folders, list) and all(isinstance(folder, str) for folder in folders)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return ArchiveIndex(files, folders) if is_whole else None


def _build_index(archive: Path) -> ArchiveIndex:
    files: list[str] = []
    folders: set[str] = set()
    with _naming_damage(archive):
        for name, is_folder, _read in _members(archive):
            path = PurePosixPath(name)
            if not is_text(name):
                raise DataError(f"{archive.name}: the member {name!r} has no name in UTF-8; pack it anew")
            if path.is_absolute() or ".." in path.parts:
                raise DataError(
                    f"{archive.name}: refused, as the member {name!r} points out of the archive; pack it anew"
                )
            if not all(is_seen(part) for part in path.parts):
                continue
            folders.update(str(parent) for parent in path.parents if parent.parts)
            if is_folder and path.parts:
                folders.add(str(path))
            elif is_image(name):
                files.append(name)
    top = _top_folder(files, folders)
    return ArchiveIndex(
        files={_below(top, name): name for name in files},
        folders=sorted(_below(top, name) for name in folders if name != top),
    )


def _top_folder(files: list[str], folders: set[str]) -> str | None:
    """Return the one folder around everything, unless nothing but images lies in it."""
    tops = {PurePosixPath(name).parts[0] for name in (*files, *folders)}
    only = next(iter(tops)) if len(tops) == 1 else None
    return only if any(name.startswith(f"{only}/") for name in folders) else None


def _below(top: str | None, name: str) -> str:
    path = str(PurePosixPath(name))  # without a leading ./
    return path.removeprefix(f"{top}/") if top else path


def archive_contents(archive: Path, index: ArchiveIndex) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield the path of every image and what reads its bytes, in one pass over the archive.

    Raises:
        DataError: the archive is damaged, or another than the one that was listed.
    """
    wanted = {member: name for name, member in index.files.items()}
    found = set()
    with _naming_damage(archive):
        for member, _is_folder, read in _members(archive):
            if member in wanted:
                found.add(member)
                # Read here, in the order of the archive; only the decoding is left to the threads.
                yield wanted[member], partial(_same, read())
    if len(found) < len(wanted):
        raise DataError(f"{archive.name}: changed while it was read; load it again")


def _same(data: bytes) -> bytes:
    return data


def _members(archive: Path) -> Iterator[tuple[str, bool, Callable[[], bytes]]]:
    """Yield name, whether it is a folder, and what reads it (before the next is asked for)."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                _check_size(archive, info.filename, info.file_size)
                yield info.filename, info.is_dir(), partial(zipped.read, info)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.issym() or member.islnk():
                raise DataError(f"{archive.name}: {member.name} is a link; pack the file itself (tar -h)")
            if member.isfile() or member.isdir():
                _check_size(archive, member.name, member.size)
                yield member.name, member.isdir(), partial(_read_member, tar, member)
        _check_end(tar)


def _check_size(archive: Path, name: str, n_bytes: int) -> None:
    if is_image(name) and n_bytes > LARGEST_IMAGE_BYTES:
        raise DataError(
            f"{archive.name}: expected images of at most {LARGEST_IMAGE_BYTES} bytes, found {name} of "
            f"{n_bytes}; remove it"
        )


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return stream.read() if stream else b""


def _check_end(tar: tarfile.TarFile) -> None:
    # tarfile takes a damaged header, or the end of a file that was cut off, for the end of the archive.
    if tar.fileobj is not None:
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("the archive ends without its end mark")


@contextmanager
def _naming_damage(archive: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise DataError(
            f"{archive.name}: the archive is damaged or incomplete ({error}); download or pack it anew"
        ) from error
