"""Images of any origin as one uint8 array: decoded and resized once, then mapped from the cache."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.datasets.cache import cache_folder, only_one
from trainables.datasets.packed_file import Progress, UnfinishedFile, load_packed_file, unfinished_file
from trainables.datasets.rendering import DECODER, Failure, Open, Rendered, open_file, render_all
from trainables.errors import DataError

NAMED_UNREADABLE = 5


@dataclass(frozen=True)
class ImageArray:
    """Decoded images.

    Attributes:
        pixels: (n_images, height, width) grey or (n_images, height, width, 3) RGB, uint8; may be mapped.
        fingerprint: of the file they come from; None keeps them out of the cache.
    """

    pixels: np.ndarray
    fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, number: int) -> str:
        """Return what messages call an image."""
        return f"image {number}"


@dataclass(frozen=True)
class ImageFiles:
    """Encoded images.

    Attributes:
        names: one per image, for messages.
        contents: yields the number of every image once, in any order, and what reads its bytes. It is passed
            over once; what reads an image that is packed already is not called.
        fingerprint: changes whenever a file does.
    """

    names: tuple[str, ...]
    contents: Callable[[], Iterator[tuple[int, Callable[[], bytes]]]]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.names)

    def name(self, number: int) -> str:
        """Return what messages call an image."""
        return self.names[number]


@dataclass(frozen=True)
class Packed:
    """All images of a dataset.

    Attributes:
        pixels: (n_images, channels, size_px, size_px) uint8, read-only; those of a broken image are 0.
        broken: why an image cannot be decoded, by its number.
        was_there: this call decoded nothing.
        digest: SHA-256, in hex, of both, where they lie in a file of the cache.
    """

    pixels: np.ndarray
    broken: Mapping[int, str]
    was_there: bool
    digest: str | None = None


def pack(
    images: ImageArray | ImageFiles,
    *,
    name: str,
    size_px: int,
    channels: int,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return (n_images, channels, size_px, size_px) uint8, read-only, from the cache where there is one.

    Args:
        name: of the dataset, for messages.
        progress: called whenever a shard of images is kept.

    Raises:
        DataError: images that cannot be read (all are counted, the first are named), or a cache that
            cannot be written.
    """
    packed = pack_readable(images, name=name, size_px=size_px, channels=channels, progress=progress)
    refuse_broken(packed, images, name=name)
    return packed.pixels


def pack_readable(
    images: ImageArray | ImageFiles,
    *,
    name: str,
    size_px: int,
    channels: int,
    progress: Progress | None = None,
) -> Packed:
    """Do what `pack` does, and leave images that cannot be decoded to the caller.

    Raises:
        DataError: files that cannot be read at all, or a cache that cannot be written.
    """
    shape = (len(images), channels, size_px, size_px)
    if isinstance(images, ImageArray) and _fits(images.pixels, size_px, channels):
        planes = images.pixels[:, None] if images.pixels.ndim == 3 else images.pixels.transpose(0, 3, 1, 2)
        return Packed(np.broadcast_to(planes, shape), {}, was_there=True)
    if images.fingerprint is None:
        return _pack_in_memory(images, shape)
    settings = f"{images.fingerprint}/{size_px}/{channels}/{DECODER}"
    path = cache_folder() / "packed" / f"{hashlib.sha256(settings.encode()).hexdigest()}.npy"
    found = load_packed_file(path, shape)
    if found is not None:
        return Packed(found.pixels, found.broken, was_there=True, digest=found.digest)
    return _make(path, images, shape, name=name, progress=progress or _ignore)


def refuse_broken(packed: Packed, images: ImageArray | ImageFiles, *, name: str) -> None:
    """Refuse images of which one cannot be decoded.

    Raises:
        DataError: counts all and names the first.
    """
    if packed.broken:
        cure = "replace or remove them, or write broken_files: skip"
        raise _unreadable(packed.broken, images, name, cure=cure)


def _fits(pixels: np.ndarray, size_px: int, channels: int) -> bool:
    is_grey = pixels.ndim == 3
    return pixels.shape[1:3] == (size_px, size_px) and (is_grey or channels == 3)


def _pack_in_memory(images: ImageArray | ImageFiles, shape: tuple[int, ...]) -> Packed:
    pixels = np.zeros(shape, np.uint8)
    broken = {}
    for number, image in _render(images, np.zeros(len(images), bool), shape):
        if isinstance(image, Failure):
            broken[number] = image.reason
        else:
            pixels[number] = image
    pixels.flags.writeable = False
    return Packed(pixels, broken, was_there=False)


def _make(
    path: Path, images: ImageArray | ImageFiles, shape: tuple[int, ...], *, name: str, progress: Progress
) -> Packed:
    with only_one(path):
        found = load_packed_file(path, shape)  # made by whom we waited for
        if found is not None:
            return Packed(found.pixels, found.broken, was_there=True, digest=found.digest)
        with unfinished_file(path, shape, progress) as unfinished:
            _fill(unfinished, images, _render(images, unfinished.done.copy(), shape), name=name)
        made = load_packed_file(path, shape)
    if made is None:
        raise DataError(f"{name}: the cache file {path} is damaged as soon as it is written; check the disk")
    return Packed(made.pixels, made.broken, was_there=False, digest=made.digest)


def _fill(
    unfinished: UnfinishedFile, images: ImageArray | ImageFiles, rendered: Rendered, *, name: str
) -> None:
    unread: dict[int, str] = {}
    for number, image in rendered:
        if not isinstance(image, Failure):
            unfinished.add(number, image)
        elif image.is_broken:
            unfinished.add(number, image.reason)
        else:
            unread[number] = image.reason
    if unread:
        unfinished.finish_shard()
        cure = "mend the access and load again; the others are kept"
        raise _unreadable(unread, images, name, cure=cure)
    unfinished.finish()


def _render(images: ImageArray | ImageFiles, done: np.ndarray, shape: tuple[int, ...]) -> Rendered:
    channels, size_px = shape[1:3]
    waiting = ((number, opener) for number, opener in _openers(images, size_px) if not done[number])
    return render_all(waiting, size_px=size_px, channels=channels)


def _openers(images: ImageArray | ImageFiles, size_px: int) -> Iterator[tuple[int, Open]]:
    if isinstance(images, ImageArray):
        for number in range(len(images)):
            yield number, partial(_from_array, images.pixels, number)
    else:
        for number, read in images.contents():
            yield number, partial(open_file, read, size_px=size_px)


def _from_array(pixels: np.ndarray, number: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels[number]))


def _unreadable(
    reasons: Mapping[int, str], images: ImageArray | ImageFiles, name: str, *, cure: str
) -> DataError:
    named = sorted(f"{images.name(number)} ({reason})" for number, reason in reasons.items())
    listed = "; ".join(named[:NAMED_UNREADABLE])
    more = f"; and {len(named) - NAMED_UNREADABLE} more" if len(named) > NAMED_UNREADABLE else ""
    return DataError(f"{name}: {len(named)} of {len(images)} images cannot be read: {listed}{more}; {cure}")


def _ignore(_done: int, _total: int) -> None:
    """Report no progress."""
