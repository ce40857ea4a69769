"""A table that labels image files: read as text, and joined to the files that are there."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from trainables.datasets.file_tree import FileTree, fingerprint_of, open_file_tree
from trainables.datasets.packed import ImageFiles
from trainables.datasets.table import OnDisk, Table
from trainables.errors import DataError, suggestion

LISTED = 5
LISTED_COLUMNS, LISTED_CHARACTERS = 40, 80


def open_unpacked(location: Path | None) -> FileTree:
    """Open the folder of a dataset that has a table beside its images.

    Raises:
        DataError: there is no such folder.
    """
    assert location is not None, "the catalog says that this reader needs a path"
    if not location.is_dir():
        raise DataError(
            f"{location.name}: expected an unpacked folder at {location}, with the table beside the images; "
            "unpack it there, set TRANSFUSION_DATA to the folder that holds it, or mend dataset.path"
        )
    return open_file_tree(location)


def find_file(folder: Path, *names: str) -> Path:
    """Return the first of some files that is there.

    Raises:
        DataError: none is.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder.name}: expected the file {' or '.join(names)} in {folder}, found neither it nor its like; "
        "fetch the dataset again, or mend dataset.path"
    )


def read_columns(path: Path, columns: Sequence[str], *, separator: str = ",") -> pd.DataFrame:
    """Return columns of a table as stripped text, by the line of the file that a row ends on.

    An empty cell, or one that a short row lacks, is an empty text. Names of columns are stripped too; rows
    without any text are left out.

    Raises:
        DataError: the file cannot be read as a table, has no rows, or lacks a column or has it twice.
    """
    try:
        # Not by pandas: of rows longer than the header it takes the first cells for an index, which shifts
        # all columns without a word, and some tables end their rows, but not their header, in commas.
        reader = csv.reader(io.StringIO(read_table_text(path), newline=""), delimiter=separator)
        numbered = ((reader.line_num, row) for row in reader)
        lines = {line: row for line, row in numbered if any(cell.strip() for cell in row)}
    except csv.Error as error:
        raise _unreadable(path, error) from None
    header, *rows = lines.values() if lines else [[]]
    names = [name.strip() for name in header]
    for column in columns:
        if column not in names:
            found = [name for name in names if name]
            other = next((sign for sign in ";\t|," if len(found) == 1 and sign in found[0]), None)
            if other is not None:
                raise DataError(
                    f"{path.name}: expected columns parted by {separator!r}, found them parted by {other!r}; "
                    "export it anew, with commas as .csv or with tabs as .tsv"
                )
            raise DataError(
                f"{path.name}: expected a column {column!r}, found {_some(found)}{suggestion(column, found)}"
            )
        if names.count(column) > 1:
            raise DataError(
                f"{path.name}: expected one column {column!r}, found {names.count(column)}; rename or remove "
                "the others"
            )
    if not rows:
        raise DataError(f"{path.name}: expected at least one row, found none; fetch it again")
    places = [names.index(column) for column in columns]
    cells = [[row[place].strip() if place < len(row) else "" for place in places] for row in rows]
    return pd.DataFrame(cells, columns=list(columns), index=list(lines)[1:], dtype=str)


def read_table_text(path: Path) -> str:
    """Return the text of a table, its ends of lines as they are.

    Raises:
        DataError: it cannot be read, or is no text in UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if "\0" in text:
        raise _unreadable(path, ValueError("it holds NUL bytes, so it is no text"))
    return text


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path.name}: expected a table, and it cannot be read ({error}); fetch it again")


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(name[:LISTED_CHARACTERS] for name in names[:LISTED_COLUMNS]) or "none"
    return listed + (f" and {len(names) - LISTED_COLUMNS} more" if len(names) > LISTED_COLUMNS else "")


def numbers_of(cells: pd.Series, classes: Sequence[str], *, where: str) -> np.ndarray:
    """Return the class number of every cell of a column that `read_columns` has read.

    Raises:
        DataError: a cell that is no class; names it and its line.
    """
    number = {name: n for n, name in enumerate(classes)}
    numbers = cells.map(number)
    if numbers.isna().any():
        row = int(np.flatnonzero(numbers.isna())[0])
        raise DataError(
            f"{where}: expected one of {', '.join(classes)}, found {cells.iloc[row]!r} in row "
            f"{cells.index[row]}; mend it"
        )
    return numbers.to_numpy(np.int64)


def join_images(
    tree: FileTree,
    paths: Sequence[str],
    *,
    tables: Sequence[Path],
    labels: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str],
    splits: Sequence[str],
    on_disk: OnDisk | None = None,
) -> Table:
    """Make a table of the rows whose images lie at `paths`, in the order of the paths.

    Args:
        paths: below the tree, one per row.
        tables: the files that the rows come from.

    Raises:
        DataError: a path comes twice, or is not in the tree; all are counted, the first named.
    """
    _refuse(tree.name, _repeated(paths), "stand twice in the table", "remove one of the rows")
    there = set(tree.files)
    absent = [path for path in paths if path not in there]
    where = _elsewhere(absent[0], there.difference(paths)) if absent else None
    cure = f"there is {where}: move or rename them" if where else "fetch them, or remove their rows"
    _refuse(tree.name, absent, "are in the table, but not on disk", cure)
    order = sorted(range(len(paths)), key=paths.__getitem__)
    names = tuple(paths[i] for i in order)
    return Table(
        name=tree.name,
        images=ImageFiles(names, _numbered(tree, names), f"{tree.fingerprint}/{fingerprint_of(*tables)}"),
        rows=np.arange(len(names)),
        labels=labels[order],
        classes=tuple(classes),
        sample_ids=np.array(names),
        groups=np.array([groups[i] for i in order]),
        splits=np.array([splits[i] for i in order]),
        on_disk=on_disk,
    )


def counts(values: Sequence[str] | np.ndarray | pd.Series, names: Sequence[str]) -> Mapping[str, int]:
    """Return how often each name occurs."""
    found = pd.Series(values).value_counts()
    return {name: int(found.get(name, 0)) for name in names}


def _numbered(
    tree: FileTree, names: tuple[str, ...]
) -> Callable[[], Iterator[tuple[int, Callable[[], bytes]]]]:
    number = {name: n for n, name in enumerate(names)}
    return lambda: ((number[name], read) for name, read in tree.contents() if name in number)


def _elsewhere(path: str, files: Iterable[str]) -> str | None:
    """Find a file of the same name in another folder, or with another suffix or case."""
    stem = PurePosixPath(path).stem.lower()
    return min((other for other in files if PurePosixPath(other).stem.lower() == stem), default=None)


def _repeated(paths: Sequence[str]) -> list[str]:
    series = pd.Series(list(paths), dtype=str)
    return list(series[series.duplicated()].unique())


def _refuse(name: str, paths: Sequence[str], what: str, cure: str) -> None:
    if paths:
        more = f" and {len(paths) - LISTED} more" if len(paths) > LISTED else ""
        raise DataError(f"{name}: {len(paths)} images {what}: {', '.join(paths[:LISTED])}{more}; {cure}")
