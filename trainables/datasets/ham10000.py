"""HAM10000 (Tschandl et al. 2018): photographs of skin lesions, several of some: lesions are what is split.

`HAM10000_metadata.csv` (from Harvard's Dataverse without suffix, with commas or tabs) beside the folders
`HAM10000_images_part_1` and `…_part_2`. Some copies hold both folders twice, once in lower case: of every
image the first is taken.
"""

import re
from pathlib import Path, PurePosixPath

from trainables.datasets.labelled_files import (
    counts,
    find_file,
    join_images,
    numbers_of,
    open_unpacked,
    read_columns,
    read_table_text,
)
from trainables.datasets.published import HAM10000
from trainables.datasets.table import OnDisk, Table

_COLUMNS = ("lesion_id", "image_id", "dx")
_IMAGES = re.compile(r"(?:.*/)?ham10000_images_part_[12]/", re.IGNORECASE)


def read_ham10000(location: Path | None) -> Table:
    """List the photographs; nothing is decoded. The format has no splits.

    Raises:
        DataError: the table or a column is missing, a diagnosis is none of the seven, or an image is not on
            disk.
    """
    tree = open_unpacked(location)
    assert location is not None, "open_unpacked has looked at it"
    file = find_file(location, "HAM10000_metadata.csv", "HAM10000_metadata", "HAM10000_metadata.tab")
    separator = "\t" if "\t" in read_table_text(file).partition("\n")[0] else ","
    rows = read_columns(file, _COLUMNS, separator=separator)
    classes = tuple(HAM10000.classes)
    # Reversed, so that of several copies the first counts.
    place = {PurePosixPath(path).stem: path for path in reversed(tree.files) if _IMAGES.match(path)}
    return join_images(
        tree,
        [place.get(image, f"{image}.jpg") for image in rows["image_id"]],
        tables=[file],
        labels=numbers_of(rows["dx"], classes, where=f"{file.name}: dx"),
        classes=classes,
        groups=list(rows["lesion_id"]),
        splits=["train"] * len(rows),
        on_disk=OnDisk({"images": len(rows)}, counts(rows["dx"], classes)),
    )
