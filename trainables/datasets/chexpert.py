"""CheXpert (Irvin et al. 2019), small or full: `train.csv` and `valid.csv` beside `train/` and `valid/`.

Paths in the tables begin with the name of the folder (`CheXpert-v1.0-small/train/patient00001/study1/…`), in
either edition, whatever the folder is called. The 200 patients of `valid.csv`, labelled by radiologists, are
the test split; validation is drawn from train, by patient.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from trainables.datasets.labelled_files import find_file, join_images, open_unpacked, read_columns
from trainables.datasets.options import CHEXPERT_FINDINGS, ChexpertOptions, policies
from trainables.datasets.table import UNKNOWN, OnDisk, Table
from trainables.errors import DataError

_TABLES = {"train": "train.csv", "valid": "valid.csv"}
_VIEW, _PATH = "Frontal/Lateral", "Path"
_VIEWS = ("Frontal", "Lateral")
_TAKEN_FOR = {"zeros": 0, "ones": 1, "ignore": UNKNOWN}
_UNCERTAIN, _BLANK = "uncertain", "blank"
_CELLS = {"1.0": "1", "1": "1", "0.0": "0", "0": "0", "-1.0": _UNCERTAIN, "-1": _UNCERTAIN, "": _BLANK}


def read_chexpert(location: Path | None, options: ChexpertOptions) -> Table:
    """List the films; nothing is decoded.

    Raises:
        DataError: a table or column is missing, a mark or path is none, or an image is not on disk.
    """
    tree = open_unpacked(location)
    assert location is not None, "open_unpacked has looked at it"
    files = {split: find_file(location, name) for split, name in _TABLES.items()}
    parts = {split: read_columns(file, (_PATH, _VIEW, *CHEXPERT_FINDINGS)) for split, file in files.items()}
    rows = pd.concat([part.assign(split=split) for split, part in parts.items()], ignore_index=True)
    on_disk = OnDisk({split: len(part) for split, part in parts.items()})
    strange = ~rows[_VIEW].isin(_VIEWS)
    if strange.any():
        row = int(np.flatnonzero(strange)[0])
        raise DataError(
            f"{location.name}: {_VIEW}: expected {' or '.join(_VIEWS)}, found {rows[_VIEW].iloc[row]!r} "
            f"({rows[_PATH].iloc[row]}); fetch the tables again"
        )
    if options.views == "frontal":
        rows = rows[rows[_VIEW] == "Frontal"].reset_index(drop=True)
    if rows.empty:
        raise DataError(f"{location.name}: expected frontal views, found none; give views: all")
    # What stands before train/ or valid/ is the name of the edition.
    paths = rows[_PATH].str.extract(r"((?:train|valid)/(patient\d+)/.+)$")
    if paths[0].isna().any():
        wrong = rows[_PATH][paths[0].isna()].iloc[0]
        raise DataError(
            f"{location.name}: expected paths such as CheXpert-v1.0/train/patient00001/study1/view1_frontal."
            f"jpg, found {wrong!r}; fetch the tables again"
        )
    return join_images(
        tree,
        list(paths[0]),
        tables=list(files.values()),
        labels=_marks(rows, options, location.name),
        classes=CHEXPERT_FINDINGS,
        groups=list(paths[1]),
        splits=list(rows["split"].map({"train": "train", "valid": "test"})),
        on_disk=on_disk,
    )


def _marks(rows: pd.DataFrame, options: ChexpertOptions, name: str) -> np.ndarray:
    """Return (n, 14) marks, by what the options take a cell for."""
    columns = []
    uncertain, blank = (policies(given, CHEXPERT_FINDINGS) for given in (options.uncertain, options.blank))
    for finding in CHEXPERT_FINDINGS:
        kinds = rows[finding].map(_CELLS)
        if kinds.isna().any():
            row = int(np.flatnonzero(kinds.isna())[0])
            raise DataError(
                f"{name}: {finding}: expected 1.0, 0.0, -1.0 or nothing, found {rows[finding].iloc[row]!r} "
                f"({rows[_PATH].iloc[row]}); fetch the tables again"
            )
        meant = {
            "1": 1,
            "0": 0,
            _UNCERTAIN: _TAKEN_FOR[uncertain[finding]],
            _BLANK: _TAKEN_FOR[blank[finding]],
        }
        columns.append(kinds.map(meant).to_numpy(np.uint8))
    return np.stack(columns, axis=1)
