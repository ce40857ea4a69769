"""EyePACS, as Kaggle's diabetic-retinopathy-detection gives it: grades 0 to 4 of both eyes of a patient.

`trainLabels.csv` beside `train/`, and `retinopathy_solution.csv` beside `test/`, whose images were Public or
Private in the competition. An image is `10_left` in the tables and `10_left.jpeg` on disk; 10 is the patient.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from trainables.datasets.labelled_files import (
    counts,
    find_file,
    join_images,
    numbers_of,
    open_unpacked,
    read_columns,
)
from trainables.datasets.options import EyepacsOptions
from trainables.datasets.readers import DR_GRADES
from trainables.datasets.table import OnDisk, Table
from trainables.errors import DataError

_USAGES = ("Public", "Private")


def read_eyepacs(location: Path | None, options: EyepacsOptions) -> Table:
    """List the photographs; nothing is decoded.

    Raises:
        DataError: a table or column is missing, a grade or a name is none, or an image is not on disk.
    """
    tree = open_unpacked(location)
    assert location is not None, "open_unpacked has looked at it"
    of_train, of_test = (find_file(location, n) for n in ("trainLabels.csv", "retinopathy_solution.csv"))
    train = read_columns(of_train, ("image", "level")).assign(Usage="train", folder="train")
    test = read_columns(of_test, ("image", "level", "Usage")).assign(folder="test")
    numbers_of(test["Usage"], _USAGES, where=f"{of_test.name}: Usage")
    labels = [
        numbers_of(part["level"], DR_GRADES, where=f"{file.name}: level")
        for part, file in ((train, of_train), (test, of_test))
    ]
    rows = pd.concat([train, test], ignore_index=True)
    patients = rows["image"].str.extract(r"^(\d+)_(?:left|right)$")[0]
    if patients.isna().any():
        raise DataError(
            f"{location.name}: expected images such as 10_left, found "
            f"{rows['image'][patients.isna()].iloc[0]!r}; fetch the tables again"
        )
    public = "val" if options.public_as_validation else "test"
    return join_images(
        tree,
        list(rows["folder"] + "/" + rows["image"] + ".jpeg"),
        tables=[of_train, of_test],
        labels=np.concatenate(labels),
        classes=DR_GRADES,
        groups=list(patients),
        splits=list(rows["Usage"].map({"train": "train", "Public": public, "Private": "test"})),
        on_disk=OnDisk(counts(rows["Usage"], ("train", *_USAGES))),
    )
