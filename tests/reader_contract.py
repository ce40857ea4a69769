"""What every reader owes its callers, whatever the format."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.datasets import file_tree
from trainables.datasets.catalog import normalize_dataset
from trainables.datasets.loading import Dataset, load_dataset
from trainables.datasets.reading import read_table
from trainables.datasets.spec import DatasetSpec
from trainables.datasets.table import SPLITS
from trainables.errors import DataError


def check_reader_contract(
    fields: dict[str, Any], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> Dataset:
    """Check a dataset that is a part of what was published, and return it.

    Ids are unique, no group crosses splits, every split has every class, images decode to the shape that the
    spec asks for, the order of the file system has no say, and the part is not taken for the whole.
    """
    spec = DatasetSpec.model_validate({**fields, "partial": True, "size_px": 32})
    dataset = load_dataset(spec, data_root=data_root)
    splits = {name: getattr(dataset, name) for name in SPLITS}
    ids = np.concatenate([split.sample_ids for split in splits.values()])
    assert len(set(ids)) == len(ids) > 0
    groups = [set(split.groups) for split in splits.values()]
    assert all(not a & b for i, a in enumerate(groups) for b in groups[i + 1 :])
    for split in splits.values():
        assert split.images.shape == (len(split.labels), spec.channels, 32, 32)
        present = split.labels if split.labels.ndim == 2 else np.eye(dataset.n_outputs)[split.labels]
        assert ((present == 1).sum(0) > 0).all()
    _check_order(spec, data_root, monkeypatch)
    if normalize_dataset(spec).partial:
        with pytest.raises(DataError, match=r"expected \d+ images.*, found \d+; .*partial: true"):
            load_dataset(spec.model_copy(update={"partial": False}), data_root=data_root)
    return dataset


def _check_order(spec: DatasetSpec, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    normal = normalize_dataset(spec)
    first = read_table(normal, data_root=data_root)
    scan = os.scandir

    def reversed_scan(path: Any) -> Any:
        class Entries(list):  # type: ignore[type-arg]
            def __enter__(self) -> "Entries":
                return self

            def __exit__(self, *_: object) -> None:
                return None

        with scan(path) as entries:
            return Entries(reversed(list(entries)))

    with monkeypatch.context() as patch:
        patch.setattr(file_tree.os, "scandir", reversed_scan)
        second = read_table(normal, data_root=data_root)
    for column in ("sample_ids", "groups", "labels", "splits", "rows"):
        np.testing.assert_array_equal(getattr(first, column), getattr(second, column))
