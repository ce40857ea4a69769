"""Messidor-2, with the adjudicated grades 0 to 4 of `messidor_data.csv`.

Images lie in `IMAGES/` (or `images/`); the case of a name, or its suffix, may differ from the table's. Images
without a grade, which cannot be graded, are left out. `messidor-2.csv` (`left;right`), if it is there, tells
which two images are of one examination; else every image is its own group.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pandas as pd

from trainables.datasets.labelled_files import (
    find_file,
    join_images,
    numbers_of,
    open_unpacked,
    read_columns,
)
from trainables.datasets.readers import DR_GRADES
from trainables.datasets.table import OnDisk, Table
from trainables.errors import DataError

_PAIRS = "messidor-2.csv"


def read_messidor2(location: Path | None) -> Table:
    """List the photographs; nothing is decoded. The format has no splits.

    Raises:
        DataError: a table or a column is missing, a grade is none, an image is not on disk, or not in
            `messidor-2.csv`.
    """
    tree = open_unpacked(location)
    assert location is not None, "open_unpacked has looked at it"
    file = find_file(location, "messidor_data.csv")
    rows = read_columns(file, ("image_id", "adjudicated_dr_grade"))
    on_disk = OnDisk({"images": len(rows)})
    rows = rows[rows["adjudicated_dr_grade"] != ""]
    place = {_stem(path): path for path in tree.files if path.lower().startswith("images/")}
    stems = rows["image_id"].map(_stem)
    exam_of = _exams(location / _PAIRS)
    tables = [file, location / _PAIRS] if exam_of else [file]
    _check_exams(exam_of, stems)
    grades = rows["adjudicated_dr_grade"].str.removesuffix(".0")
    return join_images(
        tree,
        [place.get(stem, image) for stem, image in zip(stems, rows["image_id"], strict=True)],
        tables=tables,
        labels=numbers_of(grades, DR_GRADES, where=f"{file.name}: adjudicated_dr_grade"),
        classes=DR_GRADES,
        groups=[exam_of.get(stem, stem) for stem in stems],
        splits=["train"] * len(rows),
        on_disk=on_disk,
    )


def _stem(path: str) -> str:
    """Return the name of an image without folder, suffix (if it has one) and case."""
    return PurePosixPath(path).stem.lower()


def _check_exams(exam_of: Mapping[str, str], stems: pd.Series) -> None:
    without = stems[~stems.isin(list(exam_of))] if exam_of else stems.iloc[:0]
    if len(without):
        raise DataError(
            f"{_PAIRS}: expected the examination of every image, found none for {len(without)} of "
            f"{len(stems)}, first {without.iloc[0]}; mend its names, or remove it to take every image for "
            "another person"
        )


def _exams(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    pairs: pd.DataFrame = read_columns(file, ("left", "right"), separator=";")
    names = zip(pairs["left"].map(_stem), pairs["right"].map(_stem), strict=True)
    return {eye: left for left, right in names for eye in (left, right)}
