"""Files of MedMNIST's layout, official or home-made; everything else is refused with a reason."""

import re
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.image_trees import SIDE, medmnist_arrays, picture
from tests.miniatures.folders import write_medmnist
from trainables.datasets.catalog import find_dataset
from trainables.datasets.decoding import decode
from trainables.datasets.medmnist import read_medmnist
from trainables.datasets.medmnist_flags import FLAGS, classes_of, flag_of
from trainables.datasets.packed import pack
from trainables.datasets.published import MEDMNIST
from trainables.datasets.table import Table
from trainables.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))


def pixels(table: Table, *, channels: int = 1) -> np.ndarray:
    return pack(table.images, name=table.name, size_px=SIDE, channels=channels)[table.rows]


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def assert_refused(path: Path, expected: str) -> None:
    with pytest.raises(DataError, match=re.escape(expected)):
        read_medmnist(path)


def test_splits_labels_and_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    arrays = medmnist_arrays(splits={"train": 5, "val": 3, "test": 2})
    table = read_medmnist(write(tmp_path / "mine.npz", arrays))
    for split, n in (("train", 5), ("val", 3), ("test", 2)):
        part = table.take(table.splits == split)
        assert list(part.sample_ids) == [f"{split}/{number:06d}" for number in range(n)]
        np.testing.assert_array_equal(part.labels, arrays[f"{split}_labels"][:, 0])
        np.testing.assert_array_equal(pixels(part)[:, 0], arrays[f"{split}_images"])
    assert table.labels.dtype == np.int64
    assert table.classes == ("0", "1")


def test_several_columns_are_marks(tmp_path: Path) -> None:
    table = read_medmnist(write(tmp_path / "mine.npz", medmnist_arrays(n_labels=3)))
    assert table.is_multilabel
    assert table.labels.dtype == np.uint8
    assert table.classes == ("0", "1", "2")


def test_splits_that_are_not_there_are_missing(tmp_path: Path) -> None:
    table = read_medmnist(write(tmp_path / "mine.npz", medmnist_arrays(splits={"train": 4, "test": 2})))
    assert table.missing_splits == ("val",)


def test_official_file_names_its_classes(tmp_path: Path) -> None:
    assert read_medmnist(write(tmp_path / "pneumoniamnist_64.npz", medmnist_arrays())).classes == (
        "normal",
        "pneumonia",
    )


@pytest.mark.parametrize(
    ("path", "flag"),
    [
        ("pneumoniamnist.npz", "pneumoniamnist"),
        ("medical/dermamnist_224.npz", "dermamnist"),
        ("pneumoniamnist_32.npz", None),
        ("pneumoniamnist_small.npz", None),
        ("my_pneumoniamnist.npz", None),
        ("pneumoniamnist", None),
        (None, None),
    ],
)
def test_only_official_names_have_a_flag(path: str | None, flag: str | None) -> None:
    assert flag_of(path) == flag
    assert (classes_of(path) is None) == (flag is None)


@pytest.mark.parametrize("flag", FLAGS)
def test_classes_of_a_flag_are_different_names(flag: str) -> None:
    assert len(set(FLAGS[flag])) == len(FLAGS[flag]) >= 2


@pytest.mark.parametrize("flag", FLAGS)
def test_catalog_knows_every_set_in_every_size(flag: str, tmp_path: Path) -> None:
    for size_px in (28, 64, 128, 224):
        fields = find_dataset(flag if size_px == 28 else f"{flag}_{size_px}")
        assert (flag_of(fields["path"]), fields["size_px"]) == (flag, size_px)
        write_medmnist(tmp_path, flag, size_px=size_px, n=len(FLAGS[flag]))
        table = read_medmnist(tmp_path / fields["path"])
        assert table.classes == FLAGS[flag]
        assert table.is_multilabel == (flag == "chestmnist")
        _number, read = next(table.images.contents())
        image = decode(read())
        assert (len(image.getbands()), image.size) == (fields["channels"], (size_px, size_px))


