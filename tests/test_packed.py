"""Images of every kind decode right, are resized once, and come back from the cache as they were."""

import io
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.datasets.decoding import decode, fit
from trainables.datasets.packed import ImageArray, ImageFiles, pack
from trainables.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packed"


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


class Files:
    """Encoded images that count how often they are read."""

    def __init__(self, *contents: bytes, fingerprint: str = "a") -> None:
        self.contents, self.fingerprint, self.n_read = contents, fingerprint, 0

    def images(self) -> ImageFiles:
        names = tuple(f"{number}.png" for number in range(len(self.contents)))
        return ImageFiles(names, self._read_all, self.fingerprint)

    def _read_all(self) -> Iterator[tuple[int, Callable[[], bytes]]]:
        # Backwards: an archive keeps its own order.
        for number in reversed(range(len(self.contents))):
            yield number, partial(self._read, number)

    def _read(self, number: int) -> bytes:
        self.n_read += 1
        return self.contents[number]


def pack_files(files: Files, *, size_px: int = 8, channels: int = 1) -> np.ndarray:
    return pack(files.images(), name="scans", size_px=size_px, channels=channels)


GREY = noise(6, 9)
COLOUR = noise(6, 9, 3)


def test_grey_and_rgb_decode_to_their_pixels() -> None:
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(GREY))), GREY)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(COLOUR))), COLOUR)


def test_sixteen_bits_are_scaled_from_their_full_range() -> None:
    wide = Image.fromarray(GREY.astype(np.uint16) * 257)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode(encoded(wide, kind)), GREY)


def test_palette_decodes_to_its_colours() -> None:
    image = Image.fromarray(COLOUR).quantize(16)
    np.testing.assert_array_equal(decode(encoded(image)), image.convert("RGB"))


def test_one_bit_decodes_to_black_and_white() -> None:
    image = Image.fromarray(GREY > 127)
    np.testing.assert_array_equal(decode(encoded(image)), np.where(GREY > 127, 255, 0))


def test_transparency_lies_over_black() -> None:
    alpha = np.where(np.arange(9) < 4, 255, 0).astype(np.uint8) * np.ones((6, 1), np.uint8)
    image = Image.fromarray(np.dstack([COLOUR, alpha]))
    expected = COLOUR * (alpha[..., None] == 255)
    np.testing.assert_array_equal(decode(encoded(image)), expected)


def test_palette_with_transparency_decodes_without_a_warning() -> None:
    image = Image.fromarray(COLOUR).quantize(4)
    expected = np.asarray(image.convert("RGB")) * (np.asarray(image) != 1)[..., None]
    np.testing.assert_array_equal(decode(encoded(image, transparency=bytes([255, 0, 255, 255]))), expected)


def test_cmyk_decodes_to_colours_and_not_to_their_negative() -> None:
    image = Image.new("RGB", (16, 16), (200, 40, 60)).convert("CMYK")
    pixels = np.asarray(decode(encoded(image, "JPEG", quality=95)))
    assert np.abs(pixels.astype(int) - (200, 40, 60)).max() < 6


def test_photographs_are_turned_upright() -> None:
    orientation = Image.Exif()
    orientation[0x0112] = 6  # the camera lay on its side: turn by 90 degrees clockwise
    turned = encoded(Image.fromarray(GREY), exif=orientation)
    np.testing.assert_array_equal(decode(turned), np.rot90(GREY, -1))


