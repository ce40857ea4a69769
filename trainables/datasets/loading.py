"""From a DatasetSpec to arrays that a network can be trained on."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np

from trainables.datasets.catalog import find_reader, normalize_dataset
from trainables.datasets.file_tree import archives_beside
from trainables.datasets.packed import pack
from trainables.datasets.spec import DatasetSpec
from trainables.datasets.splits import draw_fraction, draw_splits
from trainables.datasets.table import SPLITS, Table
from trainables.errors import DataError

# Of the images networks are published for; grey has the mean over the colours.
IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES_AT_ONCE = 1024


@dataclass(frozen=True)
class Split:
    """The samples of one split, in an order that depends on the data alone.

    Attributes:
        images: (n, channels, size_px, size_px) uint8, read-only, perhaps mapped from a file.
        labels: (n,) int64 class numbers, or (n, n_classes) uint8 marks of a multilabel task.
        sample_ids: (n,) str, unique over all splits.
        groups: (n,) str; samples of one patient or lesion share it.
    """

    images: np.ndarray
    labels: np.ndarray
    sample_ids: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """A task: its classes and its three splits.

    Attributes:
        digest: SHA-256, in hex, of the classes, ids, groups, labels and pixels of the splits.
        mean, sd: per channel, of pixels scaled to 0 … 1.
    """

    classes: tuple[str, ...]
    task: Literal["multiclass", "multilabel"]
    train: Split
    val: Split
    test: Split
    digest: str
    mean: tuple[float, ...]
    sd: tuple[float, ...]

    @property
    def n_outputs(self) -> int:
        """Of a network for this task: one per class, also when there are two."""
        return len(self.classes)


def load_dataset(spec: DatasetSpec, *, data_root: Path | None) -> Dataset:
    """Read, split and decode a dataset.

    Args:
        data_root: the folder that `spec.path` is below.

    Raises:
        SpecError: a reader that does not exist, or a path it cannot use.
        DataError: images or labels that are missing, unreadable or inconsistent.
    """
    spec = normalize_dataset(spec)
    table = _read(spec, data_root)
    missing = table.missing_splits
    if spec.classes is not None:
        table = table.select_classes(spec.classes)
    table = _with_all_splits(table, missing, spec)
    table.check_every_class()
    if spec.train_fraction < 1:
        table = _with_train_fraction(table, spec)
    pixels = pack(table.images, name=table.name, size_px=spec.size_px, channels=spec.channels)
    train, val, test = (_split(table.take(table.splits == name), pixels) for name in SPLITS)
    mean, sd = _statistics(spec, train.images, table.name)
    return Dataset(
        classes=table.classes,
        task="multilabel" if table.is_multilabel else "multiclass",
        train=train,
        val=val,
        test=test,
        digest=_digest(table.classes, (train, val, test)),
        mean=mean,
        sd=sd,
    )


def _read(spec: DatasetSpec, data_root: Path | None) -> Table:
    reader = find_reader(spec.reader)
    module, function = reader.function.split(":")
    read: Callable[[Path | None], Table] = getattr(import_module(module), function)
    return read(_location(spec, data_root))


def _location(spec: DatasetSpec, data_root: Path | None) -> Path | None:
    if spec.path is None:
        return None
    if data_root is None:
        raise DataError(f"{spec.path}: set TRANSFUSION_DATA to the folder that holds it")
    return data_root / spec.path


def check_dataset_is_there(spec: DatasetSpec, *, data_root: Path | None) -> None:
    """Look for the file or folder of a dataset, without reading it.

    Raises:
        DataError: it is not there, nor an archive of it.
    """
    location = _location(spec, data_root)
    if location is not None and not location.exists() and not any(archives_beside(location)):
        raise DataError(
            f"{spec.path}: not found in {data_root}; "
            "set TRANSFUSION_DATA to the folder that holds it, or mend dataset.path"
        )


def _with_all_splits(table: Table, missing: tuple[str, ...], spec: DatasetSpec) -> Table:
    """Draw the splits the format lacks from its training samples, as shares of these."""
    if not missing:
        return table
    shares = {"val": spec.validation_fraction, "test": spec.test_fraction}
    shares = {name: share for name, share in shares.items() if name in missing}
    for name, share in shares.items():
        if share == 0:
            field = "validation_fraction" if name == "val" else "test_fraction"
            raise DataError(f"{table.name}: dataset.{field} must be above 0: the data have no {name} split")
    shares = {"train": 1 - sum(shares.values()), **shares}
    pool = table.splits == "train"
    part = table.take(pool)
    splits = table.splits.astype("<U5")
    splits[pool] = draw_splits(part.membership(), part.groups, shares=shares, seed=spec.split_seed)
    return replace(table, splits=splits)


def _with_train_fraction(table: Table, spec: DatasetSpec) -> Table:
    train = np.flatnonzero(table.splits == "train")
    part = table.take(train)
    kept = draw_fraction(part.membership(), part.groups, fraction=spec.train_fraction, seed=spec.split_seed)
    chosen = table.splits != "train"
    chosen[train[kept]] = True
    return table.take(chosen)


def _split(table: Table, pixels: np.ndarray) -> Split:
    first, n = int(table.rows[0]), len(table.rows)
    if np.array_equal(table.rows, np.arange(first, first + n)):
        images = pixels[first : first + n]  # stays mapped
    else:
        images = pixels[table.rows]
        images.flags.writeable = False
    return Split(images, table.labels, table.sample_ids, table.groups)


def _statistics(
    spec: DatasetSpec, images: np.ndarray, name: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and sd per channel, of pixels scaled to 0 … 1.

    Raises:
        DataError: all training pixels of a channel are equal, so that there is no sd to divide by.
    """
    if spec.normalize == "unit":
        return (0.5,) * spec.channels, (0.5,) * spec.channels
    if spec.normalize == "imagenet":
        if spec.channels == 3:
            return IMAGENET_MEAN, IMAGENET_SD
        return (sum(IMAGENET_MEAN) / 3,), (sum(IMAGENET_SD) / 3,)
    # Counting the 256 values is exact, whatever the number of images and the order of the sum.
    counts = np.zeros((spec.channels, 256), np.int64)
    for start in range(0, len(images), IMAGES_AT_ONCE):
        for channel in range(spec.channels):
            values = images[start : start + IMAGES_AT_ONCE, channel]
            counts[channel] += np.bincount(values.ravel(), minlength=256)
    shares = counts / counts.sum(1, keepdims=True)
    levels = np.arange(256) / 255
    means = shares @ levels
    sds = np.sqrt((shares * (levels - means[:, None]) ** 2).sum(1))
    if (counts.max(1) == counts.sum(1)).any():
        raise DataError(
            f"{name}: all training pixels are equal, so there is no sd; "
            "mend the images or give normalize: unit"
        )
    return tuple(means.tolist()), tuple(sds.tolist())


def _digest(classes: tuple[str, ...], splits: tuple[Split, ...]) -> str:
    digest = hashlib.sha256()
    for split in splits:
        columns = [column.tolist() for column in (split.sample_ids, split.groups, split.labels)]
        digest.update(json.dumps([classes, columns, split.images.shape]).encode())
        for start in range(0, len(split.images), IMAGES_AT_ONCE):
            digest.update(np.ascontiguousarray(split.images[start : start + IMAGES_AT_ONCE]).data)
    return digest.hexdigest()
