"""Preparing a dataset packs what loading it needs, once."""

from pathlib import Path

import pytest

from tests.image_trees import SIDE, image_tree, write_tree
from trainables.datasets.loading import load_dataset
from trainables.datasets.preparation import prepare
from trainables.datasets.spec import DatasetSpec
from trainables.errors import DataError

SCANS = DatasetSpec(reader="image_folder", path="scans", size_px=12)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))
    write_tree(tmp_path / "scans", image_tree(None))
    return tmp_path


def test_second_preparation_finds_the_first(root: Path) -> None:
    calls: list[tuple[int, int]] = []
    first = prepare(SCANS, data_root=root, progress=lambda *call: calls.append(call))
    second = prepare(SCANS, data_root=root, progress=lambda *call: calls.append(call))
    assert (first.was_there, second.was_there) == (False, True)
    assert calls == [(20, 20)]
    assert (first.n_images, first.n_bytes) == (second.n_images, second.n_bytes) == (20, 20 * 12 * 12)
    assert first.seconds > 0


def test_loading_a_prepared_dataset_decodes_nothing(root: Path) -> None:
    prepare(SCANS, data_root=root)
    calls: list[tuple[int, int]] = []
    load_dataset(SCANS, data_root=root, progress=lambda *call: calls.append(call))
    assert calls == []


def test_preparation_serves_every_choice_of_classes_and_samples(root: Path) -> None:
    prepare(SCANS.model_copy(update={"train_per_class": 2}), data_root=root)
    other = SCANS.model_copy(update={"classes": ("well", "ill"), "split_seed": 3})
    assert prepare(other, data_root=root).was_there


def test_images_that_need_no_decoding_are_there() -> None:
    assert prepare(DatasetSpec(reader="digits", size_px=8), data_root=None).was_there


def test_broken_images_are_refused_or_named(root: Path) -> None:
    write_tree(root / "scans", {"ill/3.png": b"oops"})
    with pytest.raises(DataError, match=r"scans: 1 of 20 images cannot be read: ill/3.png \("):
        prepare(SCANS, data_root=root)
    prepared = prepare(SCANS.model_copy(update={"broken_files": "skip"}), data_root=root)
    assert prepared.skipped == ("ill/3.png",)
    assert prepared.was_there, "the images that are fine were kept when the others were refused"


def test_images_that_fit_as_they_are_count_as_packed_bytes(root: Path) -> None:
    assert prepare(SCANS.model_copy(update={"size_px": SIDE}), data_root=root).n_bytes == 20 * SIDE**2
