"""Image files and folders of them that are broken on purpose: each is named, and none stops the others."""
# ruff: noqa: E501

import io
import os
import re
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.hostility import CANARY, refused, watched
from tests.image_trees import image_tree, picture, write_tree
from trainables.datasets.loading import load_dataset
from trainables.datasets.rendering import Failure, open_file, render_all
from trainables.datasets.spec import DatasetSpec
from trainables.errors import DataError

N_DAMAGES = 40


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    (image or Image.fromarray(picture(0, channels=3))).save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_of_size(width: int, height: int, *, data: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return png(header, chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))


def tiff_of_loops() -> bytes:
    """A directory of no entries that says the next directory is itself."""
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0) + struct.pack("<I", 8)


def frames(kind: str) -> bytes:
    first, *others = (Image.fromarray(picture(number, channels=3)) for number in range(3))
    return encoded(kind, first, save_all=True, append_images=others)


PNG, JPEG = encoded("PNG"), encoded("JPEG")
GHOST = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch {CANARY}) (w) file\nshowpage\n"

# By a name: the bytes of `x.png`, and words of the reason.
BROKEN: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "no image of a known format"),
    "one byte": (b"\x89", "no image of a known format"),
    "text": (b"this is no picture", "no image of a known format"),
    "markup": (b"<script>alert(1)</script>", "no image of a known format"),
    "a drawing": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image of a known format"),
    "zeros": (bytes(4096), "no image of a known format"),
    "an archive": (b"PK\x05\x06" + bytes(18), "no image of a known format"),
    "a program": (b"\x7fELF" + bytes(60), "no image of a known format"),
    "PostScript, which is a program": (GHOST.encode(), "no image of a known format"),
    "PostScript in a drawing": (encoded("EPS"), "no image of a known format"),
    "a page of a document": (encoded("PDF"), "no image of a known format"),
    "an icon": (encoded("ICO"), "no image of a known format"),
    "a film": (b"\x00\x00\x00\x18ftypmp42" + bytes(32), "no image of a known format"),
    "a DICOM film": (bytes(128) + b"DICM" + bytes(64), "no image of a known format"),
    "a PNG cut in its signature": (PNG[:6], "no image of a known format"),
    "a PNG cut in its header": (PNG[:20], "."),
    "a PNG cut in its pixels": (PNG[: len(PNG) // 2], "truncated|broken|cut"),
    "a PNG without an end": (PNG[:-30], "."),
    "a PNG with a wrong checksum": (PNG[:29] + b"\0\0\0\0" + PNG[33:], "."),
    "a PNG without pixels": (png_of_size(9, 9), "."),
    "a PNG of no width": (png_of_size(0, 9), "."),
    "a PNG of too few pixels": (png_of_size(9, 9, data=b"\0" * 3), "."),
    "a PNG that is not compressed": (png(chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 0, 0, 0, 0)), chunk(b"IDAT", b"abc"), chunk(b"IEND", b"")), "."),
    "a PNG without a header": (png(chunk(b"IDAT", b""), chunk(b"IEND", b"")), "."),
    "a PNG of a strange depth": (png(chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 7, 9, 0, 0, 0)), chunk(b"IEND", b"")), "."),
    "a PNG of a chunk of 2 GB": (png(struct.pack(">I", 2**31 - 1) + b"IDAT"), "."),
    "a bomb of 10 gigapixels": (png_of_size(100_000, 100_000), "decompression bomb"),
    "a bomb of 2 to the 62nd": (png_of_size(2**31 - 1, 2**31 - 1), "decompression bomb|too large|."),
    "a bomb of text": (png(chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 0, 0, 0, 0)), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000))), chunk(b"IEND", b"")), "."),
    "a JPEG cut in its header": (JPEG[:100], "."),
    "a JPEG cut in its pixels": (JPEG[:-40], "truncated"),
    "a JPEG of its first bytes": (JPEG[:3], "."),
    "a JPEG of markers": (b"\xff\xd8" + b"\xff\xe0" * 2000, "."),
    "a JPEG of no size": (b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x00\x00\x00\x01\x01\x11\x00\xff\xd9", "."),
    "a JPEG of 65,535 by 65,535": (b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00\xff\xda", "decompression bomb|."),
    "a GIF cut": (encoded("GIF")[:20], "."),
    "a GIF of several frames": (frames("GIF"), "holds 3 pages where one image is expected"),
    "a PNG of several frames": (frames("PNG"), "holds 3 pages where one image is expected"),
    "a WebP of several frames": (frames("WEBP"), "holds 3 pages where one image is expected"),
    "a TIFF of several pages": (frames("TIFF"), "holds 3 pages where one image is expected"),
    "a TIFF of floating point": (encoded("TIFF", Image.fromarray(np.ones((9, 9), np.float32))), "floating-point values"),
    "a TIFF of 32 bits": (encoded("TIFF", Image.fromarray(np.full((9, 9), 70_000, np.int32))), "32-bit values"),
    "a TIFF of 12 bits": (encoded("TIFF", Image.fromarray(np.full((9, 9), 4_000, np.uint16))), "no value above 4000"),
    "a TIFF that leads back to itself": (tiff_of_loops(), "."),
    "a TIFF cut": (encoded("TIFF")[:60], "."),
    "a TIFF whose directory lies beyond": (b"II*\0\xff\xff\xff\x7f", "."),
    "a BMP cut": (encoded("BMP")[:60], "."),
    "a BMP of a negative size": (b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, -9, 9, 1, 24, 0, 0, 0, 0, 0, 0), "."),
    "a WebP cut": (encoded("WEBP")[:30], "."),
    "a WebP of nothing": (b"RIFF\x04\0\0\0WEBP", "."),
    "a Netpbm of 10 gigapixels": (b"P5\n100000 100000\n255\n", "decompression bomb"),
    "a Netpbm of words": (b"P5\nnine nine\n255\n", "."),
    "a Netpbm cut": (b"P6\n9 9\n255\nabc", "."),
}  # fmt: skip

