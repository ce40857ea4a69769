"""A table of one's own beside images: which column says what is told by `CsvOptions`."""

import math
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from trainables.datasets.image_folder import SPLIT_FOLDERS
from trainables.datasets.labelled_files import join_images, open_unpacked, read_columns
from trainables.datasets.options import CsvOptions
from trainables.datasets.table import UNKNOWN, Table
from trainables.errors import DataError

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_MARKS = {"0": 0, "0.0": 0, "1": 1, "1.0": 1, "": UNKNOWN}


def read_csv_table(location: Path | None, options: CsvOptions) -> Table:
    """List the images of a `.csv` (commas) or `.tsv` (tabs); nothing is decoded.

    Classes are the values of the label's column, sorted; numbers in the order of numbers. Without a column of
    groups every image is its own, without one of splits they are drawn.

    Raises:
        DataError: the table or a column is missing, a mark or a split is none, or an image is not on disk.
    """
    assert location is not None, "the catalog says that this reader needs a path"
    if not location.is_file():
        raise DataError(
            f"{location.name}: no table at {location}; set TRANSFUSION_DATA to the folder that holds it, "
            "or mend dataset.path"
        )
    given = (options.label, *options.labels, options.group, options.split)
    columns = list(dict.fromkeys([options.image, *(column for column in given if column is not None)]))
    if location.suffix not in _SEPARATORS:
        raise DataError(
            f"{location.name}: expected a table as {' or '.join(_SEPARATORS)}, found {location.suffix!r}; "
            "export it as one"
        )
    table = read_columns(location, columns, separator=_SEPARATORS[location.suffix])
    tree = open_unpacked(location.parent / options.folder)
    is_of_windows = table[options.image].str.contains("\\", regex=False)
    _refuse_cells(location.name, options.image, table[options.image], is_of_windows, "a path with /")
    paths = [str(PurePosixPath(cell + options.suffix)) for cell in table[options.image]]
    labels, classes = _labels(table, options, location.name)
    return join_images(
        tree,
        paths,
        tables=[location],
        labels=labels,
        classes=classes,
        groups=_groups(table, options, location.name) if options.group is not None else paths,
        splits=_splits(table, options, location.name),
    )


def _labels(
    table: pd.DataFrame, options: CsvOptions, name_of_table: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    if options.label is not None:
        cells = table[options.label]
        _refuse_cells(name_of_table, options.label, cells, cells == "", "a class")
        classes = tuple(sorted(cells.unique(), key=_as_number_or_text))
        numbers = [_as_number_or_text(name) for name in classes]
        for (number, name), (following, other) in pairwise(numbers):
            if number == following and math.isfinite(number):
                raise DataError(
                    f"{name_of_table}: {options.label}: expected one way to write a class, found {name!r} "
                    f"and {other!r}; write them alike"
                )
        if len(classes) < 2:
            raise DataError(
                f"{name_of_table}: {options.label}: expected at least two classes, found only {classes[0]!r}"
            )
        return np.array([classes.index(cell) for cell in cells], np.int64), classes
    for column in options.labels:
        _refuse_cells(
            name_of_table, column, table[column], ~table[column].isin(list(_MARKS)), "0, 1 or nothing"
        )
    marks = np.stack([table[column].map(_MARKS).to_numpy(np.uint8) for column in options.labels], axis=1)
    return marks, options.labels


def _as_number_or_text(value: str) -> tuple[float, str]:
    """Sort 2 before 10, and text, of which `nan` and `inf` are, after numbers."""
    try:
        number = float(value)
    except ValueError:
        return math.inf, value
    return (number if math.isfinite(number) else math.inf), value


def _groups(table: pd.DataFrame, options: CsvOptions, name: str) -> list[str]:
    assert options.group is not None, "without a column every image is its own group"
    cells = table[options.group]
    # Nobody's images would all be taken for one person's.
    _refuse_cells(name, options.group, cells, cells == "", "a patient, lesion or other group")
    return list(cells)


def _splits(table: pd.DataFrame, options: CsvOptions, name: str) -> list[str]:
    if options.split is None:
        return ["train"] * len(table)
    cells = table[options.split].str.lower()
    _refuse_cells(
        name, options.split, table[options.split], ~cells.isin(list(SPLIT_FOLDERS)), "train, val or test"
    )
    return [SPLIT_FOLDERS[cell] for cell in cells]


def _refuse_cells(name: str, column: str, cells: pd.Series, is_wrong: pd.Series, expected: str) -> None:
    if is_wrong.any():
        row = int(np.flatnonzero(is_wrong)[0])
        raise DataError(
            f"{name}: {column}: expected {expected}, found {cells.iloc[row]!r} in row {cells.index[row]}"
            f"{f' and {int(is_wrong.sum()) - 1} more' if is_wrong.sum() > 1 else ''}; mend them"
        )
