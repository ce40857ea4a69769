"""Kermany's X-rays are grouped by what their names tell, and split as the study says."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.image_trees import write_archive
from tests.miniatures.folders import write_image_folder, write_kermany
from trainables.datasets.kermany import read_kermany
from trainables.datasets.options import KermanyOptions
from trainables.datasets.packed import pack
from trainables.datasets.published import KERMANY
from trainables.datasets.table import Table
from trainables.errors import DataError

REDRAW, OFFICIAL = KermanyOptions(), KermanyOptions(splits="official_test")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def location(tmp_path: Path) -> Path:
    write_kermany(tmp_path, n_persons=4)
    return tmp_path / "chest_xray"


def files_of_groups(table: Table) -> dict[str, set[str]]:
    return {
        str(group): {str(i).split("/")[-1] for i in table.sample_ids[table.groups == group]}
        for group in np.unique(table.groups)
    }


def folders(table: Table) -> np.ndarray:
    return np.array([i.split("/")[0] for i in table.sample_ids])


def test_redrawn_splits_are_drawn_from_all_images(location: Path) -> None:
    table = read_kermany(location, REDRAW)
    assert table.missing_splits == ("val", "test")
    assert set(folders(table)) == {"train", "val", "test"}
    assert len(table.labels) == 4 * (4 + 2 + 4)


def test_official_test_folder_stays_the_test_split(location: Path) -> None:
    table = read_kermany(location, OFFICIAL)
    assert table.missing_splits == ("val",)
    np.testing.assert_array_equal(table.splits == "test", folders(table) == "test")


def test_class_is_the_folder(location: Path) -> None:
    table = read_kermany(location, REDRAW)
    assert table.classes == ("NORMAL", "PNEUMONIA")
    for sample, label in zip(table.sample_ids, table.labels, strict=True):
        assert str(sample).split("/")[1] == table.classes[label]


def test_bacteria_and_virus_of_one_number_are_one_person(location: Path) -> None:
    groups = files_of_groups(read_kermany(location, REDRAW))
    assert groups["person4"] == {"person4_bacteria_8.jpeg", "person4_virus_4.jpeg"}


def test_number_in_train_and_test_is_one_person_when_redrawn_and_two_when_not(location: Path) -> None:
    assert set(folders(_only(read_kermany(location, REDRAW), "person1"))) == {"train", "test"}
    official = read_kermany(location, OFFICIAL)
    assert set(folders(_only(official, "person1"))) == {"train"}
    assert set(folders(_only(official, "test/person1"))) == {"test"}


def _only(table: Table, group: str) -> Table:
    return table.take(table.groups == group)


@pytest.mark.parametrize("options", [REDRAW, OFFICIAL])
def test_no_group_lies_in_two_splits(options: KermanyOptions, location: Path) -> None:
    table = read_kermany(location, options)
    for group in np.unique(table.groups):
        assert len(set(table.splits[table.groups == group])) == 1


@pytest.mark.parametrize(
    ("file", "group"),
    [
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("IM-0115-0001-0002.jpeg", "IM-0115"),
        ("NORMAL2-IM-0115-0001.jpeg", "NORMAL2-IM-0115"),
        ("NORMAL2-IM-0115-0001-0003.jpeg", "NORMAL2-IM-0115"),
        ("person1000_virus_1681.jpeg", "person1000"),
    ],
)
def test_group_is_told_by_the_name(file: str, group: str, location: Path) -> None:
    [source] = (location / "train" / "NORMAL").glob("IM-0115-0001.jpeg")
    (location / "test" / "NORMAL" / file).write_bytes(source.read_bytes())
    table = read_kermany(location, REDRAW)
    [found] = table.groups[table.sample_ids == f"test/NORMAL/{file}"]
    assert found == group


def test_counts_on_disk_are_those_of_the_folders_whatever_the_splits(location: Path) -> None:
    for options in (REDRAW, OFFICIAL):
        found = read_kermany(location, options).on_disk
        assert found is not None
        assert found.splits == {"train": 16, "val": 16, "test": 8}
        assert found.classes == {"NORMAL": 20, "PNEUMONIA": 20}
        assert set(found.splits) == set(KERMANY.splits)


def test_a_folder_within_a_folder_of_its_name_is_found(location: Path, tmp_path: Path) -> None:
    (tmp_path / "unpacked").mkdir()
    nested = location.rename(tmp_path / "unpacked" / "chest_xray").parent.rename(location)
    assert len(read_kermany(nested, REDRAW).sample_ids) == 40


@pytest.mark.parametrize("as_archive", [False, True])
def test_second_copy_and_litter_are_left_out(as_archive: bool, location: Path, tmp_path: Path) -> None:
    once = read_kermany(location, REDRAW)
    files: Mapping[str, bytes] = {
        path.relative_to(location).as_posix(): path.read_bytes() for path in location.rglob("*.jpeg")
    }
    litter = {"__MACOSX/train/NORMAL/._IM-0115-0001.jpeg": b"x", "train/.DS_Store": b"x"}
    copies = {f"chest_xray/{name}": content for name, content in files.items()}
    if as_archive:
        packed = {f"chest_xray/{name}": data for name, data in {**files, **litter, **copies}.items()}
        (tmp_path / "other").mkdir()
        write_archive(tmp_path / "other" / "chest_xray.zip", packed)
        location = tmp_path / "other" / "chest_xray"
    else:
        for name, content in {**litter, **copies}.items():
            (location / name).parent.mkdir(parents=True, exist_ok=True)
            (location / name).write_bytes(content)
    again = read_kermany(location, REDRAW)
    for column in ("sample_ids", "groups", "labels", "splits"):
        np.testing.assert_array_equal(getattr(once, column), getattr(again, column))
    pixels = [pack(table.images, name="x", size_px=16, channels=1)[table.rows] for table in (once, again)]
    np.testing.assert_array_equal(*pixels)


def test_name_that_tells_nobody_is_refused(location: Path) -> None:
    (location / "train" / "NORMAL" / "copy of 3.jpeg").write_bytes(b"x")
    expected = (
        "chest_xray: expected names such as person12_bacteria_46.jpeg or IM-0115-0001.jpeg, which tell who "
        "was X-rayed, found train/NORMAL/copy of 3.jpeg; rename or remove it, or use the reader "
        "'image_folder', which takes every image for another person"
    )
    with pytest.raises(DataError, match=re.escape(expected)):
        read_kermany(location, REDRAW)


def test_other_classes_are_refused(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "chest_xray", splits={"train": 2, "test": 1})
    expected = (
        "chest_xray: expected the class folders NORMAL and PNEUMONIA, found ill, well; mend dataset.path, "
        "or use the reader 'image_folder'"
    )
    with pytest.raises(DataError, match=re.escape(expected)):
        read_kermany(tmp_path / "chest_xray", REDRAW)
