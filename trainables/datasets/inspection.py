"""What lies on disk: counts beside those published, broken files, groups, and which datasets there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.datasets.catalog import DATASETS, normalize_dataset
from trainables.datasets.loading import Dataset, assemble
from trainables.datasets.packed import Packed, pack_readable
from trainables.datasets.packed_file import Progress
from trainables.datasets.preparation import Ready, broken_images, without_broken
from trainables.datasets.readers import find_reader
from trainables.datasets.reading import is_there, location_of, read_table
from trainables.datasets.selection import select, task_of
from trainables.datasets.spec import DatasetSpec
from trainables.datasets.table import SPLITS, OnDisk, Table
from trainables.errors import DataError, UserError


@dataclass(frozen=True)
class Count:
    """One count of a copy.

    Attributes:
        what: `images in train`, `images of melanoma`.
        expected: as published; None where that is not known.
        found: on disk.
    """

    what: str
    expected: int | None
    found: int

    @property
    def is_ok(self) -> bool:
        """Whether nothing speaks against it."""
        return self.expected is None or self.expected == self.found


@dataclass(frozen=True)
class Inspection:
    """A copy of a dataset, looked at as a whole.

    Attributes:
        name: of its file or folder.
        counts: by split and by class, as the publisher counts.
        n_images, n_groups: that the reader yields.
        crossing_groups: patients or lesions that are in several of the splits on disk.
        broken: files that cannot be decoded, with the reason, sorted.
        samples: by split and class, of the dataset as the spec selects it; with several labels, those marked
            1. Empty if it cannot be loaded.
        digest: of the dataset, as trials record it; None if it cannot be loaded.
        problem: why it cannot be loaded.
    """

    name: str
    counts: tuple[Count, ...]
    n_images: int
    n_groups: int
    crossing_groups: tuple[str, ...]
    broken: tuple[str, ...]
    samples: Mapping[str, Mapping[str, int]]
    digest: str | None
    problem: str | None

    @property
    def is_ok(self) -> bool:
        """Whether the copy is complete, and the dataset can be loaded."""
        return self.digest is not None and all(count.is_ok for count in self.counts)


@dataclass(frozen=True)
class DatasetRow:
    """A dataset that a study can name.

    Attributes:
        path: below the data root; None if it needs no file.
        is_present: the file or folder is there, or nothing is needed. What it holds is not looked at.
        n_published: images of a complete copy; None where that is not known.
    """

    name: str
    reader: str
    path: str | None
    is_present: bool
    n_published: int | None


def inspect(spec: DatasetSpec, *, data_root: Path | None, progress: Progress | None = None) -> Inspection:
    """Look at a copy of a dataset, decode all its images, and report every difference.

    Raises:
        SpecError: a reader that does not exist, or a path it cannot use.
        DataError: the files are missing, cannot be read, or are not of the format.
    """
    spec = normalize_dataset(spec)
    table = read_table(spec, data_root=data_root)
    packed = pack_readable(
        table.images, name=table.name, size_px=spec.size_px, channels=spec.channels, progress=progress
    )
    dataset: Dataset | None = None
    problem = None
    try:
        dataset = _load(table, packed, spec, data_root)
    except UserError as error:
        problem = str(error)
    return Inspection(
        name=table.name,
        counts=_counts(table, spec),
        n_images=len(table.rows),
        n_groups=len(np.unique(table.groups)),
        crossing_groups=tuple(table.crossing_groups()),
        broken=_with_reasons(table, packed),
        samples={} if dataset is None else _samples(dataset),
        digest=None if dataset is None else dataset.digest,
        problem=problem,
    )


def list_datasets(data_root: Path | None) -> tuple[DatasetRow, ...]:
    """Return every dataset of the catalog, by name, and whether it is below the data root."""
    rows = []
    for name in sorted(DATASETS):
        spec = normalize_dataset(DatasetSpec.model_validate(DATASETS[name]))
        published = find_reader(spec.reader).published(spec)
        rows.append(
            DatasetRow(
                name=name,
                reader=spec.reader,
                path=spec.path,
                is_present=_is_present(spec, data_root),
                n_published=None if published is None else published.n_images,
            )
        )
    return tuple(rows)


def _is_present(spec: DatasetSpec, data_root: Path | None) -> bool:
    if spec.path is None:
        return True
    location = None if data_root is None else location_of(spec, data_root)
    return location is not None and is_there(location)


def _load(table: Table, packed: Packed, spec: DatasetSpec, data_root: Path | None) -> Dataset:
    if packed.broken and spec.broken_files == "refuse":
        raise DataError(
            f"{table.name}: {len(packed.broken)} of {len(table.images)} images cannot be read; "
            "replace or remove them, or write broken_files: skip"
        )
    selected = select(without_broken(table, packed), spec, data_root=data_root)
    task_of(selected, spec)
    return assemble(Ready(spec, selected, packed, broken_images(table, packed)))


def _counts(table: Table, spec: DatasetSpec) -> tuple[Count, ...]:
    found = table.on_disk or OnDisk(
        splits={name: int((table.splits == name).sum()) for name in SPLITS if (table.splits == name).any()}
    )
    published = find_reader(spec.reader).published(spec)
    by_class = found.classes or dict(zip(table.classes, table.membership().sum(0).tolist(), strict=True))
    expected_splits = published.splits if published else {}
    # A reader that counts no classes is not compared with classes either.
    expected_classes = published.classes if published and found.classes else {}
    return (
        *_beside("images in {}", expected_splits, found.splits),
        *_beside("images of {}", expected_classes, by_class),
    )


def _beside(what: str, expected: Mapping[str, int], found: Mapping[str, int]) -> list[Count]:
    names = [*expected, *(name for name in found if name not in expected)]
    return [Count(what.format(name), expected.get(name), found.get(name, 0)) for name in names]


def _with_reasons(table: Table, packed: Packed) -> tuple[str, ...]:
    return tuple(sorted(f"{table.images.name(number)} ({why})" for number, why in packed.broken.items()))


def _samples(dataset: Dataset) -> dict[str, dict[str, int]]:
    counts = {}
    for name in SPLITS:
        labels = getattr(dataset, name).labels
        is_of = labels == 1 if labels.ndim == 2 else labels[:, None] == np.arange(dataset.n_outputs)
        counts[name] = dict(zip(dataset.classes, is_of.sum(0).tolist(), strict=True))
    return counts
