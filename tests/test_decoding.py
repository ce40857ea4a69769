"""Files of every kind decode to the pixels they were made from."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from trainables.datasets.decoding import as_pixmap, decode

GREY = np.random.default_rng(0).integers(0, 256, (6, 9), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)
ALPHA = np.where(np.arange(9) < 4, 255, 0).astype(np.uint8) * np.ones((6, 1), np.uint8)
HALF = np.full((6, 9), 128, np.uint8)
# Ink of a flat picture, and what it looks like: white less what each ink and black take away.
INK = (40, 200, 90, 51)
PAINT = np.broadcast_to([(255 - ink) * (255 - INK[3]) / 255 for ink in INK[:3]], (16, 16, 3))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def saved(pixels: np.ndarray, kind: str, **options: object) -> Callable[[], bytes]:
    return lambda: encoded(Image.fromarray(pixels), kind, **options)


def palette(**options: object) -> bytes:
    """Write 16 grey-blue-red colours, of which pixel value v is the v-th."""
    image = Image.frombytes("P", (9, 6), (GREY // 16).tobytes())
    image.putpalette([value for n in range(16) for value in (n, 2 * n, 255 - n)])
    return encoded(image, "PNG", **options)


INDEX = (GREY // 16).astype(np.uint8)
PALETTE = np.stack([INDEX, 2 * INDEX, 255 - INDEX], axis=-1)


def cmyk() -> bytes:
    return encoded(Image.new("CMYK", (16, 16), INK), "JPEG", quality=100)


def ycck() -> bytes:
    """Write the inks as Adobe does: the first three as luma and chroma of (255 − ink), marked by a 2.

    Pillow writes CMYK only, inverted: given what inverts to the planes, it writes these, and the mark is
    changed afterwards. A decoder of YCCK takes 255 − RGB of the planes for the inverted inks.
    """
    planes = Image.new("RGB", (1, 1), INK[:3]).convert("YCbCr").getpixel((0, 0))
    content = encoded(Image.new("CMYK", (16, 16), (*(255 - p for p in planes), INK[3])), "JPEG", quality=100)
    mark = content.index(b"Adobe") + 11
    assert content[mark] == 0
    return content[:mark] + b"\x02" + content[mark + 1 :]


def tiff_16_bit(*, order: str, white_is_zero: bool) -> bytes:
    """Write an uncompressed 16-bit TIFF by hand: `II` little or `MM` big endian."""
    end = "<" if order == "II" else ">"
    wide = GREY.astype(np.uint16) * 257
    data = (65535 - wide if white_is_zero else wide).astype(f"{end}u2").tobytes()
    tags = {256: 9, 257: 6, 258: 16, 259: 1, 262: 0 if white_is_zero else 1, 277: 1, 278: 6, 279: len(data)}
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = sorted({**tags, 273: start}.items())
    long = (273, 279)
    directory = b"".join(
        struct.pack(f"{end}HHII", tag, 4, 1, value)
        if tag in long
        else struct.pack(f"{end}HHIHH", tag, 3, 1, value, 0)
        for tag, value in entries
    )
    head = order.encode() + struct.pack(f"{end}HI", 42, 8) + struct.pack(f"{end}H", len(entries))
    return head + directory + struct.pack(f"{end}I", 0) + data


def photograph_with_preview() -> bytes:
    preview = Image.new("RGB", (16, 16), (0, 0, 0))
    return encoded(
        Image.new("RGB", (16, 16), (200, 40, 60)), "MPO", save_all=True, append_images=[preview], quality=95
    )


@dataclass(frozen=True)
class Kind:
    """A file, and the pixels it was made from.

    Attributes:
        tolerance: of lossy kinds, in grey levels.
    """

    write: Callable[[], bytes]
    expected: np.ndarray
    tolerance: int = 0


WIDE = GREY.astype(np.uint16) * 257
KINDS = {
    "grey PNG": Kind(saved(GREY, "PNG"), GREY),
    "grey JPEG": Kind(saved(np.full((16, 16), 77, np.uint8), "JPEG"), np.full((16, 16), 77), 1),
    "RGB PNG": Kind(saved(COLOUR, "PNG"), COLOUR),
    "RGB TIFF": Kind(saved(COLOUR, "TIFF"), COLOUR),
    "RGB BMP": Kind(saved(COLOUR, "BMP"), COLOUR),
    "RGB WebP": Kind(saved(COLOUR, "WEBP", lossless=True), COLOUR),
    "RGB pixmap": Kind(saved(COLOUR, "PPM"), COLOUR),
    "RGBA PNG": Kind(saved(np.dstack([COLOUR, ALPHA]), "PNG"), COLOUR * (ALPHA[..., None] == 255)),
    "half transparent PNG": Kind(saved(np.dstack([COLOUR, HALF]), "PNG"), COLOUR * (128 / 255), 1),
    "grey with alpha": Kind(
        lambda: encoded(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), "PNG"),
        np.repeat((GREY * (ALPHA == 255))[..., None], 3, axis=2),
    ),
    "palette": Kind(palette, PALETTE),
    "palette with transparency": Kind(
        lambda: palette(transparency=bytes([255, 255, 0, *[255] * 13])), PALETTE * (INDEX != 2)[..., None]
    ),
    "1 bit": Kind(saved(GREY > 127, "PNG"), np.where(GREY > 127, 255, 0)),
    "16-bit PNG": Kind(saved(WIDE, "PNG"), GREY),
    "16-bit TIFF": Kind(saved(WIDE, "TIFF"), GREY),
    "16-bit TIFF, little endian": Kind(lambda: tiff_16_bit(order="II", white_is_zero=False), GREY),
    "16-bit TIFF, big endian": Kind(lambda: tiff_16_bit(order="MM", white_is_zero=False), GREY),
    "16-bit TIFF, white is zero": Kind(lambda: tiff_16_bit(order="II", white_is_zero=True), GREY),
    "CMYK JPEG": Kind(cmyk, PAINT, 2),
    "YCCK JPEG": Kind(ycck, PAINT, 4),
    "photograph with previews": Kind(photograph_with_preview, np.broadcast_to((200, 40, 60), (16, 16, 3)), 3),
}


@pytest.mark.parametrize("name", KINDS)
def test_file_decodes_to_the_pixels_it_was_made_from(name: str) -> None:
    kind = KINDS[name]
    image = decode(kind.write())
    assert image.mode == ("L" if kind.expected.ndim == 2 else "RGB")
    pixels = np.asarray(image)
    assert pixels.shape == kind.expected.shape
    assert np.abs(pixels - kind.expected.astype(float)).max() <= kind.tolerance


# What a camera held that way stores of an upright picture, by the number in the EXIF header.
STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.swapaxes(0, 1),
    6: np.rot90,
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("upright", [GREY, COLOUR, WIDE], ids=["grey", "RGB", "16 bits"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_photograph_is_turned_upright_once(orientation: int, upright: np.ndarray, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright))
    pixels = np.asarray(decode(encoded(Image.fromarray(stored), kind, exif=exif)))
    np.testing.assert_array_equal(pixels, GREY if upright is WIDE else upright)


@pytest.mark.parametrize("orientation", STORED)
def test_orientation_of_a_jpeg_is_seen(orientation: int) -> None:
    upright = np.kron(np.array([[10, 90, 170], [50, 130, 250]], np.uint8), np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright))
    pixels = np.asarray(decode(encoded(Image.fromarray(stored), "JPEG", exif=exif, quality=95)))
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).max() <= 4


@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "RGB"])
def test_pixmap_decodes_to_its_pixels(pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(decode(as_pixmap(pixels)), pixels)


def test_volume_is_refused() -> None:
    pages = [Image.fromarray(GREY)] * 3
    with pytest.raises(ValueError, match="holds 3 pages where one image is expected"):
        decode(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))


@pytest.mark.parametrize(
    ("dtype", "what"), [(np.float32, "floating-point values"), (np.int32, "32-bit values")]
)
def test_values_of_unknown_range_are_refused(dtype: type, what: str) -> None:
    values = (GREY.astype(np.int64) * 1_000_000).astype(dtype)
    with pytest.raises(ValueError, match=f"holds {what}, whose range is not known; convert it to 8 or 16"):
        decode(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_film_of_twelve_bits_is_refused_before_it_turns_black(kind: str) -> None:
    film = np.linspace(0, 4095, 256).astype(np.uint16).reshape(16, 16)
    with pytest.raises(ValueError, match=r"^has 16 bits and no value above 4095, as films of 12 bits have"):
        decode(saved(film, kind)())
    assert np.asarray(decode(saved(film * 16, kind)())).max() == 255
    assert not np.asarray(decode(saved(film * 0, kind)())).any(), "black is black"
