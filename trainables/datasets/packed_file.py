"""A file of packed pixels: made once, shard by shard, then mapped.

An .npy file, followed by what is known of images that cannot be decoded (JSON, by number; nothing where all
can), and by the SHA-256 of pixels and JSON, which is verified at every load.

While it is made, finished shards are listed in a journal beside it. Whatever ends the process, the next one
finds there which images it need not decode again.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np

from trainables.datasets.cache import naming_cache_errors

DIGEST_BYTES = 32
HASHED_AT_ONCE_BYTES = 1 << 24
SHARD_IMAGES = 1024
# Called with the images that are done and with all.
Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class PackedFile:
    """A complete file.

    Attributes:
        pixels: (n_images, channels, size_px, size_px) uint8, mapped, read-only; of a broken image 0.
        broken: why an image cannot be decoded, by its number.
        digest: SHA-256, in hex, of both.
    """

    pixels: np.ndarray
    broken: dict[int, str]
    digest: str


def load_packed_file(path: Path, shape: tuple[int, ...]) -> PackedFile | None:
    """Map a cached file; None if there is none, or if it is not what was written."""
    header = _header(shape)
    try:
        with path.open("rb") as stream:
            if stream.read(len(header)) != header:
                return None
            stream.seek(len(header) + math.prod(shape))
            tail = stream.read()
        pixels = np.memmap(path, np.uint8, mode="r", offset=len(header), shape=shape)
    except (OSError, ValueError):  # absent, or shorter than its header says
        return None
    note, expected = tail[:-DIGEST_BYTES], tail[-DIGEST_BYTES:]
    digest = hashlib.sha256(pixels.data)
    digest.update(note)
    if digest.digest() != expected:
        return None
    broken = json.loads(note) if note else {}
    return PackedFile(pixels, {int(n): reason for n, reason in broken.items()}, expected.hex())


def _header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


class UnfinishedFile:
    """The pixels and the journal of a file that is being made.

    Attributes:
        done: (n_images,) bool: which images belong to finished shards.
        broken: why an image cannot be decoded, by its number; of finished shards.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], pixels: IO[bytes], journal: IO[bytes], progress: Progress
    ) -> None:
        self._path, self._shape, self._progress = path, shape, progress
        self._pixels, self._journal = pixels, journal
        self._image_bytes = math.prod(shape[1:])
        self.done = np.zeros(shape[0], bool)
        self.broken: dict[int, str] = {}
        self._start_shard()
        self._prepare_pixels()
        self._replay()

    def add(self, number: int, image: np.ndarray | str) -> None:
        """Write an image, or why it cannot be decoded."""
        if isinstance(image, str):
            self._shard_broken[number] = image
            image = np.zeros(self._shape[1:], np.uint8)
        content = np.ascontiguousarray(image).data
        with naming_cache_errors(self._path):
            # Written, not mapped: a full disk is then an error here, and no signal that ends the process.
            self._pixels.seek(self._offset(number))
            self._pixels.write(content)
        self._shard_digest.update(content)
        self._shard_numbers.append(number)
        if len(self._shard_numbers) == SHARD_IMAGES:
            self.finish_shard()

    def finish_shard(self) -> None:
        """Make sure that what was added is on the disk, then say so in the journal."""
        if not self._shard_numbers:
            return
        entry = {
            "numbers": self._shard_numbers,
            "broken": self._shard_broken,
            "sha256": self._shard_digest.hexdigest(),
        }
        with naming_cache_errors(self._path):
            _sync(self._pixels)
            self._journal.write(json.dumps(entry).encode() + b"\n")
            _sync(self._journal)
        self._count(self._shard_numbers, self._shard_broken)
        self._start_shard()

    def finish(self) -> None:
        """Complete the file and move it into place."""
        self.finish_shard()
        if not self.done.all():
            raise RuntimeError(f"{int((~self.done).sum())} images of {self._path} were never added")
        note = json.dumps(dict(sorted(self.broken.items()))).encode() if self.broken else b""
        with naming_cache_errors(self._path):
            digest = hashlib.sha256()
            self._pixels.seek(self._offset(0))
            while block := self._pixels.read(HASHED_AT_ONCE_BYTES):
                digest.update(block)
            digest.update(note)
            self._pixels.write(note + digest.digest())
            _sync(self._pixels)
            os.replace(_beside(self._path, "pixels"), self._path)
            _beside(self._path, "journal").unlink()

    def _start_shard(self) -> None:
        self._shard_numbers: list[int] = []
        self._shard_broken: dict[int, str] = {}
        self._shard_digest = hashlib.sha256()

    def _offset(self, number: int) -> int:
        return len(_header(self._shape)) + number * self._image_bytes

    def _prepare_pixels(self) -> None:
        header = _header(self._shape)
        self._pixels.seek(0)
        self._pixels.write(header)
        self._pixels.flush()
        # A process that ends just before the file is moved leaves its digest behind the pixels.
        self._pixels.truncate(self._offset(self._shape[0]))

    def _replay(self) -> None:
        """Take over the shards of the journal whose pixels are still those that were written."""
        valid_bytes = 0
        self._journal.seek(0)
        for line in self._journal:
            try:
                numbers, broken, sha256 = _read_entry(line, n_images=self._shape[0])
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                break  # cut off as it was written, or damaged
            valid_bytes += len(line)
            if self._digest_of(numbers) == sha256:
                self._count(numbers, broken)
        self._journal.truncate(valid_bytes)
        self._journal.seek(valid_bytes)

    def _digest_of(self, numbers: list[int]) -> str:
        digest = hashlib.sha256()
        for number in numbers:
            self._pixels.seek(self._offset(number))
            digest.update(self._pixels.read(self._image_bytes))
        return digest.hexdigest()

    def _count(self, numbers: list[int], broken: dict[int, str]) -> None:
        self.done[numbers] = True
        self.broken.update(broken)
        self._progress(int(self.done.sum()), len(self.done))


def _read_entry(line: bytes, *, n_images: int) -> tuple[list[int], dict[int, str], str]:
    """Return the numbers, the broken ones and the digest of a shard, from its line of the journal."""
    entry = json.loads(line)
    numbers, broken = entry["numbers"], {int(n): str(why) for n, why in entry["broken"].items()}
    if not all(isinstance(number, int) and 0 <= number < n_images for number in (*numbers, *broken)):
        raise ValueError("a number of no image")
    return list(numbers), broken, entry["sha256"]


@contextmanager
def unfinished_file(path: Path, shape: tuple[int, ...], progress: Progress) -> Iterator[UnfinishedFile]:
    """Begin to make the file `path`, or go on where another process ended; hold `only_one(path)` meanwhile.

    Raises:
        DataError: the folder cannot be written, or the disk is full.
    """
    with ExitStack() as stack:
        with naming_cache_errors(path):
            pixels, journal = (
                stack.enter_context(os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o666), "r+b"))
                for file in (_beside(path, "pixels"), _beside(path, "journal"))
            )
            unfinished = UnfinishedFile(path, shape, pixels, journal, progress)
        yield unfinished


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def _sync(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())
