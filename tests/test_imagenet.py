"""ImageNet's val folder is the test split, and its classes stand in the order of published weights."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from tests.miniatures.folders import write_image_folder, write_imagenet
from trainables.datasets import file_tree
from trainables.datasets.imagenet import read_imagenet
from trainables.datasets.published import IMAGENET
from trainables.errors import DataError


@pytest.fixture
def location(tmp_path: Path) -> Path:
    write_imagenet(tmp_path, n_classes=3, per_class=4)
    return tmp_path / "imagenet"


def assert_refused(location: Path, expected: str) -> None:
    with pytest.raises(DataError, match=re.escape(expected)):
        read_imagenet(location)


def test_val_folder_is_the_test_split_and_validation_is_missing(location: Path) -> None:
    table = read_imagenet(location)
    assert table.missing_splits == ("val",)
    for sample, split in zip(table.sample_ids, table.splits, strict=True):
        assert {"train": "train", "val": "test"}[str(sample).split("/")[0]] == split


def test_labels_are_the_ranks_of_the_wordnet_ids(location: Path) -> None:
    table = read_imagenet(location)
    assert list(table.classes) == sorted(path.name for path in (location / "train").iterdir())
    for sample, label in zip(table.sample_ids, table.labels, strict=True):
        assert str(sample).split("/")[1] == table.classes[label]


def test_counts_are_in_the_terms_of_the_publisher(location: Path) -> None:
    found = read_imagenet(location).on_disk
    assert found is not None
    assert found.splits == {"train": 12, "val": 6}
    assert set(found.splits) == set(IMAGENET.splits)


def test_no_file_is_opened_and_each_is_asked_for_its_size_once(
    location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def stat(entry: "os.DirEntry[str]", where: str) -> os.stat_result:
        asked.append(where)
        return entry.stat()

    def refuse(*_args: object, **_keywords: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(file_tree, "_stat", stat)
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert len(read_imagenet(location).labels) == len(asked) == len(set(asked)) == 18


def test_val_folder_that_is_not_sorted_into_classes_is_refused(location: Path) -> None:
    for path in list((location / "val").rglob("*.JPEG")):
        path.rename(location / "val" / path.name)
    assert_refused(
        location,
        "imagenet: expected every image at split/class/image, found val/ILSVRC2012_val_00000000.JPEG; "
        "move or remove it",
    )


@pytest.mark.parametrize(("splits", "found"), [({"train": 2, "test": 2}, "test, train"), (None, "train")])
def test_other_splits_are_refused(splits: dict[str, int] | None, found: str, tmp_path: Path) -> None:
    write_image_folder(tmp_path / "imagenet", splits=splits)
    assert_refused(
        tmp_path / "imagenet",
        "imagenet: expected the folders train and val, each with one folder per WordNet id, found "
        f"{found}; arrange them as torchvision's ImageFolder does, or mend dataset.path",
    )


def test_class_numbers_are_int64(location: Path) -> None:
    assert read_imagenet(location).labels.dtype == np.int64