def test_volume_is_refused() -> None:
    pages = [Image.fromarray(GREY)] * 3
    with pytest.raises(ValueError, match="holds 3 pages"):
        decode(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_of_unknown_range_are_refused(dtype: type) -> None:
    values = (GREY.astype(np.int64) * 1_000_000).astype(dtype)
    with pytest.raises(ValueError, match="whose range is not known"):
        decode(encoded(Image.fromarray(values), "TIFF"))


def test_image_of_the_right_size_is_not_resampled() -> None:
    np.testing.assert_array_equal(
        fit(Image.fromarray(COLOUR[:6, :6]), size_px=6, channels=3)[0], COLOUR[:6, :6, 0]
    )


def test_grey_is_repeated_and_colour_becomes_luma() -> None:
    repeated = fit(Image.fromarray(GREY), size_px=8, channels=3)
    assert (repeated == repeated[0]).all()
    luma = fit(Image.fromarray(COLOUR[:6, :6]), size_px=6, channels=1)[0]
    expected = COLOUR[:6, :6] @ (0.299, 0.587, 0.114)  # ITU-R 601
    assert np.abs(luma - expected).max() <= 1


def test_shrinking_averages_and_does_not_skip() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    small = fit(Image.fromarray(stripes), size_px=8, channels=1)
    assert np.abs(small.astype(int) - 127).max() < 10


def test_constant_image_stays_constant_at_any_size() -> None:
    assert (fit(Image.new("L", (7, 31), 90), size_px=13, channels=3) == 90).all()


def test_packed_files_stand_in_the_order_of_their_names() -> None:
    contents = [noise(8, 8) // 4 + 40 * number for number in range(4)]
    packed = pack_files(Files(*(encoded(Image.fromarray(image)) for image in contents)))
    np.testing.assert_array_equal(packed, np.stack(contents)[:, None])
    assert not packed.flags.writeable


def test_second_load_maps_the_cache_and_reads_no_file() -> None:
    files = Files(encoded(Image.fromarray(GREY)))
    first = pack_files(files)
    second = pack_files(files)
    assert files.n_read == 1
    assert isinstance(second, np.memmap)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("change", [{"size_px": 9}, {"channels": 3}])
def test_another_size_or_number_of_channels_is_packed_apart(change: dict[str, int]) -> None:
    files = Files(encoded(Image.fromarray(COLOUR)))
    before = pack_files(files).copy()
    assert pack_files(files, **change).shape != before.shape
    np.testing.assert_array_equal(pack_files(files), before)
    assert files.n_read == 2, "the second does not push the first out of the cache"


def test_changed_source_is_packed_anew() -> None:
    old, new = (
        Files(encoded(Image.fromarray(image)), fingerprint=name)
        for name, image in (("old", GREY), ("new", 255 - GREY))
    )
    assert (pack_files(old) != pack_files(new)).any()


def _flip_a_bit(content: bytes) -> bytes:
    return content[:200] + bytes([content[200] ^ 1]) + content[201:]


@pytest.mark.parametrize(
    "damage",
    [
        _flip_a_bit,
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"\x93NUMPY" + content[6:20],
        lambda content: bytes(len(content)),
    ],
    ids=["bit", "short", "half", "empty", "header", "zeros"],
)
def test_damaged_cache_is_made_again(damage: Callable[[bytes], bytes], cache: Path) -> None:
    files = Files(encoded(Image.fromarray(noise(16, 16))))
    before = pack_files(files, size_px=16).copy()
    [file] = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    np.testing.assert_array_equal(pack_files(files, size_px=16), before)
    assert files.n_read == 2
    pack_files(files, size_px=16)
    assert files.n_read == 2


def test_cached_file_is_a_plain_numpy_array(cache: Path) -> None:
    packed = pack_files(Files(encoded(Image.fromarray(GREY))))
    [file] = cache.iterdir()
    np.testing.assert_array_equal(np.load(file), packed)


def test_two_that_pack_at_once_do_not_disturb_each_other(cache: Path) -> None:
    files = Files(*(encoded(Image.fromarray(noise(8, 8))) for _ in range(30)))
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(pack_files(files))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    assert len(list(cache.iterdir())) == 1, "no temporary file is left"


def test_unreadable_images_are_all_counted_and_the_first_named(cache: Path) -> None:
    good, cut = encoded(Image.fromarray(GREY)), encoded(Image.fromarray(noise(64, 64)))[:900]
    with pytest.raises(DataError) as caught:
        pack_files(Files(good, cut, b"no image", *[b""] * 5, good))
    message = str(caught.value)
    assert message.startswith("scans: 7 of 9 images cannot be read: 1.png (")
    assert "2.png (cannot identify image file" in message
    assert message.endswith("; and 2 more; replace or remove them")
    assert not list(cache.iterdir()), "nothing half done is kept"


def test_cache_that_cannot_be_written_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot write the cache file .*; set TRANSFUSION_CACHE to a folder"):
        pack_files(Files(encoded(Image.fromarray(GREY))))


def test_cache_is_in_the_home_folder_when_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRANSFUSION_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    pack_files(Files(encoded(Image.fromarray(GREY))))
    assert len(os.listdir(tmp_path / ".cache" / "transfusion" / "packed")) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_array_of_the_right_size_is_used_as_it_is(channels: int, cache: Path) -> None:
    pixels = noise(5, 8, 8)
    packed = pack(ImageArray(pixels, "fingerprint"), name="x", size_px=8, channels=channels)
    assert np.shares_memory(packed, pixels)
    np.testing.assert_array_equal(packed, np.stack([pixels] * channels, 1))
    assert not cache.exists()


def test_colour_array_keeps_its_channels_apart() -> None:
    pixels = noise(5, 8, 8, 3)
    packed = pack(ImageArray(pixels), name="x", size_px=8, channels=3)
    np.testing.assert_array_equal(packed[:, 2], pixels[..., 2])


@pytest.mark.parametrize("fingerprint", [None, "file"])
@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 8, 8, 3)])
def test_array_of_another_size_equals_its_images_resized(
    shape: tuple[int, ...], fingerprint: str | None, cache: Path
) -> None:
    pixels = noise(*shape)
    packed = pack(ImageArray(pixels, fingerprint), name="x", size_px=12, channels=1)
    for image, row in zip(pixels, packed, strict=True):
        np.testing.assert_array_equal(row, fit(Image.fromarray(image), size_px=12, channels=1))
    assert cache.exists() == (fingerprint is not None)
    assert not packed.flags.writeable
