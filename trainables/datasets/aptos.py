"""APTOS 2019 blindness detection: grades 0 to 4; patients are not told, so every image is its own group.

Originally `train.csv` beside `train_images/` (the test images have no labels); re-split copies have
`train_1.csv`, `valid.csv` and `test.csv` beside `train_images/`, `val_images/` and `test_images/`, each of
which may lie in a folder of the same name. The set is known to hold duplicates.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from trainables.datasets.file_tree import FileTree
from trainables.datasets.labelled_files import (
    counts,
    find_file,
    join_images,
    numbers_of,
    open_unpacked,
    read_columns,
)
from trainables.datasets.options import AptosOptions
from trainables.datasets.readers import DR_GRADES
from trainables.datasets.table import OnDisk, Table
from trainables.errors import DataError

# By the split: the table, the folder of the images, and what the publisher calls it.
_FILES = {
    "original": {"train": ("train.csv", "train_images", "train")},
    "resplit": {
        "train": ("train_1.csv", "train_images", "train"),
        "val": ("valid.csv", "val_images", "valid"),
        "test": ("test.csv", "test_images", "test"),
    },
}


def read_aptos(location: Path | None, options: AptosOptions) -> Table:
    """List the photographs; nothing is decoded.

    Raises:
        DataError: a table or column is missing, a grade is none, or an image is not on disk.
    """
    tree = open_unpacked(location)
    assert location is not None, "open_unpacked has looked at it"
    _check_edition(location, options.files)
    parts, labels, files, published = [], [], [], {}
    for split, (table, folder, name) in _FILES[options.files].items():
        file = find_file(location, table)
        part = read_columns(file, ("id_code", "diagnosis"))
        prefix = _folder(tree, folder)
        parts.append(part.assign(path=prefix + "/" + part["id_code"] + ".png", split=split))
        labels.append(numbers_of(part["diagnosis"], DR_GRADES, where=f"{table}: diagnosis"))
        files.append(file)
        published[name] = len(part)
    rows = pd.concat(parts, ignore_index=True)
    paths = list(rows["path"])
    of_classes = counts(rows["diagnosis"], DR_GRADES) if options.files == "original" else {}
    return join_images(
        tree,
        paths,
        tables=files,
        labels=np.concatenate(labels),
        classes=DR_GRADES,
        groups=paths,
        splits=list(rows["split"]),
        on_disk=OnDisk(published, of_classes),
    )


def _check_edition(location: Path, files: str) -> None:
    for other, parts in _FILES.items():
        expected, found = _FILES[files]["train"][0], parts["train"][0]
        if other != files and (location / found).is_file() and not (location / expected).is_file():
            raise DataError(
                f"{location.name}: expected {expected}, found {found} of the other edition; write "
                f"options: {{files: {other}}}"
            )


def _folder(tree: FileTree, name: str) -> str:
    return f"{name}/{name}" if f"{name}/{name}" in tree.folders else name
