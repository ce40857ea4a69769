"""Images to pixels of one size, by a few threads: Pillow decodes and resizes without Python's lock."""

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from trainables.datasets.decoding import FORMATS, decode, fit

# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that leaves at least so many times the side that is
# wanted. The bilinear filter then still averages over two pixels or more, and photographs and films differ
# by about one grey level from what a full decoding gives.
DRAFT_FACTOR = 2
# Decoders change from one Pillow to the next, in the last bit.
DECODER = f"pillow {PIL.__version__}, draft {DRAFT_FACTOR}"
MOST_THREADS = 16


@dataclass(frozen=True)
class Failure:
    """Why there are no pixels.

    Attributes:
        is_broken: the bytes were read and are no image; otherwise they could not be read, this time.
    """

    reason: str
    is_broken: bool


Open: TypeAlias = Callable[[], Image.Image]
Rendered: TypeAlias = Iterator[tuple[int, np.ndarray | Failure]]


def render_all(images: Iterable[tuple[int, Open]], *, size_px: int, channels: int) -> Rendered:
    """Yield number and pixels of every image, in the order given; few are in memory at a time.

    Args:
        images: numbers, and what opens the image; called in a thread.

    Returns:
        (channels, size_px, size_px) uint8, or why not, by number.
    """
    n_threads = min(MOST_THREADS, os.cpu_count() or 1)
    waiting: deque[tuple[int, Future[np.ndarray | Failure]]] = deque()
    with ThreadPoolExecutor(n_threads) as threads:
        for number, open_image in images:
            waiting.append((number, threads.submit(_render, open_image, size_px, channels)))
            if len(waiting) > 8 * n_threads:
                number, future = waiting.popleft()
                yield number, future.result()
        for number, future in waiting:
            yield number, future.result()


def open_file(read: Callable[[], bytes], *, size_px: int) -> Image.Image:
    """Read and decode a file for a target of `size_px`.

    Raises:
        UnreadError: the bytes cannot be read.
        Exception: whatever the decoders raise on a damaged file.
    """
    try:
        data = read()
    except OSError as error:
        raise UnreadError(error.strerror or str(error)) from error
    jpeg = _decode_jpeg(data, DRAFT_FACTOR * size_px)
    return decode(data) if jpeg is None else jpeg


class UnreadError(Exception):
    """The bytes of an image cannot be read: no fault of the image."""


def _decode_jpeg(data: bytes, at_least_px: int) -> Image.Image | None:
    """Decode a JPEG as `decode` does, without copies, and small where it can be; None: it is none."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        # An MPO is left to `decode`, which knows which of its pictures counts.
        if opened.format != "JPEG":
            return None
        opened.draft(None, (at_least_px, at_least_px))  # None keeps the mode
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
        return opened if opened.mode in ("L", "RGB") else opened.convert("RGB")


def _render(open_image: Open, size_px: int, channels: int) -> np.ndarray | Failure:
    try:
        # In one piece here, in a thread: the one that writes is the one that all others wait for.
        return np.ascontiguousarray(fit(open_image(), size_px=size_px, channels=channels))
    except UnreadError as error:
        return Failure(str(error), is_broken=False)
    except MemoryError:
        raise
    except UnidentifiedImageError:  # whose own message has an address in memory
        return Failure("is no image of a known format", is_broken=True)
    # A decoder fed with damaged bytes raises almost anything; what it is belongs in the message.
    except Exception as error:
        return Failure(str(error) or type(error).__name__, is_broken=True)
