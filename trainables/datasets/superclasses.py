"""Coarser labels: classes merged as a study or a file says."""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainables.datasets.spec import DatasetSpec
from trainables.datasets.table import UNKNOWN, Table
from trainables.errors import DataError, SpecError, unknown_choice
from trainables.fields import Pairs

COLUMNS = ["class", "superclass"]


def superclass_of(spec: DatasetSpec, data_root: Path | None) -> dict[str, str]:
    """Return the superclass of each class, as `dataset.superclasses` or its file says.

    Raises:
        SpecError: a superclass is not a list of classes.
        DataError: the file is missing, another than was meant, or no such table.
        Both: a class has two superclasses.
    """
    if isinstance(spec.superclasses, str):
        return _from_file(spec.superclasses, spec.superclasses_sha256, data_root)
    assert isinstance(spec.superclasses, Pairs), "the spec holds a mapping or the path of a file"
    found: dict[str, str] = {}
    for superclass, classes in spec.superclasses.as_dict().items():
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise SpecError(
                f"dataset.superclasses.{superclass} must be a list of class names, got {classes!r}; "
                "put numbers in quotes"
            )
        for name in classes:
            if name in found:
                raise SpecError(_twice("dataset.superclasses", name, found[name], superclass))
            found[name] = superclass
    return found


def merge_classes(
    table: Table, superclass: Mapping[str, str], *, known: Sequence[str], are_grades: bool = False
) -> Table:
    """Return the table with superclasses for classes, in alphabetical order; of grades, in theirs.

    A superclass with none of the table's classes is left out. Of several labels, a superclass is marked 1
    where one of its classes is, else UNKNOWN where one is unknown, else 0.

    Args:
        known: all classes of the data, also those the table no longer has.
        are_grades: the order of the classes means something.

    Raises:
        DataError: a superclass holds a class that does not exist, a class has no superclass, fewer than two
            superclasses are left, or one of grades skips a grade of another.
    """
    for name in superclass:
        if name not in known:
            raise DataError(unknown_choice(f"{table.name}: a class in dataset.superclasses", name, known))
    without = [name for name in table.classes if name not in superclass]
    if without:
        raise DataError(
            f"{table.name}: expected every class in one of dataset.superclasses, found none for "
            f"{len(without)} of {len(table.classes)}, first {without[0]!r}; add it, or leave it out with "
            "dataset.classes"
        )
    in_turn = tuple(dict.fromkeys(superclass[name] for name in table.classes))
    classes = in_turn if are_grades else tuple(sorted(in_turn))
    if len(classes) < 2:
        raise DataError(
            f"{table.name}: expected at least two superclasses of the {len(table.classes)} classes, "
            f"found only {classes[0]!r}; mend dataset.superclasses"
        )
    number = np.array([classes.index(superclass[name]) for name in table.classes])
    if are_grades and (np.diff(number) < 0).any():
        first = table.classes[int(np.flatnonzero(np.diff(number) < 0)[0]) + 1]
        raise DataError(
            f"{table.name}: expected superclasses of neighbouring grades, found {first!r} in "
            f"{superclass[first]!r} after grades of another; mend dataset.superclasses, or give "
            "referable_grade: none"
        )
    labels = _merge_marks(table.labels, number) if table.is_multilabel else number[table.labels]
    return replace(table, labels=labels, classes=classes)


def _merge_marks(marks: np.ndarray, number: np.ndarray) -> np.ndarray:
    merged = np.zeros((len(marks), number.max() + 1), np.uint8)
    for column in range(merged.shape[1]):
        own = marks[:, number == column]
        merged[:, column] = np.where((own == 1).any(1), 1, np.where((own == UNKNOWN).any(1), UNKNOWN, 0))
    return merged


def _from_file(name: str, sha256: str | None, data_root: Path | None) -> dict[str, str]:
    if data_root is None:
        raise DataError(f"dataset.superclasses {name}: set TRANSFUSION_DATA to the folder that holds it")
    try:
        content = (data_root / name).read_bytes()
    except OSError as error:
        raise DataError(
            f"dataset.superclasses {name}: cannot be read in {data_root} ({error.strerror}); set "
            "TRANSFUSION_DATA to the folder that holds it, or mend the path"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if sha256 is not None and digest != sha256:
        raise DataError(
            f"dataset.superclasses {name}: expected the file with SHA-256 {sha256}, found {digest}; "
            "it has changed since the trial was planned: plan anew, or bring the old file back"
        )
    return _parse(name, content)


def _parse(name: str, content: bytes) -> dict[str, str]:
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name}: expected a CSV file in UTF-8, and it cannot be read ({error})") from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    if header != COLUMNS:
        raise DataError(
            f"{name}: expected the columns {','.join(COLUMNS)}, found {','.join(header) or 'none'}; "
            "mend the file"
        )
    found: dict[str, str] = {}
    for line, row in enumerate(rows[1:], start=2):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if len(cells) != 2 or not all(cells):
            raise DataError(
                f"{name}: line {line}: expected a class and its superclass, found {','.join(row)!r}; mend it"
            )
        if cells[0] in found:
            raise DataError(_twice(f"{name}: line {line}", cells[0], found[cells[0]], cells[1]))
        found[cells[0]] = cells[1]
    return found


def _twice(where: str, name: str, first: str, second: str) -> str:
    return (
        f"{where}: expected {name!r} in one superclass, found it in {first!r} and in {second!r}; remove one"
    )
