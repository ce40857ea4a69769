"""The pixels of a dataset in the cache, made ahead of the first trial or for it."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.datasets.catalog import normalize_dataset
from trainables.datasets.packed import Packed, pack_readable, refuse_broken
from trainables.datasets.packed_file import Progress
from trainables.datasets.reading import check_copy, read_table
from trainables.datasets.selection import select, task_of
from trainables.datasets.spec import DatasetSpec
from trainables.datasets.table import Table


@dataclass(frozen=True)
class Ready:
    """A dataset whose pixels are packed.

    Attributes:
        spec: normalized.
        selected: the samples that the spec keeps, each in its split.
        packed: all images of the data, whatever the spec keeps of them.
        skipped: the images that were left out because they cannot be decoded, sorted.
    """

    spec: DatasetSpec
    selected: Table
    packed: Packed
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """What it took to pack a dataset.

    Attributes:
        n_images: packed, whatever the spec keeps of them.
        n_bytes: of their pixels.
        seconds: from listing to the last pixel.
        was_there: nothing had to be decoded.
        skipped: the images that cannot be decoded, sorted.
    """

    n_images: int
    n_bytes: int
    seconds: float
    was_there: bool
    skipped: tuple[str, ...]


def prepare(spec: DatasetSpec, *, data_root: Path | None, progress: Progress | None = None) -> Prepared:
    """Pack a dataset, or find that it is packed. If this is interrupted, call it again: it goes on.

    Raises:
        SpecError, DataError: as `make_ready`.
    """
    began = time.perf_counter()
    ready = make_ready(spec, data_root=data_root, progress=progress)
    pixels = ready.packed.pixels
    seconds = time.perf_counter() - began
    return Prepared(len(pixels), pixels.nbytes, seconds, ready.packed.was_there, ready.skipped)


def make_ready(spec: DatasetSpec, *, data_root: Path | None, progress: Progress | None = None) -> Ready:
    """Read, select, split and decode.

    Raises:
        SpecError: a reader that does not exist, a path it cannot use, or a grade that the labels do not have.
        DataError: images or labels that are missing, unreadable or inconsistent.
    """
    spec = normalize_dataset(spec)
    table = read_table(spec, data_root=data_root)
    check_copy(table, spec)
    # Before decoding, which can take hours: a mistake in the selection comes out at once.
    selected = select(table, spec, data_root=data_root)
    task_of(selected, spec)
    packed = pack_readable(
        table.images, name=table.name, size_px=spec.size_px, channels=spec.channels, progress=progress
    )
    if spec.broken_files == "refuse":
        refuse_broken(packed, table.images, name=table.name)
    if packed.broken:
        selected = select(without_broken(table, packed), spec, data_root=data_root)
    return Ready(spec, selected, packed, broken_images(table, packed))


def without_broken(table: Table, packed: Packed) -> Table:
    """Return the samples whose images can be decoded."""
    return table.take(~np.isin(table.rows, list(packed.broken)))


def broken_images(table: Table, packed: Packed) -> tuple[str, ...]:
    """Return the names of the images that cannot be decoded, of those the table has, sorted."""
    rows = table.rows[np.isin(table.rows, list(packed.broken))]
    return tuple(sorted({table.images.name(int(row)) for row in rows}))