def test_absent_file_names_the_variable(tmp_path: Path) -> None:
    assert_refused(
        tmp_path / "mine.npz",
        f"mine.npz: no file at {tmp_path / 'mine.npz'}; set TRANSFUSION_DATA to the folder that holds it, "
        "or mend dataset.path",
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.npz", medmnist_arrays())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert_refused(path, "mine.npz: expected an .npz archive of plain arrays, and it cannot be read (")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_file_with_damaged_images_is_refused_when_they_are_read(
    save: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "mine.npz"
    save(path, **medmnist_arrays(splits={"train": 12}))
    content = bytearray(path.read_bytes())
    content[900] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^mine\.npz: expected an \.npz archive of plain arrays"):
        pixels(read_medmnist(path))


def test_images_longer_than_their_header_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.npz", medmnist_arrays(splits={"train": 12}))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content + b"x" * (name == "train_images.npy"))
    with pytest.raises(DataError, match="cannot be read \\(train_images is longer than its header says\\)"):
        pixels(read_medmnist(path))


def test_colours_keep_their_channels_apart(tmp_path: Path) -> None:
    arrays = medmnist_arrays(channels=3)
    table = read_medmnist(write(tmp_path / "mine.npz", arrays))
    together = np.concatenate([arrays[f"{split}_images"] for split in ("train", "val", "test")])
    np.testing.assert_array_equal(pixels(table, channels=3), together.transpose(0, 3, 1, 2))


def test_images_stored_column_by_column_are_refused(tmp_path: Path) -> None:
    arrays = medmnist_arrays()
    arrays["val_images"] = np.asfortranarray(arrays["val_images"])
    assert_refused(
        write(tmp_path / "mine.npz", arrays),
        "mine.npz: val_images: expected image after image, found an array stored column by column; "
        "save np.ascontiguousarray(images)",
    )


def test_listing_does_not_read_the_images(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(
        path,
        **(
            medmnist_arrays()
            | {"train_images": np.zeros((12, 1024, 1024), np.uint8)}
            | {f"{s}_images": np.zeros((6, 1024, 1024), np.uint8) for s in ("val", "test")}
        ),
    )
    tracemalloc.start()
    table = read_medmnist(path)
    listed = tracemalloc.get_traced_memory()[1]
    for _number, read in table.images.contents():
        read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert listed < 2e6
    assert peak < 8e6  # of 24 MB


def test_counts_on_disk_are_in_the_terms_of_the_publisher(tmp_path: Path) -> None:
    table = read_medmnist(write(tmp_path / "mine.npz", medmnist_arrays()))
    assert table.on_disk is not None
    assert table.on_disk.splits == {"train": 12, "val": 6, "test": 6}
    assert set(MEDMNIST) == set(FLAGS)
    assert all(set(published.splits) == set(table.on_disk.splits) for published in MEDMNIST.values())


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    arrays = medmnist_arrays()
    arrays["train_labels"] = np.array([[{}]] * 12, dtype=object)
    assert_refused(write(tmp_path / "mine.npz", arrays), "mine.npz: expected an .npz archive of plain arrays")


def test_file_of_another_kind_is_refused_without_advice_to_trust_it(tmp_path: Path) -> None:
    (tmp_path / "mine.npz").write_bytes(b"<html>sign in</html>")
    assert_refused(
        tmp_path / "mine.npz", "and it cannot be read (File is not a zip file); download or write it anew"
    )


def test_single_array_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "mine.npz").open("wb") as stream:
        np.save(stream, picture(0))
    assert_refused(tmp_path / "mine.npz", "mine.npz: expected an .npz archive of plain arrays")


@pytest.mark.parametrize("key", ["train_images", "train_labels", "val_images", "val_labels"])
def test_missing_array_is_named(key: str, tmp_path: Path) -> None:
    arrays = medmnist_arrays()
    del arrays[key]
    split = key.split("_")[0]
    assert_refused(
        write(tmp_path / "mine.npz", arrays),
        f"mine.npz: expected the arrays {split}_images and {split}_labels, "
        f"found {', '.join(sorted(arrays))}; download or write it anew",
    )


def test_other_arrays_are_named_as_such(tmp_path: Path) -> None:
    assert_refused(write(tmp_path / "mine.npz", {"x": picture(0)}), "found none of the layout; download or")


def test_official_file_must_have_all_splits(tmp_path: Path) -> None:
    arrays = medmnist_arrays(splits={"train": 4, "test": 2})
    assert_refused(
        write(tmp_path / "pneumoniamnist.npz", arrays),
        "pneumoniamnist.npz: expected the arrays val_images and val_labels, found test_images",
    )


def test_official_file_must_have_its_number_of_classes(tmp_path: Path) -> None:
    arrays = medmnist_arrays()
    arrays["test_labels"][0] = 2
    assert_refused(
        write(tmp_path / "pneumoniamnist.npz", arrays),
        "pneumoniamnist.npz: expected the 2 classes of pneumoniamnist, found 3; "
        "give a file of your own another name",
    )


IMAGES = "uint8 (n, height, width) or (n, height, width, 3)"
LABELS = "integers (n, 1) or (n, n_labels)"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (
            "val_images",
            np.zeros((6, SIDE, SIDE), np.float32),
            f"expected {IMAGES}, found float32 (6, 10, 10)",
        ),
        (
            "val_images",
            np.zeros((6, SIDE, SIDE, 4), np.uint8),
            f"expected {IMAGES}, found uint8 (6, 10, 10, 4)",
        ),
        (
            "val_images",
            np.zeros((6, 5, 5, 5, 3), np.uint8),
            f"expected {IMAGES}, found uint8 (6, 5, 5, 5, 3)",
        ),
        ("val_images", np.zeros((0, SIDE, SIDE), np.uint8), "expected 0 rows, one per image"),
        ("val_labels", np.zeros((5, 1), np.uint8), "expected 6 rows, one per image, found uint8 (5, 1)"),
        ("val_labels", np.zeros(6, np.uint8), f"expected {LABELS}, found uint8 (6,); convert them"),
        ("val_labels", np.zeros((6, 1)), f"expected {LABELS}, found float64 (6, 1); convert them"),
        ("val_labels", np.zeros((6, 0), np.uint8), f"expected {LABELS}, found uint8 (6, 0); convert them"),
        ("val_labels", np.full((6, 1), -1), "expected class numbers from 0, found -1 … -1; mend the labels"),
    ],
)
def test_array_of_another_kind_is_named(key: str, value: np.ndarray, expected: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.npz", {**medmnist_arrays(), key: value})
    with pytest.raises(DataError, match=rf"^mine.npz: val_(images|labels): {re.escape(expected)}"):
        read_medmnist(path)


def test_empty_split_is_refused(tmp_path: Path) -> None:
    arrays = medmnist_arrays()
    arrays |= {"val_images": arrays["val_images"][:0], "val_labels": arrays["val_labels"][:0]}
    assert_refused(
        write(tmp_path / "mine.npz", arrays), "expected at least one image, found uint8 (0, 10, 10)"
    )


def test_marks_are_zero_or_one(tmp_path: Path) -> None:
    arrays = medmnist_arrays(n_labels=2)
    arrays["test_labels"][0, 0] = 2
    assert_refused(
        write(tmp_path / "mine.npz", arrays),
        "mine.npz: test_labels: expected 0 or 1, found 0 … 2; mend the labels",
    )


@pytest.mark.parametrize(
    ("key", "value"), [("images", np.zeros((6, 8, 8), np.uint8)), ("labels", np.zeros((6, 2), np.uint8))]
)
def test_splits_of_different_shapes_are_refused(key: str, value: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.npz", {**medmnist_arrays(), f"test_{key}": value})
    assert_refused(path, f"mine.npz: expected {key} of one shape in all splits, found train (12, 1")
