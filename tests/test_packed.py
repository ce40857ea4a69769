"""Images of every kind decode right, are resized once, and come back from the cache as they were."""

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.datasets import packed_file
from trainables.datasets.decoding import decode, fit
from trainables.datasets.packed import ImageArray, ImageFiles, pack, pack_readable
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
    assert "2.png (is no image of a known format)" in message
    assert message.endswith("; and 2 more; replace or remove them, or write broken_files: skip")
    assert [file.suffix for file in cache.iterdir()] == [".npy"], "nothing half done is kept"


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


@pytest.fixture
def shards_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_file, "SHARD_IMAGES", 4)


def pictures(n: int) -> list[bytes]:
    return [encoded(Image.fromarray(image)) for image in noise(n, 8, 8)]


class Interrupted(Files):
    """Files of which one ends the process, as far as those that pack them can tell."""

    def __init__(self, *contents: bytes, at: int) -> None:
        super().__init__(*contents)
        self.at = at

    def _read(self, number: int) -> bytes:
        if number == self.at:
            raise KeyboardInterrupt
        return super()._read(number)


def interrupt(contents: list[bytes], *, at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack_files(Interrupted(*contents, at=at))


def test_interrupted_packing_goes_on_with_the_unfinished_shards(cache: Path, shards_of_four: None) -> None:
    contents = pictures(18)
    interrupt(contents, at=1)  # read from the last one on, in shards of 17 … 14, 13 … 10, 9 … 6, 5 … 2, 1 0
    files = Files(*contents)
    packed = pack_files(files)
    assert files.n_read == 2
    np.testing.assert_array_equal(packed, noise(18, 8, 8)[:, None])
    assert [file.suffix for file in cache.iterdir()] == [".npy"]


@pytest.mark.parametrize("file", ["journal", "pixels"])
@pytest.mark.parametrize("damage", [lambda c: c[:-9], lambda c: b"", lambda c: c[:300] + b"?" + c[301:]])
def test_interrupted_packing_ends_right_whatever_has_become_of_its_files(
    file: str, damage: Callable[[bytes], bytes], cache: Path, shards_of_four: None
) -> None:
    contents = pictures(18)
    interrupt(contents, at=1)
    [path] = cache.glob(f".*.{file}")
    path.write_bytes(damage(path.read_bytes()))
    interrupt(contents, at=0)
    np.testing.assert_array_equal(pack_files(Files(*contents)), noise(18, 8, 8)[:, None])


def test_journal_that_was_cut_off_costs_one_shard(cache: Path, shards_of_four: None) -> None:
    contents = pictures(18)
    interrupt(contents, at=1)
    [journal] = cache.glob(".*.journal")
    journal.write_bytes(journal.read_bytes()[:-9])
    interrupt(contents, at=1)
    files = Files(*contents)
    pack_files(files)
    assert files.n_read == 2, "the line after the one that was cut off counts"


KILLED = """
import os, signal, sys
from trainables.datasets import packed_file
from trainables.datasets.packed import ImageFiles, pack
from trainables.datasets.decoding import as_pixmap
import numpy as np
packed_file.SHARD_IMAGES = 4

def read(number):
    if number == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return as_pixmap(np.full((8, 8), number, np.uint8))

from functools import partial
names = tuple(str(number) for number in range(12))
images = ImageFiles(names, lambda: ((number, partial(read, number)) for number in range(12)), "killed")
pack(images, name="x", size_px=8, channels=1)
"""


def test_killed_process_leaves_its_shards_and_no_lock(shards_of_four: None) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert killed.returncode == -signal.SIGKILL
    read: list[int] = []

    def contents() -> Iterator[tuple[int, Callable[[], bytes]]]:
        return ((number, partial(one, number)) for number in range(12))

    def one(number: int) -> bytes:
        read.append(number)
        return encoded(Image.fromarray(np.full((8, 8), number, np.uint8)))

    images = ImageFiles(tuple(map(str, range(12))), contents, "killed")
    packed = pack(images, name="x", size_px=8, channels=1)
    # How far the writer was when a thread killed it is chance; shards are whole, and none is lost.
    assert sorted(read) in (list(range(12)), list(range(4, 12)), list(range(8, 12)))
    assert (packed == np.arange(12)[:, None, None, None]).all()


def test_progress_counts_shards_and_goes_on_where_it_was(shards_of_four: None) -> None:
    contents = pictures(10)
    interrupt(contents, at=1)
    calls: list[tuple[int, int]] = []
    files = Files(*contents).images()
    pack(files, name="scans", size_px=8, channels=1, progress=lambda *call: calls.append(call))
    assert calls == [(4, 10), (8, 10), (10, 10)]


def test_second_that_packs_waits_and_decodes_nothing() -> None:
    files = Files(*pictures(30))
    threads = [threading.Thread(target=lambda: pack_files(files)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files.n_read == 30


def test_broken_images_are_remembered_with_the_pixels(shards_of_four: None) -> None:
    contents = pictures(9)
    contents[2] = contents[7] = b"oops"
    files = Files(*contents)
    for was_there in (False, True):
        packed = pack_readable(files.images(), name="x", size_px=8, channels=1)
        assert dict(packed.broken) == dict.fromkeys((2, 7), "is no image of a known format")
        assert not packed.pixels[[2, 7]].any()
        np.testing.assert_array_equal(packed.pixels[8], noise(9, 8, 8)[8:])
        assert packed.was_there == was_there
    assert files.n_read == 9


def test_broken_images_of_an_interrupted_packing_are_remembered(shards_of_four: None) -> None:
    contents = pictures(9)
    contents[7] = b"oops"
    interrupt(contents, at=0)
    packed = pack_readable(Files(*contents).images(), name="x", size_px=8, channels=1)
    assert list(packed.broken) == [7]


def test_cached_broken_image_is_refused_without_decoding() -> None:
    files = Files(*pictures(3), b"oops")
    for _ in range(2):
        with pytest.raises(DataError, match=r"1 of 4 images cannot be read: 3.png \(is no image of"):
            pack_files(files)
    assert files.n_read == 4


class Forbidden(Files):
    """Files of which one cannot be read, which says nothing about the image."""

    def _read(self, number: int) -> bytes:
        if number == 1:
            raise PermissionError(13, "Permission denied")
        return super()._read(number)


def test_file_that_cannot_be_read_is_not_taken_for_a_broken_image() -> None:
    contents = pictures(5)
    with pytest.raises(DataError) as caught:
        pack_readable(Forbidden(*contents).images(), name="scans", size_px=8, channels=1)
    assert str(caught.value) == (
        "scans: 1 of 5 images cannot be read: 1.png (Permission denied); mend the access and load again; "
        "the others are kept"
    )
    files = Files(*contents)
    np.testing.assert_array_equal(pack_files(files), noise(5, 8, 8)[:, None])
    assert files.n_read == 1


def test_contents_that_lack_an_image_are_not_kept(cache: Path) -> None:
    files = Files(*pictures(3)).images()
    lacking = ImageFiles((*files.names, "3.png"), files.contents, "a")
    with pytest.raises(RuntimeError, match=r"1 images of .* were never added"):
        pack(lacking, name="x", size_px=8, channels=1)
    assert not list(cache.glob("*.npy"))


def test_cached_file_of_a_dataset_with_broken_images_is_still_an_npy_file(cache: Path) -> None:
    packed = pack_readable(Files(*pictures(3), b"").images(), name="x", size_px=8, channels=1)
    [file] = cache.iterdir()
    np.testing.assert_array_equal(np.load(file), packed.pixels)


def scene(width: int, height: int) -> Image.Image:
    """Return a picture with as much detail as a photograph has at this size."""
    small = Image.fromarray(noise(height // 8, width // 8, 3))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(640, 480), (480, 1100)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpeg_is_decoded_small_and_looks_the_same(size: tuple[int, int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(scene(*size), "JPEG", quality=90, exif=exif)
    packed = pack_files(Files(content), size_px=64, channels=3)
    in_full = fit(decode(content), size_px=64, channels=3)
    difference = np.abs(packed[0].astype(int) - in_full)
    assert 0 < difference.mean() < 1.5
    assert difference.max() < 12


def test_jpeg_below_four_times_the_size_is_decoded_in_full() -> None:
    content = encoded(scene(252, 400), "JPEG", quality=90)
    packed = pack_files(Files(content), size_px=64, channels=3)
    np.testing.assert_array_equal(packed[0], fit(decode(content), size_px=64, channels=3))


def test_mapped_array_is_packed_image_by_image(tmp_path: Path, shards_of_four: None) -> None:
    pixels = noise(9, 16, 16)
    np.save(tmp_path / "pixels.npy", pixels)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    packed = pack(ImageArray(mapped, "file"), name="x", size_px=8, channels=1)
    np.testing.assert_array_equal(packed, pack(ImageArray(pixels), name="x", size_px=8, channels=1))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_jpeg_is_decoded_as_every_other_file(mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(scene(40, 64).convert(mode), "JPEG", quality=90, exif=exif)
    packed = pack_files(Files(content), size_px=24, channels=3)
    np.testing.assert_array_equal(packed[0], fit(decode(content), size_px=24, channels=3))
