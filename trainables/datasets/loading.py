"""From a DatasetSpec to arrays that a network can be trained on."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from trainables.datasets.facts import compute_facts, facts_key, kept_facts
from trainables.datasets.image_rows import ImageRows
from trainables.datasets.packed_file import Progress
from trainables.datasets.preparation import Ready, make_ready
from trainables.datasets.reading import is_there, location_of
from trainables.datasets.selection import task_of
from trainables.datasets.spec import DatasetSpec, Task
from trainables.datasets.table import SPLITS, Table
from trainables.errors import DataError

# Those a process holds at once: what its next trial needs is usually what the last one had.
DATASETS_KEPT = 4


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one split, in an order that depends on the data alone.

    Attributes:
        images: (n, channels, size_px, size_px) uint8, read-only, perhaps mapped from a file; what indexing
            returns is in memory where the images are scattered over that file.
        labels: (n,) int64 class numbers, or (n, n_classes) uint8 marks of a multilabel task: 0, 1, or
            `trainables.datasets.table.UNKNOWN`.
        sample_ids: (n,) str, unique over all splits.
        groups: (n,) str; samples of one patient or lesion share it.
    """

    images: np.ndarray | ImageRows
    labels: np.ndarray
    sample_ids: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """A task: its classes and its three splits.

    Attributes:
        digest: SHA-256, in hex, of the classes, ids, groups, labels and pixels of the splits.
        mean, sd: per channel, of pixels scaled to 0 … 1.
        referable_grade: of an ordinal task, the class number from which on a grade counts as positive.
        skipped: the images that were left out because they cannot be decoded, sorted.
    """

    classes: tuple[str, ...]
    task: Task
    train: Split
    val: Split
    test: Split
    digest: str
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    referable_grade: int | None = None
    skipped: tuple[str, ...] = ()

    @property
    def n_outputs(self) -> int:
        """Of a network for this task: one per class, also when there are two."""
        return len(self.classes)


def load_dataset(spec: DatasetSpec, *, data_root: Path | None, progress: Progress | None = None) -> Dataset:
    """Read, select, split and decode a dataset.

    Args:
        data_root: the folder that `spec.path` is below.
        progress: called with the images that are decoded and with all.

    Raises:
        SpecError: a reader that does not exist, a path it cannot use, or a grade that the labels do not have.
        DataError: images or labels that are missing, unreadable or inconsistent.
    """
    return assemble(make_ready(spec, data_root=data_root, progress=progress))


@lru_cache(maxsize=DATASETS_KEPT)
def cached_dataset(spec: DatasetSpec, data_root: Path | None) -> Dataset:
    """Load a dataset, or return the one this process holds already."""
    return load_dataset(spec, data_root=data_root)


def assemble(ready: Ready) -> Dataset:
    """Return the dataset that was made ready.

    Raises:
        DataError: all training pixels are equal.
    """
    selected, spec = ready.selected, ready.spec
    pixels = ready.packed.pixels
    train, val, test = (_split(selected.take(selected.splits == name), pixels) for name in SPLITS)
    facts = kept_facts(
        facts_key(spec, selected, ready.packed.digest, pixels.shape),
        lambda: compute_facts(spec, selected.name, selected.classes, (train, val, test)),
    )
    return Dataset(
        classes=selected.classes,
        task=task_of(selected, spec),
        train=train,
        val=val,
        test=test,
        digest=facts.digest,
        mean=facts.mean,
        sd=facts.sd,
        referable_grade=spec.referable_grade if isinstance(spec.referable_grade, int) else None,
        skipped=ready.skipped,
    )


def check_dataset_is_there(spec: DatasetSpec, *, data_root: Path | None) -> None:
    """Look for the file or folder of a dataset, without reading it.

    Raises:
        DataError: it is not there, nor an archive of it.
    """
    location = location_of(spec, data_root)
    if location is not None and not is_there(location):
        raise DataError(
            f"{spec.path}: not found in {data_root}; "
            "set TRANSFUSION_DATA to the folder that holds it, or mend dataset.path"
        )


def _split(table: Table, pixels: np.ndarray) -> Split:
    first, n = int(table.rows[0]), len(table.rows)
    is_one_piece = np.array_equal(table.rows, np.arange(first, first + n))
    images = pixels[first : first + n] if is_one_piece else ImageRows(pixels, table.rows)
    return Split(images, table.labels, table.sample_ids, table.groups)
