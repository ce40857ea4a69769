"""Images of any origin as one uint8 array: decoded and resized once, then mapped from the cache.

A cached file is an .npy file followed by the SHA-256 of its pixels, which is verified at every load.
"""

import hashlib
import io
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import PIL
from PIL import Image

from trainables.datasets.cache import cache_folder, new_cache_file
from trainables.datasets.decoding import decode, fit
from trainables.errors import DataError

DIGEST_BYTES = 32
NAMED_UNREADABLE = 5
HASHED_AT_ONCE_BYTES = 1 << 24


@dataclass(frozen=True)
class ImageArray:
    """Decoded images.

    Attributes:
        pixels: (n_images, height, width) grey or (n_images, height, width, 3) RGB, uint8.
        fingerprint: of the file they come from; None keeps them out of the cache.
    """

    pixels: np.ndarray
    fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class ImageFiles:
    """Encoded images.

    Attributes:
        names: one per image, for messages.
        contents: yields the number of every image once, in any order, and what reads its bytes.
        fingerprint: changes whenever a file does.
    """

    names: tuple[str, ...]
    contents: Callable[[], Iterator[tuple[int, Callable[[], bytes]]]]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.names)


def pack(images: ImageArray | ImageFiles, *, name: str, size_px: int, channels: int) -> np.ndarray:
    """Return (n_images, channels, size_px, size_px) uint8, read-only, from the cache where there is one.

    Args:
        name: of the dataset, for messages.

    Raises:
        DataError: images that cannot be read (all are counted, the first are named), or a cache that
            cannot be written.
    """
    shape = (len(images), channels, size_px, size_px)
    if isinstance(images, ImageArray) and _fits(images.pixels, size_px, channels):
        planes = images.pixels[:, None] if images.pixels.ndim == 3 else images.pixels.transpose(0, 3, 1, 2)
        return np.broadcast_to(planes, shape)
    rendered = _render(images, name=name, size_px=size_px, channels=channels)
    if images.fingerprint is None:
        pixels = np.empty(shape, np.uint8)
        for number, image in rendered:
            pixels[number] = image
        pixels.flags.writeable = False
        return pixels
    # Decoders change from one Pillow to the next, in the last bit.
    settings = f"{images.fingerprint}/{size_px}/{channels}/{PIL.__version__}"
    path = cache_folder() / "packed" / f"{hashlib.sha256(settings.encode()).hexdigest()}.npy"
    packed = _load(path, shape)
    if packed is None:
        with new_cache_file(path) as stream:
            _write(stream, shape, rendered)
        packed = _load(path, shape)
    if packed is None:
        raise DataError(f"{name}: the cache file {path} is damaged as soon as it is written; check the disk")
    return packed


def _fits(pixels: np.ndarray, size_px: int, channels: int) -> bool:
    is_grey = pixels.ndim == 3
    return pixels.shape[1:3] == (size_px, size_px) and (is_grey or channels == 3)


def _render(
    images: ImageArray | ImageFiles, *, name: str, size_px: int, channels: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number and the pixels of every image, decoded by a few threads."""
    unreadable: list[str] = []
    for number, outcome in _outcomes(images, size_px, channels):
        if isinstance(outcome, Exception):
            file = images.names[number] if isinstance(images, ImageFiles) else f"image {number}"
            unreadable.append(f"{file} ({outcome})")
        else:
            yield number, outcome
    if unreadable:
        listed = "; ".join(sorted(unreadable)[:NAMED_UNREADABLE])
        more = (
            f"; and {len(unreadable) - NAMED_UNREADABLE} more" if len(unreadable) > NAMED_UNREADABLE else ""
        )
        raise DataError(
            f"{name}: {len(unreadable)} of {len(images)} images cannot be read: {listed}{more}; "
            "replace or remove them"
        )


def _outcomes(
    images: ImageArray | ImageFiles, size_px: int, channels: int
) -> Iterator[tuple[int, np.ndarray | Exception]]:
    n_threads = min(16, os.cpu_count() or 1)
    waiting: deque[tuple[int, Future[np.ndarray | Exception]]] = deque()
    with ThreadPoolExecutor(n_threads) as threads:
        for number, open_image in _openers(images):
            waiting.append((number, threads.submit(_render_one, open_image, size_px, channels)))
            if len(waiting) > 8 * n_threads:  # bounded, whatever the number of images
                number, future = waiting.popleft()
                yield number, future.result()
        for number, future in waiting:
            yield number, future.result()


def _openers(images: ImageArray | ImageFiles) -> Iterator[tuple[int, Callable[[], Image.Image]]]:
    if isinstance(images, ImageArray):
        for number, pixels in enumerate(images.pixels):
            yield number, partial(Image.fromarray, np.ascontiguousarray(pixels))
    else:
        for number, read in images.contents():
            yield number, partial(_decode_from, read)


def _decode_from(read: Callable[[], bytes]) -> Image.Image:
    return decode(read())


def _render_one(open_image: Callable[[], Image.Image], size_px: int, channels: int) -> np.ndarray | Exception:
    try:
        return fit(open_image(), size_px=size_px, channels=channels)
    # A decoder fed with damaged bytes raises almost anything; what it is belongs in the message.
    except Exception as error:
        return error


def _header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _write(stream: IO[bytes], shape: tuple[int, ...], rendered: Iterator[tuple[int, np.ndarray]]) -> None:
    # Written, not mapped: a full disk is then an error here, and no signal that ends the process.
    header, image_bytes = _header(shape), math.prod(shape[1:])
    stream.write(header)
    for number, image in rendered:
        stream.seek(len(header) + number * image_bytes)
        stream.write(image.tobytes())
    stream.seek(len(header))
    digest = hashlib.sha256()
    while block := stream.read(HASHED_AT_ONCE_BYTES):
        digest.update(block)
    stream.write(digest.digest())


def _load(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Map a cached file; None if there is none, or if it is not what was written."""
    header = _header(shape)
    try:
        with path.open("rb") as stream:
            if stream.read(len(header)) != header:
                return None
            stream.seek(-DIGEST_BYTES, os.SEEK_END)
            expected = stream.read()
        packed = np.memmap(path, np.uint8, mode="r", offset=len(header), shape=shape)
    except (OSError, ValueError):  # absent, or shorter than its header says
        return None
    return packed if hashlib.sha256(packed.data).digest() == expected else None
