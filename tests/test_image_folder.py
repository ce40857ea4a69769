"""Image folders and archives of them are read alike, and every other layout is refused with a reason."""

import io
import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.image_trees import image_tree, picture, png, write_archive, write_tree
from trainables.datasets.archive import ARCHIVE_SUFFIXES
from trainables.datasets.image_folder import read_image_folder
from trainables.datasets.packed import pack
from trainables.datasets.table import Table
from trainables.errors import DataError

SPLITS = {"train": 3, "val": 2, "test": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pixels(table: Table) -> np.ndarray:
    return pack(table.images, name=table.name, size_px=10, channels=1)[table.rows]


def assert_refused(location: Path, expected: str) -> None:
    with pytest.raises(DataError, match=re.escape(expected)):
        read_image_folder(location)


def test_split_folders_give_labels_ids_and_splits(tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", image_tree(SPLITS))
    table = read_image_folder(tmp_path / "scans")
    assert table.classes == ("ill", "well")
    assert table.missing_splits == ()
    for sample, label, split in zip(table.sample_ids, table.labels, table.splits, strict=True):
        folder, class_name, _file = str(sample).split("/")
        assert (folder, class_name) == (split, table.classes[label])
    assert len(table.sample_ids) == 2 * (3 + 2 + 1)


def test_pixels_belong_to_their_names(tmp_path: Path) -> None:
    files = image_tree(SPLITS)
    write_tree(tmp_path / "scans", files)
    table = read_image_folder(tmp_path / "scans")
    number = {name: n for n, name in enumerate(files)}
    for sample, image in zip(table.sample_ids, pixels(table), strict=True):
        np.testing.assert_array_equal(image[0], picture(number[str(sample)]))


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
@pytest.mark.parametrize("top", ["", "scans/", "./", "./other/"])
@pytest.mark.parametrize("splits", [SPLITS, None], ids=["splits", "classes"])
def test_archive_equals_its_folder(
    suffix: str, top: str, splits: dict[str, int] | None, tmp_path: Path
) -> None:
    files = image_tree(splits)
    write_tree(tmp_path / "folder" / "scans", files)
    backwards = dict(reversed(files.items()))
    write_archive(tmp_path / f"scans{suffix}", {f"{top}{name}": data for name, data in backwards.items()})
    plain, packed = read_image_folder(tmp_path / "folder" / "scans"), read_image_folder(tmp_path / "scans")
    for column in ("labels", "sample_ids", "groups", "splits"):
        np.testing.assert_array_equal(getattr(plain, column), getattr(packed, column))
    np.testing.assert_array_equal(pixels(plain), pixels(packed))


def test_archive_can_be_named_itself(tmp_path: Path) -> None:
    write_archive(tmp_path / "scans.zip", image_tree(None))
    assert len(read_image_folder(tmp_path / "scans.zip").labels) == 20


def test_folder_comes_before_its_archive(tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", image_tree(SPLITS))
    (tmp_path / "scans.zip").write_bytes(b"not looked at")
    assert len(read_image_folder(tmp_path / "scans").labels) == 12


def test_listed_archive_is_listed_once(tmp_path: Path, cache: Path) -> None:
    write_archive(tmp_path / "scans.tar.xz", image_tree(SPLITS))
    before = read_image_folder(tmp_path / "scans").sample_ids
    [index] = (cache / "archives").iterdir()
    index.write_text("damaged")
    np.testing.assert_array_equal(read_image_folder(tmp_path / "scans").sample_ids, before)
    assert index.read_text() != "damaged"


def test_nothing_is_unpacked_to_disk(tmp_path: Path) -> None:
    write_archive(tmp_path / "scans.tar.gz", image_tree(SPLITS))
    pixels(read_image_folder(tmp_path / "scans"))
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("names", [("valid", "test"), ("validation",), ("Val", "TEST")])
def test_other_names_of_splits_are_known(names: tuple[str, ...], tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", image_tree({"train": 2, **dict.fromkeys(names, 2)}))
    assert "val" in read_image_folder(tmp_path / "scans").splits


def test_what_macos_and_editors_leave_is_not_seen(tmp_path: Path) -> None:
    files = image_tree(SPLITS)
    litter = ("__MACOSX/train/ill/._0.png", ".DS_Store", "train/.DS_Store", ".git/x.png", "train/ill/._1.png")
    write_tree(tmp_path / "scans", {**files, **dict.fromkeys((*litter, "train/ill/notes.txt"), b"x")})
    write_archive(
        tmp_path / "packed.zip", {f"scans/{n}": c for n, c in files.items()} | dict.fromkeys(litter, b"x")
    )
    for location in ("scans", "packed"):
        assert set(read_image_folder(tmp_path / location).sample_ids) == set(files)


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_copy_of_everything_inside_itself_is_left_out(suffix: str, tmp_path: Path) -> None:
    files = image_tree(SPLITS)
    both = files | {f"chest_xray/{name}": content for name, content in files.items()}
    if suffix:
        write_archive(
            tmp_path / "chest_xray.zip", {f"chest_xray/{name}": data for name, data in both.items()}
        )
    else:
        write_tree(tmp_path / "chest_xray", both)
    table = read_image_folder(tmp_path / "chest_xray")
    assert set(table.sample_ids) == set(files)
    assert len(pixels(table)) == len(files)


def test_class_folder_can_be_a_link(tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", image_tree(None))
    (tmp_path / "scans" / "well").rename(tmp_path / "elsewhere")
    (tmp_path / "scans" / "well").symlink_to(tmp_path / "elsewhere")
    assert read_image_folder(tmp_path / "scans").classes == ("ill", "well")


@pytest.mark.parametrize("name", ["scans", "scans.zip"])
def test_fingerprint_changes_with_a_file(name: str, tmp_path: Path) -> None:
    def write(files: dict[str, bytes]) -> str:
        if name.endswith("zip"):
            write_archive(tmp_path / name, files)
        else:
            write_tree(tmp_path / name, files)
        os.utime(tmp_path / name, (1, 1))
        return read_image_folder(tmp_path / name).images.fingerprint or ""

    files = image_tree(None)
    first = write(files)
    assert write({**files, "ill/0.png": png(picture(99))}) != first


def test_absent_folder_names_the_variable(tmp_path: Path) -> None:
    assert_refused(
        tmp_path / "scans",
        f"scans: expected a folder {tmp_path / 'scans'}, or an archive of it "
        "(.tar.xz, .tar.gz, .tgz, .tar, .zip), found neither; "
        "set TRANSFUSION_DATA to the folder that holds it, or mend dataset.path",
    )


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scans.rar").write_bytes(b"x")
    assert_refused(tmp_path / "scans.rar", "scans.rar: expected a folder or an archive (.tar.xz, ")


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", {"train/ill/readme.txt": b"x"})
    assert_refused(tmp_path / "scans", "scans: expected images (.bmp, ")


def test_empty_class_folder_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", {**image_tree(SPLITS), "val/odd/scan.dcm": b"x"})
    assert_refused(tmp_path / "scans", "scans: the class folder val/odd holds no images (.bmp, ")


def test_empty_class_folder_in_an_archive_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / "scans.tar", {**image_tree(None), "odd/": b""})
    assert_refused(tmp_path / "scans", "scans.tar: the class folder odd holds no images (.bmp, ")


def test_class_that_a_split_lacks_is_refused(tmp_path: Path) -> None:
    files = {name: data for name, data in image_tree(SPLITS).items() if not name.startswith("test/well/")}
    write_tree(tmp_path / "scans", files)
    assert_refused(
        tmp_path / "scans",
        "scans: expected the same classes in every split, found no folder test/well; "
        "add it, or remove 'well' from the other splits",
    )


def test_single_class_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", image_tree(None, classes=("ill",)))
    assert_refused(tmp_path / "scans", "scans: expected at least two class folders, found only 'ill'")


def test_misspelt_split_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", image_tree({"train": 2, "tset": 2}))
    assert_refused(
        tmp_path / "scans",
        "scans: expected the folders train, val (or valid, validation) and test, found 'tset'; "
        "did you mean 'test'?; rename or remove it",
    )


def test_one_split_under_two_names_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", image_tree({"train": 2, "val": 1, "valid": 1}))
    assert_refused(tmp_path / "scans", "scans: two folders are the same split: train, val, valid; remove one")


def test_splits_without_train_are_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", image_tree({"test": 2}))
    assert_refused(tmp_path / "scans", "scans: expected a folder train, found only test")


def test_split_folders_without_classes_are_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", {"train/0.png": png(picture(0)), "test/0.png": png(picture(1))})
    assert_refused(
        tmp_path / "scans",
        "scans: expected the images of test in one folder per class (test/class/image), found test/0.png",
    )


@pytest.mark.parametrize("stray", ["train/0.png", "overview.png", "train/ill/early/0.png"])
def test_image_at_another_depth_is_refused(stray: str, tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", {**image_tree(SPLITS), stray: png(picture(0))})
    assert_refused(
        tmp_path / "scans",
        f"scans: expected every image at split/class/image, found {stray}; move or remove it",
    )


def test_link_to_nothing_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", image_tree(None))
    (tmp_path / "scans" / "ill" / "z.png").symlink_to(tmp_path / "gone.png")
    assert_refused(tmp_path / "scans", "scans: ill/z.png is a link to nothing; mend or remove it")


def test_folder_linked_into_itself_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "scans", image_tree(None))
    (tmp_path / "scans" / "ill" / "all").symlink_to(tmp_path / "scans")
    assert_refused(tmp_path / "scans", "is nested too deeply; does a link lead back to its folder?")


def test_folder_that_may_not_be_listed_is_refused_and_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "scans", image_tree(None))
    locked, scandir = tmp_path / "scans" / "ill", os.scandir

    def scandir_of_another_user(folder: Path) -> object:
        if folder == locked:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scandir_of_another_user)
    assert_refused(
        tmp_path / "scans",
        f"scans: the folder {locked} cannot be listed (Permission denied); "
        "give yourself the right to read it",
    )


@pytest.mark.parametrize("name", ["../ill/0.png", "/ill/0.png", "scans/../../ill/0.png"])
@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_archive_that_reaches_out_is_refused(name: str, suffix: str, tmp_path: Path) -> None:
    write_archive(tmp_path / f"scans{suffix}", {**image_tree(None), name: png(picture(0))})
    assert_refused(
        tmp_path / "scans",
        f"scans{suffix}: refused, as the member {name!r} points out of the archive; pack it anew",
    )


def test_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "scans.tar", "w") as tar:
        link = tarfile.TarInfo("ill/0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert_refused(tmp_path / "scans", "scans.tar: ill/0.png is a link; pack the file itself (tar -h)")


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
def test_archive_that_was_cut_off_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    archive = tmp_path / f"scans{suffix}"
    write_archive(archive, image_tree(SPLITS))
    content = archive.read_bytes().rstrip(b"\0") if suffix == ".tar" else archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * share)])
    assert_refused(archive, f"scans{suffix}: the archive is damaged or incomplete (")


def test_tar_with_a_damaged_header_is_refused_and_not_read_in_part(tmp_path: Path) -> None:
    archive = tmp_path / "scans.tar"
    write_archive(archive, image_tree(SPLITS))
    content = bytearray(archive.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(bytes(content))) as tar:
        offset = tar.getmembers()[6].offset
    content[offset : offset + 10] = b"\xff" * 10
    archive.write_bytes(content)
    assert_refused(archive, "scans.tar: the archive is damaged or incomplete (")


def test_zip_with_a_damaged_image_is_refused_when_it_is_read(tmp_path: Path) -> None:
    archive = tmp_path / "scans.zip"
    write_archive(archive, image_tree(SPLITS))
    content = bytearray(archive.read_bytes())
    content[100] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"scans.zip: the archive is damaged or incomplete \(Bad CRC-32"):
        pixels(read_image_folder(archive))
