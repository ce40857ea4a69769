"""Which classes and samples of the data a spec keeps, and the splits they are in.

In this order: the classes named, a number of them, superclasses, the splits that the format lacks, a part of
the training samples.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainables.datasets.spec import DatasetSpec, Task
from trainables.datasets.splits import draw_fraction, draw_per_class, draw_splits
from trainables.datasets.superclasses import merge_classes, superclass_of
from trainables.datasets.table import Table
from trainables.errors import DataError, SpecError, unknown_choice


def select(table: Table, spec: DatasetSpec, *, data_root: Path | None) -> Table:
    """Return the samples that a spec keeps, each in its split; every split has every class.

    Args:
        data_root: the folder that a file of superclasses is below.

    Raises:
        SpecError: superclasses that are not lists of classes.
        DataError: classes that do not exist, a group in several splits, or too few samples.
    """
    missing, known = table.missing_splits, table.classes
    if spec.classes is not None:
        table = select_classes(table, spec.classes)
    if spec.n_classes is not None:
        table = select_classes(table, draw_classes(table, spec.n_classes, seed=spec.split_seed))
    if spec.superclasses is not None:
        are_grades = isinstance(spec.referable_grade, int)
        table = merge_classes(table, superclass_of(spec, data_root), known=known, are_grades=are_grades)
    table.check_groups()
    table = _with_all_splits(table, missing, spec)
    table.check_every_class()
    return _with_part_of_train(table, spec)


def task_of(table: Table, spec: DatasetSpec) -> Task:
    """Return what is learned: grades where `referable_grade` is set, which counts in the selected classes.

    Raises:
        SpecError: there are no grades, or none as high.
    """
    if not isinstance(spec.referable_grade, int):
        return "multilabel" if table.is_multilabel else "multiclass"
    if table.is_multilabel:
        raise SpecError(
            f"dataset.referable_grade must be left out: {table.name} has several labels an image "
            f"and no grades, got {spec.referable_grade}"
        )
    if spec.referable_grade >= len(table.classes):
        raise SpecError(
            f"dataset.referable_grade must be below the number of classes of {table.name} "
            f"({len(table.classes)}), got {spec.referable_grade}; count from 0 in the classes that are kept"
        )
    return "ordinal"


def select_classes(table: Table, classes: tuple[str, ...]) -> Table:
    """Return the samples of these classes, numbered in this order; of a multilabel table the columns.

    Raises:
        DataError: no such class; the message lists the known ones.
    """
    for name in classes:
        if name not in table.classes:
            raise DataError(unknown_choice(f"{table.name}: dataset.classes", name, table.classes))
    numbers = [table.classes.index(name) for name in classes]
    if table.is_multilabel:
        return replace(table, labels=table.labels[:, numbers], classes=classes)
    new_number = np.full(len(table.classes), -1)
    new_number[numbers] = np.arange(len(numbers))
    labels = new_number[table.labels]
    return replace(table, labels=labels, classes=classes).take(labels >= 0)


def draw_classes(table: Table, n: int, *, seed: int) -> tuple[str, ...]:
    """Return `n` of the classes in their order; of the same seed, fewer are part of more.

    Drawn by a hash of the name, so the number a class has, and what other classes there are, have no say.

    Raises:
        DataError: there are fewer.
    """
    if n > len(table.classes):
        raise DataError(
            f"{table.name}: dataset.n_classes must be at most the {len(table.classes)} classes "
            f"there are, got {n}"
        )

    def key(name: str) -> bytes:
        return hashlib.sha256(f"{seed}/classes/{name}".encode()).digest()

    drawn = set(sorted(table.classes, key=key)[:n])
    return tuple(name for name in table.classes if name in drawn)


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


def _with_part_of_train(table: Table, spec: DatasetSpec) -> Table:
    train = np.flatnonzero(table.splits == "train")
    part = table.take(train)
    if spec.train_per_class is not None:
        kept = draw_per_class(part.membership(), part.groups, n=spec.train_per_class, seed=spec.split_seed)
    elif spec.train_fraction < 1:
        kept = draw_fraction(
            part.membership(), part.groups, fraction=spec.train_fraction, seed=spec.split_seed
        )
    else:
        return table
    chosen = table.splits != "train"
    chosen[train[kept]] = True
    return table.take(chosen)
