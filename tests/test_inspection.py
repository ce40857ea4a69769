"""An inspection reports all that is wrong with a copy, and the list tells which datasets are there."""

from pathlib import Path

import numpy as np
import pytest

from tests.image_trees import image_tree, medmnist_arrays, write_tree
from tests.miniatures.folders import write_kermany
from trainables.datasets.catalog import DATASETS, find_dataset
from trainables.datasets.inspection import Count, inspect, list_datasets
from trainables.datasets.loading import load_dataset
from trainables.datasets.spec import DatasetSpec
from trainables.errors import DataError

SCANS = DatasetSpec(reader="image_folder", path="scans", size_px=12)
XRAYS = DatasetSpec(reader="kermany", path="chest_xray", size_px=16)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFUSION_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_sound_copy_has_the_digest_and_the_samples_of_the_dataset(root: Path) -> None:
    write_tree(root / "scans", image_tree(None))
    found = inspect(SCANS, data_root=root)
    dataset = load_dataset(SCANS, data_root=root)
    assert found.is_ok
    assert (found.digest, found.problem, found.broken) == (dataset.digest, None, ())
    assert (found.n_images, found.n_groups) == (20, 20)
    assert found.counts == (
        Count("images in train", None, 20),
        Count("images of ill", None, 10),
        Count("images of well", None, 10),
    )
    train = np.bincount(dataset.train.labels).tolist()
    assert list(found.samples) == ["train", "val", "test"]
    assert found.samples["train"] == dict(zip(dataset.classes, train, strict=True))


def test_incomplete_copy_is_reported_count_by_count(root: Path) -> None:
    write_kermany(root, n_persons=8)
    found = inspect(XRAYS, data_root=root)
    expected = {count.what: count.expected for count in found.counts}
    assert expected == {
        "images in train": 5216,
        "images in val": 16,
        "images in test": 624,
        "images of NORMAL": 1583,
        "images of PNEUMONIA": 4273,
    }
    assert all(0 < count.found < count.expected for count in found.counts if count.what != "images in val")
    assert not any(count.is_ok for count in found.counts if count.what != "images in val")
    assert not found.is_ok
    partial = load_dataset(XRAYS.model_copy(update={"partial": True}), data_root=root)
    assert found.digest == partial.digest


def test_complete_copy_is_ok(root: Path) -> None:
    splits = {"train": 546, "val": 78, "test": 156}
    np.savez(root / "breastmnist.npz", **medmnist_arrays(splits=splits))
    found = inspect(DatasetSpec.model_validate(find_dataset("breastmnist")), data_root=root)
    assert found.is_ok
    assert found.counts[:3] == tuple(Count(f"images in {name}", n, n) for name, n in splits.items())


def test_broken_files_are_all_named_and_say_why_there_is_no_digest(root: Path) -> None:
    broken = {f"ill/{number}.png": b"oops" for number in range(8)}
    write_tree(root / "scans", {**image_tree(None), **broken})
    found = inspect(SCANS, data_root=root)
    assert found.broken == tuple(f"{name} (is no image of a known format)" for name in sorted(broken))
    assert (found.digest, found.samples, found.is_ok) == (None, {}, False)
    assert found.problem == (
        "scans: 8 of 20 images cannot be read; replace or remove them, or write broken_files: skip"
    )


def test_broken_files_that_are_skipped_leave_a_dataset(root: Path) -> None:
    write_tree(root / "scans", {**image_tree(None), "ill/3.png": b"oops"})
    spec = SCANS.model_copy(update={"broken_files": "skip"})
    found = inspect(spec, data_root=root)
    assert found.broken == ("ill/3.png (is no image of a known format)",)
    assert found.digest == load_dataset(spec, data_root=root).digest
    assert sum(found.samples[split]["ill"] for split in found.samples) == 9


def test_samples_of_several_labels_are_those_marked(root: Path) -> None:
    arrays = medmnist_arrays(n_labels=3)
    np.savez(root / "mine.npz", **arrays)
    found = inspect(DatasetSpec(reader="medmnist", path="mine.npz", size_px=10), data_root=root)
    for split, counts in found.samples.items():
        assert list(counts.values()) == arrays[f"{split}_labels"].sum(0).tolist()


def test_missing_files_are_an_error(root: Path) -> None:
    with pytest.raises(DataError, match="scans: expected a folder"):
        inspect(SCANS, data_root=root)


def test_list_has_every_dataset_and_finds_what_is_there(root: Path) -> None:
    write_kermany(root, n_persons=1)
    (root / "cifar10.tar.xz").touch()
    rows = {row.name: row for row in list_datasets(root)}
    assert list(rows) == sorted(DATASETS)
    present = {name for name, row in rows.items() if row.is_present}
    without_files = {name for name, fields in DATASETS.items() if "path" not in fields}
    assert present == without_files | {"chest_xray", "cifar10"}
    assert (rows["chest_xray"].path, rows["chest_xray"].reader) == ("chest_xray", "kermany")
    assert rows["chest_xray"].n_published == 5856
    assert rows["digits"].n_published is None


def test_without_a_data_root_only_what_needs_no_file_is_there() -> None:
    for row in list_datasets(None):
        assert row.is_present == (row.path is None)
