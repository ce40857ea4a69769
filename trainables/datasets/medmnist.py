"""The .npz layout of MedMNIST, official or home-made.

Keys `train_images`, `train_labels`, and the same for `val` and `test`; a split that is not there is drawn
from train. Images are uint8, N × H × W grey or N × H × W × 3; labels are integers, N × 1 class numbers or
N × L marks of 0 and 1. The images are never in memory together: at 224 px the largest set has 16 GB.

Patients are not in the file, so every image is its own group, and a split that is drawn can put two images
of one patient on both sides. The official splits are taken as they are; that of DermaMNIST is known to have
images of one lesion in several splits (Abhishek et al. 2025, arXiv 2401.14497): the reader `ham10000` of
the same images keeps lesions together.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from trainables.datasets.decoding import as_pixmap
from trainables.datasets.file_tree import fingerprint_of
from trainables.datasets.medmnist_flags import classes_of, flag_of
from trainables.datasets.npz_arrays import ArrayHeader, open_npz, read_array, read_header, read_rows
from trainables.datasets.packed import ImageFiles
from trainables.datasets.table import SPLITS, OnDisk, Table
from trainables.errors import DataError

# Their names alone would fill the memory.
MOST_IMAGES = 100_000_000


@dataclass(frozen=True)
class _Arrays:
    """What the file holds, by split: the images are not read yet, the labels are."""

    images: dict[str, ArrayHeader]
    labels: dict[str, np.ndarray]


def read_medmnist(location: Path | None) -> Table:
    """Read the labels, and what the file says of its images.

    Raises:
        DataError: the file is missing or damaged, or its arrays are not as described above.
    """
    assert location is not None, "the catalog says that this reader needs a path"
    name = location.name
    arrays = _read_arrays(location)
    present = _present_splits(name, arrays)
    for split in present:
        _check_pair(name, split, arrays.images[split], arrays.labels[split])
    _check_same_shape(name, "images", {split: arrays.images[split].shape for split in present})
    _check_same_shape(name, "labels", {split: arrays.labels[split].shape for split in present})
    labels = np.concatenate([arrays.labels[split] for split in present])
    counts = {split: len(arrays.labels[split]) for split in present}
    names = tuple(f"{split}/{number:06d}" for split, n in counts.items() for number in range(n))
    ids = np.array(names)
    return Table(
        name=name,
        images=ImageFiles(names, partial(_contents, location, present), fingerprint_of(location)),
        rows=np.arange(len(ids)),
        labels=labels[:, 0].astype(np.int64) if labels.shape[1] == 1 else labels.astype(np.uint8),
        classes=_classes(name, labels),
        sample_ids=ids,
        groups=ids,
        splits=np.repeat(present, list(counts.values())),
        on_disk=OnDisk(counts),
    )


def _read_arrays(location: Path) -> _Arrays:
    if not location.is_file():
        raise DataError(
            f"{location.name}: no file at {location}; set TRANSFUSION_DATA to the folder that holds it, "
            "or mend dataset.path"
        )
    with open_npz(location) as archive:
        members = set(archive.namelist())

        def among(key: str) -> list[str]:
            return [split for split in SPLITS if f"{split}_{key}.npy" in members]

        images = {split: read_header(archive, f"{split}_images") for split in among("images")}
        for split in among("labels"):
            _check_labels_fit(location.name, split, read_header(archive, f"{split}_labels"))
        return _Arrays(images, {split: read_array(archive, f"{split}_labels") for split in among("labels")})


def _check_labels_fit(name: str, split: str, labels: ArrayHeader) -> None:
    """Look before reading: a few kilobytes of an archive can stand for terabytes of zeros."""
    if math.prod(labels.shape) > MOST_IMAGES:
        raise DataError(
            f"{name}: {split}_labels: expected at most {MOST_IMAGES} labels, found {labels.shape}; "
            "download or write it anew"
        )


def _contents(location: Path, present: tuple[str, ...]) -> Iterator[tuple[int, Callable[[], bytes]]]:
    number = 0
    with open_npz(location) as archive:
        for split in present:
            for image in read_rows(archive, f"{split}_images"):
                yield number, partial(as_pixmap, image)
                number += 1


def _present_splits(name: str, arrays: _Arrays) -> tuple[str, ...]:
    keys = [*(f"{split}_images" for split in arrays.images), *(f"{split}_labels" for split in arrays.labels)]
    present = []
    for split in SPLITS:
        found = [key for key in (f"{split}_images", f"{split}_labels") if key in keys]
        # A file under an official name has all splits: then no fraction of the spec can matter.
        is_needed = split == "train" or flag_of(name) is not None
        if len(found) == 1 or (is_needed and not found):
            raise DataError(
                f"{name}: expected the arrays {split}_images and {split}_labels, "
                f"found {', '.join(sorted(keys)) or 'none of the layout'}; download or write it anew"
            )
        if found:
            present.append(split)
    return tuple(present)


def _check_same_shape(name: str, key: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if len({shape[1:] for shape in shapes.values()}) > 1:
        listed = ", ".join(f"{split} {shape}" for split, shape in shapes.items())
        raise DataError(f"{name}: expected {key} of one shape in all splits, found {listed}")


def _check_pair(name: str, split: str, images: ArrayHeader, labels: np.ndarray) -> None:
    def mismatch(what: str, expected: str, array: ArrayHeader | np.ndarray, action: str) -> DataError:
        return DataError(
            f"{name}: {split}_{what}: expected {expected}, found {array.dtype} {array.shape}; {action}"
        )

    is_picture = len(images.shape) == 3 or (len(images.shape) == 4 and images.shape[3] == 3)
    if images.dtype != np.uint8 or not is_picture:
        raise mismatch("images", "uint8 (n, height, width) or (n, height, width, 3)", images, "convert them")
    if images.by_column:
        raise DataError(
            f"{name}: {split}_images: expected image after image, found an array stored column by column; "
            "save np.ascontiguousarray(images)"
        )
    if labels.ndim != 2 or labels.shape[1] == 0 or labels.dtype.kind not in "iub":
        raise mismatch("labels", "integers (n, 1) or (n, n_labels)", labels, "convert them")
    if len(labels) != images.shape[0]:
        raise mismatch("labels", f"{images.shape[0]} rows, one per image", labels, "the file is incomplete")
    if len(labels) == 0:
        raise mismatch("images", "at least one image", images, "leave out a split that is empty")
    if labels.min() < 0 or (labels.shape[1] > 1 and labels.max() > 1):
        expected = "class numbers from 0" if labels.shape[1] == 1 else "0 or 1"
        raise DataError(
            f"{name}: {split}_labels: expected {expected}, "
            f"found {int(labels.min())} … {int(labels.max())}; mend the labels"
        )


def _classes(name: str, labels: np.ndarray) -> tuple[str, ...]:
    n_found = labels.shape[1] if labels.shape[1] > 1 else int(labels.max()) + 1
    if n_found > labels.size:
        raise DataError(
            f"{name}: expected class numbers below the number of labels, {labels.size}, found {n_found - 1}; "
            "number the classes from 0"
        )
    known = classes_of(name)
    if known is None:
        return tuple(str(number) for number in range(n_found))
    if n_found > len(known):
        raise DataError(
            f"{name}: expected the {len(known)} classes of {flag_of(name)}, found {n_found}; "
            "give a file of your own another name"
        )
    return known
