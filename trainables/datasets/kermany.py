"""Kermany's paediatric chest X-rays, as Kaggle's `chest_xray` folder or an archive of it.

`{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg`; what image folders leave out (a second copy inside, macOS's
files) is left out here. File names tell who was X-rayed: `person12_bacteria_46.jpeg` and
`person12_virus_48.jpeg` are taken for one person. Normal films are only numbered by series
(`IM-0115-0001.jpeg`, `NORMAL2-IM-0115-0001.jpeg`, `…-0001-0002.jpeg`): the series is the group, and no
source says that two series are two persons.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainables.datasets.image_folder import read_image_folder
from trainables.datasets.options import KermanyOptions
from trainables.datasets.published import KERMANY
from trainables.datasets.table import OnDisk, Table
from trainables.errors import DataError

_NAMES = re.compile(
    r"(?P<person>person\d+)_(?:bacteria|virus)_\d+|(?P<series>(?:NORMAL2-)?IM-\d+)-\d+(?:-\d+)?"
)


def read_kermany(location: Path | None, options: KermanyOptions) -> Table:
    """List the X-rays; nothing is decoded.

    With `redraw` all are `train`, and equal person numbers are one person in whatever folder they lie. With
    `official_test` the persons of the test folder are taken for others than those of train and val: whether
    the folders share one numbering is not known, and both choices keep the splits as they are meant.

    Raises:
        DataError: the layout is another, or a file name that tells no person or series.
    """
    if location is not None and not (location / "train").is_dir() and (location / location.name).is_dir():
        location /= location.name  # an archive unpacked into a folder of its name
    table = read_image_folder(location)
    if table.classes != tuple(KERMANY.classes):
        raise DataError(
            f"{table.name}: expected the class folders {' and '.join(KERMANY.classes)}, "
            f"found {', '.join(table.classes)}; mend dataset.path, or use the reader 'image_folder'"
        )
    folders = table.splits
    is_test = (folders == "test") & (options.splits == "official_test")
    groups = [
        f"test/{group}" if apart else group
        for group, apart in zip((_group(table.name, str(i)) for i in table.sample_ids), is_test, strict=True)
    ]
    return replace(
        table,
        groups=np.array(groups),
        splits=np.where(is_test, "test", "train"),
        on_disk=OnDisk(
            splits={name: int((folders == name).sum()) for name in KERMANY.splits},
            classes={name: int((table.labels == n).sum()) for n, name in enumerate(table.classes)},
        ),
    )


def _group(name: str, path: str) -> str:
    file = path.rpartition("/")[2]
    match = _NAMES.fullmatch(file.rpartition(".")[0])
    if match is None:
        raise DataError(
            f"{name}: expected names such as person12_bacteria_46.jpeg or IM-0115-0001.jpeg, which tell who "
            f"was X-rayed, found {path}; rename or remove it, or use the reader 'image_folder', which takes "
            "every image for another person"
        )
    return match["person"] or match["series"]