# What is uncommon, and an image all the same.
READABLE: dict[str, bytes] = {
    "CMYK": encoded("JPEG", Image.fromarray(picture(0, channels=3)).convert("CMYK")),
    "16 bits": encoded("PNG", Image.fromarray(np.arange(0, 65_535, 800, np.uint16)[:81].reshape(9, 9))),
    "one bit": encoded("PNG", Image.fromarray(picture(0)).convert("1")),
    "a palette": encoded("PNG", Image.fromarray(picture(0, channels=3)).convert("P")),
    "transparency": encoded("PNG", Image.fromarray(picture(0, channels=3)).convert("RGBA")),
    "a JPEG that is called PNG": JPEG,
    "one pixel": encoded("PNG", Image.new("L", (1, 1))),
    "one line": encoded("PNG", Image.new("L", (9_000, 1))),
    "bytes behind its end": PNG + b"#!/bin/sh\n" * 100,
}


def rendered(data: bytes) -> np.ndarray | Failure:
    ((_number, result),) = render_all(
        [(0, lambda: open_file(lambda: data, size_px=8))], size_px=8, channels=3
    )
    return result


# Pillow warns of damage; only in the tests are warnings errors.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_a_failure_with_a_reason(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data, words = BROKEN[name]
    with watched(tmp_path):
        result = rendered(data)
    assert isinstance(result, Failure)
    assert result.is_broken
    assert re.search(words, result.reason), result.reason


@pytest.mark.parametrize("name", READABLE)
def test_an_uncommon_image_is_still_read(name: str) -> None:
    result = rendered(READABLE[name])
    assert isinstance(result, np.ndarray), result
    assert result.shape == (3, 8, 8)


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=N_DAMAGES, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"]),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
)
def test_damage_anywhere_gives_pixels_or_a_reason(kind: str, damage: list[tuple[float, bytes]]) -> None:
    data = bytearray(encoded(kind))
    for where, content in damage:
        start = int(where * (len(data) - 1))
        data[start : start + len(content)] = content
    result = rendered(bytes(data))
    assert isinstance(result, np.ndarray) or result.reason


def load(root: Path, **fields: object) -> object:
    spec = {"reader": "image_folder", "path": "scans", "size_px": 8, **fields}
    return load_dataset(DatasetSpec.model_validate(spec), data_root=root)


def replaced(root: Path, change: Callable[[Path], object]) -> None:
    file = root / "ill" / "0.png"
    file.unlink()
    change(file)


def listening(file: Path) -> None:
    place = socket.socket(socket.AF_UNIX)
    os.chdir(file.parent)
    place.bind(file.name)
    place.close()


def nest(root: Path) -> None:
    deep = root / "ill" / Path(*["d"] * 12)
    deep.mkdir(parents=True)
    (deep / "x.png").write_bytes(PNG)


# By a name: what is done to a good folder, and words of the message.
FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an image that is empty": (lambda root: (root / "ill/0.png").write_bytes(b""), "ill/0.png .is no image"),
    "an image that is text": (lambda root: (root / "ill/0.png").write_text("text"), "ill/0.png .is no image"),
    "a pipe for an image": (lambda root: replaced(root, os.mkfifo), "scans: ill/0.png is no file"),
    "a socket for an image": (lambda root: replaced(root, listening), "scans: ill/0.png is no file"),
    "a device for an image": (lambda root: replaced(root, lambda f: f.symlink_to("/dev/zero")), "scans: ill/0.png is no file"),
    "a link to nothing": (lambda root: replaced(root, lambda f: f.symlink_to("nowhere")), "ill/0.png is a link to nothing"),
    "a link to itself": (lambda root: replaced(root, lambda f: f.symlink_to(f.name)), "ill/0.png"),
    "two links to each other": (lambda root: [(root / "ill/a").symlink_to("b"), (root / "ill/b").symlink_to("a")], "ill/[ab]"),
    "a link to the folder around": (lambda root: (root / "ill/up").symlink_to(".."), "nested too deeply"),
    "a link to a file of passwords": (lambda root: replaced(root, lambda f: f.symlink_to("/etc/passwd")), "ill/0.png .is no image"),
    "a name that is no UTF-8": (lambda root: (root / "ill/0.png").rename(os.fsdecode(bytes(root / "ill") + b"/\xff\xfe.png")), "rename it"),
    "a class that is no UTF-8": (lambda root: (root / "ill").rename(os.fsdecode(bytes(root) + b"/\xff\xfe")), "rename it"),
    "no images": (lambda root: [file.unlink() for file in root.rglob("*.png")], "expected images"),
    "images without a class": (lambda root: (root / "x.png").write_bytes(PNG), "expected every image at"),
    "a folder of depth 13": (nest, "nested too deeply|expected every image at"),
    "one class": (lambda root: [file.unlink() for file in (root / "ill").iterdir()], "holds no images"),
    "a class of spaces": (lambda root: (root / "  ").mkdir(), "holds no images"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_hostile_folder_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))
    write_tree(tmp_path / "scans", image_tree(None))
    change, words = FOLDERS[name]
    change(tmp_path / "scans")
    with refused(tmp_path, words, kind=DataError):
        load(tmp_path)
