"""ImageNet (ILSVRC 2012) in torchvision's layout: `{train,val}/<wnid>/*.JPEG`.

The classes are the WordNet ids in alphabetical order, which is the order of published weights. The 50,000
images of `val` are the test split, as everywhere in the literature; validation is drawn from train.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from trainables.datasets.image_folder import read_image_folder
from trainables.datasets.table import OnDisk, Table
from trainables.errors import DataError


def read_imagenet(location: Path | None) -> Table:
    """List the images; nothing is decoded.

    Raises:
        DataError: the layout is another, such as a `val` folder that is not yet sorted into classes.
    """
    table = read_image_folder(location)
    folders = table.splits
    found = sorted(set(folders.tolist()))
    if found != ["train", "val"] or str(table.sample_ids[0]).count("/") != 2:
        raise DataError(
            f"{table.name}: expected the folders train and val, each with one folder per WordNet id, found "
            f"{', '.join(found)}; arrange them as torchvision's ImageFolder does, or mend dataset.path"
        )
    return replace(
        table,
        splits=np.where(folders == "val", "test", "train"),
        on_disk=OnDisk({name: int((folders == name).sum()) for name in ("train", "val")}),
    )
