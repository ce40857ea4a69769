"""IDRiD, part B "Disease Grading": grades 0 to 4, with a test set of its own.

The folder, or the one above it, holds `1. Original Images/{a. Training Set, b. Testing Set}/IDRiD_001.jpg`
and `2. Groundtruths/{a, b}. IDRiD_Disease Grading_{Training, Testing} Labels.csv`. Numbers begin anew in the
test set. One photograph is in both, as IDRiD_118 of train and IDRiD_064 of test: the former is left out.
Patients are not told, so every image is its own group.
"""

from pathlib import Path

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

_PART_B = "B. Disease Grading"
_SETS = {
    "train": ("a. Training Set", "a. IDRiD_Disease Grading_Training Labels.csv"),
    "test": ("b. Testing Set", "b. IDRiD_Disease Grading_Testing Labels.csv"),
}
_ALSO_IN_TEST = "1. Original Images/a. Training Set/IDRiD_118.jpg"
_NAME, _GRADE = "Image name", "Retinopathy grade"


def read_idrid(location: Path | None) -> Table:
    """List the photographs; nothing is decoded.

    Raises:
        DataError: a table or column is missing, a grade is none, or an image is not on disk.
    """
    if location is not None and (location / _PART_B).is_dir():
        location = location / _PART_B
    tree = open_unpacked(location)
    assert location is not None, "open_unpacked has looked at it"
    parts, files = [], []
    for split, (folder, table) in _SETS.items():
        file = find_file(location, f"2. Groundtruths/{table}")
        part = read_columns(file, (_NAME, _GRADE))
        grades = numbers_of(part[_GRADE], DR_GRADES, where=f"{table}: {_GRADE}")
        images = f"1. Original Images/{folder}/" + part[_NAME] + ".jpg"
        parts.append(pd.DataFrame({"path": images, "grade": grades, "split": split}))
        files.append(file)
    rows = pd.concat(parts, ignore_index=True)
    on_disk = OnDisk({split: int((rows["split"] == split).sum()) for split in _SETS})
    rows = rows[rows["path"] != _ALSO_IN_TEST].reset_index(drop=True)
    paths = list(rows["path"])
    return join_images(
        tree,
        paths,
        tables=files,
        labels=rows["grade"].to_numpy(),
        classes=DR_GRADES,
        groups=paths,
        splits=list(rows["split"]),
        on_disk=on_disk,
    )
